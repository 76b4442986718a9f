package load

import (
	"time"

	"github.com/google/uuid"
)

// Event is a committed event, as the database has it.
type Event struct {
	ID        uuid.UUID
	ObjectID  string
	Type      string
	Committed time.Time
}

// Ack is what a merchant knows of one event: how often it answered 2xx, and when first.
type Ack struct {
	Times int
	First time.Time
}

// Account says what became of the events that were created.
type Account struct {
	Created    int
	Delivered  int // of Created: has a 2xx
	Lost       int // of Created: has none
	Duplicates int // of Created: has more than one
	Unexpected int // has a 2xx, and was not created here
	LostIDs    []uuid.UUID
	// CommitToAck is from the commit to the first 2xx, of each delivered event.
	CommitToAck []time.Duration
}

// AccountFor compares what was committed with what was acknowledged.
func AccountFor(events []Event, acks map[uuid.UUID]Ack) Account {
	a := Account{Created: len(events)}
	for _, event := range events {
		ack, ok := acks[event.ID]
		if !ok || ack.Times == 0 {
			a.LostIDs = append(a.LostIDs, event.ID)
			continue
		}
		a.Delivered++
		if ack.Times > 1 {
			a.Duplicates++
		}
		a.CommitToAck = append(a.CommitToAck, ack.First.Sub(event.Committed))
	}
	a.Lost = len(a.LostIDs)
	a.Unexpected = len(acks) - a.Delivered
	return a
}
