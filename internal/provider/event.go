package provider

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
)

// Event is something that happened to a payment at the provider.
type Event struct {
	ID      string // the provider's, such as evt_1
	Type    string // one of https://docs.stripe.com/api/events/types
	Created time.Time
	// PaymentID is ours: the shop gave it to the provider with the payment.
	PaymentID uuid.UUID
	// ObjectStatus is the status of the object that the event is about, such as that of a dispute; it may be empty.
	ObjectStatus string
}

// Body is the event as the provider's webhook has it.
func (e Event) Body() ([]byte, error) {
	type metadata struct {
		PaymentID uuid.UUID `json:"payment_id"`
	}
	type object struct {
		Status   string   `json:"status,omitempty"`
		Metadata metadata `json:"metadata"`
	}
	type data struct {
		Object object `json:"object"`
	}
	body, err := json.Marshal(struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Type    string `json:"type"`
		Created int64  `json:"created"` // Unix seconds
		Data    data   `json:"data"`
	}{e.ID, "event", e.Type, e.Created.Unix(), data{object{e.ObjectStatus, metadata{e.PaymentID}}}})
	if err != nil {
		return nil, fmt.Errorf("encoding the event %s: %w", e.ID, err)
	}
	return body, nil
}
