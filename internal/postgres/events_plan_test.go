package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

// A prepared statement keeps the plan that it got while the tables were small.
func TestReaderPlansDoNotDependOnTheSizeOfTheTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	admin := db.Pool(t, "")
	_, err := admin.Exec(t.Context(), "insert into payments (merchant_id, amount, currency, status) values ('m', 1, 'EUR', 'failed')")
	require.NoError(t, err)
	_, err = admin.Exec(t.Context(), "analyze")
	require.NoError(t, err)

	conn, err := pgx.Connect(t.Context(), db.RoleDSN(migrations.RoleReader))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var mode string
	require.NoError(t, conn.QueryRow(t.Context(), "show plan_cache_mode").Scan(&mode))
	require.Equal(t, "force_generic_plan", mode, "planning takes longer than looking up")
	for statement, arguments := range map[string]string{
		selectPayloads: "(array[gen_random_uuid()])",
		selectPayment:  "(gen_random_uuid())",
		selectFeed:     "(1, 1, false, 9, 10)",
	} {
		_, err = conn.Exec(t.Context(), "set plan_cache_mode = force_generic_plan; deallocate all; prepare it as "+statement)
		require.NoError(t, err)
		rows, err := conn.Query(t.Context(), "explain execute it"+arguments, pgx.QueryExecModeSimpleProtocol)
		require.NoError(t, err)
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		plan := strings.Join(lines, "\n")
		require.NotContains(t, plan, "Seq Scan", statement)
		require.Contains(t, plan, "Index", statement)
		if statement == selectFeed {
			require.Contains(t, plan, "(txid < CASE", "a bound on what is read, not a filter on it")
			require.NotContains(t, plan, "Filter:")
		}
	}
}
