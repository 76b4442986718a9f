// Package migrations carries the SQL migrations inside the binaries and applies them.
//
// There are two sets because the ledger may live in another database than the business tables: each
// set has a version table of its own, and neither refers to the other's tables.
package migrations

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"

	"github.com/jackc/pgx/v5"
	_ "github.com/jackc/pgx/v5/stdlib" // goose speaks database/sql
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed business/*.sql ledger/*.sql
var files embed.FS

// Set names one of the two sets of migrations.
type Set string

// The sets, in the order in which a fresh database wants them.
const (
	Business Set = "business" // payments, domain_events, the trigger, the publication
	Ledger   Set = "ledger"   // schema delivery
)

// Roles that the sets create, without a password. SetPassword gives them one.
const (
	RoleAPI    = "hookline_api"    // payments-api
	RoleReader = "hookline_reader" // data-service
	RoleCDC    = "hookline_cdc"    // cdc-relay or Sequin
	RoleWorker = "hookline_worker" // webhook-worker
)

// Publication is what the CDC subscribes to; the business set makes it.
const Publication = "hookline_events"

// Up applies what is missing of the set to the database at dsn and returns the version reached. It is
// safe to run from several processes at once: a session lock makes the others wait.
func Up(ctx context.Context, dsn string, set Set) (int64, error) {
	provider, db, err := open(dsn, set)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if _, err := provider.Up(ctx); err != nil {
		return 0, fmt.Errorf("migrating the %s tables: %w", set, err)
	}
	return provider.GetDBVersion(ctx)
}

// Down takes back every migration of the set. It destroys the data.
func Down(ctx context.Context, dsn string, set Set) error {
	provider, db, err := open(dsn, set)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := provider.DownTo(ctx, 0); err != nil {
		return fmt.Errorf("taking back the %s tables: %w", set, err)
	}
	return nil
}

// SetPassword lets the role log in with the password.
func SetPassword(ctx context.Context, conn *pgx.Conn, role, password string) error {
	// ALTER ROLE takes no parameters; format() quotes, as both come from outside.
	var statement string
	if err := conn.QueryRow(ctx, "select format('alter role %I login password %L', $1::text, $2::text)", role, password).Scan(&statement); err != nil {
		return fmt.Errorf("quoting the password of %s: %w", role, err)
	}
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("setting the password of %s: %w", role, err)
	}
	return nil
}

func open(dsn string, set Set) (*goose.Provider, *sql.DB, error) {
	sub, err := fs.Sub(files, string(set))
	if err != nil {
		return nil, nil, fmt.Errorf("opening the %s migrations: %w", set, err)
	}
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		return nil, nil, fmt.Errorf("opening the database: %w", err)
	}
	locker, err := lock.NewPostgresSessionLocker()
	if err != nil {
		return nil, nil, fmt.Errorf("making the migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, sub,
		goose.WithTableName("public.goose_"+string(set)), goose.WithSessionLocker(locker))
	if err != nil {
		db.Close()
		return nil, nil, fmt.Errorf("reading the %s migrations: %w", set, err)
	}
	return provider, db, nil
}
