#!/bin/sh
# The architecture as absences: what each crate must never reach, proved from cargo's own dependency graph.
set -eu
cd "$(dirname "$0")/.."
failed=0

# tree PACKAGE [FLAGS...]: the names of all crates PACKAGE is built from (what its tests or build script need not counted).
tree() {
    package=$1
    shift
    cargo tree -q -p "$package" -e normal --prefix none -f '{p}' "$@" | awk '{ print $1 }' | sort -u
}

# never PACKAGE "FLAGS" CRATE...: none of the crates may be reached from PACKAGE.
never() {
    package=$1
    flags=$2
    shift 2
    # shellcheck disable=SC2086 # a list of flags
    reached=$(tree "$package" $flags) || { failed=1; return; }
    for crate in "$@"; do
        if echo "$reached" | grep -qx -- "$crate"; then
            echo "check-deps: $package ${flags:+($flags) }must not reach $crate:" >&2
            # shellcheck disable=SC2086
            cargo tree -q -p "$package" -e normal $flags -i "$crate" >&2 || true
            failed=1
        fi
    done
}

# only CRATE PACKAGE: of our own packages, only PACKAGE may name CRATE in its manifest.
only() {
    crate=$1
    owner=$2
    for manifest in proto raft-store broker broker/queue-core broker/filter sim-tests; do
        package=$(sed -n 's/^name = "\(.*\)"/\1/p' "$manifest/Cargo.toml" | head -n 1)
        [ "$package" = "$owner" ] && continue
        if cargo tree -q -p "$package" -e normal,build,dev --all-features --depth 1 --prefix none -f '{p}' | awk '{ print $1 }' | grep -qx -- "$crate"; then
            echo "check-deps: only $owner names $crate, but $package does as well" >&2
            failed=1
        fi
    done
}

never flotilla-proto "--all-features" queue-core raft-store broker
never queue-core "" tokio madsim-tokio madsim tonic openraft rocksdb raft-store broker rand
never flotilla-filter "" tokio madsim-tokio madsim tonic openraft rocksdb raft-store broker queue-core flotilla-proto rand
never raft-store "--no-default-features" queue-core broker tonic axum rocksdb
never raft-store "--all-features" queue-core broker tonic axum
# Bugs on purpose: a macro that is empty outside the simulator (check-plants.sh), and depends on nothing.
never plant "" flotilla-proto queue-core raft-store broker
# Chaos, which is not in the build of the simulator, is a client over gRPC.
never sim-tests "" rocksdb librocksdb-sys
RUSTFLAGS="--cfg madsim"
export RUSTFLAGS
never sim-tests "" rocksdb librocksdb-sys tonic
unset RUSTFLAGS
only rocksdb raft-store
only openraft raft-store

if [ "$failed" -ne 0 ]; then exit 1; fi
echo "check-deps: every crate stays within its bounds"
