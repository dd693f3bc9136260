#!/bin/sh
# A short deterministic simulation of whole clusters: the simulator's own tests, then a few seeds, each in two processes
# that must agree. Its own target directory: the flag rebuilds every dependency. Neither RocksDB nor any C++ is built for it.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
export RUSTFLAGS="--cfg madsim"
# shellcheck disable=SC2086 # a list of flags
cargo test ${CARGO_FLAGS:-} -p sim-tests --target-dir target/sim
# shellcheck disable=SC2086
exec cargo run ${CARGO_FLAGS:-} -p sim-tests --target-dir target/sim --bin sim -- smoke
