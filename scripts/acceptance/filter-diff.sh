#!/usr/bin/env bash
# Filter expressions against the reference's own library: random pairs of an expression and the properties of a message, and the
# table of cases, must be refused or answered alike. One difference is on purpose and counted apart: the reference ignores text
# behind a complete expression, which is refused here. Needs Java and Maven, which fetches the library at the first run.
#
#   scripts/acceptance/filter-diff.sh
#
# Environment: PAIRS (default 200000), SEED (default 1; `recorded` is that of tests/recorded.txt), RECORD=path (writes the
# reference's answers there, a letter each). Prints counts and the first differences; ends with 1 if there are any.
set -euo pipefail
cd "$(dirname "$0")/../.."
root=$PWD
out=$root/target/filter-diff
seed=${SEED:-1}
pairs=${PAIRS:-200000}

say() { echo "filter-diff: $*"; }

for tool in javac mvn; do
    if ! command -v "$tool" >/dev/null; then
        say "$tool was not found: install a JDK and Maven, or run \`scripts/setup.sh java\`"
        exit 1
    fi
done
mkdir -p "$out"
exec 9>"$out/lock"
flock -n 9 || { say "another run is under way in this clone, waiting for it"; flock 9; }

say "building"
# shellcheck disable=SC2086 # a list of flags
cargo build -q ${CARGO_FLAGS:-} -p flotilla-filter --example pairs
program=${CARGO_TARGET_DIR:-$root/target}/debug/examples/pairs
mvn -q -B -ntp -f broker/filter/tests/reference/pom.xml package -Dreference.output="$out/reference" </dev/null

reference() { java -cp "$out/reference/filter-reference-0.jar:$out/reference/lib/*" flotilla.Reference; }

failed=0
table=broker/filter/tests/cases.txt
"$program" cases "$table" >"$out/cases.txt"
reference <"$out/cases.txt" >"$out/cases-answers.txt"
"$program" judge-cases "$table" "$out/cases-answers.txt" || failed=1

say "$pairs pairs of seed $seed"
"$program" generate "$seed" "$pairs" >"$out/pairs.txt"
reference <"$out/pairs.txt" >"$out/answers.txt"
"$program" judge "$seed" "$pairs" "$out/answers.txt" || failed=1
if [ -n "${RECORD:-}" ]; then "$program" record "$out/answers.txt" >"$RECORD"; fi

if [ "$failed" -ne 0 ]; then
    say "FAIL (pairs and answers are in $out)"
    exit 1
fi
say "PASS"
