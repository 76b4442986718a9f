package callback

import (
	"time"

	"github.com/hookline/hookline/internal/payment"
)

// Dispute is how far the disputes of a payment have come by its callbacks. A payment goes around in them, so that its status
// alone does not tell the end of one from the end of the next: here, and only here, the provider's times decide. The zero
// value is of a payment that no callback has told a dispute of.
type Dispute struct {
	At   time.Time `json:"at"`   // when the latest beginning or end occurred
	Over bool      `json:"over"` // it was an end
}

// Decide is Decide of a payment with these disputes.
func (d Dispute) Decide(current payment.Status, e Event) Verdict {
	verdict := Decide(current, e.Change)
	switch {
	case verdict != Apply && verdict != Early:
		return verdict
	case d.past(e):
		return Stale
	case verdict == Early && e.Change.endsDispute() && current == e.Change.To && d.begun(e):
		return Repeated // the dispute has begun, and is no more: somebody else has ended it
	default:
		return verdict
	}
}

// past reports whether the event is of a dispute that others have followed, or of an end that is known.
func (d Dispute) past(e Event) bool {
	if d.At.IsZero() || e.OccurredAt.IsZero() {
		return false
	}
	switch {
	case e.Change.endsDispute():
		return e.OccurredAt.Before(d.At) || d.Over && e.OccurredAt.Equal(d.At)
	case e.Change.To == payment.StatusDisputed:
		return e.OccurredAt.Before(d.At)
	default:
		return false
	}
}

// begun reports whether a dispute that the event may end has begun.
func (d Dispute) begun(e Event) bool { return !d.At.IsZero() && !d.Over && !e.OccurredAt.Before(d.At) }

// After returns how far the disputes are when the event had the outcome.
func (d Dispute) After(e Event, outcome Outcome) Dispute {
	ends := e.Change.endsDispute()
	if !ends && e.Change.To != payment.StatusDisputed || outcome != Applied && outcome != AlreadyThere || e.OccurredAt.Before(d.At) {
		return d
	}
	return Dispute{At: e.OccurredAt, Over: ends}
}
