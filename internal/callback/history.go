package callback

import (
	"time"

	"github.com/hookline/hookline/internal/payment"
)

// Outcome is what became of a callback.
type Outcome string

// The outcomes. The last two are dead records, too.
const (
	Applied        Outcome = "applied"         // the payment moved by it
	AlreadyThere   Outcome = "repeated"        // another callback, or a request, had moved it there before
	Parked         Outcome = "early"           // it waits for its predecessor; then the outcome changes
	Overtaken      Outcome = "stale"           // the payment was past it
	Contradicts    Outcome = "contradicts"     // the payment can neither follow it nor has it come through it
	UnknownPayment Outcome = "unknown_payment" // payments-api knew no such payment
)

// NoChange is the outcome of a callback whose type is known and changes nothing. It is in no payment's history.
const NoChange Outcome = "no_change"

// Entry is a callback in the history of a payment. There is one for each event, however often it came.
type Entry struct {
	Provider   string         `json:"provider"`
	EventID    string         `json:"event_id"` // the provider's
	Type       string         `json:"type"`
	Status     payment.Status `json:"status"` // what the callback says the payment is
	OccurredAt time.Time      `json:"occurred_at"`
	ReceivedAt time.Time      `json:"received_at"`
	Outcome    Outcome        `json:"outcome"`
	// DecidedAt is when the outcome became what it is.
	DecidedAt time.Time `json:"decided_at"`
}
