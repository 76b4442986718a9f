package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/reconcile"
	"github.com/hookline/hookline/migrations"
)

// pipeline stands for all that comes behind the topic: it plans what it is handed.
type pipeline struct {
	b      *bench
	ledger *postgres.Ledger
	feed   *postgres.EventStore
}

func newPipeline(b *bench) *pipeline {
	return &pipeline{
		b: b, ledger: postgres.NewLedger(b.db.Pool(b.t, migrations.RoleWorker), postgres.LedgerOptions{}),
		feed: postgres.NewEventStore(b.db.Pool(b.t, migrations.RoleReader)),
	}
}

func (p *pipeline) Dispatch(ctx context.Context, key string, batch []event.Ref) error {
	_, _, err := p.ledger.Plan(ctx, key, "inhouse", batch)
	return err
}

func (*pipeline) Wake(context.Context, delivery.Sequence) error { return nil }

func (*pipeline) SendAttempt(context.Context, delivery.AttemptList) error { return nil }

func (*pipeline) Ended(context.Context, []string) (map[string]bool, error) {
	return map[string]bool{}, nil
}

// WakeDrainer implements the driver: nothing is parked.
func (*pipeline) WakeDrainer(context.Context, uuid.UUID) error { return nil }

func (p *pipeline) Events(ctx context.Context, after string, limit int, visible bool) (event.FeedPage, error) {
	return p.feed.Feed(ctx, after, limit, visible)
}

func (p *pipeline) EventsSince(ctx context.Context, since time.Time, limit int, visible bool) (event.FeedPage, error) {
	after, err := p.feed.FeedStart(ctx, since)
	if err != nil {
		return event.FeedPage{}, err
	}
	return p.feed.Feed(ctx, after, limit, visible)
}

// consume plans what the topic holds until ctx ends.
func (p *pipeline) consume(ctx context.Context) {
	for ctx.Err() == nil {
		var refs []event.Ref
		p.b.topic.PollFetches(ctx).EachRecord(func(record *kgo.Record) {
			if ref, err := event.DecodeRecord(record.Value); err == nil {
				refs = append(refs, ref)
			}
		})
		if len(refs) > 0 {
			_ = p.Dispatch(ctx, "intake", refs) // what is not planned is what the test looks for
		}
	}
}

// planned are the events that have a plan.
func (p *pipeline) planned() map[uuid.UUID]bool {
	rows, err := p.b.all.Query(p.b.t.Context(), "select event_id from delivery.plans")
	require.NoError(p.b.t, err)
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	require.NoError(p.b.t, err)
	out := map[uuid.UUID]bool{}
	for _, id := range ids {
		out[id] = true
	}
	return out
}

// The interleaving: under load the relay loses its connection; before it can come back its slot is dropped, and 40 events
// commit without any slot. It is kept away meanwhile by a publication that is missing, so that no event of those is in
// the new slot by chance.
func TestADroppedSlotUnderLoadLosesNothingOnceTheReconcilerHasLooked(t *testing.T) {
	t.Parallel()
	b := setup(t)
	p := newPipeline(b)
	r := b.start()
	r.awaitReady()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	t.Cleanup(running.Wait)
	t.Cleanup(cancel)
	running.Go(func() { p.consume(ctx) })

	loading, stopLoad := context.WithCancel(ctx)
	defer stopLoad()
	running.Go(func() {
		pace := time.NewTicker(4 * time.Millisecond)
		defer pace.Stop()
		for i := 0; loading.Err() == nil; i++ {
			<-pace.C
			b.all.Exec(loading, "insert into payments (merchant_id, amount, currency, status) values ($1, 1, 'USD', 'succeeded')", fmt.Sprint("merchant-", i%5)) // the end of the load cuts one
		}
	})
	require.Eventually(t, func() bool { return len(p.planned()) > 50 }, patient, often)

	_, err := b.all.Exec(t.Context(), "drop publication hookline_events")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		b.all.Exec(t.Context(), "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active", b.cfg.Replication.Slot) // it may be gone
		_, err := b.all.Exec(t.Context(), "select pg_drop_replication_slot($1)", b.cfg.Replication.Slot)
		return err == nil
	}, patient, often)
	r.awaitUnready("run the migrations")
	before := len(b.committed())
	gap := b.pay(40)[before:] // and what the load adds
	_, err = b.all.Exec(t.Context(), "create publication hookline_events for table domain_events with (publish = 'insert')")
	require.NoError(t, err)
	r.awaitReady()
	require.Eventually(t, func() bool { return r.metric("hookline_relay_gaps_total") == 1 }, patient, often)
	require.Contains(t, b.log.String(), `"level":"ERROR","msg":"GAP: `)

	// The load goes on, and what commits from here on comes through the slot.
	for i := range 5 {
		id := b.payFor(fmt.Sprint("merchant-", i))
		require.Eventually(t, func() bool { return p.planned()[id] }, patient, often)
	}
	stopLoad()
	planned := p.planned()
	missing := 0
	for _, id := range gap {
		if !planned[id] {
			missing++
		}
	}
	require.GreaterOrEqual(t, missing, 40, "nobody has brought what the slot missed")

	reconciler := reconcile.New(reconcile.Config{
		Interval: 50 * time.Millisecond, Grace: 300 * time.Millisecond, OverAge: time.Hour, Rate: 10_000, Retention: time.Hour,
	}, p, p.ledger, p, p, nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	running.Go(func() { _ = reconciler.Run(ctx) })
	require.Eventually(t, func() bool {
		planned := p.planned()
		for _, id := range b.committed() {
			if !planned[id] {
				return false
			}
		}
		return true
	}, patient, often)

	var reason string
	require.NoError(t, b.db.Pool(t, migrations.RoleReader).QueryRow(t.Context(),
		"select reason from relay_gaps where slot_name = $1 and from_lsn < to_lsn", b.cfg.Replication.Slot).Scan(&reason))
	require.Equal(t, "there was no slot any more", reason)
}

// The interleaving: the connection breaks between a confirmation and the next, and the relay ends; nothing was missed, so that
// nothing may be declared, however it ended.
func TestALostConnectionAndARestartDeclareNothing(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.start()
	r.awaitReady()
	b.pay(20)
	b.awaitConfirmed()
	ids := b.pay(20)
	b.awaitRecords(ids)
	_, err := b.all.Exec(t.Context(), "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1", b.cfg.Replication.Slot)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return r.metric(`hookline_relay_reconnects_total{peer="postgres"}`) > 0 }, patient, often)
	r.awaitReady()
	require.Zero(t, r.metric("hookline_relay_gaps_total"))
	r.stop()
	again := b.start()
	again.awaitReady()
	require.Zero(t, again.metric("hookline_relay_gaps_total"))
	b.awaitRecords(b.pay(1)[40:])
}
