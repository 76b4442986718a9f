package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
)

func TestOneProcessLeadsAndTheNextFollowsWhenItEnds(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	began, end := make(chan struct{}), make(chan struct{})
	first := make(chan error, 1)
	go func() {
		led, err := b.Lead(context.Background(), func(context.Context) error {
			close(began)
			<-end
			return nil
		})
		if !led {
			t.Error("nobody else wants to lead")
		}
		first <- err
	}()
	<-began
	led, err := b.Lead(t.Context(), func(context.Context) error { return nil })
	require.NoError(t, err)
	require.False(t, led, "another process leads")
	close(end)
	require.NoError(t, <-first)
	led, err = b.Lead(t.Context(), func(context.Context) error { return nil })
	require.NoError(t, err)
	require.True(t, led, "the lock was given back with the connection")
}

// Interleaving: the connection that holds the lock breaks, so that another process may lead already.
func TestLeaderThatLosesItsLockStops(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	led, err := b.Lead(t.Context(), func(ctx context.Context) error {
		if _, err := b.all.Exec(context.WithoutCancel(ctx), `select pg_terminate_backend(l.pid) from pg_locks l
			where l.locktype = 'advisory' and l.database = (select oid from pg_database where datname = current_database())`); err != nil {
			return err
		}
		<-ctx.Done()
		return context.Cause(ctx)
	})
	require.True(t, led)
	require.ErrorContains(t, err, "losing the reconciler's lock")
}

func TestWatermarkIsWhatWasWrittenLast(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	mark, err := b.Watermark(t.Context())
	require.NoError(t, err)
	require.Zero(t, mark)
	for _, cursor := range []string{"1.1", "7.3"} {
		require.NoError(t, b.SetWatermark(t.Context(), delivery.Watermark{Cursor: cursor, System: "s", Timeline: "1"}))
	}
	mark, err = b.Watermark(t.Context())
	require.NoError(t, err)
	require.Equal(t, delivery.Watermark{Cursor: "7.3", System: "s", Timeline: "1"}, mark)
}

func TestPlannedTellsPlannedFromExplainedFromMissing(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	claim := b.planOne(t, "inv-1")
	buried, missing := uuid.New(), uuid.New()
	require.NoError(t, b.Bury(t.Context(), delivery.DeadRecord{EventID: buried, Reason: delivery.ReasonPhantom, Value: []byte("x")}))
	planned, err := b.Planned(t.Context(), []uuid.UUID{claim.EventID, buried, missing})
	require.NoError(t, err)
	require.Len(t, planned, 2)
	require.GreaterOrEqual(t, planned[claim.EventID], time.Duration(0))
	require.Contains(t, planned, buried)
	require.Zero(t, planned[buried])
}

// Interleaving: a takeover reads a row, and its owner writes its outcome before the takeover does.
func TestTakeOverTakesOnlyWhatHasNotMoved(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	stuck, moved := b.planOne(t, "inv-1"), b.planOne(t, "inv-2")
	overdue, err := b.Overdue(ctx, time.Minute, 10)
	require.NoError(t, err)
	require.Empty(t, overdue, "not before it is due for a minute")
	_, err = b.all.Exec(ctx, "update delivery.deliveries set next_attempt_at = now() - interval '2 minutes'")
	require.NoError(t, err)
	overdue, err = b.Overdue(ctx, time.Minute, 10)
	require.NoError(t, err)
	require.Len(t, overdue, 2)
	for _, o := range overdue {
		require.Equal(t, 1, o.Number)
		require.NotEmpty(t, o.Owner)
	}

	_, _, err = b.Resume(ctx, "inv-2", []uuid.UUID{moved.EventID})
	require.NoError(t, err)
	taken, err := b.TakeOver(ctx, overdue)
	require.NoError(t, err)
	require.Len(t, taken, 1)
	require.Equal(t, stuck.Key, taken[0].Key)
	require.Equal(t, stuck.Epoch+1, taken[0].Epoch)
	require.Equal(t, row{State: "retrying", Epoch: 2, Due: true}, b.row(t, stuck.Key))

	// The one that it was taken from can write no failure any more; the ticket of the takeover is good.
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(stuck)}))
	require.Equal(t, row{State: "retrying", Epoch: 2, Due: true}, b.row(t, stuck.Key))
	claims, _, err := b.Claim(ctx, "inv-3", stuck.EndpointID, []delivery.Ticket{{EventID: stuck.EventID, Epoch: taken[0].Epoch}})
	require.NoError(t, err)
	require.Len(t, claims, 1)
}

func TestOpenSinceIsTheOldestPlanWithADeliveryUnderWay(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	done, open := b.planOne(t, "inv-1"), b.planOne(t, "inv-2")
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{success(done)}))
	since, err := b.OpenSince(ctx)
	require.NoError(t, err)
	require.Len(t, since, 1)
	for _, at := range since {
		require.WithinDuration(t, time.Now(), at, time.Minute)
	}
	require.NoError(t, b.Record(ctx, "inv-2", []delivery.Outcome{success(open)}))
	since, err = b.OpenSince(ctx)
	require.NoError(t, err)
	require.Empty(t, since)
}

func TestWhatHasNotSucceededIsCountedByState(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	counts, err := b.CountDeliveries(ctx)
	require.NoError(t, err)
	require.Equal(t, map[delivery.State]int{delivery.Waiting: 0, delivery.HandedOver: 0, delivery.Parked: 0, delivery.Dead: 0}, counts)

	merchant := "m-" + uuid.NewString()
	b.endpoint(t, merchant)
	claims, _, err := b.Plan(ctx, "inv-1", route, refs(merchant, 8))
	require.NoError(t, err)
	dead, parked, handed := failure(claims[2]), failure(claims[3]), failure(claims[4])
	dead.State, parked.State, handed.State = delivery.Dead, delivery.Parked, delivery.HandedOver
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{success(claims[0]), failure(claims[1]), dead, parked, handed}))
	counts, err = b.CountDeliveries(ctx)
	require.NoError(t, err)
	require.Equal(t, map[delivery.State]int{
		delivery.Pending: 3, delivery.Retrying: 1, delivery.Waiting: 0, delivery.HandedOver: 1, delivery.Parked: 1, delivery.Dead: 1,
	}, counts)
}

func TestEndpointsAreCountedByWhetherTheyAreEnabled(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.endpoint(t, "m")
	b.endpoint(t, "m")
	off := b.endpoint(t, "other")
	_, err := b.all.Exec(t.Context(), "update delivery.endpoints set enabled = false where id = $1", [16]byte(off))
	require.NoError(t, err)
	enabled, disabled, err := b.CountEndpoints(t.Context())
	require.NoError(t, err)
	require.Equal(t, 2, enabled)
	require.Equal(t, 1, disabled)
}
