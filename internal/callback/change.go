package callback

import (
	"slices"
	"strings"

	"github.com/hookline/hookline/internal/payment"
)

// Change is what a callback says about a payment: which status it has, and out of which one it came there. The second
// half is what tells the end of a dispute that was won from the payment's first success.
type Change struct {
	To   payment.Status   `json:"to,omitempty"`
	From []payment.Status `json:"from,omitempty"`
}

// Known reports whether the change says anything.
func (c Change) Known() bool { return c.To != "" }

// begin is before anybody has decided about the payment.
var begin = []payment.Status{payment.StatusPending, payment.StatusProcessing}

// stripeChange is what Stripe's types say, https://docs.stripe.com/api/events/types. status is the object's own.
func stripeChange(eventType, status string) Change {
	switch eventType {
	case "payment_intent.processing":
		return Change{payment.StatusProcessing, []payment.Status{payment.StatusPending}}
	case "payment_intent.succeeded", "charge.succeeded", "invoice.payment_succeeded", "invoice.paid", "checkout.session.completed":
		return Change{payment.StatusSucceeded, begin}
	case "payment_intent.payment_failed", "charge.failed", "invoice.payment_failed":
		return Change{payment.StatusFailed, begin}
	case "payment_intent.canceled":
		return Change{payment.StatusCanceled, begin}
	case "charge.refunded":
		return Change{payment.StatusRefunded, []payment.Status{payment.StatusSucceeded, payment.StatusDisputed}}
	case "charge.dispute.created":
		return Change{payment.StatusDisputed, []payment.Status{payment.StatusSucceeded}}
	case "charge.dispute.closed":
		switch status {
		case "won", "warning_closed":
			return Change{payment.StatusSucceeded, []payment.Status{payment.StatusDisputed}}
		case "lost":
			return Change{payment.StatusRefunded, []payment.Status{payment.StatusDisputed}}
		}
	}
	return Change{}
}

// standardChange takes payment.<status>, out of whatever may become it.
func standardChange(eventType string) Change {
	name, found := strings.CutPrefix(eventType, "payment.")
	to := payment.Status(name)
	if !found || !to.Known() || len(to.Sources()) == 0 {
		return Change{}
	}
	return Change{to, to.Sources()}
}

// Verdict is what becomes of a change.
type Verdict string

// The verdicts.
const (
	Apply    Verdict = "apply"    // its turn is now
	Early    Verdict = "early"    // what it follows has not come yet
	Repeated Verdict = "repeated" // the payment is there already
	Stale    Verdict = "stale"    // the payment is past it
	// Contradiction is a change that the payment can neither follow nor have gone through: its failure was final, and now
	// it has succeeded. Somebody has to look at it.
	Contradiction Verdict = "contradiction"
)

// Decide says what becomes of a change for a payment that is current. It looks at no clock: a provider's times are seconds,
// and two changes can share one.
func Decide(current payment.Status, change Change) Verdict {
	switch {
	case slices.Contains(change.From, current):
		return Apply
	case slices.ContainsFunc(change.From, func(from payment.Status) bool { return reaches(current, from) }):
		return Early
	case current == change.To:
		return Repeated
	case reaches(change.To, current):
		return Stale
	default:
		return Contradiction
	}
}

// reaches reports whether a payment may come from one status to another by moves.
func reaches(from, to payment.Status) bool {
	seen := map[payment.Status]bool{from: true}
	for open := []payment.Status{from}; len(open) > 0; open = open[1:] {
		for _, next := range open[0].Next() {
			if next == to {
				return true
			}
			if !seen[next] {
				seen[next] = true
				open = append(open, next)
			}
		}
	}
	return false
}
