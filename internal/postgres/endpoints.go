package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/seal"
)

// EndpointStore keeps merchants' endpoints in the ledger, sealed as it gets them. Its pool needs a role that may write
// them, which the worker's may not. It is safe for concurrent use. A fault.NotFound says that there is no such endpoint.
type EndpointStore struct {
	pool *pgxpool.Pool
}

// NewEndpointStore makes a store upon the pool, which stays the caller's to close.
func NewEndpointStore(pool *pgxpool.Pool) *EndpointStore { return &EndpointStore{pool: pool} }

// maxPerMerchant bounds what one event of a merchant can turn into.
const maxPerMerchant = 100

const insertEndpoint = `
insert into delivery.endpoints
    (id, merchant_id, url, url_sealed, description, event_types, header_names, headers_sealed, retry_delays_ms, ordering, timeout_ms,
     rate_limit)
select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, nullif($12, 0)
 where (select count(*) from delivery.endpoints where merchant_id = $2) < $13`

const insertSecret = `insert into delivery.endpoint_secrets (id, endpoint_id, sealed) values ($2, $1, $3)`

// Insert adds an endpoint with its secrets. A fault.Conflict says that the merchant has as many as one may have.
func (s *EndpointStore) Insert(ctx context.Context, row endpoint.Row) error {
	return s.transact(ctx, "adding an endpoint", func(tx pgx.Tx) error {
		// Two at once would each count without the other.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock(hashtextextended($1, 0))", "endpoints of "+row.MerchantID); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, insertEndpoint, append(columns(row), maxPerMerchant)...)
		if err != nil {
			return err
		}
		if tag.RowsAffected() == 0 {
			return fault.New(fault.Conflict, "merchant %s has %d endpoints already", row.MerchantID, maxPerMerchant)
		}
		for _, secret := range row.Sealed {
			if _, err := tx.Exec(ctx, insertSecret, [16]byte(row.ID), [16]byte(secret.ID), secret.Sealed); err != nil {
				return err
			}
		}
		return nil
	})
}

func columns(row endpoint.Row) []any {
	var delays []int64 // null is the deployment's schedule
	for _, delay := range row.Schedule {
		delays = append(delays, delay.Milliseconds())
	}
	return []any{
		[16]byte(row.ID), row.MerchantID, row.URL, row.URLSealed, row.Description, notNull(row.EventTypes), notNull(row.HeaderNames),
		row.HeadersSealed, delays, string(row.Ordering), row.TimeoutMS, row.RateLimit,
	}
}

func notNull(list []string) []string {
	if list == nil {
		return []string{}
	}
	return list
}

const selectEndpoints = `
select e.id, e.merchant_id, e.url, e.url_sealed, e.description, e.event_types, e.header_names, e.headers_sealed, e.retry_delays_ms,
       e.ordering, e.timeout_ms, coalesce(e.rate_limit, 0), e.enabled, e.disabled_at, coalesce(e.disabled_reason, ''), f.since,
       e.circuit, e.circuit_changed_at, e.circuit_opens, e.probe_at, r.started_at, coalesce(r.at_once, 0), coalesce(r.per_second, 0), e.created_at, e.updated_at, e.revision,
       array_agg(s.id order by s.created_at desc, s.id desc) filter (where s.id is not null),
       array_agg(s.sealed order by s.created_at desc, s.id desc) filter (where s.id is not null),
       array_agg(s.created_at order by s.created_at desc, s.id desc) filter (where s.id is not null),
       array_agg(s.expires_at order by s.created_at desc, s.id desc) filter (where s.id is not null)
  from delivery.endpoints e
  left join delivery.failing_endpoints f on f.endpoint_id = e.id
  left join delivery.drains r on r.endpoint_id = e.id and r.next_at is not null
  left join delivery.endpoint_secrets s on s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > clock_timestamp())
 where %s
 group by e.id, f.since, r.endpoint_id
 order by e.created_at, e.id`

// Row reads one endpoint.
func (s *EndpointStore) Row(ctx context.Context, id uuid.UUID) (endpoint.Row, error) {
	rows, err := s.rows(ctx, "e.id = $1", [16]byte(id))
	if err != nil {
		return endpoint.Row{}, err
	}
	if len(rows) == 0 {
		return endpoint.Row{}, noEndpoint(id)
	}
	return rows[0], nil
}

// Rows reads every endpoint, or those of one merchant, in the order of their making.
func (s *EndpointStore) Rows(ctx context.Context, merchantID string) ([]endpoint.Row, error) {
	return s.rows(ctx, "$1 in ('', e.merchant_id)", merchantID)
}

func (s *EndpointStore) rows(ctx context.Context, where string, argument any) ([]endpoint.Row, error) {
	rows, err := s.pool.Query(ctx, fmt.Sprintf(selectEndpoints, where), argument)
	if err != nil {
		return nil, classify("reading endpoints", err)
	}
	out, err := pgx.CollectRows(rows, scanEndpoint)
	if err != nil {
		return nil, classify("reading endpoints", err)
	}
	return out, nil
}

func scanEndpoint(row pgx.CollectableRow) (endpoint.Row, error) {
	var (
		e         endpoint.Row
		delays    []int64
		secretIDs [][16]byte
		sealed    []string
		created   []time.Time
		expires   []*time.Time
		draining  *time.Time
		drain     endpoint.Drain
	)
	err := row.Scan((*[16]byte)(&e.ID), &e.MerchantID, &e.URL, &e.URLSealed, &e.Description, &e.EventTypes, &e.HeaderNames, &e.HeadersSealed, &delays,
		&e.Ordering, &e.TimeoutMS, &e.RateLimit, &e.Enabled, &e.DisabledAt, &e.DisabledReason, &e.FailingSince,
		&e.Circuit.State, &e.Circuit.Since, &e.Circuit.Opens, &e.Circuit.ProbeAt, &draining, &drain.AtOnce, &drain.PerSecond, &e.CreatedAt, &e.UpdatedAt, &e.Revision,
		&secretIDs, &sealed, &created, &expires)
	if draining != nil {
		drain.Since = *draining
		e.Drain = &drain
	}
	e.Schedule, e.HasCredentials = scheduleOf(delays), e.URLSealed != nil
	e.Secrets = make([]endpoint.Secret, len(sealed))
	for i := range sealed {
		e.Sealed = append(e.Sealed, endpoint.SealedSecret{ID: secretIDs[i], Sealed: sealed[i]})
		e.Secrets[i] = endpoint.Secret{ID: secretIDs[i], KeyID: seal.KeyID(sealed[i]), CreatedAt: created[i], ExpiresAt: expires[i]}
	}
	return e, err
}

// Who gives an endpoint another URL, other headers, another time-out or another secret may have mended it: a circuit that is
// not closed wants a probe at once, and not in minutes, and requests to what the endpoint was are void for it.
// What is sealed anew counts as changed: a probe too many does no harm.
const (
	replaceEndpoint = `
update delivery.endpoints e set merchant_id = $2, url = $3, url_sealed = $4, description = $5, event_types = $6, header_names = $7,
       headers_sealed = $8, retry_delays_ms = $9, ordering = $10, timeout_ms = $11,
       rate_limit = nullif($12, 0),
       circuit = case when o.another then 'open' else e.circuit end,
       circuit_changed_at = case when o.another then clock_timestamp() else e.circuit_changed_at end,
       probe_at = case when o.another then clock_timestamp() else e.probe_at end
  from (select id, circuit <> 'closed' and (url, url_sealed, headers_sealed, timeout_ms) is distinct from ($3, $4, $8, $11) as another
          from delivery.endpoints where id = $1 for update) o
 where e.id = o.id and e.revision = $13`
	probeNow = `
update delivery.endpoints set circuit = 'open', circuit_changed_at = clock_timestamp(), probe_at = clock_timestamp()
 where id = $1 and circuit <> 'closed'`
)

// Replace writes all of the row but its secrets and whether it is enabled. A fault.Conflict says that somebody changed the
// endpoint since the row was read.
func (s *EndpointStore) Replace(ctx context.Context, row endpoint.Row) error {
	tag, err := s.pool.Exec(ctx, replaceEndpoint, append(columns(row), row.Revision)...)
	if err != nil {
		return classify("changing an endpoint", err)
	}
	if tag.RowsAffected() == 0 {
		return fault.New(fault.Conflict, "endpoint %s was changed, or removed, by somebody else meanwhile", row.ID)
	}
	return nil
}

const (
	dropExpiredSecrets = `delete from delivery.endpoint_secrets where endpoint_id = $1 and expires_at <= clock_timestamp()`
	expireSecrets      = `
update delivery.endpoint_secrets set expires_at = clock_timestamp() + $2 * interval '1 millisecond'
 where endpoint_id = $1 and (expires_at is null or expires_at > clock_timestamp() + $2 * interval '1 millisecond')`
)

// Rotate adds a secret. Those before it expire after the overlap, or earlier where they would have.
func (s *EndpointStore) Rotate(ctx context.Context, id uuid.UUID, secret endpoint.SealedSecret, overlap time.Duration) error {
	return s.transact(ctx, "rotating a secret", func(tx pgx.Tx) error {
		if err := lockEndpoint(ctx, tx, id); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, expireSecrets, [16]byte(id), overlap.Milliseconds()); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, dropExpiredSecrets, [16]byte(id)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, probeNow, [16]byte(id)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, insertSecret, [16]byte(id), [16]byte(secret.ID), secret.Sealed)
		return err
	})
}

// DropExpired removes the secrets of all endpoints that have expired. Nobody reads them any more.
func (s *EndpointStore) DropExpired(ctx context.Context) error {
	rows, err := s.pool.Query(ctx, "select distinct endpoint_id from delivery.endpoint_secrets where expires_at <= clock_timestamp()")
	if err != nil {
		return classify("looking for expired secrets", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return classify("looking for expired secrets", err)
	}
	for _, id := range ids { // one lock at a time
		err := s.transact(ctx, "removing expired secrets", func(tx pgx.Tx) error {
			if err := lockEndpoint(ctx, tx, id); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, dropExpiredSecrets, id)
			return err
		})
		if err != nil && fault.ClassOf(err) != fault.NotFound {
			return err
		}
	}
	return nil
}

// Reseal replaces the text of an endpoint's secret where it is still the one before. A secret that is gone is no error.
func (s *EndpointStore) Reseal(ctx context.Context, id uuid.UUID, before, after endpoint.SealedSecret) error {
	return s.transact(ctx, "sealing a secret anew", func(tx pgx.Tx) error {
		if err := lockEndpoint(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "update delivery.endpoint_secrets set sealed = $4 where endpoint_id = $1 and id = $2 and sealed = $3",
			[16]byte(id), [16]byte(before.ID), before.Sealed, after.Sealed)
		return err
	})
}

// Disable disables an endpoint; one that is disabled already stays so for its reason.
func (s *EndpointStore) Disable(ctx context.Context, id uuid.UUID) error {
	return s.transact(ctx, "disabling an endpoint", func(tx pgx.Tx) error {
		if err := lockEndpoint(ctx, tx, id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "update delivery.endpoints set enabled = false where id = $1 and enabled", [16]byte(id))
		return err
	})
}

// endParked is for an endpoint whose lock the transaction holds. Deliveries that are planned at this very moment, by a
// statement that does not see what the transaction does, are parked after it: the drainer finds them.
const endParked = `
update delivery.deliveries set state = 'dead', last_cause = $2, ended_at = clock_timestamp(), epoch = epoch + 1
 where endpoint_id = $1 and state = 'parked'`

// endBehindParked ends what waits for a version that is parked: without that one it would be the first that the merchant
// hears of the object since.
const endBehindParked = `
update delivery.deliveries w set state = 'dead', last_cause = $2, ended_at = clock_timestamp(), epoch = epoch + 1
 where w.endpoint_id = $1 and w.state = 'waiting'
   and exists (select from delivery.plans own
                 join delivery.plans p on p.object_id = own.object_id and p.object_type = own.object_type and p.object_version < own.object_version
                 join delivery.deliveries d on d.event_id = p.event_id and d.endpoint_id = $1 and d.generation = 0 and d.state = 'parked'
                where own.event_id = w.event_id)`

// endWaiting ends all that waits there.
const endWaiting = `
update delivery.deliveries set state = 'dead', last_cause = $2, ended_at = clock_timestamp(), epoch = epoch + 1
 where endpoint_id = $1 and state = 'waiting'`

// enableEndpoint also closes the circuit: who enables an endpoint says that it is well.
const enableEndpoint = `
update delivery.endpoints set enabled = true, circuit = 'closed', circuit_opens = 0, probe_at = null, circuit_changed_at = clock_timestamp()
 where id = $1 and (not enabled or circuit <> 'closed' or circuit_opens > 0)`

// Enable enables an endpoint, closes its circuit and forgets since when it fails. With drop the parked deliveries end before,
// and those that wait for them; it returns how many are parked, or have ended.
func (s *EndpointStore) Enable(ctx context.Context, id uuid.UUID, drop bool) (int64, error) {
	var parked int64
	err := s.transact(ctx, "enabling an endpoint", func(tx pgx.Tx) error {
		if err := lockWithFailing(ctx, tx, id); err != nil {
			return err
		}
		if drop {
			for _, end := range []string{endBehindParked, endParked} {
				tag, err := tx.Exec(ctx, end, [16]byte(id), string(delivery.CauseDropped))
				if err != nil {
					return err
				}
				parked += tag.RowsAffected()
			}
		} else if err := tx.QueryRow(ctx, "select count(*) from delivery.deliveries where endpoint_id = $1 and state = 'parked'", [16]byte(id)).Scan(&parked); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, enableEndpoint, [16]byte(id))
		return err
	})
	return parked, err
}

// Remove removes an endpoint, ends its deliveries that are parked or wait for their turn, and returns how many they were. The others end when their next
// attempt finds it gone.
func (s *EndpointStore) Remove(ctx context.Context, id uuid.UUID) (int64, error) {
	var parked int64
	err := s.transact(ctx, "removing an endpoint", func(tx pgx.Tx) error {
		if err := lockWithFailing(ctx, tx, id); err != nil {
			return err
		}
		for _, end := range []string{endWaiting, endParked} {
			tag, err := tx.Exec(ctx, end, [16]byte(id), string(delivery.CauseNoEndpoint))
			if err != nil {
				return err
			}
			parked += tag.RowsAffected()
		}
		// Its secrets would raise the revision of what is being removed: first them, then it.
		if _, err := tx.Exec(ctx, "delete from delivery.endpoint_secrets where endpoint_id = $1", [16]byte(id)); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "delete from delivery.endpoints where id = $1", [16]byte(id))
		return err
	})
	return parked, err
}

// maxCounted bounds what Standing looks at of the ledger's open deliveries, of the endpoint's parked, and of its dead ones.
const maxCounted = 10_000

// Each part reads one of the partial indexes, and no further than the bound. The one of open deliveries is by time: it holds
// every endpoint's, so that the count of one endpoint's is a bound, too, where there are more. Then there is a row of it, be
// it of none.
const standing = `
with due as materialized (
    select endpoint_id, state, last_cause from delivery.deliveries where state in ('pending', 'retrying') order by next_attempt_at limit $2
), own as (
    select state, last_cause from due where endpoint_id = $1
), parked as materialized (
    select state, last_cause from delivery.deliveries where endpoint_id = $1 and state = 'parked' order by event_id limit $2
), waiting as materialized (
    select state, last_cause from delivery.deliveries where endpoint_id = $1 and state = 'waiting' order by event_id limit $2
), dead as materialized (
    select state, last_cause from delivery.deliveries where endpoint_id = $1 and state = 'dead' order by event_id limit $2
)
select state, coalesce(last_cause, '') as cause, count(*) as deliveries, (select count(*) from due) >= $2 from own group by state, cause
union all
select 'pending', '', 0, true where not exists (select from own) and (select count(*) from due) >= $2
union all
select state, coalesce(last_cause, '') as cause, count(*), (select count(*) from parked) >= $2 from parked group by state, cause
union all
select state, coalesce(last_cause, '') as cause, count(*), (select count(*) from waiting) >= $2 from waiting group by state, cause
union all
select state, coalesce(last_cause, '') as cause, count(*), (select count(*) from dead) >= $2 from dead group by state, cause
 order by state, deliveries desc, cause`

// Standing counts the deliveries of an endpoint that are open or dead: those among the 10,000 of the ledger that are due
// first, and 10,000 parked, 10,000 waiting and 10,000 dead ones.
func (s *EndpointStore) Standing(ctx context.Context, id uuid.UUID) ([]endpoint.Standing, error) {
	rows, err := s.pool.Query(ctx, standing, [16]byte(id), maxCounted)
	if err != nil {
		return nil, classify("counting an endpoint's deliveries", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[endpoint.Standing])
	if err != nil {
		return nil, classify("counting an endpoint's deliveries", err)
	}
	return out, nil
}

// lockWithFailing forgets since when the endpoint fails, and locks it. Who takes several of them locks in the order of the
// statement that records outcomes, so that none waits for the other: what is failing, endpoints, and then their deliveries.
func lockWithFailing(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	if _, err := tx.Exec(ctx, "delete from delivery.failing_endpoints where endpoint_id = $1", [16]byte(id)); err != nil {
		return err
	}
	return lockEndpoint(ctx, tx, id)
}

// lockEndpoint comes before anything is done to its secrets: their trigger changes the endpoint.
func lockEndpoint(ctx context.Context, tx pgx.Tx, id uuid.UUID) error {
	tag, err := tx.Exec(ctx, "select from delivery.endpoints where id = $1 for update", [16]byte(id))
	if err == nil && tag.RowsAffected() == 0 {
		return noEndpoint(id)
	}
	return err
}

func noEndpoint(id uuid.UUID) error { return fault.New(fault.NotFound, "there is no endpoint %s", id) }

// transact gives a refusal of do's own as it is, and explains what the database says.
func (s *EndpointStore) transact(ctx context.Context, doing string, do func(tx pgx.Tx) error) error {
	err := pgx.BeginFunc(ctx, s.pool, do)
	if refusal, ok := errors.AsType[*fault.Error](err); ok {
		return refusal
	}
	if err != nil {
		return classify(doing, err)
	}
	return nil
}
