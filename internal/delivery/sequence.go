package delivery

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/google/uuid"
)

// Sequence is the live deliveries of one object's events to one endpoint that wants them in order.
type Sequence struct {
	EndpointID uuid.UUID `json:"endpoint_id"`
	ObjectType string    `json:"object_type"`
	ObjectID   string    `json:"object_id"`
}

// Key names the sequence in one text: whatever a type or an id holds, no two have the same.
func (s Sequence) Key() string {
	return s.EndpointID.String() + "/" + url.PathEscape(s.ObjectType) + "/" + url.PathEscape(s.ObjectID)
}

// ParseSequence reads what Key made.
func ParseSequence(key string) (Sequence, error) {
	parts := strings.Split(key, "/")
	if len(parts) != 3 {
		return Sequence{}, fmt.Errorf("%q is not the key of a sequence", key)
	}
	var s Sequence
	var err error
	if s.EndpointID, err = uuid.Parse(parts[0]); err != nil {
		return Sequence{}, fmt.Errorf("reading a sequence's endpoint: %w", err)
	}
	if s.ObjectType, err = url.PathUnescape(parts[1]); err != nil {
		return Sequence{}, fmt.Errorf("reading a sequence's object type: %w", err)
	}
	if s.ObjectID, err = url.PathUnescape(parts[2]); err != nil {
		return Sequence{}, fmt.Errorf("reading a sequence's object id: %w", err)
	}
	return s, nil
}
