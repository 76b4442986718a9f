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

.PHONY: clean
clean: ## remove what was built and the state of the embedded stack (stop it first: bin/hookline down)
	rm -rf bin .hookline
