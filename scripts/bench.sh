#!/usr/bin/env bash
# Load against one local node, then against three, through the public gRPC interface only. Each run calibrates itself
# against a no-op server and a raw sync loop in the same minute: compare ratios, not absolute numbers.
#
#   scripts/bench.sh [both|produce] [flags of `flotilla bench`]     for example: scripts/bench.sh produce --duration 30s
#
# Without flags: 60 s, as fast as the answers come, 256 sends in flight, 1 KiB.
# Results are printed and kept as target/bench/one-node.json and three-nodes.json. The data directories are temporary:
# set TMPDIR to a directory on the disk that is to be measured.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
mode=both
case "${1:-}" in both | produce)
    mode=$1
    shift
    ;;
esac
flotilla=${FLOTILLA:-target/release/flotilla}
if [ ! -x "$flotilla" ]; then
    echo "bench: $flotilla is not there: run \`make build\` first, or \`make bench\`" >&2
    exit 1
fi
out=target/bench
mkdir -p "$out"
data=$(mktemp -d "${TMPDIR:-$PWD/target}/flotilla-bench.XXXXXX")
nodes=()
stop() {
    for node in "${nodes[@]}"; do kill "$node" 2>/dev/null || true; done
    for node in "${nodes[@]}"; do wait "$node" 2>/dev/null || true; done
    nodes=()
}
trap 'stop; rm -rf "$data"' EXIT

# run NAME COUNT [FLAGS...]: COUNT fresh nodes, one bench.
run() {
    local name=$1 count=$2 ports cluster="" endpoints="" id
    shift 2
    read -r -a ports <<<"$(free_ports $((3 * count)))"
    for ((id = 1; id <= count; id++)); do
        cluster+="${cluster:+,}$id=127.0.0.1:${ports[3 * id - 1]}"
        endpoints+="${endpoints:+;}127.0.0.1:${ports[3 * id - 3]}"
    done
    for ((id = 1; id <= count; id++)); do
        "$flotilla" serve --node-id "$id" --data-dir "$data/$name-$id" --initial-cluster "$cluster" \
            --client-addr "127.0.0.1:${ports[3 * id - 3]}" --http-addr "127.0.0.1:${ports[3 * id - 2]}" \
            --peer-addr "127.0.0.1:${ports[3 * id - 1]}" >"$out/$name-node-$id.log" 2>&1 &
        nodes+=($!)
    done
    for ((id = 1; id <= count; id++)); do wait_for 60 ready "${ports[3 * id - 2]}"; done
    echo "bench: $name"
    "$flotilla" bench "$mode" --endpoint "$endpoints" --http "127.0.0.1:${ports[1]}" --topic bench --queues 64 \
        --pids "$(IFS=,; echo "${nodes[*]}")" --calibrate-dir "$data" --json "$out/$name.json" "$@"
    stop
}

run one-node 1 "$@"
run three-nodes 3 "$@"
