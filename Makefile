# Hookline. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help
export GOFLAGS ?= -buildvcs=auto

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build every command into bin/
	@mkdir -p bin
	go build -o bin/ ./cmd/...

.PHONY: demo
demo: build ## start the whole pipeline on this machine and watch payments arrive at the merchant
	@bin/hookline demo

.PHONY: test
test: build ## run every test with the race detector; downloads what the tests need and the machine lacks
	@command -v "$$(go env CC)" >/dev/null || { echo "the race detector needs a C compiler: apt-get install -y gcc libc6-dev" >&2; exit 1; }
	@postgres="$$(bin/hookline provision)" && HOOKLINE_POSTGRES_BIN="$${postgres:-$$HOOKLINE_POSTGRES_BIN}" go test -race ./...

.PHONY: clean
clean: ## stop the embedded stack, remove its state and what was built
	@if [ -x bin/hookline ]; then bin/hookline down --purge; fi
	rm -rf bin .hookline
