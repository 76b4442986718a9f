package postgres_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
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
			HeaderNames: []string{"X-Api-Key"}, Schedule: delivery.Schedule{time.Second, time.Hour}, Ordering: endpoint.PerObject, TimeoutMS: 7000, RateLimit: 20,
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
	want.Circuit = endpoint.Circuit{State: delivery.CircuitClosed, Since: got.Circuit.Since}
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
		"reseal":  func() error { return store.Reseal(ctx, id, endpoint.SealedSecret{}, endpoint.SealedSecret{}) },
		"disable": func() error { return store.Disable(ctx, id) },
		"enable":  func() error { _, err := store.Enable(ctx, id, false); return err },
		"remove":  func() error { _, err := store.Remove(ctx, id); return err },
	} {
		err := do()
		require.Equal(t, fault.NotFound, fault.ClassOf(err), name)
		require.EqualError(t, err, "there is no endpoint "+id.String(), name)
	}
	row := storedRow("m")
	require.NoError(t, store.Insert(ctx, row))
	require.NoError(t, store.Reseal(ctx, row.ID, endpoint.SealedSecret{ID: id, Sealed: "k.s"}, endpoint.SealedSecret{ID: id, Sealed: "l.s"}), "a secret that is gone needs no seal")
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
			return store.Reseal(ctx, row.ID, row.Sealed[0], endpoint.SealedSecret{ID: row.Sealed[0].ID, Sealed: "k2.secret"})
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
	require.NoError(t, store.Reseal(ctx, row.ID, row.Sealed[0], to("k2.secret")))
	require.NoError(t, store.Reseal(ctx, row.ID, row.Sealed[0], to("k3.secret")), "it read k1")
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

func TestStandingIsBoundedByWhatItLooksAt(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	store := postgres.NewEndpointStore(b.all)
	id, other := b.endpoint(t, "m"), b.endpoint(t, "n")
	fill := func(of uuid.UUID, state string, n int, first string) {
		_, err := b.all.Exec(ctx, `insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state, next_attempt_at, ended_at)
			select gen_random_uuid(), $1, 1, 'm', $2, $4::timestamptz + i * interval '1 millisecond', case $2 when 'dead' then clock_timestamp() end
			  from generate_series(1, $3::int) i`, [16]byte(of), state, n, first)
		require.NoError(t, err)
	}
	standing := func() []endpoint.Standing {
		got, err := store.Standing(ctx, id)
		require.NoError(t, err)
		return got
	}
	fill(id, "pending", 3, "2026-01-02")
	fill(other, "retrying", 9996, "2026-01-01")
	fill(id, "parked", 9999, "2026-01-01")
	require.Equal(t, []endpoint.Standing{{State: delivery.Parked, Deliveries: 9999}, {State: delivery.Pending, Deliveries: 3}}, standing())

	fill(other, "retrying", 1, "2026-01-03")
	fill(id, "parked", 2, "2026-01-01")
	fill(id, "dead", 10_001, "2026-01-01")
	require.Equal(t, []endpoint.Standing{
		{State: delivery.Dead, Deliveries: 10_000, AtLeast: true},
		{State: delivery.Parked, Deliveries: 10_000, AtLeast: true},
		{State: delivery.Pending, Deliveries: 3, AtLeast: true},
	}, standing())

	fill(other, "retrying", 9999, "2026-01-01")
	require.Contains(t, standing(), endpoint.Standing{State: delivery.Pending, AtLeast: true}, "none of it is among those that are due first")
}

// blocked waits until somebody waits for a lock in the test's database.
func blocked(t *testing.T, b books) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var waiting int
		err := b.all.QueryRow(t.Context(), "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'").Scan(&waiting)
		require.NoError(c, err)
		require.Equal(c, 1, waiting)
	}, 10*time.Second, 5*time.Millisecond)
}

// Each is held up at the first lock that it takes. Who holds that takes the others meanwhile, in the order of the statement
// that records outcomes, or of a rotation. A lock too early would be a deadlock.
func TestLocksAreTakenInOneOrder(t *testing.T) {
	t.Parallel()
	const (
		failing    = "select from delivery.failing_endpoints where endpoint_id = $1 for no key update"
		ofEndpoint = "select from delivery.endpoints where id = $1 for update"
		secrets    = "select from delivery.endpoint_secrets where endpoint_id = $1 for update"
		parked     = "select from delivery.deliveries where endpoint_id = $1 for update"
	)
	inOrder := []string{failing, ofEndpoint, parked}
	for name, c := range map[string]struct {
		do    func(s *postgres.EndpointStore, row endpoint.Row) error
		locks []string
	}{
		"enable": {func(s *postgres.EndpointStore, row endpoint.Row) error {
			_, err := s.Enable(t.Context(), row.ID, false)
			return err
		}, inOrder},
		"drop": {func(s *postgres.EndpointStore, row endpoint.Row) error {
			_, err := s.Enable(t.Context(), row.ID, true)
			return err
		}, inOrder},
		"remove": {func(s *postgres.EndpointStore, row endpoint.Row) error {
			_, err := s.Remove(t.Context(), row.ID)
			return err
		}, append(inOrder, secrets)},
		"expired": {func(s *postgres.EndpointStore, _ endpoint.Row) error { return s.DropExpired(t.Context()) }, []string{ofEndpoint, secrets}},
		"reseal": {func(s *postgres.EndpointStore, row endpoint.Row) error {
			return s.Reseal(t.Context(), row.ID, row.Sealed[0], row.Sealed[0])
		}, []string{ofEndpoint, secrets}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBooks(t)
			ctx := t.Context()
			store := postgres.NewEndpointStore(b.all)
			id := b.endpoint(t, "m")
			row, err := store.Row(ctx, id)
			require.NoError(t, err)
			for _, statement := range []string{
				"insert into delivery.endpoint_secrets (endpoint_id, sealed, expires_at) values ($1, 'k.s', clock_timestamp())",
				"update delivery.endpoints set enabled = false where id = $1",
				"insert into delivery.failing_endpoints (endpoint_id) values ($1)",
			} {
				_, err := b.all.Exec(ctx, statement, [16]byte(id))
				require.NoError(t, err)
			}
			_, _, err = b.Plan(ctx, "inv", route, refs("m", 2))
			require.NoError(t, err)

			tx, err := b.all.Begin(ctx)
			require.NoError(t, err)
			defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
			lock := func(statement string) {
				tag, err := tx.Exec(ctx, statement, [16]byte(id))
				require.NoError(t, err)
				require.NotZero(t, tag.RowsAffected(), statement)
			}
			lock(c.locks[0])
			done := make(chan error, 1)
			go func() { done <- c.do(store, row) }()
			blocked(t, b)
			for _, statement := range c.locks[1:] {
				lock(statement)
			}
			require.NoError(t, tx.Commit(ctx))
			require.NoError(t, <-done)
			if c.locks[0] == failing {
				var left int
				require.NoError(t, b.all.QueryRow(ctx, "select count(*) from delivery.failing_endpoints").Scan(&left))
				require.Zero(t, left)
			}
		})
	}
}

func TestTheWorkerCannotWriteEndpointsOrTheirSecrets(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	all, worker := db.Pool(t, ""), db.Pool(t, migrations.RoleWorker)
	id := endpointtest.Add(t, all, "m", nil)
	store := postgres.NewEndpointStore(worker)
	ctx := t.Context()
	const expired = `insert into delivery.endpoint_secrets (endpoint_id, sealed, expires_at) values ($1, 'k.s', clock_timestamp())`
	_, err := all.Exec(ctx, expired, [16]byte(id))
	require.NoError(t, err)
	row, err := store.Row(ctx, id)
	require.NoError(t, err)
	for name, do := range map[string]func() error{
		"insert":       func() error { return store.Insert(ctx, storedRow("m")) },
		"replace":      func() error { return store.Replace(ctx, row) },
		"rotate":       func() error { return store.Rotate(ctx, id, endpoint.SealedSecret{ID: uuid.New(), Sealed: "k.s"}, 0) },
		"reseal":       func() error { return store.Reseal(ctx, id, row.Sealed[0], row.Sealed[0]) },
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

func TestAnEndpointThatIsChangedIsProbedAtOnce(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	manager := endpointtest.NewManager(t, b.all)
	store := postgres.NewEndpointStore(b.all)
	timeoutMS := int64(20_000)
	for name, change := range map[string]struct {
		do    func(id uuid.UUID) error
		probe bool
	}{
		"url": {func(id uuid.UUID) error {
			row, err := store.Row(ctx, id)
			require.NoError(t, err)
			row.URL = "https://elsewhere.example/hooks"
			return store.Replace(ctx, row)
		}, true},
		"headers": {func(id uuid.UUID) error {
			row, err := store.Row(ctx, id)
			require.NoError(t, err)
			sealed := "other"
			row.HeaderNames, row.HeadersSealed = []string{"X-Shop"}, &sealed
			return store.Replace(ctx, row)
		}, true},
		"time-out": {func(id uuid.UUID) error {
			row, err := store.Row(ctx, id)
			require.NoError(t, err)
			row.TimeoutMS = timeoutMS
			return store.Replace(ctx, row)
		}, true},
		"secret": {func(id uuid.UUID) error {
			_, err := manager.RotateSecret(ctx, id, "", "", 0)
			return err
		}, true},
		"description": {func(id uuid.UUID) error {
			row, err := store.Row(ctx, id)
			require.NoError(t, err)
			row.Description = "the same"
			return store.Replace(ctx, row)
		}, false},
	} {
		id := b.endpoint(t, "m-"+name)
		since := b.open(t, id, 300)
		require.NoError(t, change.do(id), name)
		now := b.endpointNow(t, id)
		require.Equal(t, delivery.CircuitOpen, now.Circuit, name)
		require.Equal(t, change.probe, b.backlog(t, id).ProbeIn <= 0, name)
		require.Equal(t, change.probe, now.CircuitSince.After(since), "%s: what was sent before says nothing", name)

		// One that is well stays so.
		b.exec(t, "update delivery.endpoints set circuit = 'closed', probe_at = null where id = $1", [16]byte(id))
		timeoutMS++
		require.NoError(t, change.do(id), name)
		require.Equal(t, delivery.CircuitClosed, b.endpointNow(t, id).Circuit, name)
	}
}

func TestAnEndpointShowsItsCircuitAndItsDrain(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	ctx := t.Context()
	id := b.endpoint(t, "m")
	manager := endpointtest.NewManager(t, b.all)
	shown, err := manager.Get(ctx, id)
	require.NoError(t, err)
	require.Equal(t, delivery.CircuitClosed, shown.Circuit.State)
	require.Nil(t, shown.Circuit.ProbeAt)
	require.Nil(t, shown.Drain)

	b.open(t, id, 60)
	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id, Next: time.Minute}))
	shown, err = manager.Get(ctx, id)
	require.NoError(t, err)
	require.Equal(t, delivery.CircuitOpen, shown.Circuit.State)
	require.Equal(t, 1, shown.Circuit.Opens)
	require.WithinDuration(t, time.Now().Add(time.Minute), *shown.Circuit.ProbeAt, 10*time.Second)
	_, known := shown.Drain.Remaining(10)
	require.False(t, known, "nobody knows when it is back")

	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id, Next: time.Second, AtOnce: 8, PerSecond: 2}))
	shown, err = manager.Get(ctx, id)
	require.NoError(t, err)
	remaining, known := shown.Drain.Remaining(10)
	require.True(t, known)
	require.Equal(t, 5*time.Second, remaining)

	require.NoError(t, b.NoteDrain(ctx, delivery.Drain{EndpointID: id}))
	shown, err = manager.Get(ctx, id)
	require.NoError(t, err)
	require.Nil(t, shown.Drain, "it has ended")
	_, known = shown.Drain.Remaining(10)
	require.False(t, known)
}
