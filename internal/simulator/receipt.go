package simulator

import (
	"time"
)

// Outcome says what became of a request.
type Outcome string

// The outcomes. Only Accepted is a received webhook; a repeated one is Accepted too.
const (
	Accepted         Outcome = "accepted"          // answered 2xx
	FailedOnPurpose  Outcome = "failed_on_purpose" // well signed, and failed because a Behaviour says so
	InvalidSignature Outcome = "invalid_signature" // not signed, badly signed, or signed too long ago
)

// Receipt is one request as the merchant saw it: a line of the receipts file.
type Receipt struct {
	// ID is webhook-id. Of a webhook by Svix it is the body's event_id, where it has one: the id in its headers is Svix's own,
	// and two messages of one event have two. Where the signature is invalid it is the headers' claim.
	ID      string  `json:"id"`
	SvixID  string  `json:"svix_id,omitempty"` // svix-id, where the webhook came by Svix
	Outcome Outcome `json:"outcome"`
	// Status is what was answered; 0 where nothing was, because the connection was dropped or hung.
	Status int `json:"status"`
	// ReceivedAt is the moment before the answer was written.
	ReceivedAt time.Time `json:"received_at"`
	Path       string    `json:"path"`
	BodySHA256 string    `json:"body_sha256"` // hex
	// Attempt is the sender's webhook-attempt header, where it sends one.
	Attempt       string `json:"attempt,omitempty"`
	EventType     string `json:"event_type,omitempty"`
	ObjectID      string `json:"object_id,omitempty"`
	ObjectVersion int64  `json:"object_version,omitempty"`
	// LatencyMS is from the body's occurred_at to ReceivedAt; absent where the body has none.
	LatencyMS *float64 `json:"latency_ms,omitempty"`
}
