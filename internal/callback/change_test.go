package callback_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/payment"
)

func TestDecide(t *testing.T) {
	t.Parallel()
	type step struct {
		current payment.Status
		types   string
		verdict callback.Verdict
	}
	for _, test := range []step{
		{"pending", "payment_intent.processing", callback.Apply},
		{"pending", "payment_intent.succeeded", callback.Apply},
		{"processing", "charge.failed", callback.Apply},
		{"pending", "charge.refunded", callback.Early},
		{"processing", "charge.dispute.created", callback.Early},
		{"pending", "charge.dispute.closed/won", callback.Early},
		{"succeeded", "charge.dispute.closed/won", callback.Early},
		{"disputed", "charge.dispute.closed/won", callback.Apply},
		{"disputed", "charge.dispute.closed/lost", callback.Apply},
		{"disputed", "charge.succeeded", callback.Stale}, // the dispute is not won by the charge's success coming late
		{"disputed", "charge.dispute.created", callback.Repeated},
		{"refunded", "charge.dispute.closed/lost", callback.Repeated},
		{"succeeded", "charge.succeeded", callback.Repeated},
		{"refunded", "charge.refunded", callback.Repeated},
		{"succeeded", "payment_intent.processing", callback.Stale},
		{"refunded", "charge.succeeded", callback.Stale},
		{"refunded", "charge.dispute.created", callback.Stale},
		{"failed", "payment_intent.processing", callback.Stale},
		{"failed", "payment_intent.succeeded", callback.Contradiction},
		{"succeeded", "charge.failed", callback.Contradiction},
		{"canceled", "charge.refunded", callback.Contradiction},
	} {
		e := stripeEvent(t, test.types)
		require.Equal(t, test.verdict, callback.Decide(test.current, e.Change), "%s while %s", test.types, test.current)
	}
	for _, test := range []step{
		{"succeeded", "payment.succeeded", callback.Repeated},
		{"disputed", "payment.succeeded", callback.Stale},
		{"disputed", "dispute.won", callback.Apply},
		{"succeeded", "dispute.won", callback.Early},
		{"disputed", "dispute.lost", callback.Apply},
		{"processing", "payment.processing", callback.Repeated},
	} {
		e := standardEvent(t, test.types)
		require.Equal(t, test.verdict, callback.Decide(test.current, e.Change), "%s while %s", test.types, test.current)
	}
}

// A change of which the payment is already what it says is never kept for later, where it would undo what comes next: but
// for the end of a dispute, which is where the payment was before.
func TestWhatIsThereAlreadyIsNotParked(t *testing.T) {
	t.Parallel()
	for _, current := range payment.Statuses() {
		change := callback.Change{To: current, From: current.Sources()}
		require.Equal(t, callback.Repeated, callback.Decide(current, change), "%v", change)
	}
}

// walks are ways through the statuses that a provider can tell of.
func walks() [][]string {
	return [][]string{
		{"payment_intent.succeeded"},
		{"payment_intent.processing", "payment_intent.succeeded"},
		{"payment_intent.processing", "payment_intent.payment_failed"},
		{"payment_intent.canceled"},
		{"payment_intent.succeeded", "charge.refunded"},
		{"payment_intent.processing", "payment_intent.succeeded", "charge.refunded"},
		{"payment_intent.processing", "payment_intent.succeeded", "charge.dispute.created", "charge.dispute.closed/won"},
		{"payment_intent.succeeded", "charge.dispute.created", "charge.dispute.closed/lost"},
		{"payment_intent.succeeded", "charge.dispute.created", "charge.dispute.closed/won", "charge.refunded"},
		{"charge.succeeded", "charge.dispute.created", "charge.dispute.closed/won", "charge.dispute.created"},
		{"charge.succeeded", "charge.dispute.created", "charge.dispute.closed/warning_closed", "charge.dispute.created", "charge.dispute.closed/won"},
		{"charge.succeeded", "charge.dispute.created", "charge.dispute.closed/won", "charge.dispute.created", "charge.dispute.closed/lost"},
		{"payment.processing", "payment.succeeded", "payment.disputed", "dispute.won"},
		{"payment.succeeded", "payment.disputed", "dispute.lost"},
		{"payment.succeeded", "payment.disputed", "payment.refunded"},
		{"payment.succeeded", "payment.disputed", "dispute.won", "payment.disputed", "dispute.won", "payment.refunded"},
		{"payment.processing", "payment.failed"},
		{"payment.canceled"},
	}
}

// happening is a step of a walk as a callback tells of it.
type happening struct {
	callback.Event
	step int
}

// tracker does with changes what PaymentTracker does with callbacks.
type tracker struct {
	current payment.Status
	dispute callback.Dispute
	applied []happening
	parked  []happening
	step    int // of the way, where the payment is
}

func (k *tracker) take(t require.TestingT, e happening) {
	k.decide(t, e)
	for {
		i := -1
		for j, p := range k.parked {
			if k.dispute.Decide(k.current, p.Event) != callback.Early && (i < 0 || p.OccurredAt.Before(k.parked[i].OccurredAt)) {
				i = j
			}
		}
		if i < 0 {
			return
		}
		next := k.parked[i]
		k.parked = slices.Delete(k.parked, i, i+1)
		k.decide(t, next)
	}
}

func (k *tracker) decide(t require.TestingT, e happening) {
	switch k.dispute.Decide(k.current, e.Event) {
	case callback.Apply:
		require.True(t, k.current.CanBecome(e.Change.To), "%s cannot become %s", k.current, e.Change.To)
		k.current, k.step = e.Change.To, e.step+1
		k.applied = append(k.applied, e)
		k.dispute = k.dispute.After(e.Event, callback.Applied)
	case callback.Early:
		k.parked = append(k.parked, e)
	case callback.Repeated:
		k.step = max(k.step, e.step+1)
		k.dispute = k.dispute.After(e.Event, callback.AlreadyThere)
	case callback.Contradiction:
		require.Fail(t, "a contradiction", "%s while %s", e.Type, k.current)
	case callback.Stale:
	}
}

// happenings are the steps, a second after each other.
func happenings(t require.TestingT, way []string) []happening {
	var out []happening
	for i, name := range way {
		e := standardEvent(t, name)
		if !e.Change.Known() {
			e = stripeEvent(t, name)
		}
		require.True(t, e.Change.Known(), name)
		e.ID, e.OccurredAt = fmt.Sprint(i), time.Unix(1770000000+int64(i), 0)
		out = append(out, happening{e, i})
	}
	return out
}

// Whatever the order, a payment ends where the provider's own order ends, by moves that are in that order, and nothing
// waits for ever. A move may be passed over: a success that comes first needs no processing before it. That holds when a
// change is told by two events, too, wherever on its way the payment was at first, and when somebody else moves it on.
func TestTheOrderOfCallbacksDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		way := happenings(t, rapid.SampledFrom(walks()).Draw(t, "way"))
		statuses := []payment.Status{payment.StatusPending}
		for _, e := range way {
			statuses = append(statuses, e.Change.To)
		}
		inOrder := tracker{current: payment.StatusPending}
		for _, e := range way {
			inOrder.take(t, e)
		}
		require.Equal(t, way, inOrder.applied)
		require.Equal(t, statuses[len(way)], inOrder.current)

		sent := slices.Clone(way)
		for _, e := range way {
			if rapid.Bool().Draw(t, "told twice") {
				e.ID += "-again"
				sent = append(sent, e)
			}
		}
		seed := rapid.Uint64().Draw(t, "seed")
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(sent), func(i, j int) { sent[i], sent[j] = sent[j], sent[i] })
		step := rapid.IntRange(0, len(way)).Draw(t, "start")
		k := tracker{current: statuses[step], step: step}
		alone := step == 0
		for _, e := range sent {
			if k.step < len(way) && rapid.IntRange(0, 3).Draw(t, "somebody else") == 0 {
				k.step++
				k.current, alone = statuses[k.step], false
			}
			k.take(t, e)
		}
		order := []string{}
		for _, e := range sent {
			order = append(order, e.ID)
		}
		require.Equal(t, statuses[len(way)], k.current, fmt.Sprint(order))
		require.Empty(t, k.parked, fmt.Sprint(order))
		ids := map[string]bool{}
		for i, e := range k.applied {
			require.False(t, ids[e.ID], "%s was applied twice", e.ID)
			ids[e.ID] = true
			if alone && i > 0 {
				require.Greater(t, e.step, k.applied[i-1].step, "%s was applied twice, or out of order: %v", e.Type, order)
			}
		}
	})
}

// The end of a dispute that waits for its beginning does not end the next one.
func TestADisputeIsNotEndedByTheEndOfTheOneBefore(t *testing.T) {
	t.Parallel()
	way := happenings(t, []string{"payment.succeeded", "payment.disputed", "dispute.won", "payment.disputed"})
	k := tracker{current: payment.StatusSucceeded}
	for _, i := range []int{2, 3, 1} {
		k.take(t, way[i])
	}
	require.Equal(t, payment.StatusDisputed, k.current)
	require.Empty(t, k.parked)
}

// A provider that tells no times is taken by its order alone.
func TestWithoutTimesNoDisputeIsPast(t *testing.T) {
	t.Parallel()
	k := tracker{current: payment.StatusSucceeded, dispute: callback.Dispute{At: time.Unix(1770000000, 0)}}
	for _, name := range []string{"payment.disputed", "dispute.won", "payment.disputed"} {
		k.take(t, happening{Event: standardEvent(t, name)})
	}
	require.Equal(t, payment.StatusDisputed, k.current)
	require.Len(t, k.applied, 3)
}
