package replication_test

import (
	"bytes"
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
	"github.com/hookline/hookline/migrations"
)

func TestASlotThatLostItsWALIsMadeAgainAndTheGapIsDeclared(t *testing.T) {
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
	_, err := migrations.Up(t.Context(), server.DSN("postgres"), migrations.Business)
	require.NoError(t, err)
	run := func(statement string) {
		_, err := pool.Exec(t.Context(), statement)
		require.NoError(t, err)
	}

	var log bytes.Buffer
	declared := 0
	cfg := replication.Config{DatabaseURL: server.DSN("postgres"), Slot: "lost", Publication: migrations.Publication}
	source := replication.New(cfg, slog.New(slog.NewTextHandler(&log, nil)), func() { declared++ })
	t.Cleanup(func() { source.Close(context.WithoutCancel(t.Context())) })
	connect(t, source)
	run(insertPayment)
	confirmed := next(t, source, wal.Commit).LSN
	require.NoError(t, source.Confirm(confirmed, false))
	source.Disconnect(t.Context())
	require.Zero(t, declared)

	// Nobody reads while the server writes more than it keeps for a slot.
	require.Eventually(t, func() bool {
		run(insertPayment)
		run("select pg_switch_wal()")
		run("checkpoint")
		state, err := source.State(t.Context())
		require.NoError(t, err)
		return state.Status == "lost"
	}, patient, often)
	connect(t, source)
	require.Equal(t, 1, declared)
	require.Contains(t, log.String(), `level=ERROR msg="GAP: `)
	require.Equal(t, []gap{{from: confirmed, reason: "the slot was invalidated: the server had removed WAL that it still needed"}}, gaps(t, pool, "lost"))

	run(insertPayment)
	require.NoError(t, source.Confirm(next(t, source, wal.Commit).LSN, false), "from here on everything comes")
	source.Disconnect(t.Context())
	connect(t, source)
	source.Disconnect(t.Context())
	require.Equal(t, 1, declared, "it is one gap, however often the relay starts")
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
