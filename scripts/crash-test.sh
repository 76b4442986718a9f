#!/usr/bin/env bash
# The old architecture against the new one: 100 payments to each, and one kill -9 in the middle. The old one keeps
# webhooks in memory and loses some; of the new one every single id must arrive. Exits non-zero when one is missing.
#
# The new one runs as a stack of its own, which is removed again, with HOOKLINE_PORT_OFFSET (default 7000) added to its
# ports, which keeps them below those that the kernel gives out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PAYMENTS=${PAYMENTS:-100}
bin=${HOOKLINE_BIN:-bin}
[ -x "$bin/hookline" ] || make --no-print-directory build
work=$(mktemp -d)
export HOOKLINE_DIR=$work/stack HOOKLINE_PORT_OFFSET=${HOOKLINE_PORT_OFFSET:-7000}

finish() {
	local code=$?
	"$bin/hookline" down --purge >/dev/null 2>&1 || true
	rm -rf "$work"
	exit "$code"
}
trap finish EXIT

# number NAME FILE prints a number of the result, the last line of the file.
number() {
	tail -n 1 "$2" | grep -o "\"$1\":[0-9]*" | head -n 1 | cut -d: -f2
}

echo "== old: webhooks in memory, kill -9 after half of the payments"
"$bin/hookline" crash-test --old --json >"$work/old.json"

echo
echo "== new: the durable pipeline, kill -9 of the webhook-worker"
failed=0
"$bin/hookline" crash-test --fault kill:webhook-worker --payments "$PAYMENTS" --rate 50 --refunds 0 --json >"$work/new.json" || failed=1

old_sent=$(number acknowledged "$work/old.json") old_lost=$(number lost "$work/old.json")
new_sent=$(number acknowledged "$work/new.json") new_lost=$(number lost "$work/new.json")
: "${old_sent:?no result of the old one}" "${old_lost:?}" "${new_sent:?no result of the new one}" "${new_lost:?}"
echo
printf '%-40s %s\n' "old, acknowledged and lost:" "$old_lost of $old_sent"
printf '%-40s %s\n' "new, acknowledged and lost:" "$new_lost of $new_sent"
printf '%-40s %s\n' "new, ids received:" "$(number received "$work/new.json") of $(number committed "$work/new.json") committed"
printf '%-40s %s\n' "new, never committed, changed, late twice:" \
	"$(number phantoms "$work/new.json"), $(number mismatches "$work/new.json"), $(number late_duplicates "$work/new.json")"

if [ "$failed" -ne 0 ] || [ "$new_lost" -ne 0 ]; then
	echo "FAILED: the new one must not lose a single id" >&2
	exit 1
fi
if [ "$old_lost" -eq 0 ]; then
	echo "note: the old one was lucky this time"
fi
echo "passed"
