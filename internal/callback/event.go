package callback

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/signing"
)

// maxID bounds an event's id, which becomes a key, and its type.
const maxID = 255

// Event is what a callback says.
type Event struct {
	Provider   string    `json:"provider"`
	ID         string    `json:"id"` // the provider's: the same at every repetition
	Type       string    `json:"type"`
	OccurredAt time.Time `json:"occurred_at"`
	// PaymentID is ours; Nil where the callback names none.
	PaymentID uuid.UUID `json:"payment_id"`
	// Change is what the type says about the payment; of no status where it says nothing that we know.
	Change Change `json:"change"`
	// State is what the event's object says of itself, where the type alone does not say what has changed.
	State string `json:"state,omitempty"`
	// Silent says that the type is known, and changes nothing.
	Silent bool `json:"silent,omitempty"`
}

// Again returns the event as the present code reads it. One that it cannot read any more, or not from what was kept of it,
// stays what it was.
func (e Event) Again() Event {
	if change, silent := changeOf(e.Provider, e.Type, e.State); change.Known() || silent && e.State != "" {
		e.Change, e.Silent = change, silent
	}
	return e
}

// Key names the event among all providers'.
func (e Event) Key() string { return e.Provider + ":" + e.ID }

// Parse reads a callback whose signature was verified. A fault.Malformed says that it is not one.
func Parse(provider string, header http.Header, body []byte) (Event, error) {
	read := parseStandard
	if provider == Stripe {
		read = parseStripe
	}
	e, err := read(header, body)
	if err != nil {
		return e, fault.Wrap(err, fault.Malformed, "the body is no callback of %s", provider)
	}
	if !validText(e.ID) || !validText(e.Type) {
		return e, fault.New(fault.Malformed, "a callback has an id and a type of 1 to %d bytes each, without control characters", maxID)
	}
	e.Provider = provider
	e.Change, e.Silent = changeOf(provider, e.Type, e.State)
	return e, nil
}

// validText refuses what a reader of JSON has put in the place of bytes that are no text, too: two ids could become one.
func validText(text string) bool {
	return text != "" && len(text) <= maxID && !strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError })
}

// parseStripe reads an event of Stripe's, https://docs.stripe.com/api/events/object. Our id travels in the metadata that
// was given when the payment was made there, or in client_reference_id.
func parseStripe(_ http.Header, body []byte) (Event, error) {
	var e struct {
		ID      string `json:"id"`
		Type    string `json:"type"`
		Created int64  `json:"created"` // Unix seconds
		Data    struct {
			Object stripeObject `json:"object"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, err
	}
	object := e.Data.Object
	return Event{
		ID: e.ID, Type: e.Type, OccurredAt: time.Unix(e.Created, 0).UTC(), State: object.state(e.Type),
		PaymentID: firstID(object.Metadata.PaymentID, object.ClientReferenceID, object.SubscriptionDetails.Metadata.PaymentID,
			object.Parent.SubscriptionDetails.Metadata.PaymentID, object.PaymentIntent.Metadata.PaymentID),
	}, nil
}

// stripeObject is what an event of Stripe's is about: a payment intent, charge, dispute, invoice or checkout session.
type stripeObject struct {
	Status            string   `json:"status"`
	PaymentStatus     string   `json:"payment_status"` // of a checkout session
	Refunded          bool     `json:"refunded"`       // of a charge, once nothing of it is left
	ClientReferenceID string   `json:"client_reference_id"`
	Metadata          metadata `json:"metadata"`
	// Of an invoice, since 2025-03-31 below parent.
	SubscriptionDetails subscription `json:"subscription_details"`
	Parent              struct {
		SubscriptionDetails subscription `json:"subscription_details"`
	} `json:"parent"`
	PaymentIntent expanded `json:"payment_intent"`
}

// state is what stripeChange has to know beside the type.
func (o stripeObject) state(eventType string) string {
	switch {
	case eventType == "charge.refunded" && o.Refunded:
		return refundedWhole
	case eventType == "charge.refunded":
		return refundedPartly
	case strings.HasPrefix(eventType, "checkout.session."):
		return o.PaymentStatus
	default:
		return o.Status
	}
}

type subscription struct {
	Metadata metadata `json:"metadata"`
}

type metadata struct {
	PaymentID string `json:"payment_id"`
}

// expanded is an object of Stripe's, or nothing where there is only its id.
type expanded struct {
	Metadata metadata `json:"metadata"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *expanded) UnmarshalJSON(text []byte) error {
	if len(text) == 0 || text[0] != '{' {
		return nil
	}
	type plain expanded
	return json.Unmarshal(text, (*plain)(e))
}

func parseStandard(header http.Header, body []byte) (Event, error) {
	var e struct {
		Type      string `json:"type"`
		Timestamp string `json:"timestamp"`
		Data      struct {
			PaymentID string `json:"payment_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, err
	}
	at, err := time.Parse(time.RFC3339, e.Timestamp)
	if err != nil && e.Timestamp != "" {
		return Event{}, fmt.Errorf("reading the timestamp: %w", err)
	}
	return Event{ID: signing.ID(header), Type: e.Type, OccurredAt: at.UTC(), PaymentID: firstID(e.Data.PaymentID)}, nil
}

// firstID is the first of the texts that is an id of ours.
func firstID(texts ...string) uuid.UUID {
	for _, text := range texts {
		if id, err := uuid.Parse(text); err == nil {
			return id
		}
	}
	return uuid.Nil
}
