package postgres_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

// storedRow is an endpoint as Insert takes it. Whether what is sealed can be opened is nothing to the store.
func storedRow(merchant string) endpoint.Row {
	url, headers := "k1.url", "k1.headers"
	return endpoint.Row{
		Endpoint: endpoint.Endpoint{
			ID: uuid.New(), MerchantID: merchant, URL: "https://shop.example/hooks", Description: "d", EventTypes: []string{"payment.*"},
			HeaderNames: []string{"X-Api-Key"}, Schedule: delivery.Schedule{time.Second, time.Hour}, Ordering: endpoint.PerObject, TimeoutMS: 7000,
		},
		URLSealed: &url, HeadersSealed: &headers,
		Sealed: []endpoint.SealedSecret{{ID: uuid.New(), Sealed: "k1.secret"}},
	}
}

func TestAnEndpointIsReadAsItWasInserted(t *testing.T) {
	t.Parallel()
	store := postgres.NewEndpointStore(pgtest.New(t).Pool(t, ""))
	want := storedRow("m")
	require.NoError(t, store.Insert(t.Context(), want))
	got, err := store.Row(t.Context(), want.ID)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now(), got.CreatedAt, time.Minute)
	require.Equal(t, []endpoint.Secret{{ID: want.Sealed[0].ID, KeyID: "k1", CreatedAt: got.Secrets[0].CreatedAt}}, got.Secrets)
	read := got
	want.Enabled, want.HasCredentials = true, true
	want.CreatedAt, want.UpdatedAt, want.Secrets, want.Revision = got.CreatedAt, got.UpdatedAt, got.Secrets, got.Revision
	require.Equal(t, want, got)

	other := storedRow("n")
	other.EventTypes, other.HeaderNames, other.HeadersSealed, other.Schedule, other.URLSealed = nil, nil, nil, nil, nil
	require.NoError(t, store.Insert(t.Context(), other))
	all, err := store.Rows(t.Context(), "")
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.Equal(t, read, all[0], "in the order of their making")
	require.False(t, all[1].HasCredentials)
	require.Nil(t, all[1].Schedule)
	of, err := store.Rows(t.Context(), "n")
	require.NoError(t, err)
	require.Equal(t, all[1:], of)
	none, err := store.Rows(t.Context(), "o")
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	t.Parallel()
	store := postgres.NewEndpointStore(pgtest.New(t).Pool(t, ""))
	ctx, id := t.Context(), uuid.New()
	for name, do := range map[string]func() error{
		"row":     func() error { _, err := store.Row(ctx, id); return err },
		"rotate":  func() error { return store.Rotate(ctx, id, endpoint.SealedSecret{ID: uuid.New(), Sealed: "k.s"}, 0) },
		"disable": func() error { return store.Disable(ctx, id) },
		"enable":  func() error { _, err := store.Enable(ctx, id, false); return err },
		"remove":  func() error { _, err := store.Remove(ctx, id); return err },
	} {
		err := do()
		require.Equal(t, fault.NotFound, fault.ClassOf(err), name)
		require.EqualError(t, err, "there is no endpoint "+id.String(), name)
	}
	require.NoError(t, store.Reseal(ctx, endpoint.SealedSecret{ID: id, Sealed: "k.s"}, endpoint.SealedSecret{ID: id, Sealed: "l.s"}), "a secret that is gone needs no seal")
}

func TestAMerchantHasAHundredEndpointsAtMost(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	store := postgres.NewEndpointStore(pool)
	_, err := pool.Exec(t.Context(), "insert into delivery.endpoints (merchant_id, url) select 'm', 'https://shop.example/' from generate_series(1, 98)")
	require.NoError(t, err)
	// Each counts what the others may be about to add.
	errs := make([]error, 6)
	var group sync.WaitGroup
	for i := range errs {
		group.Go(func() { errs[i] = store.Insert(t.Context(), storedRow("m")) })
	}
	group.Wait()
	refused := 0
	for _, err := range errs {
		if err != nil {
			require.Equal(t, fault.Conflict, fault.ClassOf(err))
			require.EqualError(t, err, "merchant m has 100 endpoints already")
			refused++
		}
	}
	require.Equal(t, 4, refused)
	all, err := store.Rows(t.Context(), "m")
	require.NoError(t, err)
	require.Len(t, all, 100)
	require.NoError(t, store.Insert(t.Context(), storedRow("n")), "others have their own hundred")
}

func TestReplaceWritesOnlyOverTheRevisionThatWasRead(t *testing.T) {
	t.Parallel()
	store := postgres.NewEndpointStore(pgtest.New(t).Pool(t, ""))
	ctx, row := t.Context(), storedRow("m")
	require.NoError(t, store.Insert(ctx, row))
	first, err := store.Row(ctx, row.ID)
	require.NoError(t, err)
	second := first
	second.Description = "second"
	require.NoError(t, store.Replace(ctx, second))
	err = store.Replace(ctx, first)
	require.Equal(t, fault.Conflict, fault.ClassOf(err))

	for name, change := range map[string]func() error{
		"its secrets": func() error {
			return store.Rotate(ctx, row.ID, endpoint.SealedSecret{ID: uuid.New(), Sealed: "k1.new"}, time.Hour)
		},
		"a new seal": func() error {
			return store.Reseal(ctx, row.Sealed[0], endpoint.SealedSecret{ID: row.Sealed[0].ID, Sealed: "k2.secret"})
		},
		"its being disabled": func() error { return store.Disable(ctx, row.ID) },
	} {
		read, err := store.Row(ctx, row.ID)
		require.NoError(t, err)
		require.NoError(t, change(), name)
		require.Equal(t, fault.Conflict, fault.ClassOf(store.Replace(ctx, read)), name)
	}
	_, err = store.Remove(ctx, row.ID)
	require.NoError(t, err)
	require.Equal(t, fault.Conflict, fault.ClassOf(store.Replace(ctx, second)), "one that is removed does not come back")
}

func TestResealLosesNoSecretToOneThatWasFaster(t *testing.T) {
	t.Parallel()
	store := postgres.NewEndpointStore(pgtest.New(t).Pool(t, ""))
	ctx, row := t.Context(), storedRow("m")
	require.NoError(t, store.Insert(ctx, row))
	to := func(sealed string) endpoint.SealedSecret {
		return endpoint.SealedSecret{ID: row.Sealed[0].ID, Sealed: sealed}
	}
	require.NoError(t, store.Reseal(ctx, row.Sealed[0], to("k2.secret")))
	require.NoError(t, store.Reseal(ctx, row.Sealed[0], to("k3.secret")), "it read k1")
	got, err := store.Row(ctx, row.ID)
	require.NoError(t, err)
	require.Equal(t, []endpoint.SealedSecret{to("k2.secret")}, got.Sealed)
}

func TestTheReasonOfBeingDisabledStaysTheFirst(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	store := postgres.NewEndpointStore(b.all)
	id := b.endpoint(t, "m")
	_, err := b.all.Exec(ctx, "update delivery.endpoints set enabled = false, disabled_reason = 'gone' where id = $1", [16]byte(id))
	require.NoError(t, err)
	before, err := store.Row(ctx, id)
	require.NoError(t, err)
	require.NoError(t, store.Disable(ctx, id))
	after, err := store.Row(ctx, id)
	require.NoError(t, err)
	require.Equal(t, before, after, "it was disabled already")
	require.Equal(t, endpoint.DisabledGone, after.DisabledReason)

	_, err = b.all.Exec(ctx, "insert into delivery.failing_endpoints (endpoint_id) values ($1)", [16]byte(id))
	require.NoError(t, err)
	_, err = store.Enable(ctx, id, false)
	require.NoError(t, err)
	enabled, err := store.Row(ctx, id)
	require.NoError(t, err)
	require.True(t, enabled.Enabled)
	require.Empty(t, enabled.DisabledReason)
	require.Nil(t, enabled.DisabledAt)
	require.Nil(t, enabled.FailingSince, "it begins anew")
}

func TestStandingCountsWhatHasNotSucceeded(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	store := postgres.NewEndpointStore(b.all)
	id := b.endpoint(t, "m")
	claims, _, err := b.Plan(ctx, "inv", route, refs("m", 5))
	require.NoError(t, err)
	require.Len(t, claims, 5)
	dead := failure(claims[2])
	dead.State, dead.Cause = delivery.Dead, delivery.CauseRefused
	require.NoError(t, b.Record(ctx, "inv", []delivery.Outcome{failure(claims[0]), failure(claims[1]), dead, success(claims[3])}))
	require.NoError(t, store.Disable(ctx, id))
	_, _, err = b.Plan(ctx, "inv", route, refs("m", 2))
	require.NoError(t, err)
	b.endpoint(t, "other")

	got, err := store.Standing(ctx, id)
	require.NoError(t, err)
	require.Equal(t, []endpoint.Standing{
		{State: delivery.Dead, LastCause: delivery.CauseRefused, Deliveries: 1},
		{State: delivery.Parked, Deliveries: 2},
		{State: delivery.Pending, Deliveries: 1},
		{State: delivery.Retrying, LastCause: delivery.CauseStatus, Deliveries: 2},
	}, got)
	none, err := store.Standing(ctx, uuid.New())
	require.NoError(t, err)
	require.Empty(t, none)
}

func TestTheWorkerCannotWriteEndpointsOrTheirSecrets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	all, worker := db.Pool(t, ""), db.Pool(t, migrations.RoleWorker)
	id := endpointtest.Add(t, all, "m", nil)
	store := postgres.NewEndpointStore(worker)
	ctx := t.Context()
	row, err := store.Row(ctx, id)
	require.NoError(t, err)
	for name, do := range map[string]func() error{
		"insert":       func() error { return store.Insert(ctx, storedRow("m")) },
		"replace":      func() error { return store.Replace(ctx, row) },
		"rotate":       func() error { return store.Rotate(ctx, id, endpoint.SealedSecret{ID: uuid.New(), Sealed: "k.s"}, 0) },
		"reseal":       func() error { return store.Reseal(ctx, row.Sealed[0], row.Sealed[0]) },
		"drop expired": func() error { return store.DropExpired(ctx) },
		"remove":       func() error { _, err := store.Remove(ctx, id); return err },
		"another's URL": func() error {
			_, err := worker.Exec(ctx, "update delivery.endpoints set url = 'https://evil.example/'")
			return err
		},
	} {
		require.ErrorContains(t, do(), "permission denied", name)
	}
	after, err := store.Row(ctx, id)
	require.NoError(t, err)
	require.Equal(t, row, after)
}

func TestADatabaseThatIsAwayIsUnavailable(t *testing.T) {
	t.Parallel()
	pool, err := postgres.NewPool(t.Context(), "postgres://127.0.0.1:1/x", postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	store := postgres.NewEndpointStore(pool)
	_, listing := store.Rows(t.Context(), "")
	for _, err := range []error{listing, store.Insert(t.Context(), storedRow("m")), store.Disable(t.Context(), uuid.New())} {
		require.Equal(t, fault.Unavailable, fault.ClassOf(err), errors.Unwrap(err))
	}
}
