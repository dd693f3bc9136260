#!/bin/sh
# Builds RocksDB's static library once and keeps it in the user's cache, so that no profile, flag set or later clone
# compiles that C++ again. Prints the directory that holds librocksdb.a on stdout, progress on stderr.
#
# Why not the crate's own build script: it compiles 343 files one by one, and most of the time goes into parsing the same
# headers. The same sources as 19 large units take a third of that time, and the result does not depend on cargo's profile.
# An interrupted build goes on where it stopped; concurrent calls wait for one another.
#
# Environment: CXX, AR, ROCKSDB_JOBS (compiler processes at once), XDG_CACHE_HOME.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cxx=${CXX:-g++}
ar=${AR:-ar}
sources_per_unit=18
say() { echo "rocksdb: $*" >&2; }

locked_version() {
    awk -v name="\"$1\"" '$1 == "name" && $3 == name { found = 1; next } found && $1 == "version" { gsub(/"/, "", $3); print $3; exit }' "$root/Cargo.lock"
}

# The unpacked source of a locked crate.
crate_source() {
    for dir in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$1-$2"; do
        if [ -d "$dir" ]; then echo "$dir"; return 0; fi
    done
    return 1
}

need_source() {
    if ! crate_source "$1" "$2"; then
        PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
        (cd "$root" && cargo fetch --locked) >&2
        crate_source "$1" "$2" || { say "the source of $1 $2 is not in cargo's registry after cargo fetch"; exit 1; }
    fi
}

version=$(locked_version librocksdb-sys)
lz4_version=$(locked_version lz4-sys)
[ -n "$version" ] && [ -n "$lz4_version" ] || { say "Cargo.lock names no librocksdb-sys or lz4-sys"; exit 1; }

# The defines of the crate's build script for Linux with our one feature (lz4). CRC32C in hardware wants SSE 4.2 and
# PCLMUL, which every x86-64 machine since 2011 has; the crate alone would leave them out.
flags="-std=c++20 -O2 -fPIC -w -ffunction-sections -fdata-sections -include cstdint
 -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DLZ4=1 -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX
 -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT"
case "$(uname -m)" in
    x86_64) flags="$flags -msse4.2 -mpclmul" ;;
    aarch64) flags="$flags -march=armv8-a+crc+crypto" ;;
esac
flags=$(echo "$flags" | tr -s '\n ' ' ')

compiler=$("$cxx" --version | head -n 1; "$cxx" -dumpmachine)
hash=$(printf '%s\n' "$version" "$lz4_version" "$sources_per_unit" "$flags" "$compiler" | sha256sum | cut -c 1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/flotilla
done_dir=$cache/rocksdb-$version-$hash
if [ -f "$done_dir/librocksdb.a" ]; then echo "$done_dir"; exit 0; fi

mkdir -p "$cache"
exec 9>"$done_dir.lock"
if ! flock -n 9; then
    say "another build of $version is under way, waiting for it"
    flock 9
fi
if [ -f "$done_dir/librocksdb.a" ]; then echo "$done_dir"; exit 0; fi

source=$(need_source librocksdb-sys "$version")
lz4=$(need_source lz4-sys "$lz4_version")
includes="-I$source/rocksdb/include -I$source/rocksdb -I$source -I$lz4/liblz4/lib"

cores=$(nproc 2>/dev/null || echo 1)
memory_gib=$(awk '/MemAvailable/ { print int($2 / 1048576) }' /proc/meminfo 2>/dev/null || echo 2)
by_memory=$((memory_gib / 2))
[ "$by_memory" -ge 1 ] || by_memory=1
[ "$by_memory" -ge "$cores" ] && jobs=$cores || jobs=$by_memory
jobs=${ROCKSDB_JOBS:-$jobs}

build=$done_dir.partial
mkdir -p "$build"
grep -v '^util/build_version.cc$' "$source/rocksdb_lib_sources.txt" | awk -v per="$sources_per_unit" -v dir="$build" -v src="$source" '
    NF { unit = sprintf("%s/unit-%02d.cc", dir, int(n / per) + 1); print "#include \"" src "/rocksdb/" $1 "\"" > unit; n++ }'
cp "$source/build_version.cc" "$build/version.cc"
total=$(find "$build" -name '*.cc' | wc -l)

say "building $version once for this user ($total units, $jobs at a time; about 6 minutes on two free cores)"
started=$(date +%s)
export cxx flags includes build total started
compile='
    unit=$1; object=${unit%.cc}.o
    if [ ! -f "$object" ]; then
        # shellcheck disable=SC2086
        "$cxx" $flags $includes -c "$unit" -o "$object.tmp" || exit 255
        mv "$object.tmp" "$object"
    fi
    finished=$(find "$build" -name "*.o" | wc -l)
    echo "rocksdb: $finished/$total compiled, $(($(date +%s) - started)) s" >&2
'
find "$build" -name '*.cc' | sort | xargs -P "$jobs" -n 1 sh -c "$compile" compile 9>&-

rm -rf "$build/out"
mkdir "$build/out"
"$ar" crs "$build/out/librocksdb.a" "$build"/*.o
printf 'librocksdb-sys %s, lz4-sys %s\n%s\n%s\n' "$version" "$lz4_version" "$compiler" "$flags" >"$build/out/built-with.txt"
mv "$build/out" "$done_dir"
rm -rf "$build"
say "kept in $done_dir"
echo "$done_dir"
