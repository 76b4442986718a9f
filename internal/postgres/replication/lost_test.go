package replication_test

import (
	"context"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/internal/wal"
)

func TestASlotThatLostItsWALIsNamedAndNotMadeAgain(t *testing.T) {
	t.Parallel()
	server := thriftyServer(t)
	var pool *pgxpool.Pool
	require.Eventually(t, func() bool {
		var err error
		pool, err = pgxpool.New(t.Context(), server.DSN("postgres"))
		require.NoError(t, err)
		if pool.Ping(t.Context()) == nil {
			return true
		}
		pool.Close()
		return false
	}, patient, often)
	t.Cleanup(pool.Close)
	run := func(statement string) {
		_, err := pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}
	run("create table domain_events (id int)")
	run("create publication hookline_events for table domain_events")

	cfg := replication.Config{DatabaseURL: server.DSN("postgres"), Slot: "lost", Publication: "hookline_events"}
	source := replication.New(cfg, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { source.Close(context.WithoutCancel(t.Context())) })
	_, err := source.Connect(t.Context())
	require.NoError(t, err)
	source.Disconnect(t.Context())

	require.Eventually(t, func() bool {
		run("insert into domain_events values (1)")
		run("select pg_switch_wal()")
		run("checkpoint")
		state, err := source.State(t.Context())
		require.NoError(t, err)
		return state.Status == "lost"
	}, patient, often)
	_, err = source.Connect(t.Context())
	require.ErrorIs(t, err, wal.ErrSlotLost)
	require.ErrorContains(t, err, "select pg_drop_replication_slot('lost')")

	run("select pg_drop_replication_slot('lost')")
	_, err = source.Connect(t.Context())
	require.NoError(t, err, "what the operator did is taken for what it says")
	source.Disconnect(t.Context())
}

// thriftyServer starts a server that keeps next to no WAL for slots, which the shared one must not.
func thriftyServer(t *testing.T) pgserver.Server {
	t.Helper()
	binaries, err := pgserver.Find(t.Context(), filepath.SplitList(os.Getenv("HOOKLINE_POSTGRES_BIN"))...)
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "hookline-thrifty-") //nolint:usetesting // the account that PostgreSQL runs as must reach it
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())

	server := pgserver.Server{
		Binaries: binaries, DataDir: filepath.Join(dir, "data"), Port: port, Password: "test",
		Settings: map[string]string{"fsync": "off", "max_slot_wal_keep_size": "1MB", "shared_buffers": "16MB"},
	}
	require.NoError(t, server.Init(t.Context()))
	cmd, err := server.Command(context.WithoutCancel(t.Context())) // the context would kill it, and leave its children
	require.NoError(t, err)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT // a test that dies leaves no server behind
	started, exited := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the signal comes when the thread that started it ends
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it ends by a signal
		}
		close(exited)
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		<-exited
	})
	return server
}
