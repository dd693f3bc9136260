# shellcheck shell=bash
# What the scripts that start nodes share (bash): free ports, HTTP without curl, waiting for a condition. Sourced.

# free_ports N: that many ports nobody listens on, below the kernel's own range for outgoing connections.
free_ports() {
    local found=() port
    while [ "${#found[@]}" -lt "$1" ]; do
        port=$((20000 + RANDOM % 12000))
        case " ${found[*]} " in *" $port "*) continue ;; esac
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then found+=("$port"); fi
    done
    echo "${found[@]}"
}

# http METHOD PORT PATH [BODY]: prints the body of the answer of 127.0.0.1:PORT; fails unless the status is 2xx.
http() {
    local method=$1 port=$2 path=$3 body=${4:-} answer status
    exec 3<>"/dev/tcp/127.0.0.1/$port" || return 1
    printf '%s %s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' \
        "$method" "$path" "$port" "${#body}" "$body" >&3
    answer=$(timeout 20 cat <&3 | tr -d '\r')
    exec 3<&- 3>&-
    status=${answer#* }
    status=${status%% *}
    printf '%s\n' "${answer#*$'\n\n'}"
    [ "${status:0:1}" = 2 ]
}

# wait_for SECONDS COMMAND...: until the command succeeds; fails when the time is over.
wait_for() {
    local seconds=$1 end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "gave up after $seconds s: $*" >&2
            return 1
        fi
        sleep 0.2
    done
}

ready() { http GET "$1" /healthz/ready; }
