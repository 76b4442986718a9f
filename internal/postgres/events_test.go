package postgres_test

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

// business is a database seen from both sides: as the superuser writes it, as data-service reads it.
type business struct {
	db    pgtest.Database
	admin *pgxpool.Pool
	store *postgres.EventStore
}

func newBusiness(t *testing.T) business {
	t.Helper()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleReader), postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return business{db: db, admin: db.Pool(t, ""), store: postgres.NewEventStore(pool)}
}

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// pay makes a payment and returns its id with a request for its first event.
func pay(t require.TestingT, ctx context.Context, in querier) (uuid.UUID, event.PayloadRequest) { //nolint:revive // T first, as everywhere
	var payment uuid.UUID
	require.NoError(t, in.QueryRow(ctx, `insert into payments (merchant_id, amount, currency, status, metadata)
		values ('m', 1000, 'EUR', 'succeeded', '{"z": 1.10, "a": "\u00e9"}') returning id`).Scan(&payment))
	asked := event.PayloadRequest{MinVersion: 1}
	require.NoError(t, in.QueryRow(ctx, "select id, txid from domain_events where object_id = $1::text", payment.String()).
		Scan(&asked.EventID, &asked.TxID))
	return payment, asked
}

func exec(t *testing.T, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), statement, args...)
	require.NoError(t, err)
}

func one(t *testing.T, b business, asked event.PayloadRequest) event.Payload {
	t.Helper()
	got, err := b.store.Payloads(t.Context(), []event.PayloadRequest{asked})
	require.NoError(t, err)
	require.Len(t, got, 1)
	return got[0]
}

// waitBelow waits until nothing up to txid runs any more. The oldest running transaction is that of the whole
// server, so what the tests beside this one do in their own databases counts.
func waitBelow(t *testing.T, b business, txid int64) {
	t.Helper()
	for {
		page, err := b.store.Feed(t.Context(), "", 1, false)
		require.NoError(t, err)
		if page.Xmin > txid {
			return
		}
	}
}

// newest is a transaction newer than all before it.
func newest(t *testing.T, b business) int64 {
	t.Helper()
	var txid int64
	require.NoError(t, b.admin.QueryRow(t.Context(), "select pg_current_xact_id()::text::bigint").Scan(&txid))
	return txid
}

func TestSlotsAreThoseOfTheDatabase(t *testing.T) {
	t.Parallel()
	b, other := newBusiness(t), newBusiness(t)
	slots, err := b.store.Slots(t.Context())
	require.NoError(t, err)
	require.Empty(t, slots)
	var name string
	require.NoError(t, b.admin.QueryRow(t.Context(), "select slot_name from pg_create_logical_replication_slot(current_database()::name, 'pgoutput')").Scan(&name))
	t.Cleanup(func() { // a slot keeps its database from being dropped
		_, err := b.admin.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot($1)", name)
		require.NoError(t, err)
	})
	slots, err = b.store.Slots(t.Context())
	require.NoError(t, err)
	require.Len(t, slots, 1)
	require.Equal(t, name, slots[0].Name)
	require.False(t, slots[0].Active)
	require.Positive(t, slots[0].Retained)
	slots, err = other.store.Slots(t.Context())
	require.NoError(t, err)
	require.Empty(t, slots)
}

func TestPayloadsHoldTheSnapshotAndThePaymentAsOfNow(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	payment, asked := pay(t, t.Context(), b.admin)
	exec(t, b.admin, "update payments set status = 'refunded'")

	got := one(t, b, asked)
	require.Equal(t, event.Visible, got.Visibility)
	require.Equal(t, "payment.succeeded", got.Type)
	require.EqualValues(t, 1, got.ObjectVersion)

	var occurredAt, snapshot string
	require.NoError(t, b.admin.QueryRow(t.Context(), `select
		to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), payload::text
		from domain_events where id = $1`, [16]byte(asked.EventID)).Scan(&occurredAt, &snapshot))
	require.Equal(t, occurredAt, got.OccurredAt)
	require.Equal(t, snapshot, string(got.Snapshot), "byte for byte what is stored")
	require.Contains(t, string(got.Snapshot), "1.10", "a number keeps its digits")

	var then, now struct {
		ID        uuid.UUID `json:"id"`
		Status    string    `json:"status"`
		Version   int       `json:"version"`
		UpdatedAt time.Time `json:"updated_at"`
	}
	require.NoError(t, json.Unmarshal(got.Snapshot, &then))
	require.NoError(t, json.Unmarshal(got.Payment, &now))
	require.Equal(t, payment, now.ID)
	require.Equal(t, []any{"succeeded", 1, "refunded", 2}, []any{then.Status, then.Version, now.Status, now.Version})
	require.True(t, now.UpdatedAt.After(then.UpdatedAt))
	_, offset := now.UpdatedAt.Zone()
	require.Zero(t, offset)
}

func TestPayloadsTellWhatCanStillAppearFromWhatCannot(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	_, committed := pay(t, t.Context(), b.admin)
	waitBelow(t, b, committed.TxID)

	open, err := b.admin.Begin(t.Context())
	require.NoError(t, err)
	_, uncommitted := pay(t, t.Context(), open)

	lost, err := b.admin.Begin(t.Context())
	require.NoError(t, err)
	_, rolledBack := pay(t, t.Context(), lost)
	require.NoError(t, lost.Rollback(t.Context()))

	above := committed
	above.MinVersion = 2
	phantom := event.PayloadRequest{EventID: uuid.New(), TxID: committed.TxID}
	future := event.PayloadRequest{EventID: uuid.New(), TxID: 1 << 60}
	asked := []event.PayloadRequest{committed, uncommitted, rolledBack, above, phantom, future, committed}
	visibilities := func() []event.Visibility {
		answers, err := b.store.Payloads(t.Context(), asked)
		require.NoError(t, err)
		var got []event.Visibility
		for i, each := range answers {
			require.Equal(t, asked[i].EventID, each.EventID)
			require.Equal(t, each.Visibility == event.Visible, each.Snapshot != nil)
			got = append(got, each.Visibility)
		}
		return got
	}
	const yes, no, never = event.Visible, event.NotVisible, event.Missing
	require.Equal(t, []event.Visibility{yes, no, no, no, never, no, yes}, visibilities(),
		"what was rolled back can not be told from what is open while an older transaction runs")
	require.NoError(t, open.Commit(t.Context()))
	waitBelow(t, b, rolledBack.TxID)
	require.Equal(t, []event.Visibility{yes, yes, never, no, never, no, yes}, visibilities())
}

func TestPayloadsOfWhatIsNotAPayment(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	for name, test := range map[string]struct{ insert, payload string }{
		"an appended event": {`select append_event('invoice.sent', 'm', '{"n": 1}', null)`, `{"n": 1}`},
		"an object whose id is not a UUID": {`insert into domain_events (event_type, object_type, object_id, object_version, merchant_id, payload)
			values ('file.made', 'file', '7', 1, 'm', '[]') returning id`, `[]`},
		"a payment that has been deleted": {`insert into domain_events (event_type, object_type, object_id, object_version, merchant_id, payload)
			values ('payment.failed', 'payment', gen_random_uuid()::text, 3, 'm', '{}') returning id`, `{}`},
	} {
		var id uuid.UUID
		require.NoError(t, b.admin.QueryRow(t.Context(), test.insert).Scan(&id), name)
		got := one(t, b, event.PayloadRequest{EventID: id, TxID: 1, MinVersion: 3})
		require.Equal(t, event.Visible, got.Visibility, name)
		require.Equal(t, test.payload, string(got.Snapshot), name)
		require.Nil(t, got.Payment, name)
	}
}

func TestPaymentIsAsOfNow(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	id, _ := pay(t, t.Context(), b.admin)
	exec(t, b.admin, "update payments set status = 'disputed'")
	document, err := b.store.Payment(t.Context(), id)
	require.NoError(t, err)
	require.Contains(t, string(document), `"status": "disputed"`)
	_, err = b.store.Payment(t.Context(), uuid.New())
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
}

func TestFeedEndsBelowTheOldestOpenTransaction(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	_, first := pay(t, t.Context(), b.admin)
	waitBelow(t, b, first.TxID)

	open, err := b.admin.Begin(t.Context())
	require.NoError(t, err)
	_, second := pay(t, t.Context(), open)
	_, third := pay(t, t.Context(), b.admin) // begins later, and is committed first
	_, fourth := pay(t, t.Context(), b.admin)
	require.Less(t, second.TxID, third.TxID)

	page, err := b.store.Feed(t.Context(), "", 10, false)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{first.EventID}, ids(page))
	require.Equal(t, page.Next, page.Last)
	require.LessOrEqual(t, page.Xmin, second.TxID)
	require.False(t, page.More)
	safe := page.Next

	page, err = b.store.Feed(t.Context(), safe, 1, true)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{third.EventID}, ids(page))
	require.Equal(t, safe, page.Next, "Next stays where no event is skipped")
	require.True(t, page.More)
	page, err = b.store.Feed(t.Context(), page.Last, 1, true)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{fourth.EventID}, ids(page))
	require.False(t, page.More)
	last := page.Last
	page, err = b.store.Feed(t.Context(), last, 1, false)
	require.NoError(t, err)
	require.Empty(t, ids(page))
	require.Equal(t, last, page.Next)

	since, err := b.store.FeedStart(t.Context(), time.Now().Add(-30*time.Minute))
	require.NoError(t, err)
	page, err = b.store.Feed(t.Context(), since, 10, true)
	require.NoError(t, err)
	require.Contains(t, ids(page), first.EventID, "what was written since is in the feed from there")
	since, err = b.store.FeedStart(t.Context(), time.Now().Add(30*time.Minute))
	require.NoError(t, err)
	page, err = b.store.Feed(t.Context(), since, 10, true)
	require.NoError(t, err)
	require.Contains(t, ids(page), first.EventID, "an hour of margin for clocks and for long transactions")
	since, err = b.store.FeedStart(t.Context(), time.Now().Add(2*time.Hour))
	require.NoError(t, err)
	require.NotEmpty(t, since)
	page, err = b.store.Feed(t.Context(), since, 10, true)
	require.NoError(t, err)
	require.NotContains(t, ids(page), first.EventID)

	require.NoError(t, open.Commit(t.Context()))
	waitBelow(t, b, fourth.TxID)
	page, err = b.store.Feed(t.Context(), safe, 10, false)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{second.EventID, third.EventID, fourth.EventID}, ids(page))
}

func ids(page event.FeedPage) []uuid.UUID {
	var got []uuid.UUID
	for _, each := range page.Events {
		got = append(got, each.ID)
	}
	return got
}

func TestFeedPointsToEventsAndNamesItsHistory(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	var id uuid.UUID
	require.NoError(t, b.admin.QueryRow(t.Context(), `select append_event('invoice.sent', 'm', '{}', '00-abc')`).Scan(&id))
	waitBelow(t, b, newest(t, b))
	page, err := b.store.Feed(t.Context(), "", 10, false)
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
	require.Empty(t, cmp.Diff(event.Ref{
		ID: id, TxID: page.Events[0].TxID, Type: "invoice.sent", ObjectType: "event", ObjectID: id.String(), ObjectVersion: 1,
		MerchantID: "m", Traceparent: "00-abc",
	}, page.Events[0]))
	require.Positive(t, page.Events[0].TxID)

	var system string
	require.NoError(t, b.admin.QueryRow(t.Context(), "select system_identifier::text from pg_control_system()").Scan(&system))
	require.Equal(t, system, page.System)
	require.Equal(t, "00000001", page.Timeline)
}

func TestFeedRefusesWhatIsNotACursor(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	for _, after := range []string{"1", "1.", ".1", "a.b", "-1.1", "1.+1", "1.2.3", "0x1.1", "1.1 ", "9223372036854775808.1"} {
		_, err := b.store.Feed(t.Context(), after, 10, false)
		require.Equal(t, fault.Invalid, fault.ClassOf(err), after)
	}
	page, err := b.store.Feed(t.Context(), "9223372036854775807.9223372036854775807", 10, true)
	require.NoError(t, err)
	require.Empty(t, page.Events)
	require.Positive(t, page.Xmin)
}

// walker follows the feed by Next, as the reconciler does.
type walker struct {
	store *postgres.EventStore
	next  string
	seen  []uuid.UUID
}

// walk reads to the present end of the feed.
func (w *walker) walk(ctx context.Context, limit int) error {
	for more := true; more; {
		page, err := w.store.Feed(ctx, w.next, limit, false)
		if err != nil {
			return err
		}
		w.seen, w.next, more = append(w.seen, ids(page)...), page.Next, page.More
	}
	return nil
}

// However transactions interleave, a walk sees each committed event once and nothing else.
func TestAWalkSkipsNothingHoweverTransactionsInterleave(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	all := walker{store: b.store} // goes on through all the checks, as they share a database
	committed := map[uuid.UUID]bool{}
	rapid.Check(t, func(rt *rapid.T) {
		type open struct {
			tx     pgx.Tx
			events []uuid.UUID
		}
		var running []*open
		end := func(i int, commit bool) {
			each := running[i]
			running = slices.Delete(running, i, i+1)
			if !commit {
				require.NoError(rt, each.tx.Rollback(t.Context()))
				return
			}
			require.NoError(rt, each.tx.Commit(t.Context()))
			for _, id := range each.events {
				committed[id] = true
			}
		}
		pick := func() int { return rapid.IntRange(0, len(running)-1).Draw(rt, "which") }
		rt.Repeat(map[string]func(*rapid.T){
			"begin": func(rt *rapid.T) {
				if len(running) == 3 {
					rt.Skip("enough are open")
				}
				tx, err := b.admin.Begin(t.Context())
				require.NoError(rt, err)
				running = append(running, &open{tx: tx})
			},
			"write": func(rt *rapid.T) {
				if len(running) == 0 {
					rt.Skip("none is open")
				}
				each := running[pick()]
				_, asked := pay(rt, t.Context(), each.tx)
				each.events = append(each.events, asked.EventID)
			},
			"end": func(rt *rapid.T) {
				if len(running) == 0 {
					rt.Skip("none is open")
				}
				end(pick(), rapid.Bool().Draw(rt, "commit"))
			},
			"walk": func(rt *rapid.T) {
				require.NoError(rt, all.walk(t.Context(), rapid.IntRange(1, 4).Draw(rt, "limit")))
			},
		})
		for len(running) > 0 {
			end(0, true)
		}
	})
	waitBelow(t, b, newest(t, b))
	require.NoError(t, all.walk(t.Context(), 100))
	requireEachOnce(t, committed, all.seen)
}

func requireEachOnce(t *testing.T, want map[uuid.UUID]bool, got []uuid.UUID) {
	t.Helper()
	require.NotEmpty(t, want)
	require.Len(t, got, len(want))
	for _, id := range got {
		require.True(t, want[id], "event %s was seen twice, or never committed", id)
		delete(want, id)
	}
}

func TestAWalkSkipsNothingWhileOthersCommit(t *testing.T) {
	t.Parallel()
	b := newBusiness(t)
	const writers, each = 4, 60
	var (
		group   sync.WaitGroup
		mu      sync.Mutex
		written = map[uuid.UUID]bool{}
		running atomic.Int32
	)
	running.Store(writers)
	errs := make(chan error, writers)
	for writer := range writers {
		group.Go(func() {
			defer running.Add(-1)
			for i := range each {
				// A varying amount of work between the event and its commit lets later transactions overtake.
				var id uuid.UUID
				err := pgx.BeginFunc(t.Context(), b.admin, func(tx pgx.Tx) error {
					if err := tx.QueryRow(t.Context(), `select append_event('a', 'm', '{}', null)`).Scan(&id); err != nil {
						return err
					}
					_, err := tx.Exec(t.Context(), "select count(*) from generate_series(1, $1::int)", (i*7+writer*13)%20*1000)
					return err
				})
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				written[id] = true
				mu.Unlock()
			}
		})
	}
	reader := walker{store: b.store}
	for running.Load() > 0 {
		require.NoError(t, reader.walk(t.Context(), 7))
	}
	group.Wait()
	close(errs)
	require.NoError(t, <-errs)
	waitBelow(t, b, newest(t, b))
	require.NoError(t, reader.walk(t.Context(), 7))
	requireEachOnce(t, written, reader.seen)
}

func TestReaderSaysThatTheDatabaseIsDown(t *testing.T) {
	t.Parallel()
	pool, err := postgres.NewPool(t.Context(), "postgres://nobody@127.0.0.1:1/none", postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	store := postgres.NewEventStore(pool)
	_, err = store.Payloads(t.Context(), make([]event.PayloadRequest, 1))
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	_, err = store.Payment(t.Context(), uuid.New())
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	_, err = store.Feed(t.Context(), "", 1, false)
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	require.Equal(t, fault.Unavailable, fault.ClassOf(store.Ping(t.Context())))
}

func TestReaderCannotWrite(t *testing.T) {
	t.Parallel()
	reader := newBusiness(t).db.Pool(t, migrations.RoleReader)
	for _, statement := range []string{
		"delete from domain_events", "update payments set status = 'failed'", "select from idempotency_keys",
		"select append_event('a', 'm', '{}', null)",
	} {
		_, err := reader.Exec(t.Context(), statement)
		require.ErrorContains(t, err, "permission denied", statement)
	}
}

func BenchmarkPayloads(b *testing.B) {
	db := pgtest.New(b)
	pool, err := postgres.NewPool(b.Context(), db.RoleDSN(migrations.RoleReader), postgres.Options{ApplicationName: "bench"})
	require.NoError(b, err)
	b.Cleanup(pool.Close)
	admin := db.Pool(b, "")
	const batch = 64
	asked := make([]event.PayloadRequest, batch)
	for i := range asked {
		_, asked[i] = pay(b, b.Context(), admin)
	}
	store := postgres.NewEventStore(pool)
	for b.Loop() {
		_, err := store.Payloads(b.Context(), asked)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*batch), "us/event")
}
