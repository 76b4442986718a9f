package crashtest

import (
	"encoding/hex"
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func newRecords(t *testing.T) (*records, pgtest.Database) {
	t.Helper()
	db := pgtest.New(t)
	r, err := connect(t.Context(), db.DSN())
	require.NoError(t, err)
	t.Cleanup(r.close)
	return r, db
}

// What the checker expects of a body is written out by itself, and is what the sender renders: with the payment as of
// the event or of any later one, never of an earlier.
func TestAWebhooksBodyMayHaveThePaymentAsOfItsEventOrLater(t *testing.T) {
	t.Parallel()
	r, db := newRecords(t)
	pool := db.Pool(t, "")
	var payment string
	require.NoError(t, pool.QueryRow(t.Context(), `insert into payments (merchant_id, amount, currency, status, metadata)
		values ('m', 1, 'USD', 'succeeded', '{"order": "<&>é"}') returning id`).Scan(&payment))
	_, err := pool.Exec(t.Context(), `update payments set status = 'refunded' where id = $1`, payment)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `insert into payments (merchant_id, amount, currency, status) values ('other', 1, 'USD', 'succeeded')`)
	require.NoError(t, err)

	events, err := r.events(t.Context(), []string{"m"})
	require.NoError(t, err)
	require.Len(t, events, 2)
	first, second := events[0], events[1]
	require.Equal(t, Object{payment, 1}, first.Object)
	require.Equal(t, Object{payment, 2}, second.Object)
	require.False(t, second.Committed.Before(first.Committed))

	rendered := func(id uuid.UUID, current string) string {
		p := event.Payload{EventID: id}
		var snapshot string
		require.NoError(t, pool.QueryRow(t.Context(), `select event_type, object_version, payload::text,
			to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') from domain_events where id = $1`, id).
			Scan(&p.Type, &p.ObjectVersion, &snapshot, &p.OccurredAt))
		p.Snapshot, p.Payment = json.RawMessage(snapshot), json.RawMessage(current)
		message, err := deliver.Render(p)
		require.NoError(t, err)
		return hex.EncodeToString(message.Hash[:])
	}
	document := func(id uuid.UUID) string {
		var text string
		require.NoError(t, pool.QueryRow(t.Context(), `select payload::text from domain_events where id = $1`, id).Scan(&text))
		return text
	}
	var current string
	require.NoError(t, pool.QueryRow(t.Context(), `select payment_document(p)::text from payments p where id = $1`, payment).Scan(&current))
	require.Equal(t, document(second.ID), current, "the payment as it is now is the snapshot of its last event")
	require.Equal(t, []string{rendered(first.ID, document(first.ID)), rendered(first.ID, current)}, first.Bodies)
	require.Equal(t, []string{rendered(second.ID, current)}, second.Bodies)
}

func TestTheLedgerTellsHowFarItIs(t *testing.T) {
	t.Parallel()
	r, db := newRecords(t)
	pool := db.Pool(t, "")
	for _, statement := range []string{
		`insert into payments (merchant_id, amount, currency, status) values ('m', 1, 'USD', 'succeeded'), ('m', 2, 'USD', 'succeeded')`,
		`insert into delivery.plans (event_id, txid, object_version, merchant_id, event_type, object_type, object_id, route, planned_by)
			select id, txid, object_version, merchant_id, event_type, object_type, object_id, 'inhouse', 'inv' from domain_events where (payload->>'amount') = '1'`,
		`insert into delivery.deliveries (event_id, endpoint_id, generation, epoch, merchant_id, state, ended_at)
			select event_id, gen_random_uuid(), g, 1, 'm', s, e from delivery.plans,
			(values (0, 'succeeded', now()), (7, 'retrying', null), (8, 'dead', now()), (9, 'pending', null)) as v (g, s, e)`,
		`insert into delivery.attempts (event_id, endpoint_id, generation, epoch, number, status_code, latency_ms, attempted_at, owner, cause, body_sha256)
			select event_id, endpoint_id, generation, 1, 1, case generation when 0 then 204 else 500 end, 1, now(), 'inv', 'x', '\xab' from delivery.deliveries`,
	} {
		_, err := pool.Exec(t.Context(), statement)
		require.NoError(t, err, statement)
	}
	p, err := r.progress(t.Context(), []string{"m"})
	require.NoError(t, err)
	require.Equal(t, progress{Committed: 2, Planned: 1, Open: 2, Retrying: 1, Dead: 1}, p)

	attempts, err := r.attempts(t.Context(), []string{"m"})
	require.NoError(t, err)
	require.Len(t, attempts, 1)
	require.Equal(t, "ab", attempts[0].BodySHA256)

	generations, err := r.generations(t.Context(), []string{"m"})
	require.NoError(t, err)
	require.Equal(t, map[uuid.UUID]int{attempts[0].EventID: 4}, generations)

	none, err := r.progress(t.Context(), []string{"nobody"})
	require.NoError(t, err)
	require.Zero(t, none)
}
