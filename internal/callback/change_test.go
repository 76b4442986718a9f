package callback_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

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
}

// walk is a way through the statuses that a provider can tell of.
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
	}
}

// tracker does with changes what PaymentTracker does with callbacks.
type tracker struct {
	current payment.Status
	applied []string
	parked  []string
}

func (k *tracker) take(t require.TestingT, name string) {
	change := stripeEvent(t, name).Change
	switch callback.Decide(k.current, change) {
	case callback.Apply:
		require.True(t, k.current.CanBecome(change.To), "%s cannot become %s", k.current, change.To)
		k.current = change.To
		k.applied = append(k.applied, name)
		parked := k.parked
		k.parked = nil
		for _, each := range parked {
			k.take(t, each)
		}
	case callback.Early:
		k.parked = append(k.parked, name)
	case callback.Contradiction:
		require.Fail(t, "a contradiction", "%s while %s", name, k.current)
	case callback.Repeated, callback.Stale:
	}
}

// Whatever the order, a payment ends where the provider's own order ends, by moves that are in that order, and nothing
// waits for ever. A move may be passed over: a success that comes first needs no processing before it.
func TestTheOrderOfCallbacksDoesNotMatter(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		way := rapid.SampledFrom(walks()).Draw(t, "way")
		inOrder := tracker{current: payment.StatusPending}
		for _, name := range way {
			inOrder.take(t, name)
		}
		require.Equal(t, way, inOrder.applied)

		shuffled := slices.Clone(way)
		seed := rapid.Uint64().Draw(t, "seed")
		rand.New(rand.NewPCG(seed, 1)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		k := tracker{current: payment.StatusPending}
		for _, name := range shuffled {
			k.take(t, name)
		}
		require.Equal(t, inOrder.current, k.current, fmt.Sprint(shuffled))
		require.Empty(t, k.parked, fmt.Sprint(shuffled))
		left := way
		for _, name := range k.applied {
			i := slices.Index(left, name)
			require.GreaterOrEqual(t, i, 0, "%s was applied twice, or out of order: %v", name, k.applied)
			left = left[i+1:]
		}
	})
}
