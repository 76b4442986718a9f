package replication_test

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/internal/wal"
	"github.com/hookline/hookline/migrations"
)

func TestASlotMadeBeforehandHoldsWhatCommitsBeforeAnyoneReadsIt(t *testing.T) {
	t.Parallel()
	pool, cfg, source := setup(t)
	for range 2 { // it is run at every start of the stack
		require.NoError(t, replication.EnsureSlot(t.Context(), cfg, slog.New(slog.DiscardHandler)))
	}
	_, err := pool.Exec(t.Context(), insertPayment)
	require.NoError(t, err)
	connect(t, source)
	require.Equal(t, "domain_events", next(t, source, wal.Insert).Relation.Name)
	var gaps int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from relay_gaps").Scan(&gaps))
	require.Zero(t, gaps, "a slot that was made before the first event missed nothing")
}

func TestASlotIsNotMadeWithoutItsPublication(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	_, err := pool.Exec(t.Context(), "drop publication "+migrations.Publication)
	require.NoError(t, err)
	cfg := replication.Config{DatabaseURL: db.RoleDSN(migrations.RoleCDC), Slot: "unpublished_" + db.Name, Publication: migrations.Publication}
	err = replication.EnsureSlot(t.Context(), cfg, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "run the migrations")
	var made int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from pg_replication_slots where slot_name = $1", cfg.Slot).Scan(&made))
	require.Zero(t, made)
}
