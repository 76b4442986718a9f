package dispatch

import (
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
)

// Result is a step's journal entry: what a person looks for in Restate's UI, and all that the handler needs to
// schedule what follows. No body, URL, secret or answer is in it.
type Result struct {
	Deliveries []Line `json:"deliveries"`
}

// Line is one delivery of a step.
type Line struct {
	EventID    uuid.UUID      `json:"event_id"`
	EndpointID uuid.UUID      `json:"endpoint_id"`
	Generation int64          `json:"generation,omitempty"`
	Epoch      int64          `json:"epoch"`
	Number     int            `json:"attempt"`
	State      delivery.State `json:"state"`
	Cause      delivery.Cause `json:"cause"`
	StatusCode int            `json:"status_code,omitempty"`
	LatencyMS  int64          `json:"latency_ms"`
	Next       int            `json:"next_attempt,omitempty"`
	RetryInMS  int64          `json:"retry_in_ms,omitempty"`
	Attempted  bool           `json:"attempted,omitempty"`
	// Unrecorded marks an outcome that the ledger has not taken yet; BodySHA256 is only kept for those.
	Unrecorded bool   `json:"unrecorded,omitempty"`
	BodySHA256 []byte `json:"body_sha256,omitempty"`
}

// FollowUp is an delivery.AttemptList and when it is due.
type FollowUp struct {
	List  delivery.AttemptList
	Delay time.Duration
}

// FollowUps returns the attempts to schedule, in lists of at most delivery.MaxTickets. It is a function of the journaled
// result alone, so a replay sends the same.
func (r Result) FollowUps() []FollowUp {
	type due struct {
		endpoint uuid.UUID
		number   int
		delayMS  int64
	}
	var out []FollowUp
	at := map[due]int{} // index of the list that is being filled
	for _, line := range r.Deliveries {
		if line.State != delivery.Retrying {
			continue
		}
		key := due{line.EndpointID, line.Next, line.RetryInMS}
		i, found := at[key]
		if !found || len(out[i].List.Tickets) == delivery.MaxTickets {
			i = len(out)
			at[key] = i
			out = append(out, FollowUp{
				List:  delivery.AttemptList{EndpointID: key.endpoint, Number: key.number},
				Delay: time.Duration(key.delayMS) * time.Millisecond,
			})
		}
		out[i].List.Tickets = append(out[i].List.Tickets,
			delivery.Ticket{EventID: line.EventID, Generation: line.Generation, Epoch: line.Epoch})
	}
	return out
}

// Unrecorded reports whether a record step is needed.
func (r Result) Unrecorded() bool {
	for _, line := range r.Deliveries {
		if line.Unrecorded {
			return true
		}
	}
	return false
}

func (r Result) unrecorded() []delivery.Outcome {
	var out []delivery.Outcome
	for _, line := range r.Deliveries {
		if line.Unrecorded {
			out = append(out, delivery.Outcome{
				Key:   delivery.Key{EventID: line.EventID, EndpointID: line.EndpointID, Generation: line.Generation},
				Epoch: line.Epoch, Number: line.Number, State: line.State, Cause: line.Cause, Attempted: line.Attempted,
				StatusCode: line.StatusCode, Latency: time.Duration(line.LatencyMS) * time.Millisecond,
				Next: line.Next, RetryIn: time.Duration(line.RetryInMS) * time.Millisecond, BodySHA256: line.BodySHA256,
			})
		}
	}
	return out
}

func lineOf(o delivery.Outcome, recorded bool) Line {
	line := Line{
		EventID: o.EventID, EndpointID: o.EndpointID, Generation: o.Generation, Epoch: o.Epoch, Number: o.Number,
		State: o.State, Cause: o.Cause, StatusCode: o.StatusCode, LatencyMS: o.Latency.Milliseconds(),
		Next: o.Next, RetryInMS: o.RetryIn.Milliseconds(), Attempted: o.Attempted, Unrecorded: !recorded,
	}
	if !recorded {
		line.BodySHA256 = o.BodySHA256
	}
	return line
}
