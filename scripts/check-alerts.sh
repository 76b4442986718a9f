#!/usr/bin/env bash
# Checks deploy/prometheus with promtool: the configuration, the rules, and what the rules say of made-up series.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../deploy/prometheus"

command -v promtool >/dev/null || {
	echo "promtool is missing: apt-get install -y --no-install-recommends prometheus" >&2
	exit 1
}
promtool check config prometheus.yml
promtool test rules alerts_test.yml
