#!/bin/sh
# A short deterministic simulation of whole clusters. Its own target directory: the flag rebuilds every dependency.
# Neither RocksDB nor any C++ is built for it.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
# shellcheck disable=SC2086 # a list of flags
RUSTFLAGS="--cfg madsim" exec cargo test ${CARGO_FLAGS:-} -p sim-tests --target-dir target/sim
