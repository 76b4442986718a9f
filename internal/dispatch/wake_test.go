package dispatch_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
)

// newOrderedWorld has an endpoint that wants an order, and tells whom a request that outlived its step wakes.
func newOrderedWorld(t *testing.T, answer error) (*world, <-chan delivery.Sequence) {
	t.Helper()
	w := newWorld(t)
	_, err := w.all.Exec(t.Context(), "update delivery.endpoints set ordering = 'object' where id = $1", [16]byte(w.endpoint))
	require.NoError(t, err)
	woken := make(chan delivery.Sequence, 1)
	d := dispatch.New(t.Context(), dispatch.Config{
		Route: "inhouse", Schedule: delivery.Schedule{time.Minute}, Jitter: 0.2,
		WakeFunc: func(_ context.Context, s delivery.Sequence) error {
			woken <- s
			return answer
		},
	}, w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		require.NoError(t, d.Close(context.WithoutCancel(t.Context())))
	})
	w.Dispatcher = d
	return w, woken
}

func (w *world) sequence(ref event.Ref) delivery.Sequence {
	return delivery.Sequence{EndpointID: w.endpoint, ObjectType: ref.ObjectType, ObjectID: ref.ObjectID}
}

func version(n int64, object string) event.Ref {
	ref := newRef()
	ref.ObjectID, ref.ObjectVersion = object, n
	return ref
}

func TestAStepNamesTheSequencesThatItsPlansAndItsEndsWakeOnce(t *testing.T) {
	t.Parallel()
	w, _ := newOrderedWorld(t, nil)
	one, two, other := version(1, "p"), version(2, "p"), version(1, "q")
	w.merchant.next(status(200), status(200))
	result := w.process(t, "inv-1", one, two, other)
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, result.Wake, "nothing waits for the other")
	require.Contains(t, w.state(t, two), "waiting")

	again, err := w.Process(t.Context(), "inv-1", []event.Ref{one, two, other})
	require.NoError(t, err)
	require.ElementsMatch(t, result.Wake, again.Wake, "a second execution, whose first one was not journaled, wakes them too")

	lists, err := w.Release(t.Context(), "inv-2", w.sequence(one))
	require.NoError(t, err)
	require.Len(t, lists, 1)
	attempted, err := w.Attempt(t.Context(), "inv-3", lists[0])
	require.NoError(t, err)
	require.Contains(t, w.state(t, two), "succeeded")
	require.Empty(t, attempted.Wake, "it was the last")
	require.Equal(t, 1, lists[0].Number, "it is the first attempt of the delivery")
}

func TestAnEndWakesUnaskedWhereItIsNotWrittenDown(t *testing.T) {
	t.Parallel()
	w, _ := newOrderedWorld(t, nil)
	one := version(1, "p")
	w.ledger.refuse(1)
	result := w.process(t, "inv-1", one)
	require.True(t, result.Unrecorded())
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, result.Wake, "whoever is planned before it is finds it open")
}

func TestAnEndWakesUnaskedWhereTheLedgerDoesNotSayWhoWaits(t *testing.T) {
	t.Parallel()
	w, _ := newOrderedWorld(t, nil)
	one := version(1, "p")
	w.ledger.mu.Lock()
	w.ledger.awaitedErr = errors.New("the ledger is away")
	w.ledger.mu.Unlock()
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, w.process(t, "inv-1", one).Wake)
}

func TestAnEventThatTheFilterLeavesOutWakesWhereSomethingWaits(t *testing.T) {
	t.Parallel()
	w, _ := newOrderedWorld(t, nil)
	_, err := w.all.Exec(t.Context(), "update delivery.endpoints set event_types = '{payment.succeeded}' where id = $1", [16]byte(w.endpoint))
	require.NoError(t, err)
	one, two, alone := version(1, "p"), version(2, "p"), version(1, "q")
	one.Type, alone.Type = "payment.pending", "payment.pending"
	require.Equal(t, []delivery.Sequence{w.sequence(two)}, w.process(t, "inv-2", two).Wake, "it waits")
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, w.process(t, "inv-1", one, alone).Wake)
	again, err := w.Process(t.Context(), "inv-1", []event.Ref{one, alone})
	require.NoError(t, err)
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, again.Wake)
}

func TestAFailureWakesNobodyUntilItIsTheLast(t *testing.T) {
	t.Parallel()
	w, _ := newOrderedWorld(t, nil)
	one := version(1, "p")
	w.merchant.next(status(500), status(500))
	result := w.process(t, "inv-1", one)
	require.Empty(t, result.Wake)
	w.process(t, "inv-0", version(2, "p"))
	result, err := w.Attempt(t.Context(), "inv-2", result.FollowUps()[0].List)
	require.NoError(t, err)
	require.Contains(t, w.state(t, one), "dead")
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, result.Wake)
}

func TestAnEventThatIsAloneAndAParallelEndpointWakeNobody(t *testing.T) {
	t.Parallel()
	w, _ := newOrderedWorld(t, nil)
	alone := newRef()
	alone.ObjectID = alone.ID.String()
	require.Empty(t, w.process(t, "inv-1", alone).Wake)
	_, err := w.all.Exec(t.Context(), "update delivery.endpoints set ordering = 'parallel' where id = $1", [16]byte(w.endpoint))
	require.NoError(t, err)
	require.Empty(t, w.process(t, "inv-2", version(1, "p"), version(2, "p")).Wake)
}

func TestA2xxThatOutlivedItsStepWakesItsSequenceAndSoDoesItsWatchdog(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]error{"Restate is there": nil, "Restate is away": errors.New("Restate is away")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, woken := newOrderedWorld(t, answer)
			one := version(1, "p")
			_, let := w.merchant.hang(status(200))
			result := w.process(t, "inv-1", one)
			require.Empty(t, result.Wake)
			w.process(t, "inv-0", version(2, "p"))
			let()
			select {
			case s := <-woken:
				require.Equal(t, w.sequence(one), s)
			case <-time.After(10 * time.Second):
				require.Fail(t, "nobody was woken")
			}
			require.Contains(t, w.state(t, one), "succeeded", "it is written down before")
			watchdog, err := w.Attempt(t.Context(), "inv-2", result.FollowUps()[0].List)
			require.NoError(t, err)
			require.Empty(t, watchdog.Deliveries)
			require.Equal(t, []delivery.Sequence{w.sequence(one)}, watchdog.Wake)
		})
	}
}

func TestA2xxThatOutlivedItsStepAndThatNobodyWaitsForWakesNobody(t *testing.T) {
	t.Parallel()
	w, woken := newOrderedWorld(t, nil)
	one := version(1, "p")
	_, let := w.merchant.hang(status(200))
	result := w.process(t, "inv-1", one)
	let()
	require.NoError(t, w.Close(t.Context()))
	require.Contains(t, w.state(t, one), "succeeded")
	require.Empty(t, woken)
	watchdog, err := w.newProcess(t).Attempt(t.Context(), "inv-2", result.FollowUps()[0].List)
	require.NoError(t, err)
	require.Empty(t, watchdog.Wake)
}

func TestAWatchdogThatFindsTheLastFailureWakes(t *testing.T) {
	t.Parallel()
	w, woken := newOrderedWorld(t, nil)
	one := version(1, "p")
	w.merchant.next(status(500))
	first := w.process(t, "inv-1", one)
	_, let := w.merchant.hang(func(deliver.Guard) deliver.Response {
		return deliver.Response{Cause: delivery.CauseServerError, StatusCode: 500, Sent: true}
	})
	open, err := w.Attempt(t.Context(), "inv-2", first.FollowUps()[0].List)
	require.NoError(t, err)
	require.Empty(t, open.Wake)
	w.process(t, "inv-0", version(2, "p"))
	let()
	require.Eventually(t, func() bool { return w.attempts(t, one) == 2 }, 10*time.Second, 10*time.Millisecond)
	require.Empty(t, woken, "a failure leaves its delivery to the watchdog")
	last, err := w.Attempt(t.Context(), "inv-3", open.FollowUps()[0].List)
	require.NoError(t, err)
	require.Contains(t, w.state(t, one), "dead")
	require.Equal(t, []delivery.Sequence{w.sequence(one)}, last.Wake)
}
