#!/usr/bin/env bash
# Runs one kind of tests, or all: unit (every test but those that start whole stacks), crash (the short crash matrix and
# the comparison of the old architecture with the new), all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
	echo "usage: scripts/run-tests.sh unit|crash|all" >&2
	exit 2
}

provide() {
	make --no-print-directory build
	local postgres
	postgres=$(bin/hookline provision)
	if [ -n "$postgres" ]; then
		export HOOKLINE_POSTGRES_BIN=$postgres
	fi
}

unit() {
	local packages
	mapfile -t packages < <(go list ./... | grep -v '/tests/')
	go test -race "${packages[@]}"
}

crash() {
	go test -race -count=1 ./tests/crash/...
	scripts/crash-test.sh
}

[ $# -eq 1 ] || usage
case $1 in
unit) provide && unit ;;
crash) provide && crash ;;
all)
	provide
	go test -race ./...
	scripts/crash-test.sh
	;;
*) usage ;;
esac
