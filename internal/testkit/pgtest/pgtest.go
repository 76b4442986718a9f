// Package pgtest gives each test a real PostgreSQL database of its own, migrated.
//
// A test binary starts one server at the first call and stops it in Main. It runs without fsync: tests are
// about what SQL does, not about power cuts. Where there is no PostgreSQL the tests fail and say how to get one.
package pgtest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack/pgserver"
	"github.com/hookline/hookline/internal/testkit/child"
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

// Main runs the tests of a package, stops the server that they started, and calls ends. Call it from TestMain.
func Main(m *testing.M, ends ...func()) {
	code := m.Run()
	stop()
	for _, end := range ends {
		end()
	}
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
	ports, err := child.FreePorts(1)
	if err != nil {
		return err
	}
	shared = &pgserver.Server{
		Binaries: binaries, DataDir: filepath.Join(dir, "data"), Port: ports[0], Password: password,
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
	exited, err := child.Start(cmd, syscall.SIGINT)
	if err != nil {
		return err
	}
	stop = func() {
		cmd.Process.Signal(syscall.SIGINT)
		<-exited
		os.RemoveAll(dir)
	}
	if err := child.Await(ctx, exited, answers); err != nil {
		stop()
		return fmt.Errorf("waiting for PostgreSQL: %w: %s", err, log.String())
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

func answers(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, shared.DSN("postgres"))
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
