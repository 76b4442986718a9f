// Package event says what travels through the pipeline: a pointer to a row of domain_events, and what
// data-service answers about it.
package event

import (
	"encoding/json"

	"github.com/google/uuid"
)

// Ref points to an event. It is all that Kafka, Restate and the ledger know of one: the payload stays in
// the database until the moment of an attempt. Its JSON names are the columns of domain_events.
type Ref struct {
	ID            uuid.UUID `json:"id"`
	TxID          int64     `json:"txid"` // the transaction that wrote the event: decides whether a missing row can still appear
	Type          string    `json:"event_type"`
	ObjectType    string    `json:"object_type"`
	ObjectID      string    `json:"object_id"`
	ObjectVersion int64     `json:"object_version"`
	MerchantID    string    `json:"merchant_id"`
	Traceparent   string    `json:"traceparent,omitempty"`
}

// PayloadRequest asks data-service for what an attempt sends.
type PayloadRequest struct {
	EventID uuid.UUID `json:"event_id"`
	TxID    int64     `json:"txid"`
	// MinVersion is the least version that the current object may have: the event's own.
	MinVersion int64 `json:"min_version"`
}

// Operational is an event of Hookline's own, about a merchant's endpoint, that is still to become one.
type Operational struct {
	ID         uuid.UUID // of its publication, not of the event: that is drawn when payments-api writes it
	MerchantID string
	Type       string
	Data       json.RawMessage
}

// Visibility says what data-service can tell about an event's row.
type Visibility string

// The visibilities.
const (
	Visible    Visibility = "visible"
	NotVisible Visibility = "not_visible" // the row, or the version asked for, can still appear: ask again
	Missing    Visibility = "missing"     // the row's transaction has ended, and there is no row: a phantom
)

// Payload is one answer of data-service. But for EventID and Visibility the fields are set only when the
// event is visible.
type Payload struct {
	EventID       uuid.UUID  `json:"event_id"`
	Visibility    Visibility `json:"visibility"`
	Type          string     `json:"event_type,omitempty"`
	ObjectVersion int64      `json:"object_version,omitempty"`
	OccurredAt    string     `json:"occurred_at,omitempty"` // RFC 3339, UTC, microseconds
	// Payment is the object as of now; absent for an event that is not about a payment.
	Payment json.RawMessage `json:"payment,omitempty"`
	// Snapshot is the object as the event left it. It never changes.
	Snapshot json.RawMessage `json:"snapshot,omitempty"`
}

// FeedPage is a page of data-service's event feed, in the order (txid, sequence).
type FeedPage struct {
	Events []Ref `json:"events"`
	// From is the cursor behind which the page begins.
	From string `json:"from"`
	// Next is the cursor for the next page. It stays the same where the page is empty.
	Next string `json:"next"`
	// Last is the cursor of the page's last event. Where the page reaches above Xmin it is ahead of Next: it walks
	// what is visible now, and must never be stored, as an event below it can still appear.
	Last string `json:"last"`
	// More says that the next page can be asked for at once.
	More bool `json:"more"`
	// Xmin is the oldest transaction that still ran when the page was read: everything below it is in the
	// feed, or never will be.
	Xmin int64 `json:"xmin"`
	// System and Timeline name the history that txids count in; they change with a failover or a restore.
	System   string `json:"system"`
	Timeline string `json:"timeline"`
}
