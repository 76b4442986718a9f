package postgres_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
)

// operator is the ledger as the command line uses it.
func (b books) operator() *postgres.Ledger {
	return postgres.NewLedger(b.all, postgres.LedgerOptions{})
}

// die ends a delivery as the last attempt of its schedule does.
func (b books) die(t *testing.T, c delivery.Claim, cause delivery.Cause) {
	t.Helper()
	o := failure(c)
	o.State, o.Cause, o.Next, o.RetryIn = delivery.Dead, cause, 0, 0
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{o}))
}

// planFor plans n events of a merchant whose endpoints are there, and returns the claims.
func (b books) planFor(t *testing.T, merchant string, n int) []delivery.Claim {
	t.Helper()
	claims, _, err := b.Plan(t.Context(), "inv", route, refs(merchant, n))
	require.NoError(t, err)
	return claims
}

// oneDead is a delivery that is out of attempts.
func (b books) oneDead(t *testing.T) delivery.Claim {
	t.Helper()
	c := b.planOne(t, "inv")
	b.die(t, c, delivery.CauseServerError)
	return c
}

func ofEvent(id uuid.UUID) redrive.Replay {
	return redrive.Replay{RequestedBy: "joe@shop", Selection: redrive.Selection{EventID: id}}
}

var wholeEvent = redrive.Chunk{Limit: 1}

// retry makes a new generation of the one delivery of an event, and returns its key.
func (b books) retry(t *testing.T, id uuid.UUID) delivery.Key {
	t.Helper()
	_, judged, err := b.operator().Retry(t.Context(), ofEvent(id), wholeEvent)
	require.NoError(t, err)
	require.Len(t, judged, 1)
	require.Equal(t, redrive.Send, judged[0].Verdict)
	return judged[0].Key
}

func (b books) verdict(t *testing.T, replay redrive.Replay, chunk redrive.Chunk) redrive.Verdict {
	t.Helper()
	before := b.count(t, "select count(*) from delivery.deliveries")
	judged, err := b.operator().Judge(t.Context(), replay, chunk)
	require.NoError(t, err)
	require.Len(t, judged, 1)
	require.Equal(t, before, b.count(t, "select count(*) from delivery.deliveries"), "who only looks makes nothing")
	return judged[0].Verdict
}

func (b books) claimOf(t *testing.T, owner string, key delivery.Key, epoch int64) []delivery.Claim {
	t.Helper()
	claims, _, err := b.Claim(t.Context(), owner, key.EndpointID, []delivery.Ticket{{EventID: key.EventID, Generation: key.Generation, Epoch: epoch}})
	require.NoError(t, err)
	return claims
}

func eventsOf(listed []delivery.Standing) []uuid.UUID {
	out := []uuid.UUID{}
	for _, s := range listed {
		out = append(out, s.EventID)
	}
	return out
}

func TestDeliveriesAreListedNewestFirstByEveryFilter(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	mine, other := b.endpoint(t, "m"), b.endpoint(t, "other")
	now := time.Now()
	var claims []delivery.Claim
	for i := range 6 {
		claims = append(claims, b.planAt(t, "m", now.Add(time.Duration(i-10)*time.Second)))
	}
	foreign := b.planAt(t, "other", now)
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{success(claims[0]), failure(claims[1])}))
	b.die(t, claims[2], delivery.CauseServerError)
	b.die(t, claims[3], delivery.CauseDNS)
	b.die(t, foreign, delivery.CauseDNS)
	parked := failure(claims[4])
	parked.State, parked.Attempted = delivery.Parked, false
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{parked}))

	id := func(of ...int) []uuid.UUID {
		out := []uuid.UUID{}
		for _, i := range of {
			if i == 9 {
				out = append(out, foreign.EventID)
				continue
			}
			out = append(out, claims[i].EventID)
		}
		return out
	}
	at := delivery.EventTime(claims[3].EventID)
	for name, c := range map[string]struct {
		filter delivery.Filter
		want   []uuid.UUID
	}{
		"all":                {delivery.Filter{}, id(9, 5, 4, 3, 2, 1, 0)},
		"merchant":           {delivery.Filter{MerchantID: "m"}, id(5, 4, 3, 2, 1, 0)},
		"endpoint":           {delivery.Filter{EndpointID: other}, id(9)},
		"event":              {delivery.Filter{EventID: claims[2].EventID}, id(2)},
		"event, not state":   {delivery.Filter{EventID: claims[2].EventID, State: delivery.Parked}, id()},
		"dead":               {delivery.Filter{State: delivery.Dead}, id(9, 3, 2)},
		"dead of a merchant": {delivery.Filter{State: delivery.Dead, MerchantID: "m"}, id(3, 2)},
		"dead at endpoint":   {delivery.Filter{State: delivery.Dead, EndpointID: other}, id(9)},
		"dead until":         {delivery.Filter{State: delivery.Dead, Until: at.Add(-time.Millisecond)}, id(2)},
		"dead elsewhere":     {delivery.Filter{State: delivery.Dead, EndpointID: uuid.New()}, id()},
		"parked":             {delivery.Filter{State: delivery.Parked, EndpointID: mine}, id(4)},
		"retrying":           {delivery.Filter{State: delivery.Retrying}, id(1)},
		"pending":            {delivery.Filter{State: delivery.Pending, MerchantID: "m"}, id(5)},
		"pending of another": {delivery.Filter{State: delivery.Pending, MerchantID: "other"}, id()},
		"succeeded":          {delivery.Filter{State: delivery.Succeeded}, id(0)},
		"since":              {delivery.Filter{Since: at, MerchantID: "m"}, id(5, 4, 3)},
		"until":              {delivery.Filter{Until: at}, id(3, 2, 1, 0)},
		"since and until":    {delivery.Filter{Since: at, Until: at}, id(3)},
	} {
		listed, beyond, err := b.Deliveries(t.Context(), c.filter, 50)
		require.NoError(t, err, name)
		require.Equal(t, uuid.Nil, beyond, name)
		require.Equal(t, c.want, eventsOf(listed), name)
	}
	listed, _, err := b.Deliveries(t.Context(), delivery.Filter{State: delivery.Dead}, 2)
	require.NoError(t, err)
	require.Equal(t, id(9, 3), eventsOf(listed), "the newest of all endpoints")
	listed, _, err = b.Deliveries(t.Context(), delivery.Filter{EventID: claims[1].EventID}, 1)
	require.NoError(t, err)
	require.Equal(t, "payment.succeeded", listed[0].EventType)
	require.Equal(t, 1, listed[0].Attempts)
	require.Equal(t, delivery.CauseStatus, listed[0].Cause)
	require.NotZero(t, listed[0].NextAttemptAt)
	require.Zero(t, listed[0].EndedAt)
}

func TestAListShowsTheLatestGeneration(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.oneDead(t)
	dead := delivery.Filter{State: delivery.Dead}
	one := func(f delivery.Filter) []delivery.Standing {
		listed, _, err := b.Deliveries(t.Context(), f, 10)
		require.NoError(t, err)
		return listed
	}
	require.Len(t, one(dead), 1)
	again := b.retry(t, c.EventID)
	require.Empty(t, one(dead), "it is under way")
	require.Equal(t, again, one(delivery.Filter{})[0].Key)
	require.Equal(t, again, one(delivery.Filter{State: delivery.Retrying})[0].Key)
	b.die(t, b.claimOf(t, "inv-2", again, 1)[0], delivery.CauseDNS)
	require.Equal(t, again, one(dead)[0].Key)
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{success(c)}), "a late 2xx of the first generation")
	require.Empty(t, one(dead), "the merchant has it")
}

func TestAListThatFindsNothingSaysWhereItGaveUp(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	_, err := b.all.Exec(t.Context(), `
		insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state, ended_at)
		select (lpad(to_hex(i), 12, '0') || '70008000000000000000')::uuid, '00000000-0000-4000-8000-000000000001', 1, 'm', 'succeeded', clock_timestamp()
		  from generate_series(1, 200001) i`)
	require.NoError(t, err)
	listed, beyond, err := b.Deliveries(t.Context(), delivery.Filter{MerchantID: "nobody"}, 10)
	require.NoError(t, err)
	require.Empty(t, listed)
	require.Equal(t, time.UnixMilli(1).UTC(), delivery.EventTime(beyond))
	_, beyond, err = b.Deliveries(t.Context(), delivery.Filter{MerchantID: "nobody", Since: time.UnixMilli(2)}, 10)
	require.NoError(t, err)
	require.Equal(t, uuid.Nil, beyond, "that is all")
	listed, beyond, err = b.Deliveries(t.Context(), delivery.Filter{MerchantID: "m"}, 10)
	require.NoError(t, err)
	require.Len(t, listed, 10)
	require.Equal(t, uuid.Nil, beyond)
}

func TestHistoryHasEveryGenerationAndAttempt(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.planOne(t, "inv-1")
	o := failure(c)
	o.BodySHA256, o.RetryIn = []byte("hash"), 0
	require.NoError(t, b.Record(t.Context(), "inv-1", []delivery.Outcome{o}))
	second := b.claimOf(t, "inv-2", c.Key, 1)[0]
	b.die(t, second, delivery.CauseTimeoutAnswer)
	again := b.retry(t, c.EventID)
	require.NoError(t, b.Record(t.Context(), "inv-3", []delivery.Outcome{success(b.claimOf(t, "inv-3", again, 1)[0])}))

	h, err := b.History(t.Context(), c.EventID, uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, "payment.succeeded", h.EventType)
	require.Equal(t, "inv-1", h.PlannedBy)
	require.Len(t, h.Deliveries, 2)
	require.Equal(t, c.Key, h.Deliveries[0].Key)
	require.Equal(t, delivery.Dead, h.Deliveries[0].State, "generation 0 is left as it was")
	require.Equal(t, again, h.Deliveries[1].Key)
	require.Equal(t, delivery.Succeeded, h.Deliveries[1].State)
	require.NotZero(t, h.Deliveries[1].EndedAt)
	live := h.Attempts[c.Key]
	require.Len(t, live, 2)
	require.Equal(t, []any{1, 503, "hash", "no", "inv-1", delivery.CauseStatus, 12 * time.Millisecond},
		[]any{live[0].Number, live[0].StatusCode, string(live[0].BodySHA256), string(live[0].Answer), live[0].Owner, live[0].Cause, live[0].Latency})
	require.Equal(t, 2, live[1].Number)
	require.Nil(t, live[1].BodySHA256)
	require.Len(t, h.Attempts[again], 1)
	require.Equal(t, 1, h.Attempts[again][0].Number, "its own schedule, from the start")
	require.Equal(t, "http://127.0.0.1:1/webhooks", h.Targets[c.EndpointID].URL)

	h, err = b.History(t.Context(), c.EventID, uuid.New())
	require.NoError(t, err)
	require.Empty(t, h.Deliveries)
	_, err = b.History(t.Context(), uuid.New(), uuid.Nil)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
}

func TestARetryIsAGenerationOfItsOwn(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.oneDead(t)
	before := b.row(t, c.Key)
	replay, judged, err := b.operator().Retry(t.Context(), ofEvent(c.EventID), wholeEvent)
	require.NoError(t, err)
	require.Equal(t, 1, replay.Deliveries)
	key := delivery.Key{EventID: c.EventID, EndpointID: c.EndpointID, Generation: replay.ID}
	require.Equal(t, []redrive.Judgement{{Key: key, Verdict: redrive.Send}}, judged)
	require.Equal(t, row{State: "retrying", Epoch: 1, Due: true}, b.row(t, key))
	require.Equal(t, before, b.row(t, c.Key), "the first generation is not touched")

	kept, err := b.operator().Replay(t.Context(), replay.ID)
	require.NoError(t, err)
	require.Equal(t, replay, kept)
	require.Equal(t, "joe@shop", kept.RequestedBy)
	_, err = b.operator().Replay(t.Context(), replay.ID+1)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))

	// Its ticket names the generation, and what is recorded goes there.
	require.Empty(t, b.claimOf(t, "inv-2", c.Key, c.Epoch))
	claims := b.claimOf(t, "inv-2", key, 1)
	require.Len(t, claims, 1)
	require.Equal(t, 1, claims[0].Number)
	require.Equal(t, c.Event, claims[0].Event, "the same event, at its version or later")
	require.NoError(t, b.Record(t.Context(), "inv-2", []delivery.Outcome{failure(claims[0])}))
	require.Equal(t, row{State: "retrying", Epoch: 2, Attempts: 1, Due: true}, b.row(t, key))
	require.Equal(t, before, b.row(t, c.Key))
	require.Empty(t, b.claimOf(t, "inv-3", key, 1), "the ticket is good once")
}

func TestOnlyWhatIsDeadIsRetried(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.planOne(t, "inv")
	require.Equal(t, redrive.UnderWay, b.verdict(t, ofEvent(c.EventID), wholeEvent))
	b.die(t, c, delivery.CauseDNS)
	require.Equal(t, redrive.Send, b.verdict(t, ofEvent(c.EventID), wholeEvent))
	again := b.retry(t, c.EventID)
	require.Equal(t, redrive.UnderWay, b.verdict(t, ofEvent(c.EventID), wholeEvent), "a generation of it is open")
	b.die(t, b.claimOf(t, "inv", again, 1)[0], delivery.CauseDNS)
	third := b.retry(t, c.EventID)
	require.Greater(t, third.Generation, again.Generation)
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{success(b.claimOf(t, "inv", third, 1)[0])}))
	require.Equal(t, redrive.HasSucceeded, b.verdict(t, ofEvent(c.EventID), wholeEvent))
	even := ofEvent(c.EventID)
	even.Selection.EvenSucceeded = true
	require.Equal(t, redrive.Send, b.verdict(t, even, wholeEvent))

	require.NoError(t, func() error {
		_, err := endpointtest.NewManager(t, b.all).Remove(t.Context(), c.EndpointID)
		return err
	}())
	require.Equal(t, redrive.EndpointGone, b.verdict(t, even, wholeEvent))
	replays := b.count(t, "select count(*) from delivery.replays")
	replay, judged, err := b.operator().Retry(t.Context(), even, wholeEvent)
	require.NoError(t, err)
	require.Len(t, judged, 1)
	require.Zero(t, replay.ID)
	require.Equal(t, replays, b.count(t, "select count(*) from delivery.replays"), "a replay of nothing is not kept")
}

// The interleaving: many retries of the same deliveries at once. The first makes the generation, the others find it open.
func TestRetriesAtOnceMakeOneGeneration(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	endpointID := b.endpoint(t, "m")
	for _, c := range b.planFor(t, "m", 20) {
		b.die(t, c, delivery.CauseDNS)
	}
	selection := redrive.Selection{EndpointID: endpointID}
	var wg sync.WaitGroup
	made := make(chan int, 8)
	fails := make(chan error, 8)
	for i := range 8 {
		wg.Go(func() {
			replay, _, err := b.operator().Retry(context.WithoutCancel(t.Context()), redrive.Replay{RequestedBy: fmt.Sprint(i), Selection: selection},
				redrive.Chunk{EndpointID: endpointID, Limit: 100})
			made <- replay.Deliveries
			fails <- err
		})
	}
	wg.Wait()
	close(made)
	sum := 0
	for n := range made {
		require.NoError(t, <-fails)
		sum += n
	}
	require.Equal(t, 20, sum)
	require.Equal(t, 20, b.count(t, "select count(*) from delivery.deliveries where generation > 0"))
	require.Equal(t, 1, b.count(t, "select count(*) from delivery.replays"))
}

// The interleaving, forced: the second retry begins before the first one has committed, and judges after it.
func TestARetryWaitsForTheOneBefore(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.oneDead(t)
	first, err := b.all.Begin(t.Context())
	require.NoError(t, err)
	defer first.Rollback(context.WithoutCancel(t.Context()))
	_, err = first.Exec(t.Context(), "select pg_advisory_xact_lock(3908215477160329)")
	require.NoError(t, err)
	type result struct {
		judged []redrive.Judgement
		err    error
	}
	second := make(chan result, 1)
	go func() {
		_, judged, err := b.operator().Retry(t.Context(), ofEvent(c.EventID), wholeEvent)
		second <- result{judged, err}
	}()
	require.Eventually(t, func() bool {
		var waiting bool
		err := b.all.QueryRow(t.Context(), `select exists (select from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock' and wait_event = 'advisory')`).Scan(&waiting)
		return err == nil && waiting
	}, 10*time.Second, 5*time.Millisecond)
	_, err = first.Exec(t.Context(), `with r as (insert into delivery.replays (requested_by, selection, deliveries) values ('joe', '{}', 1) returning id)
		insert into delivery.deliveries (event_id, endpoint_id, generation, epoch, merchant_id, state, next_attempt_at)
		select event_id, endpoint_id, r.id, 1, merchant_id, 'retrying', clock_timestamp() from delivery.deliveries, r`)
	require.NoError(t, err)
	require.NoError(t, first.Commit(t.Context()))
	got := <-second
	require.NoError(t, got.err)
	require.Equal(t, redrive.UnderWay, got.judged[0].Verdict)
}

// The interleaving: the 2xx of an old request arrives before the retry, or after it.
func TestALate2xxBeforeARetryPreventsItAndAfterItEndsItsOwnGeneration(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	before := b.oneDead(t)
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{success(before)}))
	require.Equal(t, redrive.HasSucceeded, b.verdict(t, ofEvent(before.EventID), wholeEvent))

	after := b.oneDead(t)
	again := b.retry(t, after.EventID)
	require.NoError(t, b.Record(t.Context(), "inv", []delivery.Outcome{success(after)}))
	require.Equal(t, "succeeded", b.row(t, after.Key).State)
	require.Equal(t, row{State: "retrying", Epoch: 1, Due: true}, b.row(t, again), "it is sent, under the same id")
	b.die(t, b.claimOf(t, "inv", again, 1)[0], delivery.CauseDNS)
	require.Equal(t, redrive.HasSucceeded, b.verdict(t, ofEvent(after.EventID), wholeEvent), "whatever becomes of it")
}

// The interleaving: whoever retries dies between making the generation and handing it over.
func TestTheReconcilerTakesOverARetryThatWasNotHandedOver(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	again := b.retry(t, b.oneDead(t).EventID)
	overdue, err := b.Overdue(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Equal(t, []delivery.Overdue{{Key: again, Epoch: 1, Number: 1}}, overdue)
	taken, err := b.TakeOver(t.Context(), overdue)
	require.NoError(t, err)
	require.Equal(t, []delivery.Overdue{{Key: again, Epoch: 2, Number: 1}}, taken)
	require.Empty(t, b.claimOf(t, "inv", again, 1), "the ticket that comes after all is void")
	require.Len(t, b.claimOf(t, "inv", again, 2), 1)
}

func TestARetryAtADisabledEndpointIsParkedUntilItIsEnabled(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.oneDead(t)
	manager := endpointtest.NewManager(t, b.all)
	require.NoError(t, manager.Disable(t.Context(), c.EndpointID))
	replay, judged, err := b.operator().Retry(t.Context(), ofEvent(c.EventID), wholeEvent)
	require.NoError(t, err)
	require.Equal(t, redrive.Park, judged[0].Verdict)
	require.Equal(t, 1, replay.Deliveries)
	require.Equal(t, row{State: "parked", Epoch: 1}, b.row(t, judged[0].Key))
	require.Equal(t, redrive.UnderWay, b.verdict(t, ofEvent(c.EventID), wholeEvent))
	require.Empty(t, b.drain(t, 10))
	_, err = manager.Enable(t.Context(), c.EndpointID, false)
	require.NoError(t, err)
	require.Equal(t, []delivery.Overdue{{Key: judged[0].Key, Epoch: 2, Number: 1}}, b.drain(t, 10))
}

func TestARetryInBulkGoesInChunksAndCanBeTakenUp(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	mine, other := b.endpoint(t, "m"), b.endpoint(t, "other")
	claims := b.planFor(t, "m", 6)
	for i, c := range claims[:5] {
		b.die(t, c, []delivery.Cause{delivery.CauseDNS, delivery.CauseServerError}[i/4])
	}
	b.die(t, b.planFor(t, "other", 1)[0], delivery.CauseDNS)
	found, err := b.DeadEndpoints(t.Context(), "other")
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{other}, found)

	replay := redrive.Replay{RequestedBy: "joe", Selection: redrive.Selection{EndpointID: mine, Cause: delivery.CauseDNS}}
	replay, judged, err := b.operator().Retry(t.Context(), replay, redrive.Chunk{EndpointID: mine, Limit: 2})
	require.NoError(t, err)
	require.Len(t, judged, 2)
	require.Equal(t, claims[1].EventID, judged[1].EventID, "the oldest first")
	first := replay.ID

	// It is cut short here, one of its deliveries dies again, and somebody else's replay takes one that it has not reached.
	b.die(t, b.claimOf(t, "inv", judged[0].Key, 1)[0], delivery.CauseDNS)
	theirs := b.retry(t, claims[2].EventID)
	b.die(t, b.claimOf(t, "inv", theirs, 1)[0], delivery.CauseDNS)
	replay, err = b.operator().Replay(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, 2, replay.Deliveries)
	var got []redrive.Verdict
	for chunk := (redrive.Chunk{EndpointID: mine, Limit: 3}); ; {
		if replay, judged, err = b.operator().Retry(t.Context(), replay, chunk); len(judged) == 0 {
			break
		}
		for _, j := range judged {
			got = append(got, j.Verdict)
		}
		chunk.After = judged[len(judged)-1].EventID
	}
	require.NoError(t, err)
	require.Equal(t, []redrive.Verdict{redrive.Taken, redrive.Taken, redrive.Taken, redrive.Send, redrive.OtherCause}, got)
	require.Equal(t, first, replay.ID)
	kept, err := b.operator().Replay(t.Context(), first)
	require.NoError(t, err)
	require.Equal(t, 3, kept.Deliveries)
	require.Equal(t, 3, b.count(t, fmt.Sprintf("select count(*) from delivery.deliveries where generation = %d", first)))
}

func TestARetryOfATimeTakesOnlyItsEvents(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	endpointID := b.endpoint(t, "m")
	now := time.Now()
	var claims []delivery.Claim
	for i := range 3 {
		claims = append(claims, b.planAt(t, "m", now.Add(time.Duration(i)*time.Hour)))
		b.die(t, claims[i], delivery.CauseDNS)
	}
	judged, err := b.operator().Judge(t.Context(), redrive.Replay{Selection: redrive.Selection{
		EndpointID: endpointID, Since: now.Add(30 * time.Minute), Until: now.Add(90 * time.Minute),
	}}, redrive.Chunk{EndpointID: endpointID, Limit: 10})
	require.NoError(t, err)
	require.Len(t, judged, 1)
	require.Equal(t, claims[1].EventID, judged[0].EventID)
}

// planAt plans an event of a time for the one endpoint of its merchant.
func (b books) planAt(t *testing.T, merchant string, at time.Time) delivery.Claim {
	t.Helper()
	ref := newRef(merchant)
	ref.ID = idAt(at)
	planned, _, err := b.Plan(t.Context(), "inv", route, []event.Ref{ref})
	require.NoError(t, err)
	require.Len(t, planned, 1)
	return planned[0]
}

// idAt is the id of an event of a time.
func idAt(at time.Time) uuid.UUID {
	first, _ := delivery.EventRange(at, at)
	id := uuid.New()
	copy(id[:6], first[:6])
	id[6] = id[6]&0x0f | 0x70
	return id
}

// The interleaving: a delivery that died of its missing row was retried, and its dead record is driven again, too.
func TestWhatARetryHasALaterGenerationOfIsNotRevived(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	c := b.planOne(t, "inv")
	b.die(t, c, delivery.CausePhantom)
	again := b.retry(t, c.EventID)
	revived, err := b.Revive(t.Context(), c.EventID)
	require.NoError(t, err)
	require.Empty(t, revived)
	b.die(t, b.claimOf(t, "inv", again, 1)[0], delivery.CausePhantom)
	revived, err = b.Revive(t.Context(), c.EventID)
	require.NoError(t, err)
	require.Len(t, revived, 1)
	require.Equal(t, again, revived[0].Key)
}
