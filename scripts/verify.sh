#!/bin/sh
# Everything that only reads the sources: format, lints, documentation, dependency rules, licences of dependencies.
# Called by `make verify`, which has prepared the environment.
set -eu
cd "$(dirname "$0")/.."
flags=${CARGO_FLAGS:-}

step() { echo "verify: $*"; }

step "format"
cargo fmt --all --check
cargo fmt --check --manifest-path broker/tests/sdk/rust/Cargo.toml

step "dependency rules"
scripts/check-deps.sh

step "planted bugs"
scripts/check-plants.sh

step "lints"
# shellcheck disable=SC2086 # a list of flags
cargo clippy $flags --workspace --all-targets -- -D warnings

step "documentation"
# shellcheck disable=SC2086
RUSTDOCFLAGS="-D warnings" cargo doc $flags --workspace --no-deps

if command -v cargo-deny >/dev/null 2>&1; then
    step "licences and sources of dependencies"
    cargo deny --all-features check bans licenses sources
else
    step "cargo-deny is not installed: licences and sources of dependencies not checked"
fi
step "ok"
