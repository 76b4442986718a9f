# Hookline. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export GOFLAGS ?= -buildvcs=auto

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build every command into bin/
	@mkdir -p bin
	go build -o bin/ ./cmd/...

.PHONY: demo
demo: build ## start the whole pipeline on this machine and watch payments arrive at the merchant
	@bin/hookline demo

.PHONY: bench
bench: build ## measure the stack: a burst, then 100 and 500 payments a second
	@bin/hookline bench --burst 10000
	@bin/hookline bench --rate 100 --duration 30s
	@bin/hookline bench --rate 500 --duration 30s

.PHONY: test
test: build ## run every test with the race detector; downloads what the tests need and the machine lacks
	@command -v "$$(go env CC)" >/dev/null || { echo "the race detector needs a C compiler: apt-get install -y gcc libc6-dev" >&2; exit 1; }
	@postgres="$$(bin/hookline provision)" && HOOKLINE_POSTGRES_BIN="$${postgres:-$$HOOKLINE_POSTGRES_BIN}" go test -race ./...

.PHONY: check-observability
check-observability: ## check the Prometheus configuration, and test the alert rules with promtool
	@scripts/check-alerts.sh

.PHONY: crash-test
crash-test: build ## the old architecture against the new one: 100 payments, one kill -9
	@scripts/crash-test.sh

# A stack of its own, beside one that runs; it is stopped and removed in the end, whatever came of it.
CRASH_STACK := --dir .hookline/crash-matrix --port-offset 8500

.PHONY: crash-matrix
crash-matrix: build ## every fault one after the other; writes docs/crash-matrix.md; takes half an hour
	@bin/hookline crash-test $(CRASH_STACK) --matrix docs/crash-matrix.md; code=$$?; bin/hookline down --dir .hookline/crash-matrix --purge; exit $$code

# The linters are a module of their own, so that what they depend on stays out of the product's. The first
# run compiles them, which takes a minute or two; later ones come from Go's cache.
LINT := go tool -modfile=tools/go.mod golangci-lint

.PHONY: lint
lint: ## check the formatting, run the linters, and parse the shell scripts
	$(LINT) run
	go vet ./...
	@for script in $$(grep -rlIE --exclude-dir=node_modules '^#!.*bash' $(wildcard .ci scripts tests deploy)); do echo "bash -n $$script"; bash -n "$$script" || exit 1; done

.PHONY: fmt
fmt: ## format the Go code and sort its imports
	$(LINT) fmt

.PHONY: clean
clean: ## stop the embedded stack, remove its state and what was built
	@if [ -x bin/hookline ]; then bin/hookline down --purge; fi
	rm -rf bin .hookline
