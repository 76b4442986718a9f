package postgres_test

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

const route = "inhouse"

// books is a ledger as the worker uses it, and a superuser's look at it.
type books struct {
	*postgres.Ledger
	pool *pgxpool.Pool // the worker's
	all  *pgxpool.Pool
}

func newBooks(t *testing.T) books {
	t.Helper()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleWorker),
		postgres.Options{ApplicationName: "test", MaxConns: 8, Settings: postgres.WorkerSettings()})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return books{postgres.NewLedger(pool, postgres.LedgerOptions{Keys: endpointtest.Keys(t)}), pool, db.Pool(t, "")}
}

func (b books) endpoint(t *testing.T, merchant string, eventTypes ...string) uuid.UUID {
	t.Helper()
	return endpointtest.Add(t, b.all, merchant, func(s *endpoint.Spec) { s.EventTypes = eventTypes })
}

// row is what the tests look at of a delivery.
type row struct {
	State    string
	Owner    string
	Epoch    int64
	Attempts int
	Due      bool // has a next_attempt_at
	Ended    bool
}

func (b books) row(t *testing.T, key delivery.Key) row {
	t.Helper()
	var r row
	require.NoError(t, b.all.QueryRow(t.Context(), `select state, coalesce(owner, ''), epoch, attempts, next_attempt_at is not null, ended_at is not null
		from delivery.deliveries where event_id = $1 and endpoint_id = $2 and generation = $3`,
		[16]byte(key.EventID), [16]byte(key.EndpointID), key.Generation).Scan(&r.State, &r.Owner, &r.Epoch, &r.Attempts, &r.Due, &r.Ended))
	return r
}

func (b books) count(t *testing.T, query string) int {
	t.Helper()
	var n int
	require.NoError(t, b.all.QueryRow(t.Context(), query).Scan(&n))
	return n
}

func newRef(merchant string) event.Ref {
	id := uuid.Must(uuid.NewV7())
	return event.Ref{ID: id, TxID: 7, Type: "payment.succeeded", ObjectType: "payment", ObjectID: "p-" + id.String(), ObjectVersion: 1, MerchantID: merchant}
}

func refs(merchant string, n int) []event.Ref {
	out := make([]event.Ref, n)
	for i := range out {
		out[i] = newRef(merchant)
	}
	return out
}

func failure(c delivery.Claim) delivery.Outcome {
	return delivery.Outcome{
		Key: c.Key, Epoch: c.Epoch, Number: c.Number, State: delivery.Retrying, Cause: delivery.CauseStatus, StatusCode: 503,
		Attempted: true, Latency: 12 * time.Millisecond, Next: c.Number + 1, RetryIn: time.Minute, Answer: []byte("no"),
	}
}

func success(c delivery.Claim) delivery.Outcome {
	return delivery.Outcome{Key: c.Key, Epoch: c.Epoch, Number: c.Number, State: delivery.Succeeded, Cause: delivery.CauseOK, StatusCode: 200, Attempted: true}
}

func ticket(c delivery.Claim) []delivery.Ticket {
	return []delivery.Ticket{{EventID: c.EventID, Generation: c.Generation, Epoch: c.Epoch}}
}

// planOne plans one event of a merchant with one endpoint for owner, and returns its claim.
func (b books) planOne(t *testing.T, owner string) delivery.Claim {
	t.Helper()
	merchant := "m-" + uuid.NewString()
	b.endpoint(t, merchant)
	claims, _, err := b.Plan(t.Context(), owner, route, refs(merchant, 1))
	require.NoError(t, err)
	require.Len(t, claims, 1)
	return claims[0]
}

func TestPlanFreezesWhoGetsWhat(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	all, some := b.endpoint(t, "m"), b.endpoint(t, "m", "refund.created", "payment.*")
	b.endpoint(t, "m", "payment.refunded")
	b.endpoint(t, "other")
	off := b.endpoint(t, "m")
	_, err := b.all.Exec(ctx, "update delivery.endpoints set enabled = false where id = $1", [16]byte(off))
	require.NoError(t, err)

	first, nobody := newRef("m"), newRef("unknown-merchant")
	claims, planned, err := b.Plan(ctx, "inv-1", route, []event.Ref{first, nobody})
	require.NoError(t, err)
	require.ElementsMatch(t, []uuid.UUID{first.ID, nobody.ID}, planned.Events)
	var got []uuid.UUID
	for _, c := range claims {
		require.Equal(t, first.ID, c.EventID)
		require.Equal(t, event.PayloadRequest{EventID: first.ID, TxID: 7, MinVersion: 1}, c.Event)
		require.Equal(t, 1, c.Number)
		require.Positive(t, c.EndpointRevision)
		got = append(got, c.EndpointID)
	}
	require.ElementsMatch(t, []uuid.UUID{all, some}, got)
	require.Equal(t, row{State: "pending", Owner: "inv-1", Epoch: 1, Due: true}, b.row(t, claims[0].Key))
	require.Equal(t, row{State: "parked", Epoch: 1}, b.row(t, delivery.Key{EventID: first.ID, EndpointID: off}))

	// An endpoint gets what is planned after it was added, whatever is handed over again.
	b.endpoint(t, "m")
	claims, planned, err = b.Plan(ctx, "inv-2", route, []event.Ref{first, nobody})
	require.NoError(t, err)
	require.Empty(t, claims)
	require.Empty(t, planned.Events)
	require.Equal(t, 2, b.count(t, "select count(*) from delivery.plans"))
	require.Equal(t, 3, b.count(t, "select count(*) from delivery.deliveries"))
}

// Interleaving: many workers plan the same events at once, each in an order of its own. The primary key lets one of
// them have each event; sorted rows keep them from deadlocking.
func TestPlanOfTheSameEventsByManyGivesEachDeliveryOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	b.endpoint(t, "m")
	b.endpoint(t, "m")
	events := refs("m", 50)
	var (
		mu    sync.Mutex
		seen  = map[delivery.Key]string{}
		wg    sync.WaitGroup
		fails = make(chan error, 8)
	)
	for worker := range 8 {
		wg.Go(func() {
			owner := fmt.Sprintf("inv-%d", worker)
			mine := append(append([]event.Ref{}, events[worker*5:]...), events[:worker*5]...)
			claims, _, err := b.Plan(context.WithoutCancel(t.Context()), owner, route, mine)
			if err != nil {
				fails <- err
				return
			}
			mu.Lock()
			defer mu.Unlock()
			for _, c := range claims {
				if before, twice := seen[c.Key]; twice {
					fails <- fmt.Errorf("%v was claimed by %s and by %s", c.Key, before, owner)
				}
				seen[c.Key] = owner
			}
		})
	}
	wg.Wait()
	close(fails)
	for err := range fails {
		require.NoError(t, err)
	}
	require.Len(t, seen, 100)
}

// Interleaving: the first execution dies after its plan; the second execution of the same invocation asks again.
func TestResumeTakesWhatTheInvocationPlannedAndNobodyElse(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	claim := b.planOne(t, "inv-1")
	ids := []uuid.UUID{claim.EventID}

	claims, settled, err := b.Resume(ctx, "inv-2", ids)
	require.NoError(t, err)
	require.Empty(t, claims)
	require.Empty(t, settled)

	claims, settled, err = b.Resume(ctx, "inv-1", ids)
	require.NoError(t, err)
	require.Empty(t, settled)
	require.Len(t, claims, 1)
	require.Equal(t, claim.Epoch+1, claims[0].Epoch, "a second execution raises the epoch")
	require.Equal(t, claim.Event, claims[0].Event)

	holds, err := b.Holds(ctx, claim)
	require.NoError(t, err)
	require.False(t, holds, "the first execution has lost the row")
	holds, err = b.Holds(ctx, claims[0])
	require.NoError(t, err)
	require.True(t, holds)
}

// Interleaving: the first execution writes a failure and dies before it schedules the next attempt.
func TestResumeReturnsTheRetryThatNobodyScheduled(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	claim := b.planOne(t, "inv-1")
	require.NoError(t, b.Record(t.Context(), "inv-1", []delivery.Outcome{failure(claim)}))

	claims, settled, err := b.Resume(t.Context(), "inv-1", []uuid.UUID{claim.EventID})
	require.NoError(t, err)
	require.Empty(t, claims, "it was attempted: it is not attempted again")
	require.Len(t, settled, 1)
	require.Equal(t, claim.Key, settled[0].Key)
	require.Equal(t, 2, settled[0].Number)
	require.Equal(t, claim.Epoch, settled[0].Epoch)
	require.InDelta(t, time.Minute.Seconds(), settled[0].RetryIn.Seconds(), 5)
}

func TestClaimTakesATicketOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	first := b.planOne(t, "inv-1")
	claims, _, err := b.Claim(ctx, "inv-2", first.EndpointID, ticket(first))
	require.NoError(t, err)
	require.Empty(t, claims, "a row with an owner is not for tickets")

	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(first)}))
	claims, _, err = b.Claim(ctx, "inv-2", first.EndpointID, ticket(first))
	require.NoError(t, err)
	require.Len(t, claims, 1)
	require.Equal(t, 2, claims[0].Number)
	require.Equal(t, first.Epoch+1, claims[0].Epoch)
	require.Equal(t, first.Event, claims[0].Event)
	require.Equal(t, row{State: "pending", Owner: "inv-2", Epoch: 2, Attempts: 1, Due: true}, b.row(t, first.Key))

	// The same ticket sent twice is void the second time; the second execution of inv-2 goes on where the first died.
	again, _, err := b.Claim(ctx, "inv-3", first.EndpointID, ticket(first))
	require.NoError(t, err)
	require.Empty(t, again)
	again, _, err = b.Claim(ctx, "inv-2", first.EndpointID, ticket(first))
	require.NoError(t, err)
	require.Len(t, again, 1)
	require.Equal(t, first.Epoch+2, again[0].Epoch)

	// It fails too, and dies before it schedules: its third execution learns so.
	require.NoError(t, b.Record(ctx, "inv-2", []delivery.Outcome{failure(again[0])}))
	claims, settled, err := b.Claim(ctx, "inv-2", first.EndpointID, ticket(first))
	require.NoError(t, err)
	require.Empty(t, claims)
	require.Len(t, settled, 1)
	require.Equal(t, 3, settled[0].Number)
}

func TestRecordMovesOnlyWhatIsHeld(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	stale := b.planOne(t, "inv-1")
	current, _, err := b.Resume(ctx, "inv-1", []uuid.UUID{stale.EventID})
	require.NoError(t, err)

	// A frozen execution wakes with a failure: the attempt is kept, the row is not its own any more.
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(stale)}))
	require.Equal(t, row{State: "pending", Owner: "inv-1", Epoch: 2, Due: true}, b.row(t, stale.Key))
	require.Equal(t, 1, b.count(t, "select count(*) from delivery.attempts"))

	// It wakes with a 2xx: the merchant has it, whatever the epoch.
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{success(stale)}))
	require.Equal(t, row{State: "succeeded", Epoch: 2, Attempts: 1, Ended: true}, b.row(t, stale.Key))

	// The one who holds it fails afterwards: a 2xx is not taken back.
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(current[0])}))
	require.Equal(t, row{State: "succeeded", Epoch: 2, Attempts: 1, Ended: true}, b.row(t, stale.Key))
}

func TestRecordTwiceIsRecordOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	claim := b.planOne(t, "inv-1")
	for range 2 {
		require.NoError(t, b.Record(t.Context(), "inv-1", []delivery.Outcome{failure(claim)}))
	}
	require.Equal(t, row{State: "retrying", Epoch: 1, Attempts: 1, Due: true}, b.row(t, claim.Key))
	require.Equal(t, 1, b.count(t, "select count(*) from delivery.attempts where status_code = 503 and answer = 'no' and number = 1"))
}

// Interleaving: a step hands an open exchange over, then the exchange fails. The watchdog alone moves the row.
func TestRecordOfAFailureThatOutlivedItsStepLeavesTheWatchdogAlone(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	claim := b.planOne(t, "inv-1")
	handOver := failure(claim)
	handOver.Attempted, handOver.Cause = false, delivery.CauseOpen
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{handOver}))
	require.Equal(t, row{State: "retrying", Epoch: 1, Due: true}, b.row(t, claim.Key))

	late := failure(claim)
	late.State = delivery.Unmoved
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{late}))
	require.Equal(t, row{State: "retrying", Epoch: 1, Attempts: 1, Due: true}, b.row(t, claim.Key))

	claims, _, err := b.Claim(ctx, "watchdog", claim.EndpointID, ticket(claim))
	require.NoError(t, err)
	require.Len(t, claims, 1)
	require.Equal(t, 2, claims[0].Number, "the watchdog sees that the attempt was made")
}

func TestEndpointsCarryLiveSecretsAndARevisionThatRisesWithThem(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	before, err := b.Endpoints(ctx, []uuid.UUID{id, uuid.New()})
	require.NoError(t, err)
	require.Len(t, before, 1)
	require.Equal(t, []delivery.Secret{{Value: endpointtest.Secret}}, before[0].Secrets)
	require.Equal(t, 10*time.Second, before[0].Timeout)

	manager := endpointtest.NewManager(t, b.all)
	fresh, err := manager.RotateSecret(ctx, id, "", signing.HMAC, time.Hour)
	require.NoError(t, err)
	after, err := b.Endpoints(ctx, []uuid.UUID{id})
	require.NoError(t, err)
	require.Greater(t, after[0].Revision, before[0].Revision)
	require.Len(t, after[0].Secrets, 2, "both sign while one replaces the other")
	require.Equal(t, delivery.Secret{Value: fresh}, after[0].Secrets[0])
	require.Equal(t, endpointtest.Secret, after[0].Secrets[1].Value)
	require.WithinDuration(t, time.Now().Add(time.Hour), after[0].Secrets[1].ExpiresAt, time.Minute)

	_, err = manager.RotateSecret(ctx, id, endpointtest.Secret, signing.HMAC, 0)
	require.NoError(t, err)
	last, err := b.Endpoints(ctx, []uuid.UUID{id})
	require.NoError(t, err)
	require.Equal(t, []delivery.Secret{{Value: endpointtest.Secret}}, last[0].Secrets, "without an overlap nothing else signs")
}

func TestEndpointThatTheKeysDoNotOpenIsMarked(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	plain := b.endpoint(t, "m")
	secret := endpointtest.Add(t, b.all, "m", func(s *endpoint.Spec) {
		s.URL, s.Headers = "https://user:pass@shop.example/hooks?token=abc", map[string]string{"X-Api-Key": "k"}
	})
	opened, err := b.Endpoints(ctx, []uuid.UUID{plain, secret})
	require.NoError(t, err)
	byID := map[uuid.UUID]delivery.Endpoint{opened[0].ID: opened[0], opened[1].ID: opened[1]}
	require.Equal(t, "https://user:pass@shop.example/hooks?token=abc", byID[secret].URL)
	require.Equal(t, map[string]string{"X-Api-Key": "k"}, byID[secret].Headers)
	require.False(t, byID[plain].Sealed || byID[secret].Sealed)
	require.NoError(t, b.CheckKeys(ctx))

	var others seal.Keyring
	require.NoError(t, others.UnmarshalText([]byte(seal.NewKey("other"))))
	stranger := postgres.NewLedger(b.pool, postgres.LedgerOptions{Keys: others})
	locked, err := stranger.Endpoints(ctx, []uuid.UUID{plain, secret})
	require.NoError(t, err, "an endpoint that cannot be opened holds up nobody else")
	for _, each := range locked {
		require.True(t, each.Sealed)
		require.Empty(t, each.Secrets)
	}
	require.EqualError(t, stranger.CheckKeys(ctx), "ENCRYPTION_KEYS has keys other, but endpoints are sealed with test")

	_, err = b.all.Exec(ctx, "update delivery.endpoint_secrets set sealed = $1", endpointtest.Secret)
	require.NoError(t, err)
	require.NoError(t, b.CheckKeys(ctx), "of before secrets were sealed")
}

func (b books) enabled(t *testing.T, id uuid.UUID) (bool, string) {
	t.Helper()
	var enabled bool
	var reason string
	require.NoError(t, b.all.QueryRow(t.Context(), "select enabled, coalesce(disabled_reason, '') from delivery.endpoints where id = $1", [16]byte(id)).Scan(&enabled, &reason))
	return enabled, reason
}

func TestA410DisablesTheEndpointAndSaysSoOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	b.endpoint(t, "m")
	claims, _, err := b.Plan(ctx, "inv-1", route, refs("m", 2))
	require.NoError(t, err)
	for _, claim := range claims {
		gone := failure(claim)
		gone.State, gone.Cause, gone.StatusCode = delivery.Parked, delivery.CauseGone, 410
		for range 2 {
			require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{gone}))
		}
	}
	enabled, reason := b.enabled(t, claims[0].EndpointID)
	require.False(t, enabled)
	require.Equal(t, "gone", reason)
	require.Equal(t, row{State: "parked", Epoch: 1, Attempts: 1}, b.row(t, claims[0].Key))

	told, err := b.Unpublished(ctx, 10)
	require.NoError(t, err)
	require.Len(t, told, 1)
	require.Equal(t, "endpoint.disabled", told[0].Type)
	require.Equal(t, "m", told[0].MerchantID)
	var data struct {
		EndpointID uuid.UUID `json:"endpoint_id"`
		Reason     string    `json:"reason"`
	}
	require.NoError(t, json.Unmarshal(told[0].Data, &data))
	require.Equal(t, claims[0].EndpointID, data.EndpointID)
	require.Equal(t, "gone", data.Reason)
	requireTaken(t, told[0])
	require.NoError(t, b.MarkPublished(ctx, told[0].ID, ""))
	told, err = b.Unpublished(ctx, 10)
	require.NoError(t, err)
	require.Empty(t, told)
}

func TestFailureOnlyForDaysDisablesTheEndpoint(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	fail := func(cause delivery.Cause) {
		t.Helper()
		claims, _, err := b.Plan(ctx, "inv-1", route, refs("m", 1))
		require.NoError(t, err)
		require.Len(t, claims, 1)
		o := failure(claims[0])
		o.Cause = cause
		require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{o}))
	}
	succeed := func() {
		t.Helper()
		claims, _, err := b.Plan(ctx, "inv-1", route, refs("m", 1))
		require.NoError(t, err)
		require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{success(claims[0])}))
	}
	since := func() int {
		t.Helper()
		return b.count(t, "select coalesce(extract(epoch from clock_timestamp() - min(since)) / 3600, -1)::int from delivery.failing_endpoints")
	}
	failedFor := func(hours int) {
		t.Helper()
		_, err := b.all.Exec(ctx, "update delivery.failing_endpoints set since = clock_timestamp() - $1 * interval '1 hour'", hours)
		require.NoError(t, err)
	}
	require.Equal(t, -1, since())
	fail(delivery.CauseInternal)
	require.Equal(t, -1, since(), "not the endpoint's failure")
	fail(delivery.CauseServerError)
	require.Equal(t, 0, since())
	failedFor(119)
	fail(delivery.CauseRefused)
	require.Equal(t, 119, since(), "the first failure counts")
	enabled, _ := b.enabled(t, id)
	require.True(t, enabled, "five days are not over")
	succeed()
	require.Equal(t, -1, since(), "one success, and it starts anew")
	fail(delivery.CauseRefused)
	failedFor(121)
	enabled, _ = b.enabled(t, id)
	require.True(t, enabled, "time alone disables nothing")
	fail(delivery.CauseRefused)
	enabled, reason := b.enabled(t, id)
	require.False(t, enabled)
	require.Equal(t, "failing", reason)
	told, err := b.Unpublished(ctx, 10)
	require.NoError(t, err)
	require.Len(t, told, 1)
	require.Contains(t, string(told[0].Data), "failed for 121 hours")
	requireTaken(t, told[0])
}

func TestA410DisablesAlsoBesideASuccessAndOnlyWhileItsClaimHolds(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	manager := endpointtest.NewManager(t, b.all)
	claims, _, err := b.Plan(ctx, "inv-1", route, refs("m", 2))
	require.NoError(t, err)
	gone := failure(claims[0])
	gone.State, gone.Cause, gone.StatusCode = delivery.Parked, delivery.CauseGone, 410
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{gone, success(claims[1])}))
	enabled, _ := b.enabled(t, id)
	require.False(t, enabled, "it said so, whatever came before or after")

	// Written once more, after a lost answer, or by a record step long after: the endpoint has been enabled since.
	_, err = manager.Enable(ctx, id, false)
	require.NoError(t, err)
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{gone}))
	enabled, _ = b.enabled(t, id)
	require.True(t, enabled)
	taken := b.drain(t, 10)
	require.Len(t, taken, 1)
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{gone}))
	enabled, _ = b.enabled(t, id)
	require.True(t, enabled, "its claim has been taken away")
}

func TestFailuresThatAreDaysApartAreNoDaysOfFailure(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	fail := func() {
		t.Helper()
		claims, _, err := b.Plan(ctx, "inv-1", route, refs("m", 1))
		require.NoError(t, err)
		require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(claims[0])}))
	}
	fail()
	_, err := b.all.Exec(ctx, "update delivery.failing_endpoints set since = now() - interval '30 days', last_at = now() - interval '30 days'")
	require.NoError(t, err)
	fail()
	enabled, _ := b.enabled(t, id)
	require.True(t, enabled, "a quiet month with a failure at each end")
	require.Equal(t, 1, b.count(t, "select count(*) from delivery.failing_endpoints where since > now() - interval '1 minute'"))

	_, err = b.all.Exec(ctx, "update delivery.failing_endpoints set since = now() - interval '6 days', last_at = now() - interval '20 hours'")
	require.NoError(t, err)
	fail()
	enabled, _ = b.enabled(t, id)
	require.False(t, enabled)
}

// Interleaving: a 2xx that heals the endpoint is being written while a failure is, whose statement does not see it.
func TestAFailureWaitsForTheSuccessThatIsBeingWritten(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	claims, _, err := b.Plan(ctx, "inv-1", route, refs("m", 2))
	require.NoError(t, err)
	require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(claims[0])}))
	_, err = b.all.Exec(ctx, "update delivery.failing_endpoints set since = now() - interval '6 days'")
	require.NoError(t, err)

	healing, err := b.all.Begin(ctx)
	require.NoError(t, err)
	defer healing.Rollback(context.WithoutCancel(ctx))
	_, err = healing.Exec(ctx, "delete from delivery.failing_endpoints")
	require.NoError(t, err)
	failed := make(chan error, 1)
	go func() { failed <- b.Record(ctx, "inv-1", []delivery.Outcome{failure(claims[1])}) }()
	require.Eventually(t, func() bool {
		return b.count(t, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") == 1
	}, 10*time.Second, 5*time.Millisecond)
	require.NoError(t, healing.Commit(ctx))
	require.NoError(t, <-failed)
	enabled, _ := b.enabled(t, id)
	require.True(t, enabled)
}

// requireTaken checks what payments-api checks: what it refuses nobody is ever told.
func requireTaken(t *testing.T, e event.Operational) {
	t.Helper()
	kind, found := catalogue.Lookup(e.Type)
	require.True(t, found)
	require.NoError(t, kind.ValidateData(e.Data))
}

func TestParkedDeliveriesWaitForTheirEndpoint(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	manager := endpointtest.NewManager(t, b.all)
	require.NoError(t, manager.Disable(ctx, id))
	planned := refs("m", 5)
	claims, _, err := b.Plan(ctx, "inv-1", route, planned)
	require.NoError(t, err)
	require.Empty(t, claims)
	require.Empty(t, b.drain(t, 10), "it is disabled")

	parked, err := manager.Enable(ctx, id, false)
	require.NoError(t, err)
	require.EqualValues(t, 5, parked)
	taken := b.drain(t, 2)
	require.Len(t, taken, 2)
	for i, each := range taken {
		require.Equal(t, planned[i].ID, each.EventID, "the oldest first")
		require.EqualValues(t, 2, each.Epoch)
		require.Equal(t, 1, each.Number)
		require.Equal(t, row{State: "retrying", Epoch: 2, Due: true}, b.row(t, each.Key))
	}
	got, _, err := b.Claim(ctx, "inv-2", id, []delivery.Ticket{{EventID: taken[0].EventID, Epoch: taken[0].Epoch}})
	require.NoError(t, err)
	require.Len(t, got, 1)

	require.NoError(t, manager.Disable(ctx, id))
	dropped, err := manager.Enable(ctx, id, true)
	require.NoError(t, err)
	require.EqualValues(t, 3, dropped)
	require.Equal(t, 3, b.count(t, "select count(*) from delivery.deliveries where state = 'dead' and last_cause = 'dropped' and ended_at is not null"))
	require.Empty(t, b.drain(t, 10))
}

func TestParkedDeliveriesOfARemovedEndpointEnd(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	manager := endpointtest.NewManager(t, b.all)
	require.NoError(t, manager.Disable(ctx, id))
	_, _, err := b.Plan(ctx, "inv-1", route, refs("m", 2))
	require.NoError(t, err)
	ended, err := manager.Remove(ctx, id)
	require.NoError(t, err)
	require.EqualValues(t, 2, ended)
	require.Equal(t, 2, b.count(t, "select count(*) from delivery.deliveries where state = 'dead' and last_cause = 'endpoint_gone'"))

	// One that was planned by a statement that still saw the endpoint, and is written after it was removed.
	late := uuid.Must(uuid.NewV7())
	_, err = b.all.Exec(ctx, "insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state) values ($1, $2, 1, 'm', 'parked')", [16]byte(late), [16]byte(id))
	require.NoError(t, err)
	taken := b.drain(t, 10)
	require.Len(t, taken, 1, "its Attempt finds that the endpoint is gone, and ends it")
}

func TestBuryKeepsARecordOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	record := delivery.DeadRecord{Topic: "t", Partition: 1, Offset: 5, Reason: delivery.ReasonUndecodable, Detail: "not JSON", Key: []byte("m"), Value: []byte("{\x00\xff")}
	for range 2 {
		require.NoError(t, b.Bury(t.Context(), record))
	}
	require.Equal(t, 1, b.count(t, `select count(*) from delivery.dead_records where topic = 't' and partition = 1 and "offset" = 5 and event_id is null
		and reason = 'undecodable' and value = '\x7b00ff'`))
	record.Value = []byte("another topic of the same name")
	require.NoError(t, b.Bury(t.Context(), record))
	require.Equal(t, 2, b.count(t, "select count(*) from delivery.dead_records"))
}

// Planning takes longer than most of the statements do.
func TestLedgerStatementsArePlannedOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	for i := range 4 {
		b.planOne(t, fmt.Sprint("inv-", i))
	}
	seen := 0
	for _, conn := range b.pool.AcquireAllIdle(t.Context()) {
		var generic, custom int
		require.NoError(t, conn.QueryRow(t.Context(),
			"select coalesce(sum(generic_plans), 0), coalesce(sum(custom_plans), 0) from pg_prepared_statements where statement like '%insert into delivery.%' and statement not like '%pg_prepared%'").Scan(&generic, &custom))
		conn.Release()
		seen += generic
		require.Zero(t, custom)
	}
	require.Equal(t, 4, seen)
}

// The ledger's tables grow for ever; its statements must not.
func TestLedgerStatementsReadThroughKeys(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	claim := b.planOne(t, "inv-1")
	inOrder := b.ordered(t, "ordered")
	for range 8 { // past the fifth run PostgreSQL may settle on a generic plan
		_, _, err := b.Plan(ctx, "inv-1", route, refs("m", 3))
		require.NoError(t, err)
		_, _, err = b.Resume(ctx, "inv-1", []uuid.UUID{claim.EventID})
		require.NoError(t, err)
		_, _, err = b.Claim(ctx, "inv-1", claim.EndpointID, ticket(claim))
		require.NoError(t, err)
		require.NoError(t, b.Record(ctx, "inv-1", []delivery.Outcome{failure(claim)}))
		b.plan(t, "inv-1", versions("ordered", uuid.NewString(), 3)...)
		b.release(t, "inv-1", sequence(inOrder, version("ordered", "p", 1, "")))
		_, _, err = b.Overslept(ctx, delivery.Key{}, 0, 10)
		require.NoError(t, err)
		b.backlog(t, claim.EndpointID)
		b.drain(t, 10)
		_, err = b.TakeParked(ctx, "tick", claim.EndpointID, 10)
		require.NoError(t, err)
		_, err = b.TakeProbe(ctx, "tick", claim.EndpointID, time.Second)
		require.NoError(t, err)
		_, err = b.CloseIdleCircuit(ctx, claim.EndpointID)
		require.NoError(t, err)
	}
	b.pool.Close() // a connection that ends reports its counters
	require.Eventually(t, func() bool {
		return b.count(t, "select coalesce(sum(idx_scan), 0)::int from pg_stat_user_tables where schemaname = 'delivery' and relname = 'deliveries'") > 0
	}, 20*time.Second, 50*time.Millisecond)
	require.Zero(t, b.count(t, "select coalesce(sum(seq_tup_read), 0)::int from pg_stat_user_tables where schemaname = 'delivery' and relname in ('deliveries', 'plans', 'attempts')"))
}
