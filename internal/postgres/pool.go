// Package postgres is the door to PostgreSQL: the pool that every service connects through, and the stores
// of the business tables and of the ledger.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say how a pool connects. They win over what the DSN says.
type Options struct {
	// ApplicationName is what pg_stat_activity shows; use the service's name. Required.
	ApplicationName string
	// MaxConns is the number of connections at most; 0 means 4. Statements beyond it wait.
	MaxConns int
	// ConnectTimeout bounds the making of one connection; 0 means 3 s.
	ConnectTimeout time.Duration
	// Settings are server settings for each connection, such as the ledger's LedgerSettings.
	Settings map[string]string
}

// NewPool makes a pool of connections to the database at dsn, each pinned to UTC: payment_document() writes
// its time stamps in the session's time zone, and events must not depend on who wrote them. It does not
// connect yet, so that a service starts, and says that it is not ready, while its database is down. The
// error never holds the DSN. The pool is safe for concurrent use; close it after its last user.
func NewPool(ctx context.Context, dsn string, opts Options) (*pgxpool.Pool, error) {
	cfg, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	maps.Copy(cfg.ConnConfig.RuntimeParams, opts.Settings)
	cfg.ConnConfig.RuntimeParams["timezone"] = "UTC"
	cfg.ConnConfig.RuntimeParams["application_name"] = opts.ApplicationName
	cfg.ConnConfig.ConnectTimeout = opts.ConnectTimeout
	if opts.ConnectTimeout <= 0 {
		cfg.ConnConfig.ConnectTimeout = 3 * time.Second
	}
	cfg.MaxConns = int32(max(opts.MaxConns, 0)) //nolint:gosec // a pool is far smaller than 2^31
	if cfg.MaxConns == 0 {
		cfg.MaxConns = 4
	}
	cfg.MaxConnLifetimeJitter = 5 * time.Minute // without it a burst's connections all end, and are made again, at once
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("making a connection pool: %w", err)
	}
	return pool, nil
}

// CheckDSN says whether dsn can be read, for a service's settings. The error never holds it.
func CheckDSN(dsn string) error {
	_, err := parse(dsn)
	return err
}

func parse(dsn string) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		// The cause quotes the DSN, and hides its password only where it can tell where that is.
		return nil, errors.New("want postgres://user:password@host:port/database, or key=value pairs")
	}
	return cfg, nil
}

// Unavailable reports whether err means that the database could not be reached, is starting, stopping or
// out of resources, or did not answer in time: the same statement may succeed later. Whether the statement
// took effect is unknown.
func Unavailable(err error) bool {
	if err == nil {
		return false
	}
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return unavailableCode(pgErr.Code)
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || pgconn.Timeout(err) || pgconn.SafeToRetry(err)
}

func unavailableCode(code string) bool {
	switch code {
	case "25006", // read_only_sql_transaction: a standby, until the failover is through
		"40001", "40P01", // serialization_failure, deadlock_detected
		"55P03",                            // lock_not_available: lock_timeout
		"57014",                            // query_canceled: statement_timeout
		"57P01", "57P02", "57P03", "57P05", // the server stops, crashed, starts, or cut an idle session
		"3D000": // invalid_catalog_name: not made yet, or under restoration
		return true
	}
	switch code[:min(2, len(code))] {
	case "08", // connection_exception
		"28", // invalid_authorization_specification
		"53", // insufficient_resources
		"58": // system_error
		return true
	}
	return false
}
