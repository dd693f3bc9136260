#!/bin/sh
# Three local nodes for development and acceptance tests. Client, HTTP and peer ports: 8081-8083, 8181-8183, 8281-8283.
#
#   scripts/cluster.sh           starts all three and stops them on Ctrl-C (or SIGTERM)
#   scripts/cluster.sh node N    runs one of them in the foreground, for instance to bring it back after a kill -9
#
# Data is under ./flotilla-data/node-N, the process id in ./flotilla-data/node-N.pid, the log in ./flotilla-data/node-N.log.
# Environment: FLOTILLA (the binary, default target/release/flotilla), CLUSTER_ARGS (more flags for `flotilla serve`).
set -eu
cd "$(dirname "$0")/.."
flotilla=${FLOTILLA:-target/release/flotilla}
data=flotilla-data
initial_cluster="1=127.0.0.1:8083,2=127.0.0.1:8183,3=127.0.0.1:8283"

if [ ! -x "$flotilla" ]; then
    echo "cluster: $flotilla is not there: run \`make build\` first, or \`make cluster\`" >&2
    exit 1
fi
mkdir -p "$data"

if [ "${1:-}" = node ]; then
    node=${2:?usage: scripts/cluster.sh node N}
    case "$node" in 1 | 2 | 3) ;; *) echo "cluster: node is 1, 2 or 3" >&2; exit 2 ;; esac
    base=$((8081 + 100 * (node - 1)))
    echo $$ >"$data/node-$node.pid"
    # shellcheck disable=SC2086 # a list of flags
    exec "$flotilla" serve --node-id "$node" --data-dir "$data/node-$node" --initial-cluster "$initial_cluster" \
        --client-addr "127.0.0.1:$base" --http-addr "127.0.0.1:$((base + 1))" --peer-addr "127.0.0.1:$((base + 2))" ${CLUSTER_ARGS:-}
fi

running() { [ "$(cat "/proc/$1/comm" 2>/dev/null)" = flotilla ]; }

# Whoever is in the pid files now: a test may have killed and restarted a node meanwhile.
signal_nodes() {
    left=0
    for node in 1 2 3; do
        pid=$(cat "$data/node-$node.pid" 2>/dev/null) || continue
        if running "$pid"; then
            kill "-$1" "$pid" 2>/dev/null || true
            left=$((left + 1))
        fi
    done
}

stop() {
    trap '' INT TERM HUP
    echo "cluster: stopping"
    signal_nodes TERM
    tries=0
    while [ "$left" -gt 0 ] && [ "$tries" -lt 150 ]; do
        sleep 0.1
        tries=$((tries + 1))
        signal_nodes 0
    done
    signal_nodes KILL
    rm -f "$data"/node-[123].pid
    exit 0
}

for node in 1 2 3; do
    pid=$(cat "$data/node-$node.pid" 2>/dev/null || echo none)
    if running "$pid"; then
        echo "cluster: node $node runs already (process $pid): stop it first" >&2
        exit 1
    fi
done
trap stop INT TERM HUP
for node in 1 2 3; do
    # In a session of its own: the terminal's Ctrl-C must reach a node once, through us, for a second signal would cut
    # its orderly end short.
    setsid scripts/cluster.sh node "$node" >>"$data/node-$node.log" 2>&1 &
    base=$((8081 + 100 * (node - 1)))
    echo "cluster: node $node: clients 127.0.0.1:$base, http://127.0.0.1:$((base + 1)), log $data/node-$node.log"
done
echo "cluster: Ctrl-C stops all three"
while true; do
    # In the background and waited for, so that a signal is answered at once.
    sleep 3600 &
    wait $! || true
done
