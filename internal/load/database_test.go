package load_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func connect(t *testing.T, db pgtest.Database) *load.Database {
	t.Helper()
	d, err := load.Connect(t.Context(), db.DSN())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(t.Context())) })
	return d
}

func TestEventsComeWithTheirCommitTime(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	var first, second string
	before := time.Now()
	require.NoError(t, pool.QueryRow(t.Context(), `insert into payments (merchant_id, amount, currency, status)
		values ('m1', 1, 'USD', 'succeeded') returning id`).Scan(&first))
	between := time.Now()
	require.NoError(t, pool.QueryRow(t.Context(), `insert into payments (merchant_id, amount, currency, status)
		values ('m2', 1, 'USD', 'succeeded') returning id`).Scan(&second))
	_, err := pool.Exec(t.Context(), `update payments set status = 'refunded' where id = $1`, second)
	require.NoError(t, err)
	after := time.Now()

	d := connect(t, db)
	events, err := d.EventsOfMerchants(t.Context(), []string{"m1"})
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, first, events[0].ObjectID)
	require.Equal(t, "payment.succeeded", events[0].Type)
	require.WithinRange(t, events[0].Committed, before.Add(-time.Millisecond), between.Add(time.Millisecond))

	events, err = d.EventsOfPayments(t.Context(), []string{second})
	require.NoError(t, err)
	types := map[string]bool{}
	for _, event := range events {
		types[event.Type] = true
		require.Equal(t, second, event.ObjectID)
		require.WithinRange(t, event.Committed, between.Add(-time.Millisecond), after.Add(time.Millisecond))
	}
	require.Empty(t, cmp.Diff(map[string]bool{"payment.succeeded": true, "payment.refunded": true}, types))
}

func TestCommitTimeIsOfTheCommit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	tx, err := db.Pool(t, "").Begin(t.Context())
	require.NoError(t, err)
	var id string
	require.NoError(t, tx.QueryRow(t.Context(), `insert into payments (merchant_id, amount, currency, status)
		values ('m1', 1, 'USD', 'succeeded') returning id`).Scan(&id))
	_, err = tx.Exec(t.Context(), `select pg_sleep(0.05)`)
	require.NoError(t, err)
	var inserted time.Time
	require.NoError(t, tx.QueryRow(t.Context(), `select created_at from domain_events where object_id = $1`, id).Scan(&inserted))
	require.NoError(t, tx.Commit(t.Context()))

	events, err := connect(t, db).EventsOfPayments(t.Context(), []string{id})
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.GreaterOrEqual(t, events[0].Committed.Sub(inserted), 50*time.Millisecond, "not of the insert")
}

func TestEndpointsComeAndGo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, d := db.Pool(t, ""), connect(t, db)
	ids, err := d.AddEndpoints(t.Context(), endpointtest.Keys(t), []string{"m1", "m2"}, []string{"http://127.0.0.1:1/a", "http://127.0.0.1:1/b"}, endpointtest.Secret)
	require.NoError(t, err)
	require.Len(t, ids, 2)

	endpoints := func() map[string]string {
		manager := endpointtest.NewManager(t, pool)
		listed, err := manager.List(t.Context(), "")
		require.NoError(t, err)
		found := map[string]string{}
		for _, each := range listed {
			e, err := manager.Recipient(t.Context(), each.ID)
			require.NoError(t, err)
			found[e.MerchantID] = fmt.Sprint(e.URL, " ", e.Secrets[0].Value, " ", e.Enabled)
		}
		return found
	}
	require.Empty(t, cmp.Diff(map[string]string{
		"m1": "http://127.0.0.1:1/a " + endpointtest.Secret + " true", "m2": "http://127.0.0.1:1/b " + endpointtest.Secret + " true",
	}, endpoints()))

	_, err = pool.Exec(t.Context(), `insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state)
		select gen_random_uuid(), id, 1, merchant_id, 'pending' from delivery.endpoints where merchant_id = 'm1'`)
	require.NoError(t, err)
	require.NoError(t, d.RemoveEndpoints(t.Context(), ids, time.Millisecond, 50*time.Millisecond))
	for _, text := range endpoints() {
		require.Contains(t, text, "false", "where something is open the endpoint stays, disabled")
	}
	_, err = pool.Exec(t.Context(), `update delivery.deliveries set state = 'dead', ended_at = now()`)
	require.NoError(t, err)
	require.NoError(t, d.RemoveEndpoints(t.Context(), ids, time.Millisecond, 50*time.Millisecond))
	require.Empty(t, endpoints())
}

func TestAttemptsComeInTheirOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, d := db.Pool(t, ""), connect(t, db)
	_, err := pool.Exec(t.Context(), `
		insert into delivery.attempts (event_id, endpoint_id, generation, epoch, number, status_code, latency_ms, attempted_at, owner, cause)
		select e::text::uuid, ep::text::uuid, 0, n, n, 500, n * 100, timestamptz '2026-02-23T12:00:00Z' + n * interval '1 second', 'inv',
		       case n when 3 then 'ok' else 'server_error' end
		  from (values ('00000000-0000-0000-0000-000000000001'), ('00000000-0000-0000-0000-000000000002')) as events (e),
		       (values ('00000000-0000-0000-0000-00000000000a'), ('00000000-0000-0000-0000-00000000000b')) as endpoints (ep),
		       generate_series(3, 1, -1) as n`)
	require.NoError(t, err)
	at := time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)
	var want []load.Attempt
	for endpoint := range byte(2) {
		for n, cause := range []delivery.Cause{delivery.CauseServerError, delivery.CauseServerError, delivery.CauseOK} {
			want = append(want, load.Attempt{
				EventID: uuid.UUID{15: 2}, EndpointID: uuid.UUID{15: 0xa + endpoint}, Number: n + 1, Cause: cause,
				Began: at.Add(time.Duration(n+1) * time.Second), Took: time.Duration(n+1) * 100 * time.Millisecond,
			})
		}
	}
	got, err := d.Attempts(t.Context(), []uuid.UUID{{15: 2}, {15: 3}})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(want, got))
}

func TestBackendsAreNamedByTheirRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool(t, "hookline_reader")
	var pid int
	require.NoError(t, pool.QueryRow(t.Context(), "select pg_backend_pid()").Scan(&pid))
	names, err := connect(t, db).Backends(t.Context())
	require.NoError(t, err)
	require.Equal(t, "hookline_reader", names[pid])
	require.Contains(t, names, pid)
	kinds := map[string]bool{}
	for _, name := range names {
		kinds[name] = true
	}
	require.True(t, kinds["walwriter"] && kinds["checkpointer"], "%v", kinds)
}
