package paymentsapi

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"net/http"
	"strings"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/payment"
)

const (
	maxEventTypeLength = 100
	maxEventDataBytes  = 64 << 10
	// paymentEvents is the prefix of the types that only the trigger writes: an event that says something
	// about a payment always comes with the payment's change.
	paymentEvents = "payment."
)

// newEvent is the body of POST /events.
type newEvent struct {
	eventType, merchantID string
	data                  json.RawMessage
}

// createEvent is POST /events.
func (s *Server) createEvent(w http.ResponseWriter, r *http.Request) error {
	return creation[newEvent]{
		read: readEvent, hash: hashEvent, status: http.StatusAccepted,
		merchant: func(e newEvent) string { return e.merchantID },
		store: func(ctx context.Context, e newEvent, origin payment.Origin) (payment.Answer, error) {
			return s.store.AppendEvent(ctx, e.eventType, e.merchantID, e.data, origin)
		},
	}.serve(s, w, r)
}

func readEvent(fields *object) (newEvent, error) {
	event := newEvent{merchantID: payment.DefaultMerchantID}
	for name, value := range fields.all {
		switch name {
		case "event_type":
			event.eventType = fields.text(name, value)
			switch {
			case !validEventType(event.eventType):
				fields.refuse(name, "want two or more words of a-z, 0-9 and _ with dots between, such as invoice.sent, 100 characters at most")
			case strings.HasPrefix(event.eventType, paymentEvents):
				fields.refuse(name, "events of payments come from changes of payments only")
			}
		case "merchant_id":
			event.merchantID = fields.merchantID(name, value)
		case "data":
			event.data = fields.document(name, value, maxEventDataBytes)
		default:
			fields.refuseUnknown(name)
		}
	}
	if event.eventType == "" {
		fields.refuse("event_type", "is missing")
	}
	if event.data == nil {
		fields.refuse("data", "is missing")
	}
	if !fields.refused("event_type") && !fields.refused("data") {
		fields.refuseAll(validateData(event))
	}
	return event, fields.problems()
}

// validateData holds the data of a type of the catalogue against its schema. Other types are free.
func validateData(event newEvent) error {
	if t, ok := catalogue.Lookup(event.eventType); ok {
		return t.ValidateData(event.data)
	}
	return nil
}

// validEventType is ^[a-z0-9_]+(\.[a-z0-9_]+)+$ of at most 100 characters.
func validEventType(text string) bool {
	if len(text) > maxEventTypeLength || !strings.Contains(text, ".") {
		return false
	}
	word := 0 // characters since the last dot
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_':
			word++
		case c == '.' && word > 0:
			word = 0
		default:
			return false
		}
	}
	return word > 0
}

func hashEvent(e newEvent) [sha256.Size]byte {
	return hashRequest("POST /events", e.eventType, e.merchantID, canonical(e.data))
}
