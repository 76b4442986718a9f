package crashtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
)

// records reads what the databases have of a run. Its user may read the business tables and write the ledger.
type records struct{ pool *pgxpool.Pool }

func connect(ctx context.Context, dsn string) (*records, error) {
	pool, err := postgres.NewPool(ctx, dsn, postgres.Options{ApplicationName: "hookline crash-test"})
	if err != nil {
		return nil, err
	}
	return &records{pool}, nil
}

func (r *records) close() { r.pool.Close() }

const selectEvents = `
select id, object_id, object_version, merchant_id, event_type, created_at, pg_xact_commit_timestamp(xmin) as committed, payload::text as payload
  from public.domain_events where merchant_id = any($1) order by object_id, object_version`

type eventRow struct {
	ID            uuid.UUID
	ObjectID      string
	ObjectVersion int64
	MerchantID    string
	EventType     string
	CreatedAt     time.Time
	Committed     time.Time
	Payload       string
}

// events returns what was committed for the merchants.
func (r *records) events(ctx context.Context, merchants []string) ([]Event, error) {
	rows, err := r.pool.Query(ctx, selectEvents, merchants)
	if err != nil {
		return nil, fmt.Errorf("reading the committed events: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[eventRow])
	if err != nil {
		return nil, fmt.Errorf("reading the committed events: %w", err)
	}
	events := make([]Event, len(all))
	for i, row := range all {
		events[i] = Event{
			Object: Object{row.ObjectID, row.ObjectVersion}, ID: row.ID, MerchantID: row.MerchantID, Type: row.EventType, Committed: row.Committed,
		}
		// The payment of a webhook is as of the attempt: the event's own version, or a later one. Each version's
		// document is the snapshot of the event that made it.
		for _, later := range all[i:] {
			if later.ObjectID != row.ObjectID {
				break
			}
			sum, err := bodyOf(row, later.Payload)
			if err != nil {
				return nil, err
			}
			events[i].Bodies = append(events[i].Bodies, sum)
		}
	}
	return events, nil
}

// bodyOf is the SHA-256 of the webhook's body, written out here once more as the merchant's documentation shows it, so
// that a sender that renders something else is found out.
func bodyOf(row eventRow, payment string) (string, error) {
	eventType, err := json.Marshal(row.EventType)
	if err != nil {
		return "", fmt.Errorf("encoding an event type: %w", err)
	}
	body := fmt.Sprintf(`{"event_id":"%s","event_type":%s,"object_version":%d,"occurred_at":"%s","payment":%s,"snapshot":%s}`,
		row.ID, eventType, row.ObjectVersion, row.CreatedAt.UTC().Format("2006-01-02T15:04:05.000000Z"), payment, row.Payload)
	sum := sha256.Sum256([]byte(body))
	return hex.EncodeToString(sum[:]), nil
}

const selectAttempts = `
select a.event_id, a.generation, coalesce(encode(a.body_sha256, 'hex'), '') as body_sha256, a.epoch
  from delivery.attempts a
  join delivery.deliveries d using (event_id, endpoint_id, generation)
 where d.merchant_id = any($1) and a.status_code between 200 and 299`

// attempts returns what the ledger has down as answered 2xx.
func (r *records) attempts(ctx context.Context, merchants []string) ([]Attempt, error) {
	rows, err := r.pool.Query(ctx, selectAttempts, merchants)
	if err != nil {
		return nil, fmt.Errorf("reading the ledger's attempts: %w", err)
	}
	attempts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Attempt])
	if err != nil {
		return nil, fmt.Errorf("reading the ledger's attempts: %w", err)
	}
	return attempts, nil
}

// generations returns how many each event has, where it is more than one.
func (r *records) generations(ctx context.Context, merchants []string) (map[uuid.UUID]int, error) {
	rows, err := r.pool.Query(ctx, `select event_id, count(distinct generation)::int from delivery.deliveries
		where merchant_id = any($1) group by event_id having count(distinct generation) > 1`, merchants)
	if err != nil {
		return nil, fmt.Errorf("reading the generations: %w", err)
	}
	found := map[uuid.UUID]int{}
	var id uuid.UUID
	var n int
	if _, err := pgx.ForEachRow(rows, []any{&id, &n}, func() error { found[id] = n; return nil }); err != nil {
		return nil, fmt.Errorf("reading the generations: %w", err)
	}
	return found, nil
}

// progress is how far the ledger is.
type progress struct {
	Committed int // events
	Planned   int // of them
	Open      int // deliveries that have not ended
	Retrying  int // of those, the ones that wait for their next attempt
	Dead      int // deliveries that were given up
}

const selectProgress = `
select (select count(*) from public.domain_events where merchant_id = any($1)),
       (select count(*) from delivery.plans where merchant_id = any($1)),
       (select count(*) from delivery.deliveries where merchant_id = any($1) and ended_at is null),
       (select count(*) from delivery.deliveries where merchant_id = any($1) and state = 'retrying'),
       (select count(*) from delivery.deliveries where merchant_id = any($1) and state = 'dead')`

func (r *records) progress(ctx context.Context, merchants []string) (progress, error) {
	rows, err := r.pool.Query(ctx, selectProgress, merchants)
	if err != nil {
		return progress{}, fmt.Errorf("reading how far the ledger is: %w", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[progress])
	if err != nil {
		return progress{}, fmt.Errorf("reading how far the ledger is: %w", err)
	}
	return p, nil
}

// secret is what the merchant simulator of an embedded stack verifies by: that of the demo merchant's endpoint.
func (r *records) secret(ctx context.Context, keys seal.Keyring, merchant string) (string, error) {
	var id uuid.UUID
	var sealed string
	err := r.pool.QueryRow(ctx, `select e.id, s.sealed from delivery.endpoint_secrets s join delivery.endpoints e on e.id = s.endpoint_id
		where e.merchant_id = $1 and s.expires_at is null order by e.created_at limit 1`, merchant).Scan((*[16]byte)(&id), &sealed)
	if err != nil {
		return "", fmt.Errorf("reading the demo merchant's signing secret: %w", err)
	}
	return endpoint.Sealer{Keys: keys, ID: id}.OpenSecret(sealed)
}
