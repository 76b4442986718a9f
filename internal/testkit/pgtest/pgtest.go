// Package pgtest gives each test a real PostgreSQL database of its own, migrated.
//
// A test binary starts one server at the first call and stops it in Main. It runs without fsync: tests are
// about what SQL does, not about power cuts. Where there is no PostgreSQL the tests fail and say how to get one.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/migrations"
)

const (
	template = "hookline_template"
	password = "test"
)

// Database is a database with both sets of migrations applied, and nothing in it.
type Database struct {
	Name   string
	server *pgserver.Server
}

// DSN is the superuser's address of the database.
func (d Database) DSN() string { return d.server.DSN(d.Name) }

// RoleDSN is the address for one of the migrations' roles.
func (d Database) RoleDSN(role string) string { return d.server.RoleDSN(role, password, d.Name) }

// Pool connects as the role; an empty role is the superuser. It is closed with the test.
func (d Database) Pool(t testing.TB, role string) *pgxpool.Pool {
	t.Helper()
	dsn := d.DSN()
	if role != "" {
		dsn = d.RoleDSN(role)
	}
	pool, err := pgxpool.New(t.Context(), dsn)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

var (
	once    sync.Once
	shared  *pgserver.Server
	stop    = func() {}
	errOnce error
	counter atomic.Int64
)

// Main runs the tests of a package and then stops the server that they started. Call it from TestMain.
func Main(m *testing.M) {
	code := m.Run()
	stop()
	os.Exit(code)
}

// New returns a fresh database, dropped with the test.
func New(t testing.TB) Database {
	t.Helper()
	once.Do(func() { errOnce = start() })
	require.NoError(t, errOnce, "starting PostgreSQL for the tests")

	name := fmt.Sprintf("test_%d", counter.Add(1))
	admin(t, "create database "+name+" template "+template)
	t.Cleanup(func() { admin(t, "drop database "+name+" with (force)") })
	return Database{Name: name, server: shared}
}

func admin(t testing.TB, statement string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context()) // also in a cleanup, when the test's own is over
	conn, err := pgx.Connect(ctx, shared.DSN("postgres"))
	require.NoError(t, err)
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, statement)
	require.NoError(t, err)
}

func start() error {
	ctx := context.Background()
	binaries, err := pgserver.Find(ctx, filepath.SplitList(os.Getenv("HOOKLINE_POSTGRES_BIN"))...)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hookline-pgtest-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // root hands the data directory to another user
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	shared = &pgserver.Server{
		Binaries: binaries, DataDir: filepath.Join(dir, "data"), Port: port, Password: password,
		Settings: map[string]string{"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"},
	}
	if err := shared.Init(ctx); err != nil {
		return err
	}
	cmd, err := shared.Command(ctx)
	if err != nil {
		return err
	}
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	// A test binary that dies leaves no server behind. The signal comes when the starting thread ends, so
	// the thread must stay: see startOnOwnThread.
	cmd.SysProcAttr.Pdeathsig = syscall.SIGINT
	exited, err := startOnOwnThread(cmd)
	if err != nil {
		return err
	}
	stop = func() {
		cmd.Process.Signal(syscall.SIGINT)
		<-exited
		os.RemoveAll(dir)
	}
	if err := ready(ctx, exited); err != nil {
		stop()
		return fmt.Errorf("%w: %s", err, log.String())
	}
	return prepare(ctx)
}

// prepare makes the template and the roles.
func prepare(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, shared.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create database "+template); err != nil {
		return err
	}
	for _, set := range []migrations.Set{migrations.Business, migrations.Ledger} {
		if _, err := migrations.Up(ctx, shared.DSN(template), set); err != nil {
			return err
		}
	}
	for _, role := range []string{migrations.RoleAPI, migrations.RoleReader, migrations.RoleCDC, migrations.RoleWorker} {
		if err := migrations.SetPassword(ctx, conn, role, password); err != nil {
			return err
		}
	}
	return nil
}

func ready(ctx context.Context, exited <-chan error) error {
	deadline := time.Now().Add(30 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := pgx.Connect(ctx, shared.DSN("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("PostgreSQL did not become ready: %w", err)
		}
		select {
		case <-exited:
			return errors.New("PostgreSQL ended while starting")
		case <-tick.C:
		}
	}
}

func freePort() (int, error) {
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(port)
}

// startOnOwnThread starts cmd on an operating system thread that lives as long as cmd does.
func startOnOwnThread(cmd *exec.Cmd) (<-chan error, error) {
	started, exited := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // PR_SET_PDEATHSIG fires when the thread that forked ends, and Go ends idle threads
		err := cmd.Start()
		started <- err
		if err == nil {
			exited <- cmd.Wait()
			close(exited)
		}
	}()
	return exited, <-started
}
