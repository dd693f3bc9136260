#!/bin/sh
# Bugs on purpose stay out of the product: each has exactly one line in a product file, a `plant!`, and whatever else it
# needs is in sim-tests/plant, which is an empty macro outside the simulator.
set -eu
cd "$(dirname "$0")/.."
failed=0

complain() {
    echo "check-plants: $1" >&2
    [ -z "${2:-}" ] || echo "$2" >&2
    failed=1
}

# product PATTERN: the lines of product sources that match.
product() { grep -rnE --include='*.rs' -e "$1" proto raft-store broker || true; }

bugs=$(sed -nE 's/^    ([A-Z][A-Za-z]*), "[a-z-]+",.*/\1/p' sim-tests/plant/src/lib.rs)
[ -n "$bugs" ] || complain "sim-tests/plant/src/lib.rs names no bug"
planted=$(product 'plant!' | grep -oE 'plant!\([A-Za-z]+' | sed 's/plant!(//' | sort)

for bug in $bugs; do
    count=$(echo "$planted" | grep -cx -- "$bug" || true)
    [ "$count" -eq 1 ] || complain "$bug is planted $count times, and must be once"
done
for bug in $(echo "$planted" | uniq); do
    echo "$bugs" | grep -qx -- "$bug" || complain "$bug is planted and is not in sim-tests/plant/src/lib.rs"
done

# A line has as many closing as opening parentheses from its plant! on, or more, where the plant! stands inside others.
open=$(product 'plant!' | awk '{
    from = substr($0, index($0, "plant!"))
    if (gsub(/\(/, "", from) > gsub(/\)/, "", from)) print
}')
[ -z "$open" ] || complain "a plant! must end on the line where it begins:" "$open"

# Whatever else names planted bugs: a module of bodies, which are not in the product's folders, and calls from a plant!.
other=$(product '(^|[^a-z_])plant(ed)?::' | grep -v 'plant!(' || true)
[ -z "$other" ] || complain "only a plant! may ask for a planted bug:" "$other"
for mount in $(grep -rlE --include='*.rs' 'mod planted' proto raft-store broker || true); do
    before=$(grep -B 2 'mod planted' "$mount" | tr -d '\n')
    echo "$before" | grep -qE '^#\[cfg\(madsim\)\]#\[path = "(\.\./)+sim-tests/plant/bodies/[a-z_]+\.rs"\]mod planted;$' \
        || complain "$mount: mod planted must be a module of sim-tests/plant/bodies, and under cfg(madsim)"
done
named=$(product '[Pp]lanted' | grep -vE 'plant!\(|mod planted;' || true)
[ -z "$named" ] || complain "product files say nothing else about planted bugs:" "$named"

# Outside the simulator the crate is one macro: everything else in it is under cfg(madsim).
items=$(awk '/^#\[cfg\(not\(madsim\)\)\]/ { bare++ }
    /^#\[cfg\((all\(test, )?madsim\)?\)\]/ { guarded = 1; next }
    /^(pub |use |static |const |fn |mod |macro_rules!|bugs!|impl )/ { if (!guarded && !/^macro_rules! plant /) print FILENAME ":" NR ": " $0; guarded = 0 }
    END { if (bare != 1) print FILENAME ": one item is to be there without the simulator" }' sim-tests/plant/src/lib.rs)
[ -z "$items" ] || complain "outside the simulator the crate plant is one macro:" "$items"
if grep -q '^\[.*dependencies' sim-tests/plant/Cargo.toml; then
    complain "the crate plant depends on nothing"
fi

if [ "$failed" -ne 0 ]; then exit 1; fi
echo "check-plants: $(echo "$bugs" | wc -l) planted bugs, one line each"
