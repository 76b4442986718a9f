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
	next   time.Duration             // until a failing endpoint is tried again
	fails  map[uuid.UUID]svix.Result // instead of an answer; uuid.Nil is for all
	check  error
	asked  int
	aside  int // under way
	widest int
}

func (f *fates) Status(_ context.Context, _ string, message svix.Message) (svix.Standing, svix.Result, bool) {
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
			return svix.Standing{}, result, false
		}
	}
	return svix.Standing{Fate: f.fates[message.EventID], Next: f.next}, svix.Result{}, true
}

func (f *fates) Check(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.check
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
			PlannedAt: time.Now(), HeldAt: time.Now(),
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
			svix.NoEndpoint: {delivery.Dead, delivery.CauseSvixNoEndpoint},
			svix.Silent:     {delivery.HandedOver, delivery.CauseSvixAccepted},
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
		require.InDelta(t, 3*60, gauge(t, w, "hookline_svix_unanswered_seconds"), 0)
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
				if test.failure.Class == svix.Unauthorized {
					f.check = svix.ErrRefused
				}
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

// A queue that stands still has lost nothing: what it holds is sent when it moves again, beside whatever was handed over meanwhile.
func TestWhatShowsNoAttemptIsLostOnlyByAQueueThatMoves(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		before := w.handOver(1)[0]
		f.fates[before.EventID] = svix.Failing
		pause(time.Second)
		silent := w.handOver(1)[0]
		f.set(func() { f.fates[silent.EventID] = svix.Silent })
		pause(12 * time.Hour)
		state, cause := w.settled(silent)
		require.Equal(t, delivery.HandedOver, state, "what was there before it says nothing")
		require.Equal(t, delivery.CauseSvixAccepted, cause)
		later := w.handOver(1)[0]
		f.set(func() { f.fates[later.EventID] = svix.Delivered })
		pause(4 * time.Minute)
		state, _ = w.settled(silent)
		require.Equal(t, delivery.HandedOver, state, "its own attempt may be under way")
		pause(12 * time.Minute)
		state, cause = w.settled(silent)
		require.Equal(t, delivery.Retrying, state)
		require.Equal(t, delivery.CauseSvixLost, cause)
	})
}

func TestNothingStaysHandedOverForEver(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		handed := w.handOver(2)
		f.fates[handed[0].EventID], f.fates[handed[1].EventID] = svix.Failing, svix.Silent
		pause(6 * 24 * time.Hour)
		require.Equal(t, 2, w.atSvix())
		pause(25 * time.Hour)
		for _, each := range handed {
			state, cause := w.settled(each)
			require.Equal(t, delivery.Dead, state)
			require.Equal(t, delivery.CauseSvixSilent, cause)
		}
	})
}

func TestAFailingDeliveryIsLookedAtWhenSvixHasTriedAgainAndOnceAnHour(t *testing.T) {
	t.Parallel()
	for next, looks := range map[time.Duration]int{30 * time.Minute: 2, 10 * time.Hour: 1} {
		t.Run(next.String(), func(t *testing.T) {
			t.Parallel()
			in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
				f := w.sweeping()
				f.next = next
				f.fates[w.handOver(1)[0].EventID] = svix.Failing
				pause(5 * time.Minute)
				require.Equal(t, 1, f.looks())
				pause(time.Hour)
				require.Equal(t, looks, f.looks()-1)
			})
		})
	}
}

// A merchant's or a message's 403 is not the token's: Svix is asked about that by itself.
func TestARefusalOfOneDeliveryDoesNotEndTheRound(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		for _, each := range w.handOver(3) {
			f.fails[each.EventID] = svix.Result{Class: svix.Unauthorized, Cause: delivery.CauseSvixUnauthorized}
		}
		for _, each := range w.handOver(50) {
			f.fates[each.EventID] = svix.Delivered
		}
		pause(3 * time.Second)
		require.Equal(t, 3, w.atSvix())
		before := f.looks()
		pause(10 * time.Minute)
		require.Less(t, f.looks()-before, 3*20)
	})
}

func TestWhatIsLostIsHandedOverAgainAtTheReconcilersRate(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		f := w.sweeping()
		for _, each := range w.handOver(300) {
			f.fates[each.EventID] = svix.Lost
		}
		pause(900 * time.Millisecond)
		require.Equal(t, 200, w.atSvix())
		pause(2 * time.Second)
		require.Zero(t, w.atSvix())
	})
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
