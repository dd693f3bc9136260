#!/bin/sh
# Two builds of the simulator against each other: runs the same worlds with both, in turns, and compares the processor time
# of a simulated second. Processor time, because a real second says as much about what else the machine does. Worlds may
# end at other times in the two, so what counts is the time of each one's own simulated second.
#
#   scripts/sim-pairs.sh OLD NEW [ROUNDS]    two programs; the calm world of seed 1, and what the seeds 1 to 8 draw
#
# Prints one line for each pair, and the medians: how many times as many simulated seconds NEW runs in a second.
set -eu
old="$1"
new="$2"
rounds="${3:-3}"
lines=$(mktemp)
trap 'rm -f "$lines"' EXIT

# Seconds of a processor, the simulated ones, and their quotient.
one() {
    program="$1"
    shift
    times=$(mktemp)
    # In a shell of its own, whose children are this one run.
    simulated=$(sh -c '"$@" 2>/dev/null | sed -n "s/^result:.* simulated \([0-9.]*\) s .*/\1/p"; times >"$0"' "$times" "$program" run "$@")
    used=$(sed -n 2p "$times" | tr 'ms' '  ' | awk '{ print 60 * $1 + $2 + 60 * $3 + $4 }')
    rm -f "$times"
    awk -v used="$used" -v simulated="$simulated" 'BEGIN { printf "%.2f %.1f %.6f\n", used, simulated, used / simulated }'
}

pair() {
    name="$1"
    shift
    # shellcheck disable=SC2046 # three words each
    set -- "$name" $(one "$old" "$@") $(one "$new" "$@")
    awk -v name="$1" -v a="$2" -v b="$3" -v c="$4" -v d="$5" -v e="$6" -v f="$7" 'BEGIN {
        printf "%-8s old %6.2f s for %6.1f, %6.1f in one; new %6.2f s for %6.1f, %6.1f in one; %.2f times\n",
            name, a, b, 1 / c, d, e, 1 / f, c / f }' | tee -a "$lines"
}

for _ in $(seq "$rounds"); do
    pair calm 1 --change world=calm
    for seed in 1 2 3 4 5 6 7 8; do
        pair "seed-$seed" "$seed"
    done
done
for kind in calm seed; do
    grep "^$kind" "$lines" | awk '{ print $(NF - 1) }' | sort -n |
        awk -v kind="$kind" '{ all[NR] = $1 } END { printf "%s: median of %d pairs: %.2f times as fast\n", kind, NR, (all[int((NR + 1) / 2)] + all[int(NR / 2) + 1]) / 2 }'
done
