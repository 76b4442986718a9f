package postgres_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestNewPoolPinsTheSession(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.DSN()+"&timezone=Asia/Tokyo&application_name=psql&pool_max_conns=9",
		postgres.Options{ApplicationName: "payments-api", MaxConns: 2})
	require.NoError(t, err)
	t.Cleanup(pool.Close)

	var zone, name string
	require.NoError(t, pool.QueryRow(t.Context(),
		"select current_setting('timezone'), current_setting('application_name')").Scan(&zone, &name))
	require.Equal(t, "UTC", zone)
	require.Equal(t, "payments-api", name)
	require.EqualValues(t, 2, pool.Config().MaxConns)
}

func TestNewPoolDoesNotNeedTheDatabaseYet(t *testing.T) {
	t.Parallel()
	pool, err := postgres.NewPool(t.Context(), "postgres://nobody:secret@127.0.0.1:1/none", postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	err = pool.Ping(t.Context())
	require.Error(t, err)
	require.True(t, postgres.Unavailable(err), err)
}

func TestABadDSNIsNotRepeated(t *testing.T) {
	t.Parallel()
	for _, dsn := range []string{"postgres://u:s3cret@host:port/db", "password=s3cret host", "mysql://u:s3cret@h/db"} {
		err := postgres.CheckDSN(dsn)
		require.ErrorContains(t, err, "want postgres://", dsn)
		require.NotContains(t, err.Error(), "s3cret")
		_, err = postgres.NewPool(t.Context(), dsn, postgres.Options{})
		require.Error(t, err)
	}
}

func TestUnavailableTellsAnOutageFromADefect(t *testing.T) {
	t.Parallel()
	pool := pgtest.New(t).Pool(t, "")
	for statement, want := range map[string]bool{
		"select 1/0":          false,
		"select from nowhere": false,
		"set statement_timeout = 20; select pg_sleep(60)": true,
		"select pg_terminate_backend(pg_backend_pid())":   true,
	} {
		_, err := pool.Exec(t.Context(), statement)
		require.Error(t, err, statement)
		require.Equal(t, want, postgres.Unavailable(err), "%s: %v", statement, err)
	}
	require.False(t, postgres.Unavailable(nil))
	require.False(t, postgres.Unavailable(errors.New("another defect")))
	require.True(t, postgres.Unavailable(context.DeadlineExceeded))
}
