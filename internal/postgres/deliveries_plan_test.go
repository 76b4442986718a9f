package postgres

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

// Whatever the statistics say, nobody who looks at deliveries reads the table from end to end: with few rows and with many,
// analyzed or not, with the plan of these arguments and with the generic one.
func TestNobodyWhoLooksAtDeliveriesScansThem(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	admin := db.Pool(t, "")
	config, err := pgx.ParseConfig(db.RoleDSN(migrations.RoleWorker))
	require.NoError(t, err)
	for name, value := range LedgerSettings() {
		config.RuntimeParams[name] = value
	}
	conn, err := pgx.ConnectConfig(t.Context(), config)
	require.NoError(t, err)
	defer conn.Close(t.Context())

	const (
		all    = "('00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', "
		listed = all + "'00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'm', '', 50, 1000)"
		judged = "(gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 1000, '', false, 1, '', gen_random_uuid())"
		event  = "(gen_random_uuid(), gen_random_uuid(), gen_random_uuid())"
	)
	const (
		byKey, byDead, byParked, byDue = "deliveries_pkey", "deliveries_dead", "deliveries_parked", "deliveries_due"
		byWaiting, byHandedOver        = "deliveries_waiting", "deliveries_handed_over"
	)
	look := func(filled string) {
		for _, c := range []struct{ statement, arguments, index string }{
			{listByEvent, listed, byKey},
			{listDead, listed, byDead},
			{listParked, listed, byParked},
			{listWaiting, listed, byWaiting},
			{listOpen, listed, byDue},
			{lookedAt, all + "1000)", byKey},
			{readDeliveries, event, byKey},
			{readAttempts, event, "attempts_pkey"},
			{listHandedOver, listed, byHandedOver},
			{dueHandedOver, "(100)", byHandedOver},
			{unansweredSince, "", byHandedOver},
			{awaited, "(array[gen_random_uuid()], '{payment}', '{p}')", byKey},
			{deadEndpoints, "('m', gen_random_uuid())", byDead},
			{judgeEvent, judged, byKey},
			{judgeDead, judged, byDead},
		} {
			for _, mode := range []string{"force_generic_plan", "force_custom_plan"} {
				_, err := conn.Exec(t.Context(), "set plan_cache_mode = "+mode+"; deallocate all; prepare it as "+c.statement)
				require.NoError(t, err, c.statement)
				rows, err := conn.Query(t.Context(), "explain execute it"+c.arguments, pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, err)
				lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
				require.NoError(t, err)
				plan := strings.Join(lines, "\n")
				require.NotContains(t, plan, "Seq Scan", "%s, %s: %s", filled, mode, c.statement)
				require.Contains(t, plan, c.index, "%s, %s: %s", filled, mode, c.statement)
				if c.index != byKey {
					// The key is for the other generations of what the index has found.
					for _, line := range lines {
						require.NotContains(t, line, byKey+" on deliveries d ", "%s, %s: %s", filled, mode, plan)
					}
				}
				if c.statement == listByEvent && filled == "analyzed" && mode == "force_custom_plan" {
					require.Contains(t, plan, "Index Scan Backward using deliveries_pkey", filled)
					require.NotContains(t, plan, "Sort", "%s: it ends with the last one that is wanted", filled)
				}
			}
		}
	}
	look("empty")
	_, err = admin.Exec(t.Context(), `
		insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state, next_attempt_at, ended_at)
		select gen_random_uuid(), ('00000000-0000-4000-8000-00000000000' || i % 5)::uuid, 1, 'm' || i % 5,
		       (array['succeeded', 'dead', 'parked', 'retrying', 'handed_over'])[case when i % 100 < 4 then 2 + i % 4 else 1 end],
		       case when i % 100 < 4 and i % 4 >= 2 then clock_timestamp() end, case when i % 100 >= 4 or i % 4 = 0 then clock_timestamp() end
		  from generate_series(0, 20000) i`)
	require.NoError(t, err)
	look("never analyzed")
	_, err = admin.Exec(t.Context(), "analyze")
	require.NoError(t, err)
	look("analyzed")
}
