# shellcheck shell=sh
# Sourced (". scripts/rocksdb-env.sh", from anywhere inside the project) before cargo builds anything with RocksDB:
# prepares the cached library and tells the crate to link it instead of compiling its own.
# The link target/rocksdb is what .cargo/config.toml names, so that a plain cargo command finds the library as well.

_flotilla_root=${PWD}
if [ -n "${BASH_SOURCE:-}" ]; then _flotilla_root=$(cd "$(dirname "$BASH_SOURCE")/.." && pwd); fi
while [ ! -f "$_flotilla_root/scripts/rocksdb-prebuilt.sh" ] && [ "$_flotilla_root" != / ]; do
    _flotilla_root=$(dirname "$_flotilla_root")
done
case ":$PATH:" in
    *":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
    *) PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"; export PATH ;;
esac

if [ "$(uname -s)" = Linux ]; then
    if "$_flotilla_root/scripts/setup.sh" >&2 && _flotilla_lib=$("$_flotilla_root/scripts/rocksdb-prebuilt.sh"); then
        mkdir -p "$_flotilla_root/target"
        if [ "$(readlink "$_flotilla_root/target/rocksdb")" != "$_flotilla_lib" ]; then
            ln -s "$_flotilla_lib" "$_flotilla_root/target/rocksdb.$$"
            mv -T "$_flotilla_root/target/rocksdb.$$" "$_flotilla_root/target/rocksdb"
        fi
        ROCKSDB_LIB_DIR=$_flotilla_root/target/rocksdb
        ROCKSDB_STATIC=1
        export ROCKSDB_LIB_DIR ROCKSDB_STATIC
    else
        echo "rocksdb-env: not prepared, see above" >&2
        unset _flotilla_root _flotilla_lib
        # "return" ends a sourced script; the caller's set -e or && sees the failure.
        return 1
    fi
fi
unset _flotilla_root _flotilla_lib
