package provider

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
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
	// ObjectStatus is the status of the object that the event is about, such as that of a dispute, or the payment status of a
	// checkout session; it may be empty.
	ObjectStatus string
}

// Body is the event as the provider's webhook has it.
func (e Event) Body() ([]byte, error) {
	type metadata struct {
		PaymentID uuid.UUID `json:"payment_id"`
	}
	type object struct {
		Object        string   `json:"object"`
		Status        string   `json:"status,omitempty"`
		PaymentStatus string   `json:"payment_status,omitempty"` // of a checkout session
		Refunded      bool     `json:"refunded,omitempty"`       // of a charge, as a whole
		Metadata      metadata `json:"metadata"`
	}
	type data struct {
		Object object `json:"object"`
	}
	about := object{Object: objectOf(e.Type), Status: e.ObjectStatus, Refunded: e.Type == "charge.refunded", Metadata: metadata{e.PaymentID}}
	if about.Object == "checkout.session" {
		about.Status, about.PaymentStatus = "complete", cmp.Or(e.ObjectStatus, "paid")
	}
	body, err := json.Marshal(struct {
		ID      string `json:"id"`
		Object  string `json:"object"`
		Type    string `json:"type"`
		Created int64  `json:"created"` // Unix seconds
		Data    data   `json:"data"`
	}{e.ID, "event", e.Type, e.Created.Unix(), data{about}})
	if err != nil {
		return nil, fmt.Errorf("encoding the event %s: %w", e.ID, err)
	}
	return body, nil
}

// objectOf names the kind of object that events of the type are about: "charge.dispute.closed" is about a dispute.
func objectOf(eventType string) string {
	kind := eventType[:max(0, strings.LastIndexByte(eventType, '.'))]
	if kind == "checkout.session" {
		return kind
	}
	return kind[strings.LastIndexByte(kind, '.')+1:]
}
