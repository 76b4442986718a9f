package redrive

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
)

// Selection says which dead deliveries are to be made again: those of an event, of an endpoint or of a merchant. It is kept
// with the replay, so that one that was cut short can be taken up.
type Selection struct {
	EventID    uuid.UUID `json:"event_id,omitzero"`
	EndpointID uuid.UUID `json:"endpoint_id,omitzero"`
	MerchantID string    `json:"merchant_id,omitempty"`
	// Since and Until bound the time of the event, as delivery.Filter's do.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Cause is the last one of the delivery; empty is any.
	Cause delivery.Cause `json:"cause,omitempty"`
	// EvenSucceeded takes what a generation of it has succeeded already: the merchant gets the event once more.
	EvenSucceeded bool `json:"even_succeeded,omitempty"`
}

// Replay is a generation of deliveries that somebody asked for.
type Replay struct {
	ID          int64 // theirs as their generation; 0 before the first of them
	RequestedBy string
	Selection   Selection
	Deliveries  int // made so far
	At          time.Time
}

// Verdict says what becomes of a delivery that a selection names.
type Verdict string

// The verdicts.
const (
	Send         Verdict = "send"
	Park         Verdict = "park"          // its endpoint is disabled: sent when it is enabled
	EndpointGone Verdict = "endpoint_gone" // there is nowhere to send it
	HasSucceeded Verdict = "succeeded"     // in this or an earlier generation
	UnderWay     Verdict = "under_way"     // a generation of it has not ended
	OtherCause   Verdict = "other_cause"   // than the selection's
	Taken        Verdict = "taken"         // by this replay before, or by a later one
)

// Judgement is a delivery that a selection names, and what becomes of it. Its generation is the new one.
type Judgement struct {
	delivery.Key
	Verdict Verdict
}

// Chunk is as much of a selection as is made at once.
type Chunk struct {
	EndpointID uuid.UUID // of a selection without an event
	After      uuid.UUID // the last event of the chunk before
	Limit      int       // of events
}

// replays keeps replays and makes their deliveries.
type replays interface {
	Replay(ctx context.Context, id int64) (Replay, error)
	// DeadEndpoints are those with dead deliveries of the merchant.
	DeadEndpoints(ctx context.Context, merchantID string) ([]uuid.UUID, error)
	HasEndpoint(ctx context.Context, id uuid.UUID) (bool, error)
	// Judge says what Retry would do now.
	Judge(ctx context.Context, replay Replay, chunk Chunk) ([]Judgement, error)
	// Retry makes a new generation of those deliveries of the chunk that may have one, and the replay with the first of
	// them; it returns the replay as it is then. Nobody else's replay takes the same delivery.
	Retry(ctx context.Context, replay Replay, chunk Chunk) (Replay, []Judgement, error)
}

// sender hands attempts over.
type sender interface {
	SendAttempt(ctx context.Context, list delivery.AttemptList) error
}

// Retrier makes dead deliveries again, as a new generation with the endpoint's whole schedule before it. What it was told
// to do and did not live to do can be taken up by the replay's id. It is safe for concurrent use.
type Retrier struct {
	replays replays
	sender  sender
}

// NewRetrier makes a Retrier. The sender is not used for what is only looked at.
func NewRetrier(r replays, s sender) *Retrier { return &Retrier{replays: r, sender: s} }

// Order is what a Retrier is to do.
type Order struct {
	// Replay with an ID is taken up; otherwise its selection and who requests it make a new one.
	Replay Replay
	// DryRun only looks.
	DryRun bool
	// Rate is how many deliveries are handed over in a second.
	Rate int
}

// Progress is what has become of an order so far.
type Progress struct {
	Replay   Replay
	Verdicts map[Verdict]int
	Handed   int // over to Restate
	// HandOver is why the rest is left to the reconciler, which finds what is made and not sent overdue.
	HandOver error
}

// Made is how many deliveries have a new generation, or would get one.
func (p Progress) Made() int { return p.Verdicts[Send] + p.Verdicts[Park] }

const (
	maxChunk = 1000
	// chunkTime is how long a chunk may take to be handed over: less than the reconciler's grace, which would otherwise
	// take over what still waits for its turn.
	chunkTime = 10 * time.Second
	// MaxRate bounds an order's.
	MaxRate = 10_000
)

// Retry carries out an order, and tells of each chunk when it is done with it. A fault.Invalid says what is wrong with the
// order, a fault.NotFound that its endpoint, or the replay, is not there. With any other error what is done stays done: the
// progress names the replay to take up.
func (r *Retrier) Retry(ctx context.Context, order Order, tell func([]Judgement, Progress)) (Progress, error) {
	progress := Progress{Replay: order.Replay, Verdicts: map[Verdict]int{}}
	if order.Rate < 1 || order.Rate > MaxRate {
		return progress, fault.New(fault.Invalid, "the rate is %d: want 1 to %d deliveries a second", order.Rate, MaxRate)
	}
	if order.Replay.ID != 0 {
		replay, err := r.replays.Replay(ctx, order.Replay.ID)
		if err != nil {
			return progress, err
		}
		progress.Replay = replay
	}
	selection := &progress.Replay.Selection
	if selection.Until.IsZero() { // or a replay that is taken up later would take in what nobody asked for
		selection.Until = time.Now().UTC()
	}
	endpoints, err := r.endpoints(ctx, *selection)
	if err != nil {
		return progress, err
	}
	pace := pacer{rate: order.Rate}
	for _, id := range endpoints {
		chunk := Chunk{EndpointID: id, Limit: min(maxChunk, order.Rate*int(chunkTime/time.Second))}
		for {
			var judged []Judgement
			if order.DryRun {
				judged, err = r.replays.Judge(ctx, progress.Replay, chunk)
			} else {
				progress.Replay, judged, err = r.replays.Retry(ctx, progress.Replay, chunk)
			}
			if err != nil {
				return progress, err
			}
			if len(judged) == 0 {
				break
			}
			for _, j := range judged {
				progress.Verdicts[j.Verdict]++
			}
			if !order.DryRun {
				if err := r.send(ctx, judged, &pace, &progress); err != nil {
					return progress, err
				}
			}
			tell(judged, progress)
			chunk.After = judged[len(judged)-1].EventID
			if selection.EventID != uuid.Nil {
				break // all of an event are one chunk
			}
		}
	}
	return progress, nil
}

// endpoints are those whose dead deliveries are walked, one after the other. An event is walked by itself.
func (r *Retrier) endpoints(ctx context.Context, s Selection) ([]uuid.UUID, error) {
	switch {
	case s.EndpointID != uuid.Nil:
		found, err := r.replays.HasEndpoint(ctx, s.EndpointID)
		if err != nil {
			return nil, err
		}
		if !found {
			return nil, fault.New(fault.NotFound, "there is no endpoint %s: it was removed, and there is nowhere to send to", s.EndpointID)
		}
		return []uuid.UUID{s.EndpointID}, nil
	case s.EventID != uuid.Nil:
		return []uuid.UUID{uuid.Nil}, nil
	case s.MerchantID != "":
		return r.replays.DeadEndpoints(ctx, s.MerchantID)
	default:
		return nil, fault.New(fault.Invalid, "want an event, an endpoint or a merchant")
	}
}

// send hands over what was made. The first failure is the last try: all of it is in the ledger, overdue, and waiting for an
// ingress that does not answer would only keep the rest from getting there.
func (r *Retrier) send(ctx context.Context, judged []Judgement, pace *pacer, progress *Progress) error {
	var due []delivery.Overdue
	for _, j := range judged {
		if j.Verdict == Send {
			due = append(due, delivery.Overdue{Key: j.Key, Epoch: 1, Number: 1})
		}
	}
	for len(due) > 0 && progress.HandOver == nil {
		n := min(len(due), pace.rate, delivery.MaxTickets)
		if err := pace.wait(ctx, n); err != nil {
			return err
		}
		for _, list := range delivery.AttemptLists(due[:n]) {
			list.Backlog = true // what comes now goes before them
			if err := r.sender.SendAttempt(ctx, list); err != nil {
				if ctx.Err() != nil {
					return err
				}
				progress.HandOver = err
				return nil
			}
			progress.Handed += len(list.Tickets)
		}
		due = due[n:]
	}
	return nil
}

// pacer lets through so many a second.
type pacer struct {
	rate int
	next time.Time
}

// wait returns when n more may go.
func (p *pacer) wait(ctx context.Context, n int) error {
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	timer := time.NewTimer(p.next.Sub(now))
	defer timer.Stop()
	p.next = p.next.Add(time.Duration(n) * time.Second / time.Duration(p.rate))
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
