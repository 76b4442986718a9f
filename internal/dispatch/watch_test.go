package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
)

// sentWatches are the watchdogs that a process sends by itself. The first few times Restate is away.
type sentWatches struct {
	mu    sync.Mutex
	away  int
	lists []dispatch.FollowUp
}

func (s *sentWatches) send(_ context.Context, list delivery.AttemptList, delay time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away > 0 {
		s.away--
		return errors.New("restate is away")
	}
	s.lists = append(s.lists, dispatch.FollowUp{List: list, Delay: delay})
	return nil
}

func (s *sentWatches) all() []dispatch.FollowUp {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]dispatch.FollowUp(nil), s.lists...)
}

func ids(refs []event.Ref) [][16]byte {
	out := make([][16]byte, len(refs))
	for i, ref := range refs {
		out[i] = ref.ID
	}
	return out
}

// hanging lets an endpoint hang with so many requests, one after the other, and returns what their steps said.
func (w *world) hanging(t *testing.T, d *dispatch.Dispatcher, n int) (refs []event.Ref, results []dispatch.Result, let func()) {
	t.Helper()
	var lets []func()
	for i := range n {
		_, one := w.merchant.hang(status(503))
		lets = append(lets, one)
		ref := newRef()
		refs, results = append(refs, ref), append(results, process(t, d, fmt.Sprint("hanging-", i), ref))
	}
	return refs, results, func() {
		for _, one := range lets {
			one()
		}
	}
}

func (w *world) watching(t *testing.T, s *sentWatches) *dispatch.Dispatcher {
	t.Helper()
	w.exec(t, "update delivery.endpoints set timeout_ms = 30000") // so that what goes together waits for 8 s
	d := dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Minute}, WatchFunc: s.send},
		w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		require.NoError(t, d.Close(ctx))
	})
	return d
}

// Interleaving: one merchant hangs, and each of its deliveries outlives its step. The watchdogs of the first are in their
// journals; those of the others go to Restate in one list, and so does their next attempt.
func TestWatchdogsOfAnEndpointThatHangsGoTogether(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sent := &sentWatches{away: 2}
	d := w.watching(t, sent)
	const own, together = 3, 4
	refs, results, let := w.hanging(t, d, own+together)
	for i, result := range results {
		if i < own {
			require.Len(t, result.FollowUps(), 1)
			continue
		}
		require.Empty(t, result.FollowUps(), "request %d", i)
		require.True(t, result.Deliveries[0].Watched)
		require.Equal(t, delivery.CauseOpen, result.Deliveries[0].Cause)
	}
	// Should the process die now, each row is due by itself: nobody owns it, and the reconciler drives what is overdue.
	require.Equal(t, together+own, w.count(t, "state = 'retrying' and owner is null and next_attempt_at > now()"))

	// They are due when the first of them is, which is written later than the others would have been due by themselves.
	var first, last time.Duration
	require.NoError(t, w.all.QueryRow(t.Context(), `select min(next_attempt_at) - now(), max(next_attempt_at) - now() from delivery.deliveries
		where event_id = any($1)`, ids(refs[own:])).Scan(&first, &last))
	require.Greater(t, first, 35*time.Second, "time-out 30 s, margin 2 s, a quarter")
	require.Less(t, last, 40*time.Second)

	require.Eventually(t, func() bool { return len(sent.all()) == 1 }, 20*time.Second, 5*time.Millisecond, "Restate is back")
	watchdog := sent.all()[0]
	require.Len(t, watchdog.List.Tickets, together)
	require.Equal(t, 1, watchdog.List.Number)
	require.InDelta(t, 32, watchdog.Delay.Seconds(), 3)

	let()
	require.Eventually(t, func() bool { return w.count(t, "attempts = 1") == own+together }, 5*time.Second, 5*time.Millisecond)
	result, err := d.Attempt(t.Context(), "watchdog", watchdog.List)
	require.NoError(t, err)
	require.Len(t, result.FollowUps(), 1, "the next attempts are one list, too")
	require.Len(t, result.FollowUps()[0].List.Tickets, together)
	require.Positive(t, result.FollowUps()[0].Delay)
	require.Len(t, w.merchant.sent(), own+together, "the watchdog sends nothing")
	for _, ref := range refs {
		require.Equal(t, "retrying attempts=1", w.state(t, ref))
	}
}

func TestAListOfWatchdogsThatIsFullGoesAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sent := &sentWatches{}
	d := w.watching(t, sent)
	w.hanging(t, d, 4)
	_, _, let := w.hangingAtOnce(t, d, delivery.MaxTickets)
	defer let()
	require.Eventually(t, func() bool { return len(sent.all()) > 0 }, time.Second, time.Millisecond, "others are waited for, for 8 s")
	require.Len(t, sent.all()[0].List.Tickets, delivery.MaxTickets)
}

func TestAProcessThatEndsSendsTheWatchdogsThatItHas(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sent := &sentWatches{}
	d := w.watching(t, sent)
	_, _, let := w.hanging(t, d, 5)
	ended := make(chan error, 1)
	go func() { ended <- d.Close(context.WithoutCancel(t.Context())) }()
	require.Eventually(t, func() bool { return len(sent.all()) == 1 }, time.Second, time.Millisecond, "others are waited for, for 8 s")
	require.Len(t, sent.all()[0].List.Tickets, 2)
	let()
	require.NoError(t, <-ended)
}

// hangingAtOnce is hanging in one step.
func (w *world) hangingAtOnce(t *testing.T, d *dispatch.Dispatcher, n int) ([]event.Ref, dispatch.Result, func()) {
	t.Helper()
	var lets []func()
	for range n {
		_, one := w.merchant.hang(status(503))
		lets = append(lets, one)
	}
	refs := newRefs(n)
	result := process(t, d, "at-once-"+uuid.NewString(), refs...)
	return refs, result, func() {
		for _, one := range lets {
			one()
		}
	}
}

// Interleaving: the ledger does not take the outcome that hands a request over. Its watchdog is in the journal, behind the step
// that records it.
func TestAWatchdogOfWhatTheLedgerDidNotTakeIsInTheJournal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sent := &sentWatches{}
	d := w.watching(t, sent)
	_, _, let := w.hanging(t, d, 4)
	defer let()
	_, one := w.merchant.hang(status(503))
	defer one()
	w.ledger.refuse(1)
	result := process(t, d, "inv-unrecorded", newRef())
	require.True(t, result.Unrecorded())
	require.Len(t, result.FollowUps(), 1)
}
