#!/usr/bin/env bash
# The official RocketMQ 5 SDKs, unmodified, against one real node: every message sent is received once and acknowledged.
# Then against three nodes of which one is dead, with all three endpoints given, the dead one first.
#
#   scripts/test-sdk.sh [python] [rust] [go] [java] [node]      without arguments: python rust, and go, java and node where installed
#
# Prints one line per scenario and a summary. Clients are built below target/sdk; their logs and the node's are kept there.
# Environment: FLOTILLA (a binary to test instead of building one), MESSAGES (default 1000).
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
. scripts/lib.sh
out=$root/target/sdk
sources=$root/broker/tests/sdk
messages=${MESSAGES:-1000}

languages=("$@")
if [ "${#languages[@]}" -eq 0 ]; then
    languages=(python rust)
    if command -v go >/dev/null; then languages+=(go); fi
    if command -v mvn >/dev/null; then languages+=(java); fi
    if command -v npm >/dev/null; then languages+=(node); fi
fi
mkdir -p "$out/logs" "$out/home"
exec 9>"$out/lock"
flock -n 9 || { echo "test-sdk: another run is under way in this clone, waiting for it"; flock 9; }
scripts/setup.sh "${languages[@]}"
. scripts/rocksdb-env.sh

say() { echo "test-sdk: $*"; }

prepare() {
    say "preparing $1"
    case "$1" in
        python)
            if [ ! -x "$out/python-venv/bin/python" ]; then python3 -m venv "$out/python-venv"; fi
            if ! cmp -s "$sources/python/requirements.txt" "$out/python-venv/installed.txt"; then
                "$out/python-venv/bin/pip" install -q -r "$sources/python/requirements.txt"
                cp "$sources/python/requirements.txt" "$out/python-venv/installed.txt"
            fi
            ;;
        rust) cargo build --locked --manifest-path "$sources/rust/Cargo.toml" --target-dir "$out/rust" ;;
        go) (cd "$sources/go" && go build -o "$out/go/go-sdk-test" . && go build -o "$out/go/go-transaction" ./transaction) ;;
        node)
            mkdir -p "$out/node"
            cp "$sources/node/"* "$out/node/"
            (cd "$out/node" && npm ci --silent --no-audit --no-fund)
            ;;
        java) mvn -q -B -ntp -f "$sources/java/pom.xml" package -Dsdk.output="$out/java" </dev/null ;;
    esac
}

# With a time limit, and with a home below target/, because some SDKs write their logs into the home directory.
client_env() { timeout -k 5 360 env HOME="$out/home" "$@" </dev/null; }
client() {
    local language=$1
    shift
    case "$language" in
        # Unlike the others it checks certificates: gRPC is told to trust the one the node made for itself.
        python) client_env "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=$data/node/tls/certificate.pem" "$out/python-venv/bin/python" "$sources/python/roundtrip.py" "$@" ;;
        rust) client_env "$out/rust/debug/rust-sdk-test" "$@" ;;
        node) client_env node "$out/node/roundtrip.js" "$@" ;;
        go) client_env "$out/go/go-sdk-test" "$@" ;;
        java) client_env java -Duser.home="$out/home" -Drocketmq.log.root="$out/home/logs" -cp "$out/java/java-sdk-test-0.jar:$out/java/lib/*" flotilla.RoundTrip "$@" ;;
    esac
}

nothing_left() {
    http GET "$http_port" "/v1/consumer-groups/$1" | tr -d ' \n' |
        grep -q '"total":{"ready":0,"leased":0,"waiting":0,"blocked":0,"parked":0}'
}

passed=0
failed=0
# verdict NAME LOG STATUS SECONDS: one line for the scenario; on failure what the client said.
verdict() {
    if [ "$3" -eq 0 ]; then
        passed=$((passed + 1))
        echo "ok      $1, $4 s: $(grep -h 'sent=' "$2" | sed 's/^[a-z]* //' | tr '\n' ';' | sed 's/;$//; s/;/; /g')"
    else
        failed=$((failed + 1))
        echo "FAILED  $1, $4 s (status $3), last lines of $2:"
        tail -n 20 "$2" | sed 's/^/        /'
    fi
}

# scenario LANGUAGE MODE ENDPOINTS: a topic and two consumer groups of its own, the client, then a look at what is left.
scenario() {
    local language=$1 mode=$2 endpoints=$3 status=0 started=$SECONDS
    local topic="sdk-$language-$mode" group="sdk-$language-$mode-group" log="$out/logs/$language-$mode.log"
    "$flotilla" topic create "$topic" --queues 8 --type NORMAL --http-addr "127.0.0.1:$http_port" >"$log" 2>&1 || status=$?
    http POST "$http_port" /v1/consumer-groups "{\"name\":\"$group\"}" >>"$log" 2>&1 || status=$?
    http POST "$http_port" /v1/consumer-groups "{\"name\":\"$group-push\"}" >>"$log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        client "$language" "$endpoints" "$topic" "$group" "$messages" "$mode" >>"$log" 2>&1 || status=$?
    fi
    local groups=("$group")
    if [ "$language" != rust ]; then groups+=("$group-push"); fi
    if [ "$status" -eq 0 ]; then
        for group in "${groups[@]}"; do
            if ! wait_for 15 nothing_left "$group"; then
                status=1
                { echo "left over in $group:"; http GET "$http_port" "/v1/consumer-groups/$group" || true; } >>"$log" 2>&1
            fi
        done
    fi
    verdict "$language $mode" "$log" "$status" $((SECONDS - started))
}

# transactions LANGUAGE ENDPOINT: a topic that takes them and a consumer group of its own; few messages, each of which is one.
transactions() {
    local language=$1 endpoint=$2 status=0 started=$SECONDS
    local topic="sdk-$language-transaction" group="sdk-$language-transaction-group" log="$out/logs/$language-transaction.log"
    "$flotilla" topic create "$topic" --queues 8 --type TRANSACTION --http-addr "127.0.0.1:$http_port" >"$log" 2>&1 || status=$?
    http POST "$http_port" /v1/consumer-groups "{\"name\":\"$group\"}" >>"$log" 2>&1 || status=$?
    if [ "$status" -eq 0 ]; then
        case "$language" in
            python) client_env "$out/python-venv/bin/python" "$sources/python/transaction.py" "$endpoint" "$topic" "$group" 100 ;;
            rust) client_env "$out/rust/debug/rust-sdk-test" "$endpoint" "$topic" "$group" 100 transaction ;;
            node) client_env node "$out/node/transaction.js" "$endpoint" "$topic" "$group" 100 ;;
            go) client_env "$out/go/go-transaction" "$endpoint" "$topic" "$group" 100 ;;
            java) client_env java -Duser.home="$out/home" -Drocketmq.log.root="$out/home/logs" -cp "$out/java/java-sdk-test-0.jar:$out/java/lib/*" flotilla.Transactions "$endpoint" "$topic" "$group" 100 ;;
        esac >>"$log" 2>&1 || status=$?
    fi
    # What was rolled back is not open either, as soon as everybody was asked.
    if [ "$status" -eq 0 ] && ! wait_for 15 none_open "$topic"; then
        status=1
        { echo "open in $topic:"; "$flotilla" transaction list "$topic" --http-addr "127.0.0.1:$http_port" || true; } >>"$log" 2>&1
    fi
    verdict "$language transaction" "$log" "$status" $((SECONDS - started))
}

none_open() {
    [ "$("$flotilla" transaction list "$1" --json --http-addr "127.0.0.1:$http_port" | tr -d ' \n')" = "[]" ]
}

# The README's example, as it stands there, with the port changed and nothing prepared on the node.
readme() {
    local log="$out/logs/readme.log" status=0 started=$SECONDS
    sed -n '/^```python$/,/^```$/p' README.md | sed '/^```/d' >"$out/readme.py"
    sed -i "s/localhost:8081/localhost:$client_port/" "$out/readme.py"
    client_env "$out/python-venv/bin/python" "$out/readme.py" >"$log" 2>&1 || status=$?
    if ! grep -q '^received' "$log"; then status=1; fi
    if [ "$status" -eq 0 ]; then echo "sent=$(grep -c '^sent' "$log") received=$(grep -c '^received' "$log")" >>"$log"; fi
    verdict "README example" "$log" "$status" $((SECONDS - started))
}

flotilla=${FLOTILLA:-}
if [ -z "$flotilla" ]; then
    say "building flotilla (what make test has built is used again)"
    # shellcheck disable=SC2086 # a list of flags
    cargo build ${CARGO_FLAGS:-} -p broker --bin flotilla
    flotilla=$root/target/debug/flotilla
fi
for language in "${languages[@]}"; do prepare "$language"; done

data=$(mktemp -d "${TMPDIR:-/tmp}/flotilla-sdk.XXXXXX")
nodes=()
stop_nodes() {
    for node in "${nodes[@]}"; do kill -9 "$node" 2>/dev/null || true; done
    for node in "${nodes[@]}"; do wait "$node" 2>/dev/null || true; done
    nodes=()
}
trap 'stop_nodes; rm -rf "$data"' EXIT

# start NAME CLIENT_PORT HTTP_PORT PEER_PORT [FLAG...]: a node in the background; its process id goes into nodes.
start() {
    local name=$1 client=$2 http=$3 peer=$4
    shift 4
    "$flotilla" serve --data-dir "$data/$name" --client-addr "127.0.0.1:$client" --http-addr "127.0.0.1:$http" \
        --peer-addr "127.0.0.1:$peer" "$@" >"$out/logs/$name.log" 2>&1 9>&- &
    nodes+=("$!")
}

# await_ready NAME HTTP_PORT
await_ready() {
    if ! wait_for 60 ready "$2"; then
        tail -n 20 "$out/logs/$1.log"
        exit 1
    fi
}

read -r client_port http_port peer_port <<<"$(free_ports 3)"
start node "$client_port" "$http_port" "$peer_port"
await_ready node "$http_port"
say "node is ready on ports $client_port, $http_port, $peer_port; $messages messages per scenario"

for language in "${languages[@]}"; do
    if [ "$language" = python ]; then readme; fi
    scenario "$language" plaintext "127.0.0.1:$client_port"
    case "$language" in python | go | java) scenario "$language" tls "127.0.0.1:$client_port" ;; esac
    transactions "$language" "127.0.0.1:$client_port"
done
stop_nodes

read -r -a ports <<<"$(free_ports 9)"
cluster="1=127.0.0.1:${ports[2]},2=127.0.0.1:${ports[5]},3=127.0.0.1:${ports[8]}"
for id in 1 2 3; do
    at=$(((id - 1) * 3))
    start "node-$id" "${ports[at]}" "${ports[at + 1]}" "${ports[at + 2]}" --node-id "$id" --initial-cluster "$cluster"
done
for id in 1 2 3; do await_ready "node-$id" "${ports[(id - 1) * 3 + 1]}"; done
kill -9 "${nodes[0]}"
wait "${nodes[0]}" 2>/dev/null || true
http_port=${ports[4]}
await_ready node-2 "$http_port"
say "three nodes, the first of them killed"

for language in "${languages[@]}"; do
    case "$language" in
        # These two take one address only: Rust's is one URI, and Node's gRPC looks up a list as one host name.
        rust | node) scenario "$language" one-dead "127.0.0.1:${ports[3]}" ;;
        *) scenario "$language" one-dead "127.0.0.1:${ports[0]};127.0.0.1:${ports[3]};127.0.0.1:${ports[6]}" ;;
    esac
done
echo "test-sdk: $passed passed, $failed failed"
[ "$failed" -eq 0 ]
