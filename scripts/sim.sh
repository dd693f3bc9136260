#!/bin/sh
# The deterministic simulator: builds it (its own target directory: the flag rebuilds every dependency, but neither
# RocksDB nor any C++) and runs it.
#
#   scripts/sim.sh smoke            what CI runs: a few seeds twice, those that once failed, 100 of this commit, and the simulator's own tests
#   scripts/sim.sh meta N [FIRST]   each seed in two processes that must agree
#   scripts/sim.sh sweep N [FIRST]  each seed once
#   scripts/sim.sh speed [OLD]      how much faster than life, or than another build
#   scripts/sim.sh replay SEED      one seed, with a readable timeline
#   scripts/sim.sh plant MAX [BUG..]  how many seeds it takes to find each planted bug
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" RUSTFLAGS="--cfg madsim"
flags="${CARGO_FLAGS:-} -p sim-tests --target-dir target/sim"
what="$1"
shift
{
    # shellcheck disable=SC2086 # a list of flags
    cargo build $flags --profile sim --bin sim
    sim=target/sim/sim/sim
    case "$what" in
    smoke)
        "$sim" meta 3
        "$sim" seeds sim-tests/seeds.txt
        # Fresh ones for every commit, and the same again for the same commit.
        commit=$(git rev-parse --short=7 HEAD 2>/dev/null || echo 1)
        "$sim" sweep 100 $((0x$commit))
        # shellcheck disable=SC2086
        cargo test $flags --profile sim --lib --bins --tests
        ;;
    speed)
        if [ $# -gt 0 ]; then scripts/sim-pairs.sh "$1" "$sim"; else "$sim" speed; fi
        ;;
    replay) FLOTILLA_LOG="${FLOTILLA_LOG:-sim_tests=debug}" "$sim" run "$@" ;;
    *) "$sim" "$what" "$@" ;;
    esac
}
