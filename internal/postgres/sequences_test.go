package postgres_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
)

func (b books) ordered(t *testing.T, merchant string, eventTypes ...string) uuid.UUID {
	t.Helper()
	return endpointtest.Add(t, b.all, merchant, func(s *endpoint.Spec) {
		s.EventTypes, s.Ordering = eventTypes, endpoint.PerObject
	})
}

// version is an event of the object.
func version(merchant, object string, n int64, eventType string) event.Ref {
	ref := newRef(merchant)
	ref.ObjectID, ref.ObjectVersion, ref.Type = object, n, eventType
	return ref
}

func versions(merchant, object string, n int64) []event.Ref {
	var out []event.Ref
	for v := range n {
		out = append(out, version(merchant, object, v+1, "payment.succeeded"))
	}
	return out
}

func sequence(endpointID uuid.UUID, ref event.Ref) delivery.Sequence {
	return delivery.Sequence{EndpointID: endpointID, ObjectType: ref.ObjectType, ObjectID: ref.ObjectID}
}

func (b books) plan(t *testing.T, owner string, refs ...event.Ref) ([]delivery.Claim, delivery.Planned) {
	t.Helper()
	claims, planned, err := b.Plan(t.Context(), owner, route, refs)
	require.NoError(t, err)
	return claims, planned
}

func (b books) release(t *testing.T, owner string, s delivery.Sequence) []delivery.Overdue {
	t.Helper()
	released, err := b.Release(t.Context(), owner, s)
	require.NoError(t, err)
	return released
}

func (b books) awaited(t *testing.T, ask ...delivery.Sequence) []delivery.Sequence {
	t.Helper()
	awaited, err := b.Awaited(t.Context(), ask)
	require.NoError(t, err)
	return awaited
}

// planned is what a Plan returned that ran beside a test.
type planned struct {
	claims []delivery.Claim
	delivery.Planned
	err error
}

// planBehind starts to plan the event, behind somebody who has its plan half done: its snapshot is taken, and its commit is to
// come, when the function is called that it returns.
func (b books) planBehind(t *testing.T, owner string, ref event.Ref) func() planned {
	t.Helper()
	ctx := t.Context()
	tx, err := b.all.Begin(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { _ = tx.Rollback(context.WithoutCancel(ctx)) })
	_, err = tx.Exec(ctx, `
insert into delivery.plans (event_id, txid, event_type, object_type, object_id, object_version, merchant_id, route, planned_by)
values ($1, 7, $2, $3, $4, $5, $6, 'inhouse', 'somebody')`, [16]byte(ref.ID), ref.Type, ref.ObjectType, ref.ObjectID, ref.ObjectVersion, ref.MerchantID)
	require.NoError(t, err)
	done := make(chan planned, 1)
	go func() {
		claims, p, err := b.Plan(ctx, owner, route, []event.Ref{ref})
		done <- planned{claims, p, err}
	}()
	require.Eventually(t, func() bool {
		return b.count(t, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") == 1
	}, 10*time.Second, 5*time.Millisecond)
	return func() planned {
		require.NoError(t, tx.Rollback(ctx))
		p := <-done
		require.NoError(t, p.err)
		return p
	}
}

func TestAnEndThatSeesNobodyWaitIsFollowedByTheWakeOfWhoeverIsBeingPlanned(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 2)
	s := sequence(e, all[0])
	claims, _ := b.plan(t, "inv-1", all[0])
	commit := b.planBehind(t, "inv-2", all[1]) // it sees the first version open
	b.end(t, "inv-1", success(claims[0]))
	require.Empty(t, b.awaited(t, s), "the end wakes nobody")
	second := commit()
	require.Empty(t, second.claims)
	require.Equal(t, []delivery.Sequence{s}, second.Wake)
	require.Len(t, b.release(t, "w", s), 1)
}

func TestAnEndWakesWhoeverAskedInVainBeforeIt(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 2)
	s := sequence(e, all[0])
	claims, _ := b.plan(t, "inv-1", all...)
	require.Empty(t, b.release(t, "w", s), "the wake of the plan")
	b.end(t, "inv-1", success(claims[0]))
	require.Equal(t, []delivery.Sequence{s}, b.awaited(t, s))
	require.Len(t, b.release(t, "w", s), 1)
}

func TestAPlanThatTheFilterLeavesOutAsksAfterItsCommitWhoWaits(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m", "payment.succeeded")
	all := versions("m", "p", 2)
	all[0].Type = "payment.pending"
	s := sequence(e, all[0])
	commit := b.planBehind(t, "inv-1", all[0]) // its snapshot sees nobody wait
	_, second := b.plan(t, "inv-2", all[1])
	require.Equal(t, []delivery.Sequence{s}, second.Wake)
	require.Empty(t, b.release(t, "w", s), "the first version is missing")
	require.Equal(t, []delivery.Sequence{s}, b.awaited(t, commit().Ask...))
	require.Len(t, b.release(t, "w", s), 1)
}

func (b books) end(t *testing.T, owner string, o delivery.Outcome) {
	t.Helper()
	require.NoError(t, b.Record(t.Context(), owner, []delivery.Outcome{o}))
}

// claim takes what was released.
func (b books) claimReleased(t *testing.T, owner string, o delivery.Overdue) delivery.Claim {
	t.Helper()
	claims, _, err := b.Claim(t.Context(), owner, o.EndpointID, []delivery.Ticket{{EventID: o.EventID, Epoch: o.Epoch}})
	require.NoError(t, err)
	require.Len(t, claims, 1)
	return claims[0]
}

func TestLaterVersionsWaitAndGoOneAfterTheOther(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 3)
	s := sequence(e, all[0])

	claims, planned := b.plan(t, "inv-1", all...)
	require.Len(t, claims, 1, "the first one has nothing to wait for")
	require.Equal(t, all[0].ID, claims[0].EventID)
	require.Equal(t, []delivery.Sequence{s, s}, planned.Wake)
	require.Equal(t, row{State: "waiting", Epoch: 1}, b.row(t, delivery.Key{EventID: all[1].ID, EndpointID: e}))
	require.Empty(t, b.release(t, "w", s), "the first one has not ended")

	held := claims[0]
	for i, ref := range all[1:] {
		failed := failure(held)
		b.end(t, "inv-1", failed)
		require.Empty(t, b.release(t, "w", s), "a failure is no end")
		b.end(t, "inv-1", success(held))
		released := b.release(t, "w", s)
		require.Equal(t, []delivery.Overdue{{Key: delivery.Key{EventID: ref.ID, EndpointID: e}, Epoch: 2, Number: 1}}, released)
		require.Equal(t, row{State: "retrying", Epoch: 2, Due: true}, b.row(t, released[0].Key))
		require.Empty(t, b.release(t, "another", s), "it goes once")
		require.Equal(t, released, b.release(t, "w", s), "and again to who released it, until it is claimed")
		held = b.claimReleased(t, "inv-1", released[0])
		require.Empty(t, b.release(t, "w", s))
		require.Equal(t, int64(i+2), held.Event.MinVersion)
	}
	b.end(t, "inv-1", success(held))

	claims, planned = b.plan(t, "inv-2", version("m", "p", 4, "payment.refunded"))
	require.Len(t, claims, 1, "all before have ended: it need not wait")
	require.Empty(t, planned.Wake)
}

func TestAVersionThatARestoreGaveTwiceCountsOnceAndBothEndBeforeTheNext(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 4)
	lost, again := all[1], version("m", "p", 2, "payment.failed")
	s := sequence(e, lost)
	claims, _ := b.plan(t, "inv-1", all[0], lost)
	b.end(t, "inv-1", success(claims[0]))
	first := b.claimReleased(t, "inv-1", b.release(t, "w", s)[0])
	claims, _ = b.plan(t, "inv-2", again, all[2])
	require.Len(t, claims, 1, "version 1 has ended, which is all that the second version 2 waits for")
	require.Equal(t, again.ID, claims[0].EventID)
	b.end(t, "inv-2", success(claims[0]))
	require.Empty(t, b.release(t, "w", s), "the version 2 of before the restore is open")
	b.end(t, "inv-1", success(first))
	released := b.release(t, "w", s)
	require.Len(t, released, 1)
	require.Equal(t, all[2].ID, released[0].EventID)
	b.end(t, "inv-3", success(b.claimReleased(t, "inv-3", released[0])))
	claims, planned := b.plan(t, "inv-4", all[3])
	require.Len(t, claims, 1)
	require.Empty(t, planned.Wake)
}

func TestAVersionTwiceFillsNoGap(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.ordered(t, "m")
	claims, _ := b.plan(t, "inv-1", version("m", "p", 1, "payment.succeeded"), version("m", "p", 1, "payment.succeeded"))
	for _, claim := range claims {
		b.end(t, "inv-1", success(claim))
	}
	claims, _ = b.plan(t, "inv-2", version("m", "p", 3, "payment.succeeded"))
	require.Empty(t, claims, "version 2 is missing")
}

func TestADeadVersionHoldsUpNoLaterOne(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 2)
	claims, _ := b.plan(t, "inv-1", all...)
	dead := failure(claims[0])
	dead.State = delivery.Dead
	b.end(t, "inv-1", dead)
	require.Len(t, b.release(t, "w", sequence(e, all[0])), 1)
}

func TestAGapHoldsUpUntilItIsPlannedAlsoByAnEventThatTheFilterLeavesOut(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m", "payment.succeeded")
	all := b.ordered(t, "m")
	refs := versions("m", "p", 3)
	refs[1].Type = "payment.disputed"
	s := sequence(e, refs[0])

	claims, planned := b.plan(t, "inv-3", refs[2])
	require.Empty(t, claims)
	require.ElementsMatch(t, []delivery.Sequence{s, sequence(all, refs[0])}, planned.Wake)
	claims, _ = b.plan(t, "inv-1", refs[0])
	for _, claim := range claims {
		b.end(t, "inv-1", success(claim))
	}
	require.Empty(t, b.release(t, "w", s), "the second one is missing")

	claims, planned = b.plan(t, "inv-2", refs[1])
	require.Len(t, claims, 1)
	require.Equal(t, all, claims[0].EndpointID)
	require.Empty(t, planned.Wake, "it is nothing to wait for")
	require.ElementsMatch(t, []delivery.Sequence{s, sequence(all, refs[0])}, b.awaited(t, planned.Ask...), "it closed the gap of the first")
	released := b.release(t, "w", s)
	require.Len(t, released, 1)
	require.Equal(t, refs[2].ID, released[0].EventID)
	require.Empty(t, b.release(t, "w", sequence(all, refs[0])), "the second one is under way there")
}

func TestAFirstVersionThatTheFilterLeavesOutWakesToo(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m", "payment.succeeded")
	refs := versions("m", "p", 2)
	refs[0].Type = "payment.pending"
	b.plan(t, "inv-2", refs[1])
	_, planned := b.plan(t, "inv-1", refs[0])
	require.Equal(t, []delivery.Sequence{sequence(e, refs[0])}, b.awaited(t, planned.Ask...))
	require.Len(t, b.release(t, "w", sequence(e, refs[0])), 1)
	require.Empty(t, b.awaited(t, planned.Ask...))
}

func TestWhatWasPlannedBeforeAnEndpointHoldsItUpNoMore(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	refs := versions("m", "p", 3)
	b.plan(t, "inv-1", refs[0])
	e := b.ordered(t, "m")
	_, planned := b.plan(t, "inv-3", refs[2])
	require.Len(t, planned.Wake, 1)
	require.Empty(t, b.release(t, "w", planned.Wake[0]))
	claims, planned := b.plan(t, "inv-2", refs[1])
	require.Len(t, claims, 1, "the first was planned without the endpoint")
	require.Empty(t, planned.Wake)
	b.end(t, "inv-2", success(claims[0]))
	require.Len(t, b.release(t, "w", sequence(e, refs[0])), 1)
}

func TestSequencesKeepToTheirEndpointAndObject(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e, other := b.ordered(t, "m"), b.ordered(t, "m")
	claims, _ := b.plan(t, "inv-1", append(versions("m", "p", 2), versions("m", "q", 2)...)...)
	require.Len(t, claims, 4)
	alike := version("m", "p", 2, "payment.succeeded")
	alike.ObjectType = "invoice"
	b.plan(t, "inv-2", alike)
	for _, claim := range claims {
		if claim.EndpointID == e && claim.Object.ID == "p" {
			b.end(t, "inv-1", success(claim))
		}
	}
	waiting := []delivery.Sequence{
		{EndpointID: e, ObjectType: "payment", ObjectID: "p"}, {EndpointID: other, ObjectType: "payment", ObjectID: "p"},
	}
	require.ElementsMatch(t, waiting, b.awaited(t, delivery.Sequence{ObjectType: "payment", ObjectID: "p"}), "at every endpoint")
	require.Equal(t, waiting[:1], b.awaited(t, waiting[0], waiting[0]), "at this one, once")
	for _, s := range []delivery.Sequence{
		{EndpointID: other, ObjectType: "payment", ObjectID: "p"},
		{EndpointID: e, ObjectType: "payment", ObjectID: "q"},
		{EndpointID: e, ObjectType: "invoice", ObjectID: "p"},
	} {
		require.Empty(t, b.release(t, "w", s), "%+v", s)
	}
	require.Len(t, b.release(t, "w", delivery.Sequence{EndpointID: e, ObjectType: "payment", ObjectID: "p"}), 1)
}

func TestParallelEndpointsAndEventsOfTheirOwnWakeNobody(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.endpoint(t, "m")
	claims, planned := b.plan(t, "inv-1", versions("m", "p", 3)...)
	require.Len(t, claims, 3)
	require.Empty(t, planned.Wake)
	require.Empty(t, planned.Ask)

	b.ordered(t, "n", "payment.*")
	alone := newRef("n")
	alone.ObjectID, alone.Type = alone.ID.String(), "invoice.paid"
	_, planned = b.plan(t, "inv-2", alone)
	require.Empty(t, planned.Wake, "no other event can be of the object")
	require.Empty(t, planned.Ask)
}

func TestReplaysHaveNoPlaceInTheOrder(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 2)
	claims, _ := b.plan(t, "inv-1", all...)
	b.die(t, claims[0], delivery.CauseStatus)
	b.retry(t, all[0].ID)
	require.Len(t, b.release(t, "w", sequence(e, all[0])), 1, "it is the live delivery that was waited for")
}

func TestASecondExecutionWakesWhatTheFirstMayNotHaveWoken(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m", "payment.succeeded")
	all := versions("m", "p", 2)
	claims, _ := b.plan(t, "inv-1", all...)
	b.end(t, "inv-1", success(claims[0]))
	s := sequence(e, all[0])

	claims, settled, err := b.Resume(t.Context(), "inv-1", []uuid.UUID{all[0].ID, all[1].ID})
	require.NoError(t, err)
	require.Empty(t, claims)
	require.NotEmpty(t, settled)
	for _, each := range settled {
		require.Equal(t, []delivery.Sequence{s}, b.awaited(t, *each.Sequence))
	}
	_, settled, err = b.Resume(t.Context(), "inv-2", []uuid.UUID{all[0].ID, all[1].ID})
	require.NoError(t, err)
	require.Empty(t, settled, "another invocation has planned them")

	released := b.release(t, "w", s)
	held := b.claimReleased(t, "inv-3", released[0])
	b.end(t, "inv-3", success(held))
	claims, settled, err = b.Claim(t.Context(), "inv-4", e, []delivery.Ticket{{EventID: held.EventID, Epoch: released[0].Epoch}})
	require.NoError(t, err)
	require.Empty(t, claims)
	require.Equal(t, []delivery.Settled{{Key: held.Key, Sequence: &s}}, settled, "a watchdog finds that it has ended")
}

func TestWhatWaitsGoesAtOnceWhereTheEndpointWantsNoOrderOrIsGone(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 4)
	b.plan(t, "inv-1", all...)
	s := sequence(e, all[0])
	_, err := b.all.Exec(t.Context(), "update delivery.endpoints set ordering = 'parallel' where id = $1", [16]byte(e))
	require.NoError(t, err)
	overslept, _, err := b.Overslept(t.Context(), delivery.Key{}, 0, 100)
	require.NoError(t, err)
	require.Equal(t, []delivery.Sequence{s}, overslept)
	require.Len(t, b.release(t, "w", s), 3)

	// The other way the first ones are on their way already, and what comes waits for all of them.
	_, err = b.all.Exec(t.Context(), "update delivery.endpoints set ordering = 'object' where id = $1", [16]byte(e))
	require.NoError(t, err)
	b.plan(t, "inv-2", version("m", "p", 5, "payment.succeeded"))
	require.Equal(t, 1, b.count(t, "select count(*) from delivery.deliveries where state = 'waiting'"))
	require.Empty(t, b.release(t, "v", s))

	_, err = b.all.Exec(t.Context(), "delete from delivery.endpoints where id = $1", [16]byte(e))
	require.NoError(t, err)
	require.Len(t, b.release(t, "v", s), 1)
}

func TestOversleptFindsWhatIsInTurnForLongerThanTheGrace(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	e := b.ordered(t, "m")
	var want []delivery.Sequence
	for _, object := range []string{"a", "b", "c", "d", "e"} {
		refs := versions("m", object, 3)
		claims, _ := b.plan(t, "inv-1", refs...)
		if object > "c" {
			b.end(t, "inv-1", success(claims[0]))
			want = append(want, sequence(e, refs[0]))
		}
	}
	var got []delivery.Sequence
	var looks int
	for after := (delivery.Key{}); ; {
		found, next, err := b.Overslept(ctx, after, 0, 3)
		require.NoError(t, err)
		looks++
		got = append(got, found...)
		if after = next; after == (delivery.Key{}) {
			break
		}
	}
	require.ElementsMatch(t, want, got)
	require.Equal(t, 4, looks, "ten wait, three in a look")

	found, _, err := b.Overslept(ctx, delivery.Key{}, time.Hour, 100)
	require.NoError(t, err)
	require.Empty(t, found, "not for an hour")
	_, err = b.all.Exec(ctx, "update delivery.deliveries set planned_at = planned_at - interval '2 hours', ended_at = ended_at - interval '2 hours'")
	require.NoError(t, err)
	found, _, err = b.Overslept(ctx, delivery.Key{}, time.Hour, 100)
	require.NoError(t, err)
	require.Empty(t, found, "their predecessors were planned just now")
	_, err = b.all.Exec(ctx, "update delivery.plans set planned_at = planned_at - interval '2 hours'")
	require.NoError(t, err)
	found, _, err = b.Overslept(ctx, delivery.Key{}, time.Hour, 100)
	require.NoError(t, err)
	require.ElementsMatch(t, want, found)
}

func TestDroppingEndsWhatWaitsBehindTheParkedAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	e := b.ordered(t, "m")
	manager := endpointtest.NewManager(t, b.all)
	open := versions("m", "open", 2)
	claims, _ := b.plan(t, "inv-1", open...)
	b.end(t, "inv-1", failure(claims[0]))
	require.NoError(t, manager.Disable(ctx, e))
	parked := versions("m", "parked", 3)
	b.plan(t, "inv-1", parked...)

	dropped, err := manager.Enable(ctx, e, true)
	require.NoError(t, err)
	require.EqualValues(t, 3, dropped)
	for _, ref := range parked {
		require.Equal(t, "dead", b.row(t, delivery.Key{EventID: ref.ID, EndpointID: e}).State)
	}
	require.Equal(t, "waiting", b.row(t, delivery.Key{EventID: open[1].ID, EndpointID: e}).State, "the one before it is still tried")
	claims, planned := b.plan(t, "inv-2", version("m", "parked", 4, "payment.refunded"))
	require.Len(t, claims, 1, "all before have ended")
	require.Empty(t, planned.Wake)
}

func TestWhatWaitsAtARemovedEndpointEnds(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	e := b.ordered(t, "m")
	all := versions("m", "p", 3)
	b.plan(t, "inv-1", all...)
	ended, err := endpointtest.NewManager(t, b.all).Remove(t.Context(), e)
	require.NoError(t, err)
	require.EqualValues(t, 2, ended)
	require.Equal(t, 2, b.count(t, "select count(*) from delivery.deliveries where state = 'dead' and last_cause = 'endpoint_gone'"))
	require.Empty(t, b.release(t, "w", sequence(e, all[0])))
}

func TestWaitingForIsTheAgeOfTheOldest(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	age, err := b.WaitingFor(t.Context())
	require.NoError(t, err)
	require.Zero(t, age)
	b.ordered(t, "m")
	b.plan(t, "inv-1", versions("m", "p", 3)...)
	_, err = b.all.Exec(t.Context(), "update delivery.deliveries set planned_at = planned_at - interval '1 hour' where event_id = (select min(event_id::text)::uuid from delivery.deliveries where state = 'waiting')")
	require.NoError(t, err)
	age, err = b.WaitingFor(t.Context())
	require.NoError(t, err)
	require.InDelta(t, time.Hour.Seconds(), age.Seconds(), 60)
}
