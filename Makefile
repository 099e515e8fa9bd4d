# Everyday tasks. Each is one command that can as well be typed.

.DEFAULT_GOAL := help
.PHONY: help build demo test lint ci abuse bench fuzz load floor drain peers docs clean

TARGET := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET)/release

# Where `make load` lets its gateway listen, and what it asks of it.
LOAD_LISTEN ?= 127.0.0.1:18080
LOAD_ADMIN ?= 127.0.0.1:18090
LOAD_FLAGS ?= --subscribers 1000 --rate 50 --duration 10s

# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 60

# Which servers `make peers` measures, and in what; nothing means all. With 10,000 connections it has rounds of its own.
PEERS ?=
SCENARIOS ?=
ROUNDS ?= 3
BIG_ROUNDS ?= 1

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the gateway and the load generator, optimised
	cargo build --release

demo: ## Serve a live market, and a page that shows it
	cargo run --release --bin fanfare -- demo

test: ## Run all tests, also with real clients (FANFARE_CLIENTS=off: without)
	cargo test --workspace

lint: ## Check formatting and lints
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

ci: ## Do what CI does
	.ci/run

abuse: ## Run what docs/FAULTS.md says is on demand: minutes of floods, crowds and churn
	cargo test --package fanfare-gateway --test abuse -- --ignored --test-threads 1

bench: ## Measure the parts (criterion)
	cargo bench --package fanfare-benches

fuzz: ## Fuzz each target for FUZZ_SECONDS (nightly, cargo-fuzz)
	for target in $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))); do \
	    mkdir -p $(TARGET)/fuzz-corpus/$$target && \
	    cargo +nightly fuzz run $$target $(TARGET)/fuzz-corpus/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

load: build ## Load a gateway of its own for a few seconds (LOAD_FLAGS)
	@$(RELEASE)/fanfare serve --listen $(LOAD_LISTEN) --admin $(LOAD_ADMIN) --drain-grace 1ms --drain-window 1s & \
	gateway=$$!; trap 'kill $$gateway; wait $$gateway' EXIT; \
	for try in 1 2 3 4 5 6 7 8 9 10; do \
	    curl --silent --fail --output /dev/null http://$(LOAD_LISTEN)/readyz && break; sleep 0.2; \
	done; \
	$(RELEASE)/fanfare-load quick --url http://$(LOAD_LISTEN) --pid $$gateway $(LOAD_FLAGS)

floor: build ## Compare the gateway with a server that does nothing but the writes
	python3 loadtest/floor.py

drain: build ## Tell 5,000 subscribers to go, and show when each was told
	python3 loadtest/drain.py

peers: build ## Compare with other servers: PEERS="bun ws", ROUNDS, BIG_ROUNDS, SCENARIOS
	python3 loadtest/peers.py --rounds $(ROUNDS) --big-rounds $(BIG_ROUNDS) --peers $(PEERS) --scenarios $(SCENARIOS)

docs: ## Build the crates' documentation
	cargo doc --workspace --no-deps --document-private-items

clean: ## Remove everything that was built, and the clients that the tests installed
	cargo clean
	rm -rf fuzz/target
