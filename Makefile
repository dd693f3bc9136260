# What a developer or a user runs. Every target prepares what it needs through scripts/: the first one on a fresh machine
# installs the system's packages (as root) or names them, and builds RocksDB's library once (about 6 minutes).
#
#   make run        one node, zero configuration: clients on 8081, administration on 8082
#   make cluster    three local nodes, until Ctrl-C
#   make test       all tests of the workspace
#   make verify     everything that only reads: format, lints, documentation, dependency rules
#   make fix        the only one that writes: formats, applies the lints' own corrections
#   make bench      load against one and three local nodes, with calibration
#   make test-sdk   the official SDKs, unmodified, against a node (SDKS="python rust go java node")
#   make hostile SECONDS=1800  every request and every field of it, at and over its bounds, against a node that must live
#   make filter-diff PAIRS=200000 SEED=1  filter expressions against the reference's own library (Java and Maven), pair by pair
#   make sim-smoke  what CI runs of the simulator: a few seeds twice, some once, its own tests
#   make sim N=100  so many simulated worlds, from seed FIRST on
#   make sim-meta N=10      the same, each in two processes that must agree in everything
#   make sim-replay SEED=1  one world again, with a timeline
#   make sim-shrink SEED=1  the simplest form of a world that fails
#   make sim-speed  how much faster than life the simulator is, or (AGAINST=path of another build of it) than that one
#   make sim-plant  how many seeds (MAX at most) it takes to find each of the bugs planted on purpose (BUGS="sync-dropped")
#   make chaos SECONDS=60   three real nodes that are killed, stopped, cut off and filled up; the simulator's oracles judge

SHELL := /bin/sh
PREPARE := . scripts/rocksdb-env.sh
# For example CARGO_FLAGS=--locked, or RUN_ARGS="--data-dir /tmp/flotilla".
CARGO_FLAGS ?=
RUN_ARGS ?=
SDKS ?=
# Simulated worlds, and the first of their seeds.
N ?= 100
FIRST ?= 1
# Planted bugs: seeds tried for each, and which (all of them).
MAX ?= 2000
BUGS ?=
# Another build of the simulator, to compare with.
AGAINST ?=
# Pairs of an expression and a message that the reference is asked about (200000).
PAIRS ?=
# How long chaos makes faults (60), or hostile sends (1800).
SECONDS ?=
SIM := CARGO_FLAGS="$(CARGO_FLAGS)" scripts/sim.sh

.PHONY: help run cluster build test verify fix bench test-sdk sim sim-meta sim-replay sim-shrink sim-speed sim-plant sim-smoke chaos hostile filter-diff
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   make/make/p' Makefile

run:
	@$(PREPARE) && cargo run $(CARGO_FLAGS) --release -p broker --bin flotilla -- serve $(RUN_ARGS)

build:
	@$(PREPARE) && cargo build $(CARGO_FLAGS) --release -p broker --bin flotilla

cluster: build
	@scripts/cluster.sh

test:
	@$(PREPARE) && cargo test $(CARGO_FLAGS)

verify:
	@$(PREPARE) && CARGO_FLAGS="$(CARGO_FLAGS)" scripts/verify.sh

fix:
	@$(PREPARE) && cargo clippy $(CARGO_FLAGS) --workspace --all-targets --fix --allow-dirty --allow-staged && cargo fmt --all

bench: build
	@scripts/bench.sh

test-sdk:
	@CARGO_FLAGS="$(CARGO_FLAGS)" scripts/test-sdk.sh $(SDKS)

sim-smoke:
	@$(SIM) smoke

sim:
	@$(SIM) sweep $(N) $(FIRST)

sim-meta:
	@$(SIM) meta $(N) $(FIRST)

sim-replay:
	@$(SIM) replay $(SEED)

sim-shrink:
	@$(SIM) shrink $(SEED)

sim-speed:
	@$(SIM) speed $(AGAINST)

sim-plant:
	@$(SIM) plant $(MAX) $(BUGS)

chaos: build
	@$(PREPARE) && CARGO_FLAGS="$(CARGO_FLAGS)" scripts/chaos.sh $(or $(SECONDS),60)

hostile: build
	@SECONDS=$(or $(SECONDS),1800) scripts/acceptance/hostile-1.py

filter-diff:
	@PAIRS=$(or $(PAIRS),200000) SEED=$(or $(SEED),1) CARGO_FLAGS="$(CARGO_FLAGS)" scripts/acceptance/filter-diff.sh
