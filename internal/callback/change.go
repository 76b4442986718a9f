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

// endsDispute reports whether only the end of a dispute is such a change.
func (c Change) endsDispute() bool {
	return len(c.From) == 1 && c.From[0] == payment.StatusDisputed
}

// begin is before anybody has decided about the payment.
var begin = []payment.Status{payment.StatusPending, payment.StatusProcessing}

// disputed is where only a dispute leads.
var disputed = []payment.Status{payment.StatusDisputed}

// changeOf is what a type says when its object is in the state. silent is a type that is known, and says nothing about the
// status of a payment while its object is so.
func changeOf(provider, eventType, state string) (change Change, silent bool) {
	if provider == Stripe {
		return stripeChange(eventType, state)
	}
	return standardChange(eventType), false
}

// What stripeObject makes of a charge that is refunded.
const (
	refundedWhole  = "refunded"
	refundedPartly = "partially_refunded"
)

// stripeChange is what Stripe's types say, https://docs.stripe.com/api/events/types. state is that of stripeObject.
func stripeChange(eventType, state string) (change Change, silent bool) {
	switch eventType {
	case "payment_intent.processing":
		return Change{payment.StatusProcessing, []payment.Status{payment.StatusPending}}, false
	case "payment_intent.succeeded", "charge.succeeded", "invoice.payment_succeeded", "invoice.paid", "checkout.session.async_payment_succeeded":
		return Change{payment.StatusSucceeded, begin}, false
	case "payment_intent.payment_failed", "charge.failed", "invoice.payment_failed", "checkout.session.async_payment_failed":
		return Change{payment.StatusFailed, begin}, false
	case "payment_intent.canceled":
		return Change{payment.StatusCanceled, begin}, false
	case "charge.dispute.created":
		return Change{payment.StatusDisputed, []payment.Status{payment.StatusSucceeded}}, false
	case "checkout.session.completed": // which it is before a bank has transferred anything
		if state == "paid" || state == "no_payment_required" {
			return Change{payment.StatusSucceeded, begin}, false
		}
		return Change{}, true
	case "charge.refunded": // which it is by a part of its amount, too
		if state == refundedWhole {
			return Change{payment.StatusRefunded, []payment.Status{payment.StatusSucceeded, payment.StatusDisputed}}, false
		}
		return Change{}, true
	case "charge.dispute.closed":
		switch state {
		case "won", "warning_closed":
			return Change{payment.StatusSucceeded, disputed}, false
		case "lost":
			return Change{payment.StatusRefunded, disputed}, false
		}
		return Change{}, true
	}
	return Change{}, slices.Contains(stripeSilent, eventType)
}

// stripeSilent are types of the objects above that say nothing about a payment's status. A page of Stripe's settings selects
// them with the others.
var stripeSilent = []string{
	"payment_intent.created", "payment_intent.requires_action", "payment_intent.amount_capturable_updated", "payment_intent.partially_funded",
	"charge.pending", "charge.captured", "charge.updated", "charge.expired", "charge.refund.updated",
	"charge.dispute.updated", "charge.dispute.funds_withdrawn", "charge.dispute.funds_reinstated",
	"refund.created", "refund.updated", "refund.failed",
	"checkout.session.expired",
	"invoice.created", "invoice.updated", "invoice.finalized", "invoice.sent", "invoice.upcoming", "invoice.payment_action_required",
	"invoice_payment.paid",
}

// standardChange takes payment.<status>, and how a dispute ended.
func standardChange(eventType string) Change {
	switch eventType {
	case "payment.succeeded": // the first time: what a dispute becomes has types of its own
		return Change{payment.StatusSucceeded, begin}
	case "dispute.won":
		return Change{payment.StatusSucceeded, disputed}
	case "dispute.lost":
		return Change{payment.StatusRefunded, disputed}
	}
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
//
// A payment that is there already has been there by the same change, or by somebody else's: to park the change would let it
// undo, later, what comes next. Only the end of a dispute leads where the payment was before: its dispute may be still to come.
func Decide(current payment.Status, change Change) Verdict {
	switch {
	case slices.Contains(change.From, current):
		return Apply
	case current == change.To && !change.endsDispute():
		return Repeated
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
