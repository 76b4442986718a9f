package postgres_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/svix"
)

// handOver plans n events of the merchant by route svix, and records them as handed over, to be looked at in lookIn.
func (b *books) handOver(t *testing.T, merchant string, n int, lookIn time.Duration) []delivery.Claim {
	t.Helper()
	owner := "inv-" + uuid.NewString()
	claims, _, err := b.Plan(t.Context(), owner, delivery.RouteSvix, refs(merchant, n))
	require.NoError(t, err)
	require.Len(t, claims, n, "Svix is one delivery, though the merchant has an endpoint")
	outcomes := make([]delivery.Outcome, n)
	for i, claim := range claims {
		require.Equal(t, delivery.SvixEndpoint, claim.EndpointID)
		outcomes[i] = handedOver(claim, lookIn)
	}
	require.NoError(t, b.Record(t.Context(), owner, outcomes))
	return claims
}

func handedOver(claim delivery.Claim, lookIn time.Duration) delivery.Outcome {
	return delivery.Outcome{
		Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number, State: delivery.HandedOver, Cause: delivery.CauseSvixAccepted, Attempted: true,
		StatusCode: 202, RetryIn: lookIn,
	}
}

func (b *books) stateOf(t *testing.T, key delivery.Key) string {
	t.Helper()
	var state string
	require.NoError(t, b.all.QueryRow(t.Context(), `select state || ' epoch=' || epoch || ' cause=' || last_cause || coalesce(' owner=' || owner, '')
		|| case when next_attempt_at is null then '' else ' due' end || case when ended_at is null then '' else ' ended' end
		from delivery.deliveries where event_id = $1 and endpoint_id = $2 and generation = $3`,
		[16]byte(key.EventID), [16]byte(key.EndpointID), key.Generation).Scan(&state))
	return state
}

func TestWhatSvixHasIsLookedAtWhenItIsDueAndSettledAsItWasRead(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	merchant := "m-" + uuid.NewString()
	b.endpoint(t, merchant)
	claims := b.handOver(t, merchant, 5, 0)
	later := b.handOver(t, merchant, 1, time.Hour)[0]
	for _, claim := range claims {
		require.Equal(t, "handed_over epoch=1 cause=svix_accepted due", b.stateOf(t, claim.Key))
	}
	due, err := b.HandedOver(t.Context(), 3)
	require.NoError(t, err)
	require.Len(t, due, 3)
	due, err = b.HandedOver(t.Context(), 100)
	require.NoError(t, err)
	require.Len(t, due, 5)
	for i, each := range due {
		require.Equal(t, claims[i].Key, each.Key)
		require.Equal(t, merchant, each.MerchantID)
		require.Equal(t, claims[i].EventType, each.EventType)
		require.Equal(t, int64(1), each.Epoch)
	}

	// Somebody asks for another look at the fourth, between the read and what it leads to.
	require.NoError(t, b.LookAtHandedOver(t.Context(), due[3].EventID, 0))
	lost, err := b.SettleHandedOver(t.Context(), []delivery.SvixVerdict{
		{Of: due[0], State: delivery.Succeeded, Cause: delivery.CauseOK},
		{Of: due[1], State: delivery.Dead, Cause: delivery.CauseSvixExhausted},
		{Of: due[2], State: delivery.HandedOver, Cause: delivery.CauseSvixFailing, LookIn: time.Minute},
		{Of: due[3], State: delivery.HandedOver, Cause: delivery.CauseSvixFailing, LookIn: time.Minute},
		{Of: due[4], State: delivery.Retrying, Cause: delivery.CauseSvixLost},
	})
	require.NoError(t, err)
	require.Equal(t, []delivery.Overdue{{Key: due[4].Key, Epoch: 2, Number: 2}}, lost)
	require.Equal(t, "succeeded epoch=2 cause=ok ended", b.stateOf(t, due[0].Key))
	require.Equal(t, "dead epoch=2 cause=svix_exhausted ended", b.stateOf(t, due[1].Key))
	require.Equal(t, "handed_over epoch=1 cause=svix_failing due", b.stateOf(t, due[2].Key))
	require.Equal(t, "handed_over epoch=1 cause=svix_accepted due", b.stateOf(t, due[3].Key), "what was asked for stays asked for")
	require.Equal(t, "retrying epoch=2 cause=svix_lost due", b.stateOf(t, due[4].Key))
	again, err := b.HandedOver(t.Context(), 100)
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.Equal(t, due[3].Key, again[0].Key)

	// Whoever read the same says the same again: nothing moves twice.
	lost, err = b.SettleHandedOver(t.Context(), []delivery.SvixVerdict{
		{Of: due[0], State: delivery.Dead, Cause: delivery.CauseSvixExhausted}, {Of: due[4], State: delivery.Retrying, Cause: delivery.CauseSvixLost},
	})
	require.NoError(t, err)
	require.Empty(t, lost)
	require.Equal(t, "succeeded epoch=2 cause=ok ended", b.stateOf(t, due[0].Key))

	require.NoError(t, b.LookAtHandedOver(t.Context(), later.EventID, 0))
	again, err = b.HandedOver(t.Context(), 100)
	require.NoError(t, err)
	require.Len(t, again, 2)
	require.NoError(t, b.LookAtHandedOver(t.Context(), due[0].EventID, 0))
	require.Equal(t, "succeeded epoch=2 cause=ok ended", b.stateOf(t, due[0].Key), "only what Svix has is looked at")
}

// What an outage has left is due for longer than what is handed over now, which is not to wait for all of it.
func TestAQuarterOfALookIsForWhatBecameDueLast(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	old := b.handOver(t, "old", 12, 0)
	_, err := b.all.Exec(t.Context(), "update delivery.deliveries set next_attempt_at = clock_timestamp() - interval '1 hour' where state = 'handed_over'")
	require.NoError(t, err)
	now := b.handOver(t, "new", 2, 0)
	due, err := b.HandedOver(t.Context(), 8)
	require.NoError(t, err)
	require.Len(t, due, 8)
	got := map[string]int{}
	for _, each := range due {
		got[each.MerchantID]++
	}
	require.Equal(t, map[string]int{"old": 6, "new": 2}, got)
	due, err = b.HandedOver(t.Context(), 100)
	require.NoError(t, err)
	require.Len(t, due, len(old)+len(now), "each of them once")
}

// The plan's rule is svix.Fit's, said in SQL.
func TestAMerchantWhoseIDSvixDoesNotTakeIsPlannedInHouse(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	route := map[bool]string{true: delivery.RouteSvix, false: delivery.RouteInhouse}
	seen := map[string]int{}
	for _, merchant := range []string{
		"joes-tshirt-shop", "a", "A.b_c-9", "...", "app", "APP_1", "my_app_1", strings.Repeat("x", 256),
		"", ".", "..", "app_", "app_1", "a b", "a/b", "a:b", "caf\u00e9", "a\n", "\na", "a\nb", strings.Repeat("x", 257),
	} {
		ref := refs(merchant, 1)
		_, planned, err := b.Plan(t.Context(), "inv-"+uuid.NewString(), delivery.RouteSvix, ref)
		require.NoError(t, err)
		require.Len(t, planned.Events, 1)
		var got string
		require.NoError(t, b.all.QueryRow(t.Context(), "select route from delivery.plans where event_id = $1", [16]byte(ref[0].ID)).Scan(&got))
		require.Equal(t, route[svix.Fit(merchant) == nil], got, "%q", merchant)
		seen[got]++
	}
	require.Equal(t, map[string]int{delivery.RouteSvix: 8, delivery.RouteInhouse: 13}, seen)
}

// A hand-over that is written down late, or twice, moves nothing that the sweep has moved.
func TestALateHandOverMovesNothingThatHasMovedOn(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	for _, state := range []delivery.State{delivery.Succeeded, delivery.Dead, delivery.Retrying} {
		claim := b.handOver(t, "m", 1, 0)[0]
		due, err := b.HandedOver(t.Context(), 1)
		require.NoError(t, err)
		_, err = b.SettleHandedOver(t.Context(), []delivery.SvixVerdict{{Of: due[0], State: state, Cause: "moved"}})
		require.NoError(t, err)
		before := b.stateOf(t, claim.Key)
		require.NoError(t, b.Record(t.Context(), "inv-late", []delivery.Outcome{handedOver(claim, 0)}))
		require.Equal(t, before, b.stateOf(t, claim.Key))
	}
	// One whose claim was taken away counts for nothing: who has it hands over again, which repeats nothing.
	claims, _, err := b.Plan(t.Context(), "inv-1", delivery.RouteSvix, refs("m", 1))
	require.NoError(t, err)
	_, _, err = b.Resume(t.Context(), "inv-1", []uuid.UUID{claims[0].EventID})
	require.NoError(t, err)
	require.NoError(t, b.Record(t.Context(), "inv-1", []delivery.Outcome{handedOver(claims[0], 0)}))
	require.Equal(t, "pending epoch=2 cause= owner=inv-1 due", b.pending(t, claims[0].Key))
}

// pending is stateOf for a delivery without a cause yet.
func (b *books) pending(t *testing.T, key delivery.Key) string {
	t.Helper()
	_, err := b.all.Exec(t.Context(), "update delivery.deliveries set last_cause = '' where event_id = $1 and last_cause is null", [16]byte(key.EventID))
	require.NoError(t, err)
	return b.stateOf(t, key)
}

func TestTheOldestUnansweredIsTheOneThatNoEndpointHasFailedYet(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	age, err := b.OldestUnanswered(t.Context())
	require.NoError(t, err)
	require.Zero(t, age)
	old, failing := b.handOver(t, "m", 1, time.Hour)[0], b.handOver(t, "m", 1, 0)[0]
	for i, claim := range []delivery.Claim{old, failing} {
		_, err = b.all.Exec(t.Context(), "update delivery.deliveries set planned_at = clock_timestamp() - $2 * interval '1 hour' where event_id = $1", [16]byte(claim.EventID), i+1)
		require.NoError(t, err)
	}
	due, err := b.HandedOver(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, due, 1)
	require.InDelta(t, 2*time.Hour, due[0].HeldAt.Sub(due[0].PlannedAt), float64(time.Minute))
	require.InDelta(t, 0, due[0].Held, float64(time.Minute), "what counts is since when Svix has it")
	_, err = b.SettleHandedOver(t.Context(), []delivery.SvixVerdict{{Of: due[0], State: delivery.HandedOver, Cause: delivery.CauseSvixFailing, LookIn: time.Hour}})
	require.NoError(t, err)
	age, err = b.OldestUnanswered(t.Context())
	require.NoError(t, err)
	require.InDelta(t, time.Hour, age, float64(time.Minute))
	since, err := b.OpenSince(t.Context())
	require.NoError(t, err)
	require.InDelta(t, 2*time.Hour, time.Since(since["m"]), float64(time.Minute), "what Svix has is not settled")
}

// Svix is the endpoint of many merchants: who names one of them gets that one's.
func TestWhatDiedAtSvixIsListedAndRetriedByMerchant(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	kill := func(merchant string) delivery.Key {
		claim := b.handOver(t, merchant, 1, 0)[0]
		due, err := b.HandedOver(ctx, 1)
		require.NoError(t, err)
		_, err = b.SettleHandedOver(ctx, []delivery.SvixVerdict{{Of: due[0], State: delivery.Dead, Cause: delivery.CauseSvixExhausted}})
		require.NoError(t, err)
		return claim.Key
	}
	kill("first")
	mine, also := kill("second"), kill("second")
	listed, _, err := b.Deliveries(ctx, delivery.Filter{MerchantID: "second", State: delivery.Dead}, 10)
	require.NoError(t, err)
	require.Len(t, listed, 2)
	require.Equal(t, also, listed[0].Key, "the newest first")
	waiting := b.handOver(t, "second", 1, time.Hour)[0]
	listed, _, err = b.Deliveries(ctx, delivery.Filter{MerchantID: "second", State: delivery.HandedOver}, 10)
	require.NoError(t, err)
	require.Len(t, listed, 1)
	require.Equal(t, waiting.Key, listed[0].Key)

	endpoints, err := b.DeadEndpoints(ctx, "second")
	require.NoError(t, err)
	require.Equal(t, []uuid.UUID{delivery.SvixEndpoint}, endpoints)
	endpoints, err = b.DeadEndpoints(ctx, "third")
	require.NoError(t, err)
	require.Empty(t, endpoints)
	found, err := b.HasEndpoint(ctx, delivery.SvixEndpoint)
	require.NoError(t, err)
	require.True(t, found)

	replay := redrive.Replay{RequestedBy: "me", Selection: redrive.Selection{MerchantID: "second", Until: time.Now().Add(time.Hour)}}
	replay, judged, err := b.operator().Retry(ctx, replay, redrive.Chunk{EndpointID: delivery.SvixEndpoint, Limit: 100})
	require.NoError(t, err)
	require.Equal(t, 2, replay.Deliveries)
	mine.Generation, also.Generation = replay.ID, replay.ID
	require.Equal(t, []redrive.Judgement{{Key: mine, Verdict: redrive.Send}, {Key: also, Verdict: redrive.Send}}, judged)
	claims, _, err := b.Claim(ctx, "inv-1", delivery.SvixEndpoint, []delivery.Ticket{{EventID: mine.EventID, Generation: replay.ID, Epoch: 1}})
	require.NoError(t, err)
	require.Len(t, claims, 1)
	require.Equal(t, "second", claims[0].Object.MerchantID)
	require.Equal(t, 1, claims[0].Number)
}
