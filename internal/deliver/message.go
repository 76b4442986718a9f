// Package deliver makes one attempt: it renders the webhook, signs it with the time of the attempt, posts it
// and says how that ended. First attempts, retries and replays all go through it.
package deliver

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/event"
)

// MaxBodyBytes bounds a webhook's body. Standard Webhooks advises under 20 kB; what is above a megabyte no
// merchant's server takes by default.
const MaxBodyBytes = 1 << 20

// Message is the body of an event's webhook, the same for every endpoint that gets it in this attempt.
type Message struct {
	EventID uuid.UUID
	Body    []byte
	Hash    [sha256.Size]byte
}

// Render makes the body. event_id, snapshot and object_version never change; payment is as of now, and carries
// its own version. The payload must be visible.
func Render(p event.Payload) (Message, error) {
	eventType, err := json.Marshal(p.Type) // Go's own quoting is not JSON's: a type can be any text
	if err != nil {
		return Message{}, fmt.Errorf("encoding the event type: %w", err)
	}
	body := make([]byte, 0, 192+len(p.Payment)+len(p.Snapshot))
	body = fmt.Appendf(body, `{"event_id":"%s","event_type":%s,"object_version":%d,"occurred_at":"%s"`,
		p.EventID, eventType, p.ObjectVersion, p.OccurredAt)
	if len(p.Payment) > 0 {
		body = append(body, `,"payment":`...)
		body = append(body, p.Payment...)
	}
	body = append(body, `,"snapshot":`...)
	body = append(body, p.Snapshot...)
	body = append(body, '}')
	if len(body) > MaxBodyBytes {
		return Message{}, fmt.Errorf("the body has %d bytes, more than %d", len(body), MaxBodyBytes)
	}
	return Message{EventID: p.EventID, Body: body, Hash: sha256.Sum256(body)}, nil
}
