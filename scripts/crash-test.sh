#!/usr/bin/env bash
# The old architecture against the new one: 100 payments to each, and one kill -9 in the middle. The old one keeps
# webhooks in memory and loses some; of the new one every single id must arrive. Exits non-zero when one is missing.
#
#   scripts/crash-test.sh                        on a stack of its own, which is removed again
#   scripts/crash-test.sh --compose [SERVICE]    on the stack of docker-compose.yml, which goes on running
#
# Without --compose HOOKLINE_PORT_OFFSET (default 7000) is added to the stack's ports, which keeps them below those that
# the kernel gives out. With it SERVICE is what is killed: webhook-worker by default, or payments-api, data-service,
# cdc-relay, kafka, restate, postgres.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PAYMENTS=${PAYMENTS:-100}

# verdict OLD_LOST OLD_SENT NEW_LOST NEW_SENT FAILED ends the script with what came of it.
verdict() {
	if [ "$5" -ne 0 ] || [ "$3" -ne 0 ]; then
		echo "FAILED: the new one must not lose a single id" >&2
		exit 1
	fi
	if [ "$1" -eq 0 ]; then
		echo "note: the old one was lucky this time"
	fi
	echo "passed"
}

# number NAME FILE prints a number of the result, the last line of the file.
number() {
	tail -n 1 "$2" | grep -o "\"$1\":[0-9]*" | head -n 1 | cut -d: -f2
}

embedded() {
	bin=${HOOKLINE_BIN:-bin}
	[ -x "$bin/hookline" ] || make --no-print-directory build
	work=$(mktemp -d)
	export HOOKLINE_DIR=$work/stack HOOKLINE_PORT_OFFSET=${HOOKLINE_PORT_OFFSET:-7000}
	trap finish_embedded EXIT

	echo "== old: webhooks in memory, kill -9 after half of the payments"
	"$bin/hookline" crash-test --old --json >"$work/old.json"

	echo
	echo "== new: the durable pipeline, kill -9 of the webhook-worker"
	local failed=0
	"$bin/hookline" crash-test --fault kill:webhook-worker --payments "$PAYMENTS" --rate 50 --refunds 0 --json >"$work/new.json" || failed=1

	local old_sent old_lost new_sent new_lost
	old_sent=$(number acknowledged "$work/old.json") old_lost=$(number lost "$work/old.json")
	new_sent=$(number acknowledged "$work/new.json") new_lost=$(number lost "$work/new.json")
	: "${old_sent:?no result of the old one}" "${old_lost:?}" "${new_sent:?no result of the new one}" "${new_lost:?}"
	echo
	printf '%-40s %s\n' "old, acknowledged and lost:" "$old_lost of $old_sent"
	printf '%-40s %s\n' "new, acknowledged and lost:" "$new_lost of $new_sent"
	printf '%-40s %s\n' "new, ids received:" "$(number received "$work/new.json") of $(number committed "$work/new.json") committed"
	printf '%-40s %s\n' "new, never committed, changed, late twice:" \
		"$(number phantoms "$work/new.json"), $(number mismatches "$work/new.json"), $(number late_duplicates "$work/new.json")"
	verdict "$old_lost" "$old_sent" "$new_lost" "$new_sent" "$failed"
}

finish_embedded() {
	local code=$?
	"$bin/hookline" down --purge >/dev/null 2>&1 || true
	rm -rf "$work"
	exit "$code"
}

json='content-type: application/json'

# pay API FILE creates the payments, 50 a second at most, and writes the ids of those that were acknowledged. Where there
# is no answer it asks again: the key makes that the same payment. The old one knows no keys: there it asks once.
pay() {
	local i answer retry=(--retry 60 --retry-delay 1 --retry-all-errors)
	[ "$1" != "$old_api" ] || retry=()
	for ((i = 1; i <= PAYMENTS; i++)); do
		if answer=$(curl -fsS -m 20 "${retry[@]}" -X POST "$1/payments" -H "$json" -H "Idempotency-Key: $run-$i" \
			-d "{\"amount\": $i, \"currency\": \"USD\", \"metadata\": {\"run\": \"$run\"}}" 2>>"$work/curl.log") &&
			[[ $answer =~ \"id\":\ ?\"([^\"]+)\" ]]; then
			echo "${BASH_REMATCH[1]}" >>"$2"
		fi
		sleep 0.02
	done
}

# hit SERVICE FILE kills the service's containers once half of the payments are acknowledged, and starts them again.
hit() {
	until [ "$(wc -l <"$2")" -ge $((PAYMENTS / 2)) ]; do sleep 0.05; done
	echo "--- kill -9 of $1, with $(wc -l <"$2") payments acknowledged"
	docker compose --progress quiet kill "$1"
	docker compose --progress quiet start "$1"
}

# seen MERCHANT FILE prints how often the merchant accepted each of the file's ids, one line "ID TIMES" each.
seen() {
	[ -s "$2" ] || return 0
	curl -fsS -X POST "$1/seen" -H "$json" -d "{\"ids\": [$(sed 's/.*/"&"/' "$2" | paste -sd,)]}" |
		grep -oE '"id":"[^"]+","accepted":[0-9]+' | sed -E 's/"id":"([^"]+)","accepted":/\1 /' | grep -v ' 0$' || true
}

# settle MERCHANT FILE PATIENCE waits until every id has arrived, or none has for that many seconds, and leaves in
# FILE.seen what did.
settle() {
	local before=-1 now quiet=0
	while :; do
		seen "$1" "$2" >"$2.seen"
		now=$(wc -l <"$2.seen")
		[ "$now" -lt "$(wc -l <"$2")" ] || break
		if [ "$now" -ne "$before" ]; then before=$now quiet=0; fi
		[ "$quiet" -lt "$3" ] || break
		quiet=$((quiet + 1))
		sleep 1
	done
}

# ask SQL prints rows of the business tables' database.
ask() {
	docker compose exec -T postgres psql -U postgres -d hookline -v ON_ERROR_STOP=1 -qAtX -c "$1"
}

# unaccounted prints what the worker whose reconciler leads cannot account for; the others have 0.
unaccounted() {
	local address most=0 count
	for address in $(docker compose ps --quiet webhook-worker | xargs -n 1 docker port | sed -n 's/.* -> //p'); do
		count=$(curl -fsS "http://$address/reconciler" | grep -o '"unaccounted":[0-9]*' | cut -d: -f2)
		[ "$count" -le "$most" ] || most=$count
	done
	echo "$most"
}

composed() {
	local victim=${1:-webhook-worker}
	api=http://localhost:3001 merchant=http://localhost:4001
	old_api=http://localhost:3000 old_merchant=http://localhost:4000
	run=crash-$(date +%s)-$$
	work=$(mktemp -d)
	trap finish_composed EXIT
	: >"$work/old" && : >"$work/new"
	docker compose --progress quiet up --detach --wait

	echo "== old: webhooks in memory, kill -9 after half of the payments"
	# A merchant takes its time. Were it instant, less would wait in memory at the kill.
	curl -fsS -o /dev/null -X PUT "$old_merchant/behaviour" -H "$json" -d '{"delay_ms": 500}'
	pay "$old_api" "$work/old" &
	hit in-memory-baseline "$work/old"
	wait $!
	settle "$old_merchant" "$work/old" 15

	echo
	echo "== new: the durable pipeline, kill -9 of $victim"
	pay "$api" "$work/new" &
	local paying=$!
	hit "$victim" "$work/new"
	wait "$paying"
	docker compose --progress quiet up --detach --wait --no-recreate
	# What was committed, whatever was acknowledged.
	ask "select e.id from domain_events e join payments p on p.id::text = e.object_id::text where p.metadata ->> 'run' = '$run'" >"$work/committed"
	settle "$merchant" "$work/committed" 120

	local old_sent old_lost sent committed received twice unaccounted failed=0
	old_sent=$(wc -l <"$work/old") old_lost=$((old_sent - $(wc -l <"$work/old.seen")))
	sent=$(wc -l <"$work/new") committed=$(wc -l <"$work/committed") received=$(wc -l <"$work/committed.seen")
	twice=$(awk '$2 > 1' "$work/committed.seen" | wc -l)
	unaccounted=$(unaccounted)
	echo
	printf '%-40s %s\n' "old, acknowledged and lost:" "$old_lost of $old_sent"
	printf '%-40s %s\n' "new, acknowledged and lost:" "$((committed - received)) of $sent"
	printf '%-40s %s\n' "new, ids received:" "$received of $committed committed"
	printf '%-40s %s\n' "new, received twice, unaccounted:" "$twice, $unaccounted"
	# Each acknowledged payment is committed, and each payment asked for is acknowledged in the end.
	[ "$sent" -eq "$PAYMENTS" ] && [ "$committed" -eq "$sent" ] && [ "$unaccounted" -eq 0 ] || failed=1
	[ "$received" -eq "$committed" ] || echo "not received: $(comm -23 <(sort "$work/committed") <(cut -d' ' -f1 "$work/committed.seen" | sort) | paste -sd' ')" >&2
	verdict "$old_lost" "$old_sent" "$((committed - received))" "$sent" "$failed"
}

finish_composed() {
	local code=$?
	kill "$(jobs -p)" 2>/dev/null || true # whoever interrupts it wants no more payments
	curl -fsS -o /dev/null -X PUT "$old_merchant/behaviour" -H "$json" -d '{}' || true
	rm -rf "$work"
	exit "$code"
}

case ${1:-} in
"") embedded ;;
--compose) composed "${2:-}" ;;
*)
	echo "usage: scripts/crash-test.sh [--compose [SERVICE]]" >&2
	exit 2
	;;
esac
