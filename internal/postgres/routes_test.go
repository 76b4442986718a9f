package postgres_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestARouteIsSetOnceReadAndTakenBack(t *testing.T) {
	t.Parallel()
	ctx, store := t.Context(), postgres.NewRouteStore(pgtest.New(t).Pool(t, ""))
	changed := func(did bool, err error) bool {
		require.NoError(t, err)
		return did
	}
	none, err := store.Routes(ctx, "")
	require.NoError(t, err)
	require.Empty(t, none)

	require.True(t, changed(store.Set(ctx, "m", delivery.RouteSvix)))
	first, err := store.Routes(ctx, "m")
	require.NoError(t, err)
	require.Len(t, first, 1)
	require.WithinDuration(t, time.Now(), first[0].SetAt, time.Minute)
	require.False(t, changed(store.Set(ctx, "m", delivery.RouteSvix)))
	again, err := store.Routes(ctx, "m")
	require.NoError(t, err)
	require.Equal(t, first, again, "since then it has had it")
	require.True(t, changed(store.Set(ctx, "m", delivery.RouteInhouse)))
	require.True(t, changed(store.Set(ctx, "a", delivery.RouteSvix)))

	all, err := store.Routes(ctx, "")
	require.NoError(t, err)
	require.Equal(t, []string{"a", delivery.RouteSvix, "m", delivery.RouteInhouse}, []string{all[0].MerchantID, all[0].Route, all[1].MerchantID, all[1].Route})
	require.True(t, all[1].SetAt.After(first[0].SetAt))
	require.True(t, changed(store.Unset(ctx, "m")))
	require.False(t, changed(store.Unset(ctx, "m")))
	left, err := store.Routes(ctx, "")
	require.NoError(t, err)
	require.Equal(t, all[:1], left)
	_, err = store.Set(ctx, "m", "pigeon")
	require.Error(t, err)
}

func TestAPlanTakesTheRouteOfItsMoment(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	store, ledger := postgres.NewRouteStore(db.Pool(t, "")), postgres.NewLedger(db.Pool(t, migrations.RoleWorker), postgres.LedgerOptions{})
	plan := func() []delivery.Claim {
		claims, _, err := ledger.Plan(t.Context(), "inv", delivery.RouteInhouse, []event.Ref{{
			ID: uuid.Must(uuid.NewV7()), TxID: 1, Type: "payment.succeeded", ObjectType: "payment", ObjectID: "p", ObjectVersion: 1, MerchantID: "m",
		}})
		require.NoError(t, err)
		return claims
	}
	require.Empty(t, plan(), "it has no endpoint here")
	_, err := store.Set(t.Context(), "m", delivery.RouteSvix)
	require.NoError(t, err)
	claims := plan()
	require.Len(t, claims, 1)
	require.Equal(t, delivery.SvixEndpoint, claims[0].EndpointID)
	_, err = store.Unset(t.Context(), "m")
	require.NoError(t, err)
	require.Empty(t, plan())
}

func TestTheWorkerReadsRoutesAndSetsNone(t *testing.T) {
	t.Parallel()
	store := postgres.NewRouteStore(pgtest.New(t).Pool(t, migrations.RoleWorker))
	_, err := store.Routes(t.Context(), "")
	require.NoError(t, err)
	_, err = store.Set(t.Context(), "m", delivery.RouteSvix)
	require.ErrorContains(t, err, "permission denied")
	_, err = store.Unset(t.Context(), "m")
	require.ErrorContains(t, err, "permission denied")
}

func TestRoutesOfALedgerThatIsAwayAreUnavailable(t *testing.T) {
	t.Parallel()
	pool, err := postgres.NewPool(t.Context(), "postgres://127.0.0.1:1/x", postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = postgres.NewRouteStore(pool).Routes(t.Context(), "")
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
}
