package load

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/seal"
)

// Database reads what was committed, and adds merchants to the ledger. It is not safe for concurrent use.
type Database struct{ conn *pgx.Conn }

// Connect connects to dsn, whose user may read the business tables and write the ledger.
func Connect(ctx context.Context, dsn string) (*Database, error) {
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		return nil, fmt.Errorf("reading the database's address: %w", err)
	}
	cfg.RuntimeParams["application_name"] = "hookline-load"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	d := &Database{conn: conn}
	var tracked string
	if err := conn.QueryRow(ctx, "select current_setting('track_commit_timestamp')").Scan(&tracked); err != nil {
		return nil, errors.Join(fmt.Errorf("asking the database for its settings: %w", err), d.Close(ctx))
	}
	if tracked != "on" {
		return nil, errors.Join(errors.New("the database keeps no commit times: set track_commit_timestamp = on and restart it"), d.Close(ctx))
	}
	return d, nil
}

// Close ends the connection.
func (d *Database) Close(ctx context.Context) error { return d.conn.Close(ctx) }

const eventColumns = "select id, object_id, event_type, pg_xact_commit_timestamp(xmin) as committed from public.domain_events "

// EventsOfPayments returns the events of the payments.
func (d *Database) EventsOfPayments(ctx context.Context, ids []string) ([]Event, error) {
	return d.events(ctx, eventColumns+"where object_id = any($1) and object_type = 'payment'", ids)
}

// EventsOfMerchants returns the events of the merchants. It reads the whole table.
func (d *Database) EventsOfMerchants(ctx context.Context, merchants []string) ([]Event, error) {
	return d.events(ctx, eventColumns+"where merchant_id = any($1)", merchants)
}

func (d *Database) events(ctx context.Context, query string, argument []string) ([]Event, error) {
	rows, err := d.conn.Query(ctx, query, argument)
	if err != nil {
		return nil, fmt.Errorf("reading the committed events: %w", err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Event])
	if err != nil {
		return nil, fmt.Errorf("reading the committed events: %w", err)
	}
	return events, nil
}

const insertPayments = `
insert into public.payments (merchant_id, amount, currency, status)
select $1, 1000, 'USD', 'succeeded' from generate_series(1, $2)`

// InsertPayments creates n payments of the merchant in one transaction.
func (d *Database) InsertPayments(ctx context.Context, merchant string, n int) error {
	if _, err := d.conn.Exec(ctx, insertPayments, merchant, n); err != nil {
		return fmt.Errorf("inserting payments: %w", err)
	}
	return nil
}

const insertEndpoints = `
with added as (
    insert into delivery.endpoints (id, merchant_id, url, description)
    select id, merchant, url, 'load generator' from unnest($1::uuid[], $2::text[], $3::text[]) as t (id, merchant, url))
insert into delivery.endpoint_secrets (endpoint_id, sealed) select * from unnest($1::uuid[], $4::text[])`

// AddEndpoints gives each merchant an endpoint at the URL of the same place, all with one secret, which the keys seal, and
// returns their ids.
func (d *Database) AddEndpoints(ctx context.Context, keys seal.Keyring, merchants, urls []string, secret string) ([]uuid.UUID, error) {
	ids, sealed := make([]uuid.UUID, len(merchants)), make([]string, len(merchants))
	for i := range ids {
		ids[i] = uuid.New()
		var err error
		if sealed[i], err = (endpoint.Sealer{Keys: keys, ID: ids[i]}).SealSecret(secret); err != nil {
			return nil, err
		}
	}
	if _, err := d.conn.Exec(ctx, insertEndpoints, ids, merchants, urls, sealed); err != nil {
		return nil, fmt.Errorf("adding endpoints: %w", err)
	}
	return ids, nil
}

// OrderObjects makes the endpoints want each object's events in order.
func (d *Database) OrderObjects(ctx context.Context, ids []uuid.UUID) error {
	if _, err := d.conn.Exec(ctx, "update delivery.endpoints set ordering = 'object' where id = any($1)", ids); err != nil {
		return fmt.Errorf("ordering the endpoints' webhooks: %w", err)
	}
	return nil
}

const (
	removeEndpoints = `
delete from delivery.endpoints
 where id = any($1) and not exists (select from delivery.deliveries where endpoint_id = any($1) and ended_at is null)`
	disableEndpoints = `update delivery.endpoints set enabled = false where id = any($1)`
)

// RemoveEndpoints takes the endpoints away again. Where deliveries to them stay open for longer than patience, which is
// asked every interval, the endpoints stay too, disabled: whoever looks for what was lost finds where it was to go.
func (d *Database) RemoveEndpoints(ctx context.Context, ids []uuid.UUID, interval, patience time.Duration) error {
	var failed error
	settled, err := Settle(ctx, func() int {
		tag, err := d.conn.Exec(ctx, removeEndpoints, ids)
		if err != nil {
			failed = err
			return len(ids) // there is no point in going on
		}
		return int(tag.RowsAffected())
	}, len(ids), interval, patience)
	if err := errors.Join(failed, err); err != nil {
		return fmt.Errorf("removing the endpoints: %w", err)
	}
	if settled {
		return nil
	}
	if _, err := d.conn.Exec(ctx, disableEndpoints, ids); err != nil {
		return fmt.Errorf("disabling the endpoints: %w", err)
	}
	return nil
}

// Attempt is one attempt at a webhook, as the ledger has it.
type Attempt struct {
	EventID    uuid.UUID
	EndpointID uuid.UUID
	Number     int // 1 is the first of the delivery
	Cause      delivery.Cause
	Began      time.Time // by the database's clock, as it was when the outcome was written
	Took       time.Duration
}

const selectAttempts = `
select event_id, endpoint_id, number, cause, attempted_at, latency_ms::bigint * 1000000
  from delivery.attempts where event_id = any($1) order by event_id, endpoint_id, attempted_at`

// Attempts returns what was tried for the events: of each webhook all attempts together, in their order.
func (d *Database) Attempts(ctx context.Context, events []uuid.UUID) ([]Attempt, error) {
	rows, err := d.conn.Query(ctx, selectAttempts, events)
	if err != nil {
		return nil, fmt.Errorf("reading the attempts: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Attempt])
	if err != nil {
		return nil, fmt.Errorf("reading the attempts: %w", err)
	}
	return attempts, nil
}

// StatesOfEvents counts the events' deliveries by state.
func (d *Database) StatesOfEvents(ctx context.Context, events []uuid.UUID) (map[delivery.State]int, error) {
	rows, err := d.conn.Query(ctx, "select state, count(*) from delivery.deliveries where event_id = any($1) group by state", events)
	if err != nil {
		return nil, fmt.Errorf("counting deliveries: %w", err)
	}
	out := map[delivery.State]int{}
	var state delivery.State
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&state, &n}, func() error {
		out[state] = n
		return nil
	}); err != nil {
		return nil, fmt.Errorf("counting deliveries: %w", err)
	}
	return out, nil
}

// Backends returns what each of the server's processes works for: the role of a client, the name of the process for
// the server's own.
func (d *Database) Backends(ctx context.Context) (map[int]string, error) {
	rows, err := d.conn.Query(ctx, "select pid, coalesce(usename, backend_type) from pg_stat_activity")
	if err != nil {
		return nil, fmt.Errorf("reading the server's processes: %w", err)
	}
	names := map[int]string{}
	var pid int
	var name string
	_, err = pgx.ForEachRow(rows, []any{&pid, &name}, func() error {
		names[pid] = name
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading the server's processes: %w", err)
	}
	return names, nil
}
