package reconcile_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/svix"
)

// fates is a Svix that tells what a test says, by event.
type fates struct {
	mu     sync.Mutex
	fates  map[uuid.UUID]svix.Fate
	fails  map[uuid.UUID]svix.Result // instead of an answer; uuid.Nil is for all
	asked  int
	aside  int // under way
	widest int
}

func (f *fates) Status(_ context.Context, _ string, message svix.Message) (svix.Fate, svix.Result, bool) {
	f.mu.Lock()
	f.asked++
	f.aside++
	f.widest = max(f.widest, f.aside)
	f.mu.Unlock()
	<-time.After(10 * time.Millisecond)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.aside--
	for _, id := range []uuid.UUID{uuid.Nil, message.EventID} {
		if result, fails := f.fails[id]; fails {
			return 0, result, false
		}
	}
	return f.fates[message.EventID], svix.Result{}, true
}

func (f *fates) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// looks returns how often it was asked, width how many asked at once.
func (f *fates) looks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

func (f *fates) width() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.widest
}

// atSvix returns how many are handed over.
func (w *world) atSvix() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.handed)
}

func (w *world) handOver(n int) []delivery.HandedOverDelivery {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		w.handed = append(w.handed, delivery.HandedOverDelivery{
			Key: delivery.Key{EventID: uuid.New(), EndpointID: delivery.SvixEndpoint}, Epoch: 1, MerchantID: "m", EventType: "t", Due: time.Now(),
		})
	}
	return append([]delivery.HandedOverDelivery(nil), w.handed[len(w.handed)-n:]...)
}

func (w *world) sweeping() *fates {
	f := &fates{fates: map[uuid.UUID]svix.Fate{}, fails: map[uuid.UUID]svix.Result{}}
	w.AskSvix(f)
	return f
}

// settled returns what was written down about the delivery last.
func (w *world) settled(of delivery.HandedOverDelivery) (delivery.State, delivery.Cause) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := len(w.verdicts) - 1; i >= 0; i-- {
		if w.verdicts[i].Of.Key == of.Key {
			return w.verdicts[i].State, w.verdicts[i].Cause
		}
	}
	return "", ""
}

func TestEachFateOfWhatSvixHasMovesItsDelivery(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		wants := map[svix.Fate]struct {
			state delivery.State
			cause delivery.Cause
		}{
			svix.Unanswered: {delivery.HandedOver, delivery.CauseSvixAccepted},
			svix.Failing:    {delivery.HandedOver, delivery.CauseSvixFailing},
			svix.Delivered:  {delivery.Succeeded, delivery.CauseOK},
			svix.Exhausted:  {delivery.Dead, delivery.CauseSvixExhausted},
			svix.Unwanted:   {delivery.Succeeded, delivery.CauseSvixUnwanted},
			svix.Lost:       {delivery.Retrying, delivery.CauseSvixLost},
		}
		of := map[svix.Fate]delivery.HandedOverDelivery{}
		for fate := range wants {
			of[fate] = w.handOver(1)[0]
			f.fates[of[fate].EventID] = fate
		}
		pause(interval / 2)
		for fate, want := range wants {
			state, cause := w.settled(of[fate])
			require.Equal(t, want.state, state, "%d", fate)
			require.Equal(t, want.cause, cause, "%d", fate)
		}
		require.Equal(t, []string{"attempt 2 epoch 2"}, w.attempts, "what is lost is handed over again")
		require.InDelta(t, 1, counter(t, w, "hookline_reconciler_redriven_total", "svix_lost"), 0)
		pause(2 * interval)
		require.InDelta(t, 2*60, gauge(t, w, "hookline_svix_unanswered_seconds"), 0)
	})
}

func TestLooksGetRarerWithTheAgeOfTheDelivery(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		f.fates[w.handOver(1)[0].EventID] = svix.Failing
		pause(time.Minute)
		require.LessOrEqual(t, f.looks(), 8)
		require.GreaterOrEqual(t, f.looks(), 5)
		pause(time.Hour)
		before := f.looks()
		pause(time.Hour)
		require.InDelta(t, 12, f.looks()-before, 1, "every five minutes")
	})
}

func TestARoundIsBoundedInNumberAndWidth(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		for _, each := range w.handOver(1200) {
			f.fates[each.EventID] = svix.Delivered
		}
		pause(900 * time.Millisecond)
		require.Equal(t, 500, f.looks())
		require.Equal(t, 16, f.width())
		pause(time.Second)
		require.Equal(t, 1000, f.looks())
		pause(time.Second)
		require.Equal(t, 1200, f.looks())
		require.Zero(t, w.atSvix())
	})
}

// Whatever Svix does not tell leaves every delivery where it is, and Svix in peace.
func TestNothingHappensWhileSvixDoesNotTell(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		failure svix.Result
		within  time.Duration // of the mending, all is settled
	}{
		"away":         {svix.Result{Class: svix.Retryable, Cause: delivery.CauseSvixUnreachable}, 12 * time.Second},
		"unauthorized": {svix.Result{Class: svix.Unauthorized, Cause: delivery.CauseSvixUnauthorized}, 32 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
				f := w.sweeping()
				f.fails[uuid.Nil] = test.failure
				handed := w.handOver(100)
				pause(time.Minute)
				require.LessOrEqual(t, f.looks(), 7*(16+8), "a few questions in a round, and few rounds")
				require.Equal(t, 100, w.atSvix())
				for _, each := range handed {
					f.set(func() { f.fates[each.EventID] = svix.Delivered })
					state, cause := w.settled(each)
					require.Contains(t, []delivery.State{"", delivery.HandedOver}, state)
					require.Empty(t, cause)
				}
				f.set(func() { clear(f.fails) })
				pause(test.within)
				require.Less(t, w.atSvix(), 7*8, "but for those whose next look is later")
				pause(time.Minute)
				require.Zero(t, w.atSvix())
			})
		})
	}
}

// One that Svix always fails for is looked at later and later, and is in nobody's way.
func TestADeliveryThatSvixFailsForHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		bad := w.handOver(3)
		for _, each := range bad {
			f.fails[each.EventID] = svix.Result{Class: svix.Retryable, Cause: delivery.CauseSvixServerError}
		}
		for _, each := range w.handOver(50) {
			f.fates[each.EventID] = svix.Delivered
		}
		pause(2 * time.Second)
		require.Equal(t, 3, w.atSvix())
		before := f.looks()
		pause(10 * time.Minute)
		require.Less(t, f.looks()-before, 3*20)
	})
}
