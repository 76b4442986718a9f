package dispatch

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
)

// Result is a step's journal entry: what a person looks for in Restate's UI, and all that the handler needs to
// schedule what follows. No body, URL, secret or answer is in it.
type Result struct {
	Deliveries []Line `json:"deliveries"`
	// Wake are the sequences in which something may be in turn now, each once.
	Wake []delivery.Sequence `json:"wake,omitempty"`
	// Drain names the endpoints whose drainer is to look: something was parked there, or a circuit changed.
	Drain []DrainWake `json:"drain,omitempty"`
}

// DrainWake is what the drainer of an endpoint is told.
type DrainWake struct {
	EndpointID uuid.UUID `json:"endpoint_id"`
	// Full says that deliveries found no room: whatever drains takes less at once.
	Full bool `json:"full,omitempty"`
}

// drain adds the drainers of endpoints to those that are to look: where the lines have parked what the endpoint takes again
// by itself, and of those whose circuit changed.
func (r *Result) drain(lines []Line, changed ...uuid.UUID) {
	wake := func(endpoint uuid.UUID, full bool) {
		i := slices.IndexFunc(r.Drain, func(w DrainWake) bool { return w.EndpointID == endpoint })
		if i < 0 {
			i = len(r.Drain)
			r.Drain = append(r.Drain, DrainWake{EndpointID: endpoint})
		}
		r.Drain[i].Full = r.Drain[i].Full || full
	}
	for _, line := range lines {
		if line.State == delivery.Parked && (line.Cause == delivery.CauseCircuitOpen || line.Cause == delivery.CauseBulkhead) {
			wake(line.EndpointID, line.Cause == delivery.CauseBulkhead)
		}
	}
	for _, endpoint := range changed {
		wake(endpoint, false)
	}
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
	LatencyMS  int64          `json:"latency_ms"`           // of one that was late for its slot, how long its connection took
	RateLimit  int            `json:"rate_limit,omitempty"` // of one that goes to its endpoint's pacer
	Backlog    bool           `json:"backlog,omitempty"`    // of one that goes there, as it is of its list
	Probe      bool           `json:"probe,omitempty"`      // the same
	Next       int            `json:"next_attempt,omitempty"`
	RetryInMS  int64          `json:"retry_in_ms,omitempty"`
	Attempted  bool           `json:"attempted,omitempty"`
	// Watched says that the process sends its watchdog, together with others.
	Watched bool `json:"watched,omitempty"`
	// Unrecorded marks an outcome that the ledger has not taken yet; BodySHA256 is only kept for those.
	Unrecorded bool   `json:"unrecorded,omitempty"`
	BodySHA256 []byte `json:"body_sha256,omitempty"`
}

func (l Line) key() delivery.Key {
	return delivery.Key{EventID: l.EventID, EndpointID: l.EndpointID, Generation: l.Generation}
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
		if line.State != delivery.Retrying || line.RateLimit > 0 || line.Watched {
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

// settle adds what was written down before, and returns the sequences in which something may wait for that.
func (r *Result) settle(settled []delivery.Settled) []delivery.Sequence {
	var ask []delivery.Sequence
	for _, s := range settled {
		if s.Sequence != nil {
			ask = append(ask, *s.Sequence)
			continue
		}
		r.Deliveries = append(r.Deliveries, Line{
			EventID: s.EventID, EndpointID: s.EndpointID, Generation: s.Generation, Epoch: s.Epoch, Number: s.Number - 1,
			State: delivery.Retrying, Cause: delivery.CauseRecorded, Next: s.Number, RetryInMS: s.RetryIn.Round(100 * time.Millisecond).Milliseconds(),
		})
	}
	return ask
}

// wake adds sequences to those that are to be woken.
func (r *Result) wake(sequences ...delivery.Sequence) {
	if len(sequences) == 0 {
		return
	}
	woken := make(map[delivery.Sequence]bool, len(r.Wake)+len(sequences))
	for _, s := range r.Wake {
		woken[s] = true
	}
	for _, s := range sequences {
		if !woken[s] {
			woken[s] = true
			r.Wake = append(r.Wake, s)
		}
	}
}

// wakeAwaited adds those of the sequences in which something waits. It is asked after the commit that may be waited for: what
// is planned too late to be seen here has been planned with that commit in sight, or wakes itself after it.
func (d *Dispatcher) wakeAwaited(ctx context.Context, r *Result, ask []delivery.Sequence) error {
	if len(ask) == 0 {
		return nil
	}
	awaited, err := d.ledger.Awaited(ctx, ask)
	if err != nil {
		return err
	}
	r.wake(awaited...)
	return nil
}

// wakeAfter adds the sequences of what has ended, by the lines, and is waited for: at endpoints that want an order, and of
// objects that have other events. What is not written down yet wakes in any case, as nobody can tell yet who will wait for it;
// and so does all where the ledger does not answer.
func (d *Dispatcher) wakeAfter(r *Result, lines []Line, claims []delivery.Claim, endpoints map[uuid.UUID]delivery.Endpoint) {
	sequences := map[delivery.Key]delivery.Sequence{}
	for _, claim := range claims {
		if s, ordered := sequenceOf(claim, endpoints[claim.EndpointID]); ordered {
			sequences[claim.Key] = s
		}
	}
	var ask, wake []delivery.Sequence
	for _, line := range lines {
		s, ordered := sequences[line.key()]
		switch {
		case !ordered || line.State != delivery.Succeeded && line.State != delivery.Dead:
		case line.Unrecorded:
			wake = append(wake, s)
		default:
			ask = append(ask, s)
		}
	}
	// Not the step's context: what was sent has ended even when Restate has given up on the step.
	ctx, cancel := context.WithTimeout(d.lifetime, ledgerPatience)
	defer cancel()
	if err := d.wakeAwaited(ctx, r, ask); err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "sequences are woken unasked", slog.Int("sequences", len(ask)), logging.Error(err))
		wake = append(wake, ask...)
	}
	r.wake(wake...)
}

// sequenceOf returns the sequence that the claim's delivery has its turn in; replays have none.
func sequenceOf(claim delivery.Claim, endpoint delivery.Endpoint) (delivery.Sequence, bool) {
	if !endpoint.Ordered || claim.Generation != 0 || claim.Object.Alone(claim.EventID) {
		return delivery.Sequence{}, false
	}
	return delivery.Sequence{EndpointID: claim.EndpointID, ObjectType: claim.Object.Type, ObjectID: claim.Object.ID}, true
}

// Pace returns what to ask the endpoints' pacers for, in lists of at most delivery.MaxTickets. It is a function of the
// journaled result alone, as FollowUps is.
func (r Result) Pace() []delivery.PaceRequest {
	type same struct {
		endpoint       uuid.UUID
		number         int
		backlog, probe bool
	}
	var out []delivery.PaceRequest
	at := map[same]int{} // index of the list that is being filled
	for _, line := range r.Deliveries {
		if line.RateLimit == 0 {
			continue
		}
		key := same{line.EndpointID, line.Next, line.Backlog, line.Probe}
		i, found := at[key]
		if !found || len(out[i].List.Tickets) == delivery.MaxTickets {
			i = len(out)
			at[key] = i
			list := delivery.AttemptList{EndpointID: key.endpoint, Number: key.number, Backlog: key.backlog, Probe: key.probe}
			out = append(out, delivery.PaceRequest{List: list, Rate: line.RateLimit})
		}
		out[i].LeadMS = max(out[i].LeadMS, line.LatencyMS)
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
				Key:   line.key(),
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
