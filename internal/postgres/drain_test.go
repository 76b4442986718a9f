package postgres_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
)

// drain takes what the drainers of all endpoints would take that the reconciler wakes, at most limit of each.
func (b books) drain(t *testing.T, limit int) []delivery.Overdue {
	t.Helper()
	endpoints, err := b.Drainable(t.Context(), 100)
	require.NoError(t, err)
	var out []delivery.Overdue
	for _, id := range endpoints {
		taken, err := b.TakeParked(t.Context(), "drainer-"+uuid.NewString(), id, limit)
		require.NoError(t, err)
		out = append(out, taken...)
	}
	return out
}

func (b books) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := b.all.Exec(t.Context(), statement, args...)
	require.NoError(t, err)
}

// open makes the endpoint's circuit open, with the probe due in so many seconds, and returns when that was.
func (b books) open(t *testing.T, id uuid.UUID, seconds int) time.Time {
	t.Helper()
	b.exec(t, "update delivery.endpoints set circuit = 'open', circuit_opens = 1, circuit_changed_at = clock_timestamp(), probe_at = clock_timestamp() + $2 * interval '1 second' where id = $1",
		[16]byte(id), seconds)
	return b.endpointNow(t, id).CircuitSince
}

func (b books) endpointNow(t *testing.T, id uuid.UUID) delivery.Endpoint {
	t.Helper()
	endpoints, err := b.Endpoints(t.Context(), []uuid.UUID{id})
	require.NoError(t, err)
	require.Len(t, endpoints, 1)
	return endpoints[0]
}

func (b books) backlog(t *testing.T, id uuid.UUID) delivery.Backlog {
	t.Helper()
	backlog, err := b.Backlog(t.Context(), "drainer", id)
	require.NoError(t, err)
	return backlog
}

func TestACircuitChangesOnlyFromWhatWasJudged(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	before := b.endpointNow(t, id)
	require.Equal(t, delivery.CircuitClosed, before.Circuit)
	did, err := b.OpenCircuit(ctx, id, before.CircuitSince, time.Minute)
	require.NoError(t, err)
	require.True(t, did)
	opened := b.endpointNow(t, id)
	require.Equal(t, delivery.CircuitOpen, opened.Circuit)
	require.Equal(t, 1, opened.CircuitOpens)
	require.Greater(t, opened.Revision, before.Revision, "every cache sees it")
	require.True(t, opened.CircuitSince.After(before.CircuitSince))
	require.InDelta(t, 60, b.backlog(t, id).ProbeIn.Seconds(), 5)

	for _, since := range []time.Time{before.CircuitSince, opened.CircuitSince} {
		did, err = b.OpenCircuit(ctx, id, since, time.Hour)
		require.NoError(t, err)
		require.False(t, did, "another worker was first, or it is open")
	}
	did, err = b.CloseCircuit(ctx, id, opened.CircuitSince)
	require.NoError(t, err)
	require.False(t, did, "only a probe closes it")
	did, err = b.ForgetOpens(ctx, id, opened.CircuitSince)
	require.NoError(t, err)
	require.False(t, did)

	_, err = endpointtest.NewManager(t, b.all).Enable(ctx, id, false)
	require.NoError(t, err)
	enabled := b.endpointNow(t, id)
	require.Equal(t, delivery.CircuitClosed, enabled.Circuit, "who enables it says that it is well")
	require.Zero(t, enabled.CircuitOpens)
	did, err = b.OpenCircuit(ctx, id, opened.CircuitSince, time.Minute)
	require.NoError(t, err)
	require.False(t, did, "what was judged before is void")
}

func TestOneParkedDeliveryProbesAndAnotherWhenItIsLost(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	b.open(t, id, 60)
	planned := refs("m", 3)
	claims, _, err := b.Plan(ctx, "inv-1", route, planned)
	require.NoError(t, err)
	require.Empty(t, claims, "they are parked")
	take := func(owner string) []delivery.Overdue {
		t.Helper()
		taken, err := b.TakeProbe(ctx, owner, id, 5*time.Second)
		require.NoError(t, err)
		return taken
	}
	require.Empty(t, take("tick-1"), "it is not due")
	require.Empty(t, b.drain(t, 10), "nothing is taken otherwise")

	since := b.open(t, id, -1)
	due := b.backlog(t, id)
	require.Negative(t, due.ProbeIn)
	require.Equal(t, delivery.Backlog{Fit: true, Circuit: delivery.CircuitOpen, ProbeIn: due.ProbeIn, Parked: true}, due)
	endpoints, err := b.Drainable(ctx, 10)
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{id}, endpoints, "its drainer is gone")
	probe := take("tick-1")
	require.Len(t, probe, 1)
	require.Equal(t, planned[0].ID, probe[0].EventID, "the oldest")
	half := b.endpointNow(t, id)
	require.Equal(t, delivery.CircuitHalfOpen, half.Circuit)
	require.True(t, half.CircuitSince.After(since))
	require.InDelta(t, 15, b.backlog(t, id).ProbeIn.Seconds(), 3, "the time-out and what it has beside")
	require.True(t, b.backlog(t, id).Parked)
	require.Equal(t, 1, b.backlog(t, id).Open)

	// The process dies before it has sent the probe, and the execution is repeated.
	require.Equal(t, probe, take("tick-1"))
	require.Empty(t, take("tick-2"), "there is one under way, as far as anybody can tell")

	// The probe is lost; its deadline passes. The result of the first is void from then on.
	b.exec(t, "update delivery.endpoints set probe_at = clock_timestamp()")
	second := take("tick-3")
	require.Len(t, second, 1)
	require.Equal(t, planned[1].ID, second[0].EventID)
	did, err := b.CloseCircuit(ctx, id, half.CircuitSince)
	require.NoError(t, err)
	require.False(t, did)
	did, err = b.CloseCircuit(ctx, id, b.endpointNow(t, id).CircuitSince)
	require.NoError(t, err)
	require.True(t, did)
	closed := b.endpointNow(t, id)
	require.Equal(t, delivery.CircuitClosed, closed.Circuit)
	require.Equal(t, 1, closed.CircuitOpens, "until it has been well for a while")
	did, err = b.ForgetOpens(ctx, id, closed.CircuitSince)
	require.NoError(t, err)
	require.True(t, did)
}

func TestACircuitWithNothingToProbeWithCloses(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	closes := func() bool {
		t.Helper()
		did, err := b.CloseIdleCircuit(ctx, id)
		require.NoError(t, err)
		return did
	}
	b.open(t, id, 60)
	require.False(t, closes(), "it is not due")
	b.open(t, id, -1)
	_, _, err := b.Plan(ctx, "inv-1", route, refs("m", 1))
	require.NoError(t, err)
	require.False(t, closes(), "there is one")
	_, err = b.TakeProbe(ctx, "tick-1", id, time.Second)
	require.NoError(t, err)
	require.False(t, closes(), "it is under way")
	b.open(t, id, -1)
	require.True(t, closes())
	require.Equal(t, 1, b.endpointNow(t, id).CircuitOpens)
}

func TestTakenDeliveriesCountUntilTheyEndOrFail(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	b.open(t, id, 60)
	planned := refs("m", 4)
	_, _, err := b.Plan(ctx, "inv-1", route, planned)
	require.NoError(t, err)
	b.exec(t, "update delivery.endpoints set circuit = 'closed', probe_at = null")
	taken, err := b.TakeParked(ctx, "tick-1", id, 3)
	require.NoError(t, err)
	require.Len(t, taken, 3)
	again, err := b.TakeParked(ctx, "tick-1", id, 3)
	require.NoError(t, err)
	require.ElementsMatch(t, taken, again, "a second execution takes what the first one took")
	mine, err := b.Backlog(ctx, "tick-1", id)
	require.NoError(t, err)
	require.True(t, mine.Took)
	require.False(t, b.backlog(t, id).Took, "another one has taken nothing")
	require.Equal(t, 3, b.backlog(t, id).Open)
	require.True(t, b.backlog(t, id).Parked)

	var tickets []delivery.Ticket
	for _, each := range taken {
		tickets = append(tickets, delivery.Ticket{EventID: each.EventID, Epoch: each.Epoch})
	}
	claims, _, err := b.Claim(ctx, "inv-2", id, tickets)
	require.NoError(t, err)
	require.Len(t, claims, 3)
	require.Equal(t, 3, b.backlog(t, id).Open, "under way")
	hanging := failure(claims[2])
	hanging.Cause, hanging.Attempted, hanging.StatusCode, hanging.Next = delivery.CauseOpen, false, 0, hanging.Number
	require.NoError(t, b.Record(ctx, "inv-2", []delivery.Outcome{success(claims[0]), failure(claims[1]), hanging}))
	require.Equal(t, 1, b.backlog(t, id).Open, "what fails goes on with its schedule, what hangs is still under way")

	// Others hang, too, that were never parked: they are not the drainer's.
	live, _, err := b.Plan(ctx, "inv-3", route, refs("m", 5))
	require.NoError(t, err)
	require.Len(t, live, 5)
	outcomes := make([]delivery.Outcome, len(live))
	for i, claim := range live {
		outcomes[i] = hanging
		outcomes[i].Key, outcomes[i].Epoch = claim.Key, claim.Epoch
	}
	require.NoError(t, b.Record(ctx, "inv-3", outcomes))
	require.Equal(t, 1, b.backlog(t, id).Open)
	late := failure(claims[2])
	late.State = delivery.Unmoved
	require.NoError(t, b.Record(ctx, "inv-2", []delivery.Outcome{late}))
	require.Zero(t, b.backlog(t, id).Open, "its attempt has ended")
	again, err = b.TakeParked(ctx, "tick-1", id, 0)
	require.NoError(t, err)
	require.Empty(t, again, "nothing of it is the drainer's any more")
}

func TestADrainThatGoesOnIsLeftAlone(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	manager := endpointtest.NewManager(t, b.all)
	id := b.endpoint(t, "m")
	require.NoError(t, manager.Disable(ctx, id))
	_, _, err := b.Plan(ctx, "inv-1", route, refs("m", 1))
	require.NoError(t, err)
	_, err = manager.Enable(ctx, id, false)
	require.NoError(t, err)
	drainable := func() int {
		t.Helper()
		endpoints, err := b.Drainable(ctx, 10)
		require.NoError(t, err)
		return len(endpoints)
	}
	require.Equal(t, 1, drainable())
	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id, Next: time.Second, AtOnce: 8, PerSecond: 2.5}))
	require.Zero(t, drainable())
	b.exec(t, "update delivery.drains set next_at = clock_timestamp() - interval '11 seconds'")
	require.Equal(t, 1, drainable(), "its next turn has not come for long")
	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id, Next: time.Minute}))
	require.Equal(t, 1, drainable(), "it sleeps, and there is something to do")
	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id}))
	require.Equal(t, 1, drainable(), "it has ended")

	_, err = manager.Remove(ctx, id)
	require.NoError(t, err)
	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id}))
	require.Zero(t, b.count(t, "select count(*) from delivery.drains"), "nobody asks for it any more")
}
