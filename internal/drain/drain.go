// Package drain decides what becomes of the deliveries that are parked at an endpoint: which of them probes a circuit that is
// open, and how many at once follow when it is closed again. It knows nothing of Restate: the package restate makes one
// drainer of each endpoint out of it, that has one turn after the other.
package drain

import (
	"context"
	"log/slog"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
)

const (
	// Tick is the time between two turns while there is something to take.
	Tick = 250 * time.Millisecond
	// probeTick is the time between two looks at a circuit whose probe is under way. Whoever changes the circuit wakes the
	// drainer: a look finds what nobody could say.
	probeTick = 5 * time.Second
	// linger is how long a drainer stays that has nothing to do: what was being parked when it looked is there then.
	linger = 2 * time.Second
	// again is the wait after a turn that the ledger did not take.
	again = 2 * time.Second
	// probePatience is what a probe has beside its endpoint's time-out: it waits its turn in Restate, and how it ended is
	// written down after that.
	probePatience = 5 * time.Second
	// First is how many deliveries a drain begins with: few, as the endpoint has just answered one.
	First = 8
	// Most bounds how many are taken in one tick: a thousand a second, of one endpoint.
	Most = 256
	// calm is the time between two halvings: what is found to have had no room waited a second for it, so that what is heard
	// until then is about what was taken before.
	calm = 1500 * time.Millisecond
	// lately is what PerSecond is a mean of.
	lately = 10 * time.Second
	// noteEvery bounds how often the ledger is told how it goes.
	noteEvery = time.Second
)

type ledger interface {
	Backlog(ctx context.Context, owner string, endpointID uuid.UUID) (delivery.Backlog, error)
	TakeParked(ctx context.Context, owner string, endpointID uuid.UUID, limit int) ([]delivery.Overdue, error)
	TakeProbe(ctx context.Context, owner string, endpointID uuid.UUID, patience time.Duration) ([]delivery.Overdue, error)
	CloseIdleCircuit(ctx context.Context, endpointID uuid.UUID) (bool, error)
	NoteDrain(ctx context.Context, d delivery.Drain) error
}

// Drainer takes turns of drainers. It is safe for concurrent use; of one endpoint there should be one turn at a time.
type Drainer struct {
	ledger ledger
	log    *slog.Logger
	taken  *prometheus.CounterVec
}

// New makes a Drainer. Its metrics are added to the registry.
func New(l ledger, log *slog.Logger, registry prometheus.Registerer) *Drainer {
	d := &Drainer{ledger: l, log: log, taken: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hookline_drained_total", Help: "Parked deliveries that were taken to be attempted, by what for.",
	}, []string{"as"})}
	d.taken.WithLabelValues(asBacklog)
	d.taken.WithLabelValues(asProbe)
	registry.MustRegister(d.taken)
	return d
}

// Values of the label as.
const (
	asBacklog = "backlog"
	asProbe   = "probe"
)

// Ramp is what a drainer remembers from one turn to the next. The zero value is for the first.
type Ramp struct {
	// AtOnce is how many deliveries may be under way that were parked.
	AtOnce int `json:"at_once,omitempty"`
	// Ended is how many of them have ended since AtOnce has been that many.
	Ended int `json:"ended,omitempty"`
	// Full says that deliveries have found no room since the last turn, and Tight that some have since the drain began, so that
	// AtOnce was halved, the last time at HalvedAt.
	Full     bool      `json:"full,omitempty"`
	Tight    bool      `json:"tight,omitempty"`
	HalvedAt time.Time `json:"halved_at,omitzero"`
	// Idle says that the last turn found nothing to do.
	Idle bool `json:"idle,omitempty"`
	// Open and Taken are those of the last turn, at At.
	Open  int       `json:"open,omitempty"`
	Taken int       `json:"taken,omitempty"`
	At    time.Time `json:"at,omitzero"`
	// PerSecond is how many were taken in a second, in the mean of as long as Lasted says.
	PerSecond float64       `json:"per_second,omitempty"`
	Lasted    time.Duration `json:"lasted_ns,omitempty"`
	NotedAt   time.Time     `json:"noted_at,omitzero"`
}

// Turn is what a turn did and what follows: the journal's entry.
type Turn struct {
	At    time.Time              `json:"at"`
	Lists []delivery.AttemptList `json:"lists,omitempty"`
	// Next is the wait for the next turn; 0 ends the drain.
	Next time.Duration `json:"next_ns,omitempty"`
	Ramp Ramp          `json:"ramp,omitzero"`
	// RateLimit is the endpoint's: with one the lists go to its pacer.
	RateLimit int `json:"rate_limit,omitempty"`
	// Circuit is the endpoint's, for who reads the journal.
	Circuit delivery.Circuit `json:"circuit,omitempty"`
}

// Turn takes what may be attempted now. owner names the execution: a second one of that name takes what the first one took.
// It has no error: with a ledger that is away the next turn is soon, and what it may have taken nevertheless is overdue, and
// the reconciler's.
func (d *Drainer) Turn(ctx context.Context, owner string, endpointID uuid.UUID, ramp Ramp) Turn {
	turn := Turn{At: time.Now(), Ramp: ramp}
	if err := d.turn(ctx, owner, endpointID, &turn); err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "a drain waits for the ledger", slog.String("endpoint_id", endpointID.String()), logging.Error(err))
		return Turn{At: turn.At, Next: again, Ramp: ramp}
	}
	if turn.Next == 0 || turn.Next > noteEvery || turn.At.Sub(turn.Ramp.NotedAt) >= noteEvery {
		turn.Ramp.NotedAt = turn.At
		note := delivery.Drain{EndpointID: endpointID, Next: turn.Next, AtOnce: turn.Ramp.AtOnce, PerSecond: turn.Ramp.PerSecond}
		if err := d.ledger.NoteDrain(ctx, note); err != nil { // it is for display; what was taken must be sent
			d.log.LogAttrs(ctx, slog.LevelWarn, "how a drain goes is not in the ledger", slog.String("endpoint_id", endpointID.String()), logging.Error(err))
		}
	}
	return turn
}

func (d *Drainer) turn(ctx context.Context, owner string, id uuid.UUID, turn *Turn) error {
	backlog, err := d.ledger.Backlog(ctx, owner, id)
	if err != nil {
		return err
	}
	if id == delivery.SvixEndpoint { // it has no row, and is there: what is parked is to be handed over, not to end
		backlog.Gone, backlog.Fit = false, true
	}
	turn.Circuit, turn.RateLimit = backlog.Circuit, backlog.RateLimit
	spared := Ramp{NotedAt: turn.Ramp.NotedAt} // the ramp begins anew when the endpoint is back
	switch {
	case backlog.Took:
		return d.retake(ctx, owner, id, backlog, turn)
	case !backlog.Gone && !backlog.Fit:
		turn.Ramp = spared
		return nil // who makes it fit wakes the drainer, or the reconciler does
	case backlog.Circuit != delivery.CircuitClosed && backlog.ProbeIn > 0:
		turn.Ramp, turn.Next = spared, backlog.ProbeIn
		if backlog.Circuit == delivery.CircuitHalfOpen {
			turn.Next = min(turn.Next, probeTick)
		}
		return nil
	case backlog.Circuit != delivery.CircuitClosed && backlog.Parked:
		probe, err := d.ledger.TakeProbe(ctx, owner, id, probePatience)
		if err != nil {
			return err
		}
		d.taken.WithLabelValues(asProbe).Add(float64(len(probe)))
		turn.Ramp, turn.Next = spared, probeTick
		turn.send(probe, true)
		return nil
	case backlog.Circuit != delivery.CircuitClosed:
		if _, err := d.ledger.CloseIdleCircuit(ctx, id); err != nil {
			return err
		}
		turn.Ramp, turn.Next = spared, linger
		return nil
	case !backlog.Parked:
		if !turn.Ramp.Idle {
			turn.Next = linger
		}
		turn.Ramp.Idle = true
		return nil
	}
	take := Most
	if backlog.Gone {
		turn.Ramp = spared // its deliveries end without a request
	} else {
		most := Most
		if backlog.RateLimit > 0 {
			most = min(most, backlog.RateLimit) // a second's slots: what comes now waits for no more than those
		}
		turn.Ramp, take = turn.Ramp.after(backlog.Open, most, turn.At)
	}
	turn.Next = Tick
	if take == 0 {
		return nil
	}
	taken, err := d.ledger.TakeParked(ctx, owner, id, take)
	if err != nil {
		return err
	}
	d.taken.WithLabelValues(asBacklog).Add(float64(len(taken)))
	turn.Ramp.Taken = len(taken)
	turn.send(taken, false)
	return nil
}

// retake is the turn of an execution that is not the first: whatever there is now, what the first one took must be sent.
func (d *Drainer) retake(ctx context.Context, owner string, id uuid.UUID, backlog delivery.Backlog, turn *Turn) error {
	taken, err := d.ledger.TakeParked(ctx, owner, id, 0)
	if err != nil {
		return err
	}
	turn.Next = Tick
	// Nobody but a drainer makes a circuit half-open, and it does so with what it takes.
	turn.send(taken, backlog.Circuit == delivery.CircuitHalfOpen)
	return nil
}

func (t *Turn) send(taken []delivery.Overdue, probe bool) {
	t.Lists = delivery.AttemptLists(taken)
	for i := range t.Lists {
		t.Lists[i].Probe, t.Lists[i].Backlog = probe, !probe
	}
}

// after is the ramp of a turn that finds so many of the backlog under way, and how many it takes. When the endpoint has done
// with as many as it was given at once, however long it took, it gets twice as many. Where there was no room it gets half, and
// from then on the number rises by eighths. As what hangs counts until it ends, the backlog does not pile up upon an endpoint
// that hangs; and whatever comes there beside it, it is never left standing.
func (r Ramp) after(open, most int, now time.Time) (Ramp, int) {
	next := r
	next.Full, next.Idle, next.Open, next.Taken, next.At = false, false, open, 0, now
	if since := now.Sub(r.At); !r.At.IsZero() && since > 0 {
		next.Lasted = min(r.Lasted+since, max(lately, since))
		next.PerSecond += (float64(r.Taken)/since.Seconds() - r.PerSecond) * since.Seconds() / next.Lasted.Seconds()
	}
	next.Ended += max(0, r.Open+r.Taken-open)
	take := Most
	switch {
	case r.AtOnce == 0:
		next.AtOnce = First
	case r.Full && now.Sub(r.HalvedAt) < calm:
		next.Ended, take = 0, 1
	case r.Full:
		next.AtOnce, next.Ended, next.Tight, next.HalvedAt = max(1, r.AtOnce/2), 0, true, now
	case next.Ended >= r.AtOnce && r.Tight:
		next.AtOnce, next.Ended = r.AtOnce+max(1, r.AtOnce/8), 0
	case next.Ended >= r.AtOnce:
		next.AtOnce, next.Ended = 2*r.AtOnce, 0
	}
	next.AtOnce = min(next.AtOnce, most)
	return next, max(0, min(take, next.AtOnce-open))
}
