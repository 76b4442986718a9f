package callback

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/signing"
)

// maxID bounds an event's id: it becomes a key.
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
	if e.ID == "" || len(e.ID) > maxID || e.Type == "" {
		return e, fault.New(fault.Malformed, "a callback has an id of 1 to %d bytes and a type", maxID)
	}
	e.Provider = provider
	return e, nil
}

// parseStripe reads an event of Stripe's, https://docs.stripe.com/api/events/object. Our id travels in the metadata that
// was given when the payment was made there, or in client_reference_id.
func parseStripe(_ http.Header, body []byte) (Event, error) {
	var e struct {
		ID      string `json:"id"`
		Type    string `json:"type"`
		Created int64  `json:"created"` // Unix seconds
		Data    struct {
			Object struct {
				Status            string   `json:"status"`
				ClientReferenceID string   `json:"client_reference_id"`
				Metadata          metadata `json:"metadata"`
				// Of an invoice, and of a charge or dispute with its payment intent expanded.
				SubscriptionDetails struct {
					Metadata metadata `json:"metadata"`
				} `json:"subscription_details"`
				PaymentIntent expanded `json:"payment_intent"`
			} `json:"object"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &e); err != nil {
		return Event{}, err
	}
	object := e.Data.Object
	return Event{
		ID: e.ID, Type: e.Type, OccurredAt: time.Unix(e.Created, 0).UTC(), Change: stripeChange(e.Type, object.Status),
		PaymentID: firstID(object.Metadata.PaymentID, object.ClientReferenceID, object.SubscriptionDetails.Metadata.PaymentID, object.PaymentIntent.Metadata.PaymentID),
	}, nil
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
	return Event{ID: signing.ID(header), Type: e.Type, OccurredAt: at.UTC(), Change: standardChange(e.Type), PaymentID: firstID(e.Data.PaymentID)}, nil
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
