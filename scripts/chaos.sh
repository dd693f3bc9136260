#!/bin/sh
# Three real nodes under real faults, judged by the simulator's oracles: see docs/chaos.md. The release binary must have
# been built.
#
#   scripts/chaos.sh SECONDS [FLAGS...]    faults for so long; flags of `chaos`, see --help
#
# Environment: FLOTILLA (the binary, default target/release/flotilla), TMPDIR (the disk that is tested).
set -eu
cd "$(dirname "$0")/.."
export PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
seconds=${1:?usage: scripts/chaos.sh SECONDS [FLAGS...]}
shift
# The program ends by itself well before; this is for the case that it does not. On SIGTERM it cleans up.
limit=$((seconds + 900))
built=${CARGO_TARGET_DIR:-target}/release
# The Python SDK, where `make test-sdk` has it too.
python=target/sdk/python-venv
wanted=broker/tests/sdk/python/requirements.txt
prepare_python() { python3 -m venv "$python" && "$python/bin/pip" install -q -r "$wanted" && cp "$wanted" "$python/installed.txt"; }
if ! cmp -s "$wanted" "$python/installed.txt" && ! prepare_python; then
    echo "chaos: the Python SDK cannot be installed here: there will be no clients of it"
    rm -rf "$python"
fi
# shellcheck disable=SC2086 # a list of flags
cargo build ${CARGO_FLAGS:-} --release -p sim-tests --bin chaos
exec timeout --foreground --kill-after=60 "$limit" \
    "$built/chaos" --seconds "$seconds" --flotilla "${FLOTILLA:-$built/flotilla}" "$@"
