package drain_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/drain"
)

// ledger is one endpoint's backlog; what was taken is under way until a test says otherwise.
type ledger struct {
	delivery.Backlog
	waiting int            // how many are parked
	took    map[string]int // by whom, and not sent yet
	err     error
	probed  int
	closed  int
	notes   []delivery.Drain
	noteErr error
}

// books has the methods, as the ledger embeds a field of one's name.
type books struct{ *ledger }

func (b books) Backlog(_ context.Context, owner string, _ uuid.UUID) (delivery.Backlog, error) {
	out := b.ledger.Backlog
	out.Parked, out.Took = b.waiting > 0, b.took[owner] > 0
	return out, b.err
}

func (b books) TakeParked(_ context.Context, owner string, _ uuid.UUID, limit int) ([]delivery.Overdue, error) {
	n := min(max(0, limit-b.took[owner]), b.waiting)
	b.take(owner, n)
	return make([]delivery.Overdue, b.took[owner]), nil
}

// take notes what an owner has taken; each turn has another one, but for those of a test that repeats them.
func (b books) take(owner string, n int) {
	b.waiting -= n
	b.Open += n
	if b.took == nil {
		b.took = map[string]int{}
	}
	b.took[owner] += n
}

func (b books) TakeProbe(_ context.Context, owner string, _ uuid.UUID, _ time.Duration) ([]delivery.Overdue, error) {
	b.probed++
	b.take(owner, 1)
	b.Circuit, b.ProbeIn = delivery.CircuitHalfOpen, 15*time.Second
	return make([]delivery.Overdue, 1), nil
}

func (b books) CloseIdleCircuit(context.Context, uuid.UUID) (bool, error) {
	b.closed++
	b.Circuit = delivery.CircuitClosed
	return true, nil
}

func (b books) NoteDrain(_ context.Context, d delivery.Drain) error {
	b.notes = append(b.notes, d)
	return b.noteErr
}

func newDrainer(l *ledger) func(ramp drain.Ramp) drain.Turn {
	d := drain.New(books{l}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	return func(ramp drain.Ramp) drain.Turn {
		return d.Turn(context.Background(), uuid.NewString(), uuid.New(), ramp)
	}
}

func tickets(turn drain.Turn) int {
	n := 0
	for _, list := range turn.Lists {
		n += len(list.Tickets)
	}
	return n
}

func TestTheRampDoublesWhileTheEndpointKeepsUp(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 1000}
	turn := newDrainer(l)
	var sizes []int
	var ramp drain.Ramp
	for l.waiting > 0 {
		result := turn(ramp)
		require.Equal(t, drain.Tick, result.Next)
		for _, list := range result.Lists {
			require.True(t, list.Backlog)
			require.False(t, list.Probe)
			require.LessOrEqual(t, len(list.Tickets), delivery.MaxTickets)
		}
		sizes, ramp = append(sizes, tickets(result)), result.Ramp
		l.Open = 0 // all have ended by the next tick
	}
	require.Equal(t, []int{8, 16, 32, 64, 128, 256, 256, 240}, sizes)
	require.Positive(t, ramp.PerSecond)

	// Nothing is left: it lingers once, and ends.
	last := turn(ramp)
	require.Empty(t, last.Lists)
	require.Positive(t, last.Next)
	last = turn(last.Ramp)
	require.Zero(t, last.Next)
	require.Zero(t, l.notes[len(l.notes)-1].Next, "and the ledger knows")
}

func TestTheRampHoldsWhileTheEndpointDoesNotKeepUp(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 1000}
	turn := newDrainer(l)
	ramp := turn(drain.Ramp{}).Ramp
	l.Open = 5 // of eight
	result := turn(ramp)
	require.Equal(t, 3, tickets(result), "only what there is room for")
	result = turn(result.Ramp)
	require.Zero(t, tickets(result))
	l.Open = 1000 // it hangs
	require.Zero(t, tickets(turn(result.Ramp)))
}

func TestTheRampIsHalvedWhereThereWasNoRoom(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 1000}
	turn := newDrainer(l)
	result := turn(drain.Ramp{AtOnce: 64, Taken: 64, Full: true, At: time.Now().Add(-time.Second)})
	require.Equal(t, 32, tickets(result))
	require.False(t, result.Ramp.Full)

	// What is heard now is about what was taken before.
	l.Open = 0
	ramp := result.Ramp
	ramp.Full = true
	result = turn(ramp)
	require.Equal(t, 32, result.Ramp.AtOnce)
	require.Equal(t, 1, tickets(result))

	// From now on it feels its way.
	l.Open = 0
	ramp = result.Ramp
	ramp.Ended = 31
	require.Equal(t, 36, turn(ramp).Ramp.AtOnce)

	l.Open = 0
	require.Equal(t, 1, tickets(turn(drain.Ramp{AtOnce: 1, Full: true})), "but never to nothing")
}

func TestTheRampRisesAtAnEndpointThatIsWellAndSlow(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 1000}
	turn := newDrainer(l)
	ramp := turn(drain.Ramp{}).Ramp
	for range 8 { // it answers after two seconds
		result := turn(ramp)
		require.Zero(t, tickets(result))
		ramp = result.Ramp
	}
	l.Open = 0
	result := turn(ramp)
	require.Equal(t, 16, tickets(result), "it has done with what it was given")
	ramp = result.Ramp
	l.Open = 8 // now they end at different times
	result = turn(ramp)
	require.Equal(t, 8, tickets(result))
	l.Open = 8
	require.Equal(t, 32, turn(result.Ramp).Ramp.AtOnce)
}

// Interleaving: the process dies after its turn has taken something. Until the second execution everything may have changed.
func TestASecondExecutionSendsWhatTheFirstOneTook(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(l *ledger){
		"nothing has changed":             func(*ledger) {},
		"nothing is left":                 func(l *ledger) { l.waiting = 0 },
		"as many as may be are under way": func(l *ledger) { l.Open = drain.Most },
		"the circuit has opened":          func(l *ledger) { l.Circuit, l.ProbeIn = delivery.CircuitOpen, time.Minute },
		"the endpoint is disabled":        func(l *ledger) { l.Fit = false },
		"the endpoint is gone":            func(l *ledger) { l.Gone, l.Fit = true, false },
	} {
		l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 100}
		d := drain.New(books{l}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		first := d.Turn(t.Context(), "owner", uuid.New(), drain.Ramp{})
		change(l)
		waiting := l.waiting
		second := d.Turn(t.Context(), "owner", uuid.New(), drain.Ramp{})
		require.Equal(t, first.Lists, second.Lists, name)
		require.Equal(t, waiting, l.waiting, name)
		require.Positive(t, second.Next, name)
	}
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitOpen, ProbeIn: -1}, waiting: 100}
	d := drain.New(books{l}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	first := d.Turn(t.Context(), "owner", uuid.New(), drain.Ramp{})
	require.True(t, first.Lists[0].Probe)
	require.Equal(t, first.Lists, d.Turn(t.Context(), "owner", uuid.New(), drain.Ramp{}).Lists, "the probe, too")
	require.Equal(t, 1, l.probed)
}

func TestNoMoreIsTakenThanARateLimitLetsThroughInASecond(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, RateLimit: 5}, waiting: 1000}
	turn := newDrainer(l)
	result := turn(drain.Ramp{})
	require.Equal(t, 5, tickets(result))
	require.Equal(t, 5, result.RateLimit, "they go to the pacer")
	require.Zero(t, tickets(turn(result.Ramp)), "they have their slots ahead of them")
	l.Open = 0
	require.Equal(t, 5, tickets(turn(result.Ramp)))
}

func TestAnOpenCircuitIsProbedByOneDeliveryWhenItIsDue(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitOpen, ProbeIn: time.Minute}, waiting: 10}
	turn := newDrainer(l)
	result := turn(drain.Ramp{AtOnce: 128, PerSecond: 100})
	require.Empty(t, result.Lists)
	require.Equal(t, time.Minute, result.Next)
	require.Zero(t, result.Ramp.AtOnce, "it begins small again")
	require.Zero(t, result.Ramp.PerSecond)

	l.ProbeIn = -time.Millisecond
	result = turn(result.Ramp)
	require.Equal(t, 1, tickets(result))
	require.True(t, result.Lists[0].Probe)
	require.Equal(t, 1, l.probed)

	result = turn(result.Ramp)
	require.Empty(t, result.Lists, "one probe at a time")
	require.Equal(t, 5*time.Second, result.Next, "it may have ended, and nobody been able to say so")

	l.ProbeIn = 0 // it was lost
	require.Equal(t, 1, tickets(turn(result.Ramp)))
	require.Equal(t, 2, l.probed)

	l.waiting, l.ProbeIn = 0, 0
	result = turn(drain.Ramp{})
	require.Equal(t, 1, l.closed, "nothing to probe with: whatever comes next is as good")
	require.Positive(t, result.Next, "what was being parked meanwhile is there then")
}

func TestWhatIsNotFitOrGoneIsLeftOrEnded(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Circuit: delivery.CircuitClosed}, waiting: 300}
	turn := newDrainer(l)
	result := turn(drain.Ramp{AtOnce: 64})
	require.Empty(t, result.Lists)
	require.Zero(t, result.Next)
	l.Gone = true
	require.Equal(t, drain.Most, tickets(turn(drain.Ramp{})), "without a ramp: nothing is sent")
}

func TestALedgerThatIsAwayIsAskedAgainSoon(t *testing.T) {
	t.Parallel()
	l := &ledger{err: errors.New("away"), noteErr: errors.New("away")}
	turn := newDrainer(l)
	ramp := drain.Ramp{AtOnce: 32}
	result := turn(ramp)
	require.Equal(t, ramp, result.Ramp)
	require.Positive(t, result.Next)
	require.Empty(t, l.notes)

	l.err, l.Backlog, l.waiting = nil, delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, 3
	require.Equal(t, 3, tickets(turn(drain.Ramp{})), "what was taken is sent, whether it can be shown or not")
}

func TestTheLedgerIsToldAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 1000}
	turn := newDrainer(l)
	var ramp drain.Ramp
	for range 10 {
		ramp = turn(ramp).Ramp
	}
	require.Len(t, l.notes, 1)
}

// The property: whatever the endpoint does, no more of the backlog is under way than the ramp says, the ramp never leaves its
// bounds, and an endpoint that keeps up gets everything.
func TestTheRampKeepsToItsBounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: rapid.IntRange(1, 3000).Draw(t, "parked")}
		turn := newDrainer(l)
		var ramp drain.Ramp
		for range rapid.IntRange(0, 40).Draw(t, "turns") {
			before := l.Open
			result := turn(ramp)
			ramp = result.Ramp
			if n := tickets(result); n > 0 {
				require.LessOrEqual(t, before+n, ramp.AtOnce)
			}
			require.LessOrEqual(t, ramp.AtOnce, drain.Most)
			ended := rapid.IntRange(0, l.Open).Draw(t, "ended")
			back := rapid.IntRange(0, ended).Draw(t, "found no room")
			l.Open, l.waiting = l.Open-ended, l.waiting+back
			ramp.Full = back > 0
		}
		for range 3000 { // and now it keeps up
			l.Open = 0
			result := turn(ramp)
			if ramp = result.Ramp; result.Next == 0 {
				break
			}
		}
		require.Zero(t, l.waiting)
	})
}

// request is one of the backlog at a shop, from when it was taken until it ends.
type request struct{ taken, ends time.Time }

// shop answers each request after latency, has room for so many at once, and a queue: who waits there for a second is parked
// again.
type shop struct {
	latency time.Duration
	room    int
	all     []request // those with room, and then those that wait
}

func (s *shop) work(l *ledger) (full bool) {
	now := time.Now()
	open := s.all[:0]
	for _, r := range s.all {
		switch {
		case r.ends.IsZero() && now.Sub(r.taken) >= time.Second:
			l.Open, l.waiting, full = l.Open-1, l.waiting+1, true
		case !r.ends.IsZero() && !r.ends.After(now):
			l.Open--
		default:
			open = append(open, r)
		}
	}
	s.all = open
	for i := range s.all {
		if i < s.room && s.all[i].ends.IsZero() {
			s.all[i].ends = now.Add(s.latency)
		}
	}
	return full
}

// The property: at a circuit that is closed a backlog ends, in a time that the endpoint's room and latency bound; be it that
// what comes there beside it finds no room all the time.
func TestEveryBacklogAtAClosedCircuitEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		parked := rapid.IntRange(1, 300).Draw(rt, "parked")
		s := &shop{
			latency: time.Duration(rapid.IntRange(1, 5000).Draw(rt, "latency in ms")) * time.Millisecond,
			room:    rapid.IntRange(1, 64).Draw(rt, "room"),
		}
		crowded := rapid.IntRange(0, 3).Draw(rt, "crowded") == 0
		rounds := float64(parked) / float64(s.room)
		if crowded {
			rounds = float64(parked)
		}
		bound := time.Minute + time.Duration(3*rounds*float64(s.latency+2*drain.Tick))
		took := bound
		synctest.Test(t, func(*testing.T) { took = s.drain(parked, crowded, bound) })
		require.Less(rt, took, bound)
	})
}

// drain is how long it takes to drain so many, at most bound.
func (s *shop) drain(parked int, crowded bool, bound time.Duration) time.Duration {
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: parked}
	turn := newDrainer(l)
	var ramp drain.Ramp
	begun, at := time.Now(), time.Now()
	for l.waiting+l.Open > 0 && time.Since(begun) < bound {
		if full := s.work(l); full || crowded {
			ramp.Full = true
		}
		if !time.Now().Before(at) {
			result := turn(ramp)
			for range tickets(result) {
				s.all = append(s.all, request{taken: time.Now()})
			}
			ramp, at = result.Ramp, time.Now().Add(result.Next)
		}
		<-time.After(50 * time.Millisecond)
	}
	return time.Since(begun)
}

func TestTheRateOfADrainIsThatOfWhatIsTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed}, waiting: 10_000}
		turn := newDrainer(l)
		s := &shop{latency: 2 * time.Second, room: 100}
		ramp := drain.Ramp{AtOnce: 16, Tight: true, Ended: -1 << 20} // that stays so
		for i := range 200 {
			s.work(l)
			result := turn(ramp)
			for range tickets(result) {
				s.all = append(s.all, request{taken: time.Now()})
			}
			ramp = result.Ramp
			if i >= 40 {
				require.InDelta(t, 8, ramp.PerSecond, 2, "16 in two seconds, however they come")
			}
			<-time.After(result.Next)
		}
	})
}

// Svix has no row, and is there nevertheless.
func TestWhatIsParkedAtSvixIsSentAsToAnyEndpoint(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Gone: true, Circuit: delivery.CircuitClosed}, waiting: 1000}
	d := drain.New(books{l}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	turn := d.Turn(t.Context(), "owner", delivery.SvixEndpoint, drain.Ramp{})
	require.Equal(t, drain.First, tickets(turn))
	require.Equal(t, drain.First, turn.Ramp.AtOnce)
}
