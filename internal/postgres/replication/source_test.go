package replication_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/internal/wal"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	patient = time.Minute
	often   = 20 * time.Millisecond
)

// setup returns a database and, for the role with the least rights, a source whose slot goes with the test.
func setup(t *testing.T) (*pgxpool.Pool, replication.Config, *replication.Source) {
	t.Helper()
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	cfg := replication.Config{DatabaseURL: db.RoleDSN(migrations.RoleCDC), Slot: "source_" + db.Name, Publication: migrations.Publication}
	require.NoError(t, cfg.Validate())
	source := replication.New(cfg, slog.New(slog.DiscardHandler), func() {})
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		source.Disconnect(ctx)
		source.Close(ctx)
		require.Eventually(t, func() bool {
			_, err := pool.Exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", cfg.Slot)
			return err == nil
		}, patient, often)
	})
	return pool, cfg, source
}

// next reads up to the next message of the kind.
func next(t *testing.T, source *replication.Source, kind wal.Kind) wal.Message {
	t.Helper()
	for {
		var m wal.Message
		require.NoError(t, source.Next(&m))
		if m.Kind == kind {
			return m
		}
	}
}

const insertPayment = "insert into payments (merchant_id, amount, currency, status) values ('m', 1, 'USD', 'succeeded')"

func TestASlotStartsWhereItWasConfirmedAndNowhereElse(t *testing.T) {
	t.Parallel()
	pool, _, source := setup(t)
	keepAlive := connect(t, source)
	require.Equal(t, 10*time.Second, keepAlive)
	for range 2 {
		_, err := pool.Exec(t.Context(), insertPayment)
		require.NoError(t, err)
	}
	row := next(t, source, wal.Insert)
	require.Equal(t, "domain_events", row.Relation.Name)
	require.Len(t, row.Values, len(row.Relation.Columns))
	first := next(t, source, wal.Commit)
	second := next(t, source, wal.Commit)
	require.Greater(t, second.LSN, first.LSN)
	require.WithinDuration(t, time.Now(), second.Time, time.Minute)
	require.NoError(t, source.Confirm(first.LSN, true))
	require.GreaterOrEqual(t, next(t, source, wal.KeepAlive).LSN, first.LSN)
	source.Disconnect(t.Context())

	connect(t, source)
	require.Equal(t, second.LSN, next(t, source, wal.Commit).LSN, "the second one comes again")
	state, err := source.State(t.Context())
	require.NoError(t, err)
	require.True(t, state.Exists)
	require.Equal(t, "reserved", state.Status)
	require.Equal(t, first.LSN, state.Confirmed)
	require.LessOrEqual(t, state.Restart, state.Confirmed)
	require.Greater(t, state.Current, state.Confirmed)
}

func TestDisconnectTakesTheLastConfirmationAlong(t *testing.T) {
	t.Parallel()
	pool, _, source := setup(t)
	connect(t, source)
	_, err := pool.Exec(t.Context(), insertPayment)
	require.NoError(t, err)
	first := next(t, source, wal.Commit)
	// Much that is sent and never read: closing over it resets the connection.
	_, err = pool.Exec(t.Context(), "insert into payments (merchant_id, amount, currency, status) select 'm', 1, 'USD', 'succeeded' from generate_series(1, 3000)")
	require.NoError(t, err)
	require.NoError(t, source.Confirm(first.LSN, false))
	source.Interrupt()
	var m wal.Message
	require.Eventually(t, func() bool { return source.Next(&m) != nil }, patient, time.Microsecond, "what was buffered ends")
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	source.Disconnect(ctx)
	state, err := source.State(t.Context())
	require.NoError(t, err)
	require.Equal(t, first.LSN, state.Confirmed)
}

func TestInterruptEndsAWait(t *testing.T) {
	t.Parallel()
	_, _, source := setup(t)
	source.Interrupt() // without a connection: nothing
	connect(t, source)
	ended := make(chan error)
	go func() {
		var m wal.Message
		for {
			if err := source.Next(&m); err != nil {
				ended <- err
				return
			}
		}
	}()
	source.Interrupt()
	require.ErrorContains(t, <-ended, "reading from the slot")
	require.NoError(t, source.Confirm(0, false), "the other direction still works")
}

func TestTheKeepAliveFollowsTheServersTimeout(t *testing.T) {
	t.Parallel()
	pool, _, source := setup(t)
	for setting, want := range map[string]time.Duration{"6s": 2 * time.Second, "0": 10 * time.Second} {
		_, err := pool.Exec(t.Context(), fmt.Sprintf("do $$ begin execute format('alter role hookline_cdc in database %%I set wal_sender_timeout = %%L', current_database(), '%s'); end $$", setting))
		require.NoError(t, err)
		keepAlive := connect(t, source)
		require.Equal(t, want, keepAlive)
		source.Disconnect(t.Context())
	}
}

func TestASlotOfAnotherKindIsRefused(t *testing.T) {
	t.Parallel()
	pool, cfg, source := setup(t)
	_, err := pool.Exec(t.Context(), "select pg_create_physical_replication_slot($1)", cfg.Slot)
	require.NoError(t, err)
	_, err = source.Connect(t.Context())
	require.ErrorContains(t, err, "set SLOT_NAME to another")
}

func TestTheRoleMayWriteAHeartbeatAndItArrives(t *testing.T) {
	t.Parallel()
	_, _, source := setup(t)
	connect(t, source)
	before, err := source.State(t.Context())
	require.NoError(t, err)
	require.NoError(t, source.Heartbeat(t.Context()))
	require.Eventually(t, func() bool { // a keep-alive on request says how far the server is
		require.NoError(t, source.Confirm(0, true))
		return next(t, source, wal.KeepAlive).LSN > before.Current
	}, patient, often)
}

func TestValidateNamesTheVariableAndNotThePassword(t *testing.T) {
	t.Parallel()
	good := replication.Config{DatabaseURL: "postgres://u:p@h/d", Slot: "s_1", Publication: "p"}
	require.NoError(t, good.Validate())
	for want, change := range map[string]func(*replication.Config){
		"DATABASE_URL": func(c *replication.Config) { c.DatabaseURL = "postgres://u:secret@h:port/d" },
		"SLOT_NAME":    func(c *replication.Config) { c.Slot = "Upper" },
		"PUBLICATION":  func(c *replication.Config) { c.Publication = "a'b" },
	} {
		bad := good
		change(&bad)
		err := bad.Validate()
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "secret")
	}
}

// connect takes the slot as soon as it is free.
func connect(t *testing.T, source *replication.Source) time.Duration {
	t.Helper()
	var keepAlive time.Duration
	whenFree(t, func() error {
		var err error
		keepAlive, err = source.Connect(t.Context())
		return err
	})
	return keepAlive
}

// whenFree does what wants a slot to itself: the server lets go of one a moment after its reader has gone.
func whenFree(t *testing.T, do func() error) {
	t.Helper()
	var err error
	require.Eventually(t, func() bool {
		err = do()
		return err == nil || !strings.Contains(err.Error(), "is active for PID")
	}, patient, often)
	require.NoError(t, err)
}
