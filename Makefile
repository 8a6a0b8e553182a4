# Every target does its own set-up from nothing: an environment in .venv and the release build of the native module.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The first that is new enough and runs: shims of version managers may be on the path without an interpreter.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
comma := ,
LISTEN ?= 127.0.0.1:7411
SECONDS_EACH ?= 60
STEPS := $(if $(filter run,$(MAKECMDGOALS)),3,2)
RUST := $(shell find crates -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock

# step NAME,COMMANDS: runs them and shows how long they took; their output only when they fail.
define step
@printf '%-44s' '$(1)'; begun=$$SECONDS; log=$$(mktemp); \
if { $(2); } >$$log 2>&1; then printf '%4s s\n' $$((SECONDS - begun)); rm -f $$log; \
else echo; cat $$log; rm -f $$log; exit 1; fi
endef

help:
	@echo 'make run     start the cache on $(LISTEN)'
	@echo 'make test    run the tests              make lint    check form and types'
	@echo 'make bench   measure beside redis-server      make fuzz    feed random input for a given time'
	@echo 'make faults  check histories of many clients, make links and servers fail'
	@echo 'make soak    load of every kind for SECONDS, memory and latency watched'
	@echo 'make versions   clients and servers of this version and the one before, in all pairs'
	@echo 'make build   the native module          make deps    servers that the tests want, from Debian'
	@echo 'make clean   remove what was made'

prerequisites:
	@test -n '$(PYTHON)' || { echo 'Python 3.11 or newer is needed: apt-get install python3 python3-venv'; exit 1; }
	@command -v cargo >/dev/null || { echo 'Rust is needed: install rustup, then: rustup default stable'; exit 1; }
	@command -v cc >/dev/null || { echo 'A C compiler is needed: apt-get install build-essential'; exit 1; }

.venv/.made: pyproject.toml | prerequisites
	$(call step,[1/$(STEPS)] Python environment  .venv,$(PYTHON) -m venv .venv && $(BIN)/pip install -q -U 'pip>=25.1' 'maturin>=1.8$(comma)<2')
	@touch $@

.venv/.built: .venv/.made $(RUST)
	$(call step,[2/$(STEPS)] native core$(comma) release build,source $(BIN)/activate && maturin develop --release --quiet --extras sql)
	@touch $@

.venv/.tools: .venv/.made
	$(call step,[+] tools for tests and checks,$(BIN)/pip install -q --group dev)
	@touch $@

# Django's own tests, which its wheel does not carry. Without a network the test that runs them is skipped.
.venv/.sdists: .venv/.tools
	$(call step,[+] Django with its own tests,cd .venv && mkdir -p sdists && { ./bin/pip download -q --no-deps --no-binary :all: -d sdists \
		"django==$$(./bin/python -c 'import django; print(django.__version__)')" && tar -xzf sdists/*jango-*.tar.gz -C sdists || true; })
	@touch $@



build: .venv/.built

examples/shop.db: examples/shop.py | .venv/.built
	$(call step,[3/3] examples/shop.db    1$(comma)000 products$(comma) 200 orders,$(BIN)/python examples/shop.py create)

# Python finds the shop by the folder of its module.
run: .venv/.built examples/shop.db
	@$(BIN)/python -c 'import socket; socket.create_connection(("$(LISTEN)".rsplit(":", 1)), 1)' 2>/dev/null && \
		{ echo '$(LISTEN) is in use; try `make run LISTEN=127.0.0.1:7412`'; exit 1; } || true
	@PYTHONPATH=examples exec $(BIN)/globalcache serve shop:cache --listen $(LISTEN) --welcome examples/welcome.txt

# The same cases every time: new ones are drawn by `make faults` and `make fuzz`.
test: export PROPTEST_RNG_SEED = 1
test: .venv/.built .venv/.tools .venv/.sdists
	cargo test --workspace --exclude globalcache-python --quiet
	$(BIN)/pytest

lint: .venv/.built .venv/.tools
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	$(BIN)/python scripts/unasync.py --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest globalcache._core
	$(BIN)/lint-imports

.venv/.peers: .venv/.made
	$(call step,[+] servers to measure beside,$(BIN)/pip install -q --group bench)
	@touch $@

bench: .venv/.built .venv/.peers
	$(BIN)/python bench/serve.py
	$(BIN)/python bench/client.py
	$(BIN)/python bench/memcached.py
	$(BIN)/python bench/tls.py
	$(BIN)/python bench/misses.py
	$(BIN)/python bench/store.py

# Longer than in `make test`: ROUNDS times; SEED repeats a run.
faults: export FAULTS_ROUNDS = $(or $(ROUNDS),50)
faults: export FAULTS_SEED := $(or $(SEED),$(shell date +%s))
faults: export PROPTEST_RNG_SEED = $(FAULTS_SEED)
faults: .venv/.built .venv/.tools
	SIMULATIONS=$$((20000 * FAULTS_ROUNDS)) cargo test --release --quiet -p globalcache-core --test simulation -- --nocapture
	PROPTEST_CASES=$$((500 * FAULTS_ROUNDS)) cargo test --release --quiet -p globalcache-core \
		--test store_model --test session --test session_model
	LEASE_FROM=$$FAULTS_SEED LEASE_LOADS=$$((100 * FAULTS_ROUNDS)) WATCH_FROM=$$FAULTS_SEED WATCH_LOADS=$$((100 * FAULTS_ROUNDS)) \
		STORE_RUNS=$$((30 * FAULTS_ROUNDS)) SESSION_RUNS=$$((10 * FAULTS_ROUNDS)) cargo test --release --quiet -p globalcache-core \
		--test lease_load --test watch_load --test store_threads --test session_threads
	$(BIN)/pytest -s -v tests/faults tests/model tests/integration/test_herd.py \
		tests/security/test_crowds.py tests/security/test_strangers.py tests/security/test_doors.py

# Mixed load with churn of everything; half an hour tells more: make soak SECONDS=1800
soak: .venv/.built .venv/.tools
	$(BIN)/python -m tests.faults.soak $(or $(SECONDS),60)

# The version before, from the history of the clone; a shallow clone may lack it. How fast it is does not matter.
BEFORE ?= 1e6015a
HOME_BEFORE := target/before-$(BEFORE)

$(HOME_BEFORE)/.made: | .venv/.made
	$(call step,[+] wheel of $(BEFORE)$(comma) the version before,source=$$(mktemp -d) && trap "rm -rf $$source" EXIT && \
		git archive $(BEFORE) | tar -x -C $$source && ( cd $$source && unset CARGO_TARGET_DIR && \
		CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
		$(CURDIR)/$(BIN)/maturin build --release --quiet --out $(CURDIR)/$(@D) ) && \
		$(PYTHON) -m venv $(@D) && $(@D)/bin/pip install -q "$$(echo $(@D)/*.whl)[zstd]")
	@touch $@

versions: .venv/.built .venv/.tools $(if $(shell git rev-parse -q --verify '$(BEFORE)^{commit}' 2>/dev/null),$(HOME_BEFORE)/.made)
	HOME_BEFORE=$(HOME_BEFORE) $(BIN)/pytest tests/versions/pairs.py

fuzz: | prerequisites
	@command -v cargo-fuzz >/dev/null || cargo install --quiet --locked cargo-fuzz
	@for target in $$(cargo +nightly fuzz list); do \
		mkdir -p fuzz/target/found/$$target; \
		cargo +nightly fuzz run --release $$target fuzz/target/found/$$target fuzz/corpus/$$target -- -max_total_time=$(SECONDS_EACH) -rss_limit_mb=4096; \
	done

# Servers that tests talk to. They are installed, not started: tests start their own.
deps:
	@sudo=$$(test $$(id -u) = 0 || echo sudo); packages='redis-server redis-tools memcached libmemcached-tools postgresql'; \
	if ! command -v apt-get >/dev/null; then echo "Install by hand: $$packages"; exit 1; fi; \
	$$sudo apt-get update -q; \
	$$sudo env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -q -y --no-install-recommends $$packages

# The reference page, from the table of commands.
commands: | prerequisites
	cargo run --quiet -p globalcache-core --example commands > docs/commands.md

clean:
	rm -rf .venv target fuzz/target dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f examples/shop.db*
	find src tests bench examples -name __pycache__ -o -name '*.so' | xargs rm -rf

.PHONY: commands help prerequisites build run test lint bench faults soak versions fuzz deps clean
