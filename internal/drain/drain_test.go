package drain_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
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
	err      error
	probed   int
	closed   int
	notes    []delivery.Drain
	noteErr  error
	lastTake int
}

// books has the methods, as the ledger embeds a field of one's name.
type books struct{ *ledger }

func (b books) Backlog(context.Context, uuid.UUID) (delivery.Backlog, error) {
	return b.ledger.Backlog, b.err
}

func (b books) TakeParked(_ context.Context, _ string, _ uuid.UUID, limit int) ([]delivery.Overdue, error) {
	b.lastTake = min(limit, b.Parked)
	b.Parked -= b.lastTake
	b.Open += b.lastTake
	return make([]delivery.Overdue, b.lastTake), nil
}

func (b books) TakeProbe(context.Context, string, uuid.UUID, time.Duration) ([]delivery.Overdue, error) {
	b.probed++
	b.Parked--
	b.Open++
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
	return func(ramp drain.Ramp) drain.Turn { return d.Turn(context.Background(), "owner", uuid.New(), ramp) }
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
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: 1000}}
	turn := newDrainer(l)
	var sizes []int
	var ramp drain.Ramp
	for l.Parked > 0 {
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
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: 1000}}
	turn := newDrainer(l)
	ramp := turn(drain.Ramp{}).Ramp
	l.Open = 5 // of eight
	result := turn(ramp)
	require.Equal(t, 3, tickets(result), "only what there is room for")
	result = turn(result.Ramp)
	require.Zero(t, tickets(result))
	l.Open = 1000 // it hangs, and live traffic with it
	require.Zero(t, tickets(turn(result.Ramp)))
}

func TestTheRampIsHalvedWhereThereWasNoRoom(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: 1000}}
	turn := newDrainer(l)
	result := turn(drain.Ramp{AtOnce: 64, Taken: 64, Full: true, At: time.Now().Add(-time.Second)})
	require.Equal(t, 32, tickets(result))
	require.False(t, result.Ramp.Full)
	l.Open = 0
	require.Equal(t, 1, tickets(turn(drain.Ramp{AtOnce: 1, Full: true})), "but never to nothing")
}

func TestNoMoreIsTakenThanARateLimitLetsThroughInASecond(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: 1000, RateLimit: 5}}
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
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitOpen, ProbeIn: time.Minute, Parked: 10}}
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
	require.LessOrEqual(t, result.Next, time.Second, "its outcome may come at any moment")

	l.ProbeIn = 0 // it was lost
	require.Equal(t, 1, tickets(turn(result.Ramp)))
	require.Equal(t, 2, l.probed)

	l.Parked, l.ProbeIn = 0, 0
	result = turn(drain.Ramp{})
	require.Equal(t, 1, l.closed, "nothing to probe with: whatever comes next is as good")
	require.Positive(t, result.Next, "what was being parked meanwhile is there then")
}

func TestWhatIsNotFitOrGoneIsLeftOrEnded(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Circuit: delivery.CircuitClosed, Parked: 300}}
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

	l.err, l.Backlog = nil, delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: 3}
	require.Equal(t, 3, tickets(turn(drain.Ramp{})), "what was taken is sent, whether it can be shown or not")
}

func TestTheLedgerIsToldAtMostOnceASecond(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: 1000}}
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
		l := &ledger{Backlog: delivery.Backlog{Fit: true, Circuit: delivery.CircuitClosed, Parked: rapid.IntRange(1, 3000).Draw(t, "parked")}}
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
			l.Open, l.Parked = l.Open-ended, l.Parked+back
			ramp.Full = back > 0
		}
		for range 3000 { // and now it keeps up
			l.Open = 0
			result := turn(ramp)
			if ramp = result.Ramp; result.Next == 0 {
				break
			}
		}
		require.Zero(t, l.Parked)
	})
}

// Svix has no row, and is there nevertheless.
func TestWhatIsParkedAtSvixIsSentAsToAnyEndpoint(t *testing.T) {
	t.Parallel()
	l := &ledger{Backlog: delivery.Backlog{Gone: true, Circuit: delivery.CircuitClosed, Parked: 1000}}
	d := drain.New(books{l}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	turn := d.Turn(t.Context(), "owner", delivery.SvixEndpoint, drain.Ramp{})
	require.Equal(t, drain.First, tickets(turn))
	require.Equal(t, drain.First, turn.Ramp.AtOnce)
}
