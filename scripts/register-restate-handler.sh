#!/usr/bin/env bash
# Registers a webhook-worker's handlers with Restate, and shows what Restate knows then. Nobody needs it as long as all is
# well: every worker looks each 5 s whether Restate knows it, and registers itself where it does not. It is for another
# address of the workers, or to see the answer.
#
#   scripts/register-restate-handler.sh [WORKER_URL]
#
# WORKER_URL is how Restate reaches the workers, their ADVERTISED_URL: by default the one of docker-compose.yml. In the
# embedded stack it is http://127.0.0.1:9080.
set -euo pipefail

if [ $# -gt 1 ] || [[ ${1:-} == -* ]]; then
	sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
	exit 2
fi
worker=${1:-http://webhook-worker:9080}
admin=${RESTATE_ADMIN_URL:-http://localhost:9070}
headers=
if [ -n "${API_TOKEN:-}" ]; then # the workers want it of Restate too
	headers=", \"additional_headers\": {\"authorization\": \"Bearer $API_TOKEN\"}"
fi

curl -fsS -o /dev/null "$admin/health" || {
	echo "Restate's admin API does not answer at $admin: set RESTATE_ADMIN_URL" >&2
	exit 1
}
# Not forced: what is running there must find the handlers that it began with.
answer=$(curl -sS --fail-with-body -X POST "$admin/deployments" -H 'content-type: application/json' \
	-d "{\"uri\": \"$worker\", \"force\": false$headers}") || {
	echo "Restate cannot take $worker: $answer" >&2
	exit 1
}
grep -oE '"id": ?"dp_[^"]+"' <<<"$answer" | sed 's/.*"\(dp_.*\)"/deployment \1/'
echo "services and handlers that Restate knows now:"
curl -fsS "$admin/services" | grep -oE '"name": ?"[^"]+"' | sed 's/.*"\(.*\)"/  \1/'
