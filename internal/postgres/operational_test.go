package postgres_test

import (
	"encoding/json"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestNewsIsKeptOnceWhateverBecameOfIt(t *testing.T) {
	t.Parallel()
	ledger := postgres.NewLedger(pgtest.New(t).Pool(t, migrations.RoleWorker), postgres.LedgerOptions{})
	e := event.Operational{ID: uuid.New(), MerchantID: "m", Type: "endpoint.disabled", Data: json.RawMessage(`{"endpoint_id": "ep_1"}`)}
	for _, want := range []bool{true, false} {
		added, err := ledger.Tell(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, want, added)
	}
	open, err := ledger.Unpublished(t.Context(), 10)
	require.NoError(t, err)
	require.Equal(t, []event.Operational{e}, open)
	require.NoError(t, ledger.MarkPublished(t.Context(), e.ID, ""))
	added, err := ledger.Tell(t.Context(), e)
	require.NoError(t, err)
	require.False(t, added)
	open, err = ledger.Unpublished(t.Context(), 10)
	require.NoError(t, err)
	require.Empty(t, open, "it is not published again")
}
