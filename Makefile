# Everything a person or the CI does here. `make` alone shows the list.
# All targets can be run again at any time.

CARGO ?= cargo
DEMO_EXIT ?=
FUZZ_SECONDS ?= 60

.DEFAULT_GOAL := help
.PHONY: help setup build build-debug sdk-tools demo test bench fuzz test-full lint spec

help: ## show this list
	@echo "Targets:"
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "make demo DEMO_EXIT=1 ends by itself; its exit status is 0 only if the service answered."

setup: ## install the Debian packages that are missing (needs root; starts no service)
	@packaging/setup-host.sh

build: setup ## build the programs, release
	@echo "== building the programs (release; the first time takes a few minutes)"
	$(CARGO) build --release --locked -p aos -p aos-cloud -p aosctl -p aos-testbed -p aos-install-bench -p aos-sim

demo: build ## run cloud and one Unit, deploy a service, call it (stays until Ctrl-C)
	@DEMO_EXIT=$(DEMO_EXIT) target/release/aos-demo

build-debug: setup
	@echo "== building the programs for the tests"
	$(CARGO) build --locked -p aos --no-default-features --features sm,iam
	cp target/debug/aos target/debug/aos-secondary
	$(CARGO) build --locked --workspace --bins

sdk-tools: setup
	@tests/sdk-tools.sh

lint: setup ## formatting and clippy, as the tests demand it
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

test: lint build-debug sdk-tools ## formatting, lints and all tests; ends with a summary line
	@tests/run.sh

spec: ## write the tests that cite a promise into SPECIFICATION.md
	@$(CARGO) run --locked -q -p aos-specification

bench: build ## measure memory, sizes and times; writes target/bench/results.jsonl
	@target/release/aos-bench

fuzz: setup ## coverage-guided fuzzing of each parser for FUZZ_SECONDS (60); installs cargo-fuzz
	@fuzz/run.sh $(FUZZ_SECONDS)

test-full: test build ## `make test`, then demo and services on Debian with systemd and cgroup v2 in a virtual machine
	@mkdir -p target/vm
	@# Under the name of one test the program of box tests runs that one, so it can be given to the machine as it is.
	@program=$$($(CARGO) test --locked --no-run -p aos-sm --test in_box 2>&1 | sed -n 's/.*(\(target[^)]*\)).*/\1/p') && \
	  strip -o target/vm/vlans_are_filtered_like_bridges "$$program"
	@packaging/vm/run.sh target/vm/vlans_are_filtered_like_bridges
