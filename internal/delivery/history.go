package delivery

import (
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// Filter says which deliveries somebody wants to see. A part that is zero wants all.
type Filter struct {
	EventID    uuid.UUID
	EndpointID uuid.UUID
	MerchantID string
	State      State
	// Since and Until bound the time of the event, to the millisecond; both are included.
	Since, Until time.Time
}

// EventRange are the least and the greatest id that an event of the filter can have. Ids are UUIDs of version 7: they begin
// with the millisecond, so that times bound a range of the ledger's primary key.
func (f Filter) EventRange() (uuid.UUID, uuid.UUID) {
	if f.EventID != uuid.Nil {
		return f.EventID, f.EventID
	}
	return EventRange(f.Since, f.Until)
}

// EventRange is the range of the ids of events of a time; a zero time does not bound it.
func EventRange(since, until time.Time) (uuid.UUID, uuid.UUID) {
	first, last := uuid.Nil, uuid.Max
	if !since.IsZero() {
		setMillis(&first, since)
	}
	if !until.IsZero() {
		setMillis(&last, until)
	}
	return first, last
}

func setMillis(id *uuid.UUID, at time.Time) {
	var ms [8]byte
	binary.BigEndian.PutUint64(ms[:], uint64(max(0, at.UnixMilli())))
	copy(id[:6], ms[2:])
}

// EventTime is when the event of the id was made.
func EventTime(id uuid.UUID) time.Time {
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:]))).UTC() //nolint:gosec // G115: 48 bits
}

// Standing is a delivery as the ledger keeps it.
type Standing struct {
	Key
	MerchantID string
	EventType  string
	State      State
	Attempts   int   // whose outcome is written
	Cause      Cause // the last; empty before the first
	Owner      string
	PlannedAt  time.Time
	// NextAttemptAt and EndedAt are zero where there is none.
	NextAttemptAt, EndedAt time.Time
}

// Made is an attempt as the ledger keeps it.
type Made struct {
	Key
	Epoch      int64
	Number     int
	At         time.Time // it began
	StatusCode int       // 0 without an answer
	Latency    time.Duration
	Cause      Cause
	Owner      string
	BodySHA256 []byte
	Answer     []byte // the first bytes
}

// Target is the endpoint of a delivery as people are shown it.
type Target struct {
	ID      uuid.UUID
	URL     string // without user info and query
	Enabled bool
	Reason  string // why it is disabled
}

// History is all that the ledger knows of an event.
type History struct {
	EventID       uuid.UUID
	EventType     string
	MerchantID    string
	ObjectType    string
	ObjectID      string
	ObjectVersion int64
	PlannedAt     time.Time
	Route         string
	PlannedBy     string
	Deliveries    []Standing           // by endpoint, then by generation
	Attempts      map[Key][]Made       // in their order
	Targets       map[uuid.UUID]Target // of the endpoints that are still there
}
