#!/usr/bin/env bash
# Starts the whole architecture with Docker Compose, creates payments, and shows their webhooks arrive at the merchant.
#
#   scripts/demo.sh [PAYMENTS]                        20 of them, at most 100
#   COMPOSE_PROFILES=relay scripts/demo.sh            with cdc-relay instead of Sequin
#
# What runs already is left alone, and the stack goes on running. Exits 1 when a webhook did not arrive.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

payments=${1:-20}
if ! [[ $payments =~ ^[1-9][0-9]?$|^100$ ]] || [ $# -gt 1 ]; then
	echo "usage: scripts/demo.sh [PAYMENTS], 1 to 100" >&2
	exit 2
fi
api=http://localhost:3001 merchant=http://localhost:4001
json='content-type: application/json'

docker compose up --detach --wait

echo
echo "Creating $payments payments at $api/payments:"
declare -A created=()
for ((i = 1; i <= payments; i++)); do
	answer=$(curl -sS --fail-with-body -X POST "$api/payments" -H "$json" -d "{\"amount\": $((i * 100)), \"currency\": \"USD\"}")
	[[ $answer =~ \"id\":\ ?\"([^\"]+)\" ]]
	created[${BASH_REMATCH[1]}]=$i
done

# Of the receipts only the last 100 are told: they are looked at often enough to see each.
missing=$payments
for ((quiet = 0; quiet < 150 && missing > 0; quiet++)); do
	receipts=$(curl -fsS "$merchant/stats?latest=100")
	while [[ $receipts =~ \"object_id\":\"([^\"]+)\" ]]; do
		receipts=${receipts#*"${BASH_REMATCH[0]}"}
		id=${BASH_REMATCH[1]}
		if [ -n "${created[$id]:-}" ]; then
			echo "  the webhook of payment $id arrived"
			unset "created[$id]"
			missing=${#created[@]}
			quiet=0
		fi
	done
	[ "$missing" -eq 0 ] || sleep 0.2
done

echo
echo "$payments payments, $((payments - missing)) webhooks arrived"
curl -fsS "$merchant/stats?latest=0"
cat <<END

Look around; docker compose down stops it, with --volumes it also removes the data:
  http://localhost:9070/ui/   Restate: every batch of webhooks, step by step
  http://localhost:3005       Grafana: the pipeline at a glance
  http://localhost:9090       Prometheus
  http://localhost:7376       Sequin, with its profile
  $merchant/stats  what the merchant has received
  curl -X POST $api/payments -H '$json' -d '{"amount": 1000, "currency": "USD"}'
END
if [ "$missing" -gt 0 ]; then
	echo "FAILED: after 30 s without another one, $missing webhooks have not arrived: ${!created[*]}" >&2
	exit 1
fi
