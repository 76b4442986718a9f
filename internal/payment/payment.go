// Package payment says what a payment is: its fields and their limits, its statuses and the moves between
// them. It knows nothing of HTTP or SQL.
package payment

import (
	"encoding/json"
	"time"

	"github.com/google/uuid"
)

// Limits of what a payment may hold.
const (
	// MaxAmount is 2^53 - 1 minor units: beyond it JSON readers that count in doubles round.
	MaxAmount = 1<<53 - 1
	// MaxMetadataBytes bounds the metadata as the database writes it out.
	MaxMetadataBytes = 16 << 10
	// MaxMerchantIDLength is in characters.
	MaxMerchantIDLength = 64
)

// Defaults of what a client may leave out.
const (
	DefaultMerchantID = "joes-tshirt-shop"
	DefaultStatus     = StatusSucceeded
)

// Payment is a payment as payments-api answers it, and as events and webhooks carry it.
type Payment struct {
	ID         uuid.UUID       `json:"id"`
	MerchantID string          `json:"merchant_id"`
	Amount     int64           `json:"amount"` // minor units of Currency: cents for USD, yen for JPY
	Currency   string          `json:"currency"`
	Status     Status          `json:"status"`
	Version    int64           `json:"version"` // 1 at first; rises by one with each event
	Metadata   json.RawMessage `json:"metadata"`
	CreatedAt  time.Time       `json:"created_at"`
	UpdatedAt  time.Time       `json:"updated_at"`
}

// Draft is a payment that is not stored yet; the database adds version and times.
type Draft struct {
	ID         uuid.UUID
	MerchantID string
	Amount     int64 // minor units
	Currency   string
	Status     Status
	Metadata   json.RawMessage // a JSON object
}

// Origin says which request a write comes from.
type Origin struct {
	// Traceparent is the request's W3C trace context, handed on with the event; empty where there is none.
	Traceparent string
	// IdempotencyKey makes the write happen once however often it is asked for; empty means no such promise.
	IdempotencyKey string
	// RequestHash tells a repeated request from another one under the same key. Set only with a key.
	RequestHash [32]byte
}

// Answer is what a write is answered with.
type Answer struct {
	// ID is the payment's; empty for an event that is not about one.
	ID string
	// Document is the answer's JSON, the same bytes at every repetition of a request with a key.
	Document json.RawMessage
	// Replayed says that nothing was written now: an earlier request with the same key was answered so.
	Replayed bool
}

// ValidMerchantID reports whether id is 1 to 64 letters, digits, dots, dashes and underscores.
func ValidMerchantID(id string) bool {
	if id == "" || len(id) > MaxMerchantIDLength {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '.', c == '-':
		default:
			return false
		}
	}
	return true
}
