package pgtest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestMigrationsGoDownAndUpAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, set := range []migrations.Set{migrations.Ledger, migrations.Business} {
		require.NoError(t, migrations.Down(t.Context(), db.DSN(), set))
	}
	var left int
	require.NoError(t, db.Pool(t, "").QueryRow(t.Context(), `
		select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
		 where n.nspname in ('public', 'delivery') and c.relkind = 'r' and c.relname not like 'goose%'`).Scan(&left))
	require.Zero(t, left, "tables left behind by Down")
	for _, set := range []migrations.Set{migrations.Business, migrations.Ledger} {
		version, err := migrations.Up(t.Context(), db.DSN(), set)
		require.NoError(t, err)
		require.Positive(t, version)
	}
}

func TestAPIRoleWritesPaymentsAndCannotTouchTheirEvents(t *testing.T) {
	t.Parallel()
	api := pgtest.New(t).Pool(t, migrations.RoleAPI)
	_, err := api.Exec(t.Context(), "insert into payments (merchant_id, amount, currency, status) values ('m', 1, 'USD', 'succeeded')")
	require.NoError(t, err)
	for _, statement := range []string{
		"select from domain_events", "delete from domain_events", "update payments set version = 9",
		"insert into payments (merchant_id, amount, currency, status, version) values ('m', 1, 'USD', 'succeeded', 5)",
		"select from delivery.deliveries",
	} {
		_, err = api.Exec(t.Context(), statement)
		require.ErrorContains(t, err, "permission denied", statement)
	}
}

func TestEachStatusChangeIsOneEventOfTheNextVersion(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	api, all := db.Pool(t, migrations.RoleAPI), db.Pool(t, "")
	ctx := t.Context()
	_, err := api.Exec(ctx, `with t as materialized (select set_config('hookline.traceparent', '00-abc', true))
		insert into payments (merchant_id, amount, currency, status) select 'm', 5, 'EUR', 'pending' from t`)
	require.NoError(t, err)
	for _, status := range []string{"succeeded", "succeeded", "refunded"} {
		_, err = api.Exec(ctx, "update payments set status = $1", status)
		require.NoError(t, err)
	}
	rows, err := all.Query(ctx, `select event_type || ' ' || object_version || ' ' || (payload->>'status') || ' ' || (payload->>'version')
		|| ' ' || coalesce(traceparent, '-') || ' ' || right(payload->>'created_at', 6) || ' ' || (txid > 0) || substr(id::text, 15, 1)
		from domain_events order by txid, sequence`)
	require.NoError(t, err)
	var got []string
	for rows.Next() {
		var line string
		require.NoError(t, rows.Scan(&line))
		got = append(got, line)
	}
	require.NoError(t, rows.Err())
	require.Equal(t, []string{
		"payment.pending 1 pending 1 00-abc +00:00 true7",
		"payment.succeeded 2 succeeded 2 - +00:00 true7",
		"payment.refunded 3 refunded 3 - +00:00 true7",
	}, got)
}

func TestAnInsertThatConflictsWritesNoEvent(t *testing.T) {
	t.Parallel()
	all := pgtest.New(t).Pool(t, "")
	const insert = `insert into payments (id, merchant_id, amount, currency, status)
		values ('00000000-0000-7000-8000-000000000001', 'm', 1, 'USD', 'succeeded') on conflict do nothing`
	for range 2 {
		_, err := all.Exec(t.Context(), insert)
		require.NoError(t, err)
	}
	var events int
	require.NoError(t, all.QueryRow(t.Context(), "select count(*) from domain_events").Scan(&events))
	require.Equal(t, 1, events)
}
