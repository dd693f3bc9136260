#!/bin/sh
# A short deterministic simulation of whole clusters: a few seeds, each in two processes that must agree, then the
# simulator's own tests. Its own target directory: the flag rebuilds every dependency, but neither RocksDB nor any C++.
#
#   scripts/sim-smoke.sh [COUNT]     the number of seeds
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" RUSTFLAGS="--cfg madsim"
flags="${CARGO_FLAGS:-} -p sim-tests --target-dir target/sim"
# shellcheck disable=SC2086 # lists of flags
{
    cargo build $flags --bin sim
    target/sim/debug/sim smoke "$@"
    cargo test $flags
}
