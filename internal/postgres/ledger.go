package postgres

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/seal"
)

// Ledger writes and reads schema delivery for webhook-worker. Every method is one autocommit statement, so a
// process that freezes holds no lock; all are safe for concurrent use. Errors of the fault.Unavailable class
// mean that the ledger could not be reached, or may or may not have done it: every method may be repeated.
type Ledger struct {
	pool *pgxpool.Pool
	LedgerOptions
}

// LedgerOptions are for who reads endpoints and writes outcomes; the zero value does for everybody else.
type LedgerOptions struct {
	Keys seal.Keyring // open what the ledger keeps of merchants' secrets
	// DisableAfter is how long an endpoint may fail, without a success in between, until a further failure disables it.
	// 0 is DefaultDisableAfter.
	DisableAfter time.Duration
}

// DefaultDisableAfter is Svix's, too: https://docs.svix.com/retries.
const DefaultDisableAfter = 5 * 24 * time.Hour

// NewLedger makes a Ledger on a pool that LedgerSettings were given to.
func NewLedger(pool *pgxpool.Pool, o LedgerOptions) *Ledger {
	return &Ledger{pool: pool, LedgerOptions: o}
}

// LedgerSettings are server settings for the ledger's connections. Its statements join a short list of keys
// with large tables, always through a primary key. While the tables are new and never analyzed the planner
// takes them for small, prefers to scan them, and keeps that plan as they grow.
func LedgerSettings() map[string]string {
	return map[string]string{"enable_seqscan": "off", "enable_hashjoin": "off", "enable_mergejoin": "off"}
}

// WorkerSettings are LedgerSettings for who delivers. Its statements would be planned anew at each execution, as a batch has
// fewer keys than the planner guesses for a plan that serves all: of recording an outcome that is two thirds of the time. Who
// lists deliveries needs just that, as what is listed may be anything between one row and all.
func WorkerSettings() map[string]string {
	settings := LedgerSettings()
	settings["plan_cache_mode"] = "force_generic_plan"
	return settings
}

// planEvents freezes who gets what, and by which route. Rows are sorted: two workers that plan overlapping batches in
// different orders would deadlock, even with DO NOTHING. Merchants whose ids Svix does not take are delivered to in-house.
// Where the endpoint wants an object's events in order, a version waits that is not in turn, as far as this statement's
// snapshot shows; whoever ends the one before it wakes it, or the wake that Plan returns does, whichever looks later. Svix is
// one delivery, whatever becomes of it there.
const planEvents = `
with input as (
    select * from unnest($3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[])
        as e (event_id, txid, event_type, object_type, object_id, object_version, merchant_id)
), planned as (
    insert into delivery.plans
        (event_id, txid, event_type, object_type, object_id, object_version, merchant_id, route, planned_by)
    select event_id, txid, event_type, object_type, object_id, object_version, i.merchant_id,
           case when ` + unfitForSvix + ` then 'inhouse' else coalesce(r.route, $2) end, $1
      from input i left join delivery.routes r on r.merchant_id = i.merchant_id
     order by event_id
    on conflict (event_id) do nothing
    returning event_id, merchant_id, event_type, object_type, object_id, object_version, route
), chosen as (
    select p.event_id, e.id as endpoint_id, p.merchant_id,
           case when e.ordering = 'object' and p.object_version > 1
                     and not delivery.in_turn(e.id, p.object_type, p.object_id, p.object_version, 'infinity') then 'waiting'
                when e.enabled and e.circuit = 'closed' then 'pending'
                else 'parked' end as state
      from planned p
      join delivery.endpoints e on e.merchant_id = p.merchant_id and delivery.takes(e.event_types, p.event_type)
     where p.route = 'inhouse'
    union all
    select event_id, $10, merchant_id, 'pending' from planned where route = 'svix'
), made as (
    insert into delivery.deliveries
        (event_id, endpoint_id, epoch, merchant_id, state, owner, next_attempt_at)
    select event_id, endpoint_id, 1, merchant_id, state,
           case state when 'pending' then $1 end,
           case state when 'pending' then clock_timestamp() end
      from chosen
     order by event_id, endpoint_id
    returning event_id, endpoint_id, owner
)
select false, p.event_id, m.endpoint_id, coalesce(e.revision, 0)
  from planned p
  left join made m on m.event_id = p.event_id and m.owner is not null
  left join delivery.endpoints e on e.id = m.endpoint_id
union all
select true, event_id, endpoint_id, 0 from chosen where state = 'waiting'
union all
select true, p.event_id, null, 0
  from planned p
 where p.object_id <> p.event_id::text
   and exists (select from delivery.endpoints e where e.merchant_id = p.merchant_id and e.ordering = 'object'
                  and not (p.route = 'inhouse' and delivery.takes(e.event_types, p.event_type)))`

// unfitForSvix is svix.Fit's rule about the merchant of i: Svix would refuse whatever is handed over for them.
const unfitForSvix = `
(i.merchant_id !~ '^[a-zA-Z0-9_.-]+$' or char_length(i.merchant_id) > 256 or i.merchant_id in ('.', '..') or starts_with(i.merchant_id, 'app_'))`

// Plan plans the events that nobody has planned yet, and claims their deliveries for owner in the same
// statement. route is that of merchants without one of their own. It returns the claims, and what it planned: of the other
// events Resume tells.
func (l *Ledger) Plan(ctx context.Context, owner, route string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error) {
	var (
		ids                                      = make([][16]byte, len(refs))
		txids, versions                          = make([]int64, len(refs)), make([]int64, len(refs))
		types, objectTypes, objectIDs, merchants = make([]string, len(refs)), make([]string, len(refs)), make([]string, len(refs)), make([]string, len(refs))
		byID                                     = make(map[uuid.UUID]event.Ref, len(refs))
	)
	for i, ref := range refs {
		ids[i], txids[i], versions[i] = ref.ID, ref.TxID, ref.ObjectVersion
		types[i], objectTypes[i], objectIDs[i], merchants[i] = ref.Type, ref.ObjectType, ref.ObjectID, ref.MerchantID
		byID[ref.ID] = ref
	}
	rows, err := l.pool.Query(ctx, planEvents, owner, route, ids, txids, types, objectTypes, objectIDs, versions, merchants,
		[16]byte(delivery.SvixEndpoint))
	if err != nil {
		return nil, delivery.Planned{}, classify("planning events", err)
	}
	claims := make([]delivery.Claim, 0, len(refs))
	planned := delivery.Planned{Events: make([]uuid.UUID, 0, len(refs))}
	var wake bool
	var eventID uuid.UUID
	var endpointID *[16]byte
	var revision int64
	_, err = pgx.ForEachRow(rows, []any{&wake, (*[16]byte)(&eventID), &endpointID, &revision}, func() error {
		ref := byID[eventID]
		if wake {
			s := delivery.Sequence{ObjectType: ref.ObjectType, ObjectID: ref.ObjectID}
			if endpointID == nil {
				planned.Ask = append(planned.Ask, s)
				return nil
			}
			s.EndpointID = *endpointID
			planned.Wake = append(planned.Wake, s)
			return nil
		}
		if n := len(planned.Events); n == 0 || planned.Events[n-1] != eventID {
			planned.Events = append(planned.Events, eventID)
		}
		if endpointID == nil {
			return nil
		}
		claims = append(claims, delivery.Claim{
			Key: delivery.Key{EventID: eventID, EndpointID: *endpointID}, Epoch: 1, Number: 1, EndpointRevision: revision,
			Event:  event.PayloadRequest{EventID: eventID, TxID: ref.TxID, MinVersion: ref.ObjectVersion},
			Object: delivery.Object{MerchantID: ref.MerchantID, Type: ref.ObjectType, ID: ref.ObjectID}, EventType: ref.Type,
		})
		return nil
	})
	if err != nil {
		return nil, delivery.Planned{}, classify("planning events", err)
	}
	return claims, planned, nil
}

// resumePlanned is the claim of a second execution of the invocation that planned the events. It must be a
// statement of its own: the snapshot of the one that planned does not see what it lost the race to.
const resumePlanned = `
with mine as (
    select event_id, txid, object_version, planned_at, merchant_id, event_type, object_type, object_id
      from delivery.plans where event_id = any($2) and planned_by = $1
), claimed as (
    update delivery.deliveries d set epoch = d.epoch + 1
      from mine p
     where d.event_id = p.event_id and d.generation = 0 and d.owner = $1 and d.state = 'pending'
    returning d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts, p.txid, p.object_version, p.planned_at,
              p.merchant_id, p.event_type, p.object_type, p.object_id
)
select false as settled, false as ended, c.event_id, c.endpoint_id, c.generation, c.epoch, c.attempts, 0::bigint as retry_in_ms,
       c.txid, c.object_version, (extract(epoch from clock_timestamp() - c.planned_at) * 1000)::bigint as age_ms, coalesce(e.revision, 0),
       c.merchant_id, c.event_type, c.object_type, c.object_id
  from claimed c left join delivery.endpoints e on e.id = c.endpoint_id
union all
select true, false, d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts,
       greatest(0, extract(epoch from d.next_attempt_at - clock_timestamp()) * 1000)::bigint, 0, 0, 0, 0, '', '', '', ''
  from mine p join delivery.deliveries d on d.event_id = p.event_id
 where d.generation = 0 and d.state = 'retrying' and d.owner is null and d.last_owner = $1
union all
select true, true, p.event_id, '00000000-0000-0000-0000-000000000000', 0, 0, 0, 0, 0, 0, 0, 0, '', '', p.object_type, p.object_id
  from mine p
 where p.object_id <> p.event_id::text
   and exists (select from delivery.endpoints e where e.merchant_id = p.merchant_id and e.ordering = 'object')`

// Resume claims what an earlier execution of the same invocation planned and did not finish, and returns what
// that execution did settle and still wants its next attempt, and the objects that the events are of, where an endpoint wants
// an order: what that execution planned or ended there may have woken nobody.
func (l *Ledger) Resume(ctx context.Context, owner string, eventIDs []uuid.UUID) ([]delivery.Claim, []delivery.Settled, error) {
	return l.claim(ctx, "resuming events", resumePlanned, owner, raw(eventIDs))
}

// claimTickets takes rows whose epoch is the one that the ticket carries; and, for a second execution of the
// same invocation, rows that the first one took and did not finish.
const claimTickets = `
with t as (
    select * from unnest($3::uuid[], $4::bigint[], $5::bigint[]) as t (event_id, generation, epoch)
), claimed as (
    update delivery.deliveries d set owner = $1, epoch = d.epoch + 1, state = 'pending', next_attempt_at = clock_timestamp()
      from t join delivery.deliveries b on b.event_id = t.event_id and b.endpoint_id = $2 and b.generation = t.generation
     where d.event_id = t.event_id and d.endpoint_id = $2 and d.generation = t.generation
       and d.state in ('pending', 'retrying')
       and ((d.epoch = t.epoch and d.owner is null) or d.owner = $1)
    returning d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts,
              greatest(0, extract(epoch from b.next_attempt_at - clock_timestamp()) * 1000)::bigint as retry_in_ms
)
select false as settled, false as ended, c.event_id, c.endpoint_id, c.generation, c.epoch, c.attempts, c.retry_in_ms,
       p.txid, p.object_version, (extract(epoch from clock_timestamp() - p.planned_at) * 1000)::bigint as age_ms, coalesce(e.revision, 0),
       p.merchant_id, p.event_type, p.object_type, p.object_id
  from claimed c
  join delivery.plans p on p.event_id = c.event_id
  left join delivery.endpoints e on e.id = c.endpoint_id
union all
select true, false, d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts,
       greatest(0, extract(epoch from d.next_attempt_at - clock_timestamp()) * 1000)::bigint, 0, 0, 0, 0, '', '', '', ''
  from t join delivery.deliveries d on d.event_id = t.event_id and d.endpoint_id = $2 and d.generation = t.generation
 where d.state = 'retrying' and d.owner is null and d.last_owner = $1
union all
select true, true, d.event_id, d.endpoint_id, 0, 0, 0, 0, 0, 0, 0, 0, '', '', p.object_type, p.object_id
  from t join delivery.deliveries d on d.event_id = t.event_id and d.endpoint_id = $2 and d.generation = 0
  join delivery.plans p on p.event_id = d.event_id
  join delivery.endpoints e on e.id = $2 and e.ordering = 'object'
 where t.generation = 0 and d.state in ('succeeded', 'dead') and p.object_id <> p.event_id::text`

// Claim takes the tickets that are still valid for owner, and returns beside them what an earlier execution of
// the same invocation settled, and the sequences of what has ended. Other tickets of a passed epoch are void and left out.
func (l *Ledger) Claim(ctx context.Context, owner string, endpointID uuid.UUID, tickets []delivery.Ticket) ([]delivery.Claim, []delivery.Settled, error) {
	ids, generations, epochs := make([][16]byte, len(tickets)), make([]int64, len(tickets)), make([]int64, len(tickets))
	for i, ticket := range tickets {
		ids[i], generations[i], epochs[i] = ticket.EventID, ticket.Generation, ticket.Epoch
	}
	return l.claim(ctx, "claiming deliveries", claimTickets, owner, [16]byte(endpointID), ids, generations, epochs)
}

func (l *Ledger) claim(ctx context.Context, doing, statement string, args ...any) ([]delivery.Claim, []delivery.Settled, error) {
	rows, err := l.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, nil, classify(doing, err)
	}
	var (
		claims        []delivery.Claim
		settled       []delivery.Settled
		isSettled     bool
		isEnded       bool
		key           delivery.Key
		epoch         int64
		attempts      int
		retryIn, age  int64
		txid, version int64
		revision      int64
		object        delivery.Object
		eventType     string
	)
	_, err = pgx.ForEachRow(rows, []any{
		&isSettled, &isEnded, (*[16]byte)(&key.EventID), (*[16]byte)(&key.EndpointID), &key.Generation, &epoch, &attempts, &retryIn,
		&txid, &version, &age, &revision, &object.MerchantID, &eventType, &object.Type, &object.ID,
	}, func() error {
		if isEnded {
			settled = append(settled, delivery.Settled{Key: key, Sequence: &delivery.Sequence{
				EndpointID: key.EndpointID, ObjectType: object.Type, ObjectID: object.ID,
			}})
			return nil
		}
		if isSettled {
			settled = append(settled, delivery.Settled{Key: key, Epoch: epoch, Number: attempts + 1, RetryIn: millis(retryIn)})
			return nil
		}
		claims = append(claims, delivery.Claim{
			Key: key, Epoch: epoch, Number: attempts + 1, EndpointRevision: revision, Age: millis(age), NotBefore: millis(retryIn),
			Event:  event.PayloadRequest{EventID: key.EventID, TxID: txid, MinVersion: version},
			Object: object, EventType: eventType,
		})
		return nil
	})
	if err != nil {
		return nil, nil, classify(doing, err)
	}
	return claims, settled, nil
}

const holdsClaim = `
select exists (select from delivery.deliveries
                where event_id = $1 and endpoint_id = $2 and generation = $3 and epoch = $4 and state in ('pending', 'retrying'))`

// Holds reports whether nobody has claimed the delivery since the claim was made, and it has not ended.
func (l *Ledger) Holds(ctx context.Context, claim delivery.Claim) (bool, error) {
	var holds bool
	err := l.pool.QueryRow(ctx, holdsClaim, [16]byte(claim.EventID), [16]byte(claim.EndpointID), claim.Generation, claim.Epoch).Scan(&holds)
	if err != nil {
		return false, classify("looking at a claim", err)
	}
	return holds, nil
}

// recordOutcomes moves a row only when the outcome's claim still holds, but for a 2xx, which ends the delivery
// whatever the epoch: the merchant has it. Attempts are kept whatever became of the claim. A repeated call finds
// its attempts there, and moves nothing that has moved on. What was drained stays so until an attempt of it has ended: its
// drainer counts it.
//
// What the outcomes say about their endpoints is kept here, too: since when one fails, and whether that, or an answer, is
// the end of it. Only outcomes whose claim holds are asked: a late 410 says nothing about an endpoint that was enabled
// since. A row of failing_endpoints that decides is locked, so that a 2xx that is being written is waited for. Failures
// more than two days apart are none of days of failure. A statement in which everything succeeded touches no row for that.
const recordOutcomes = `
with o as (
    select * from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::int[], $7::text[], $8::text[], $9::bool[],
                         $10::int[], $11::int[], $12::bigint[], $13::bytea[], $14::bytea[], $15::bool[])
        as o (event_id, endpoint_id, generation, epoch, number, state, cause, attempted,
              status_code, latency_ms, retry_in_ms, body_sha256, answer, blamed)
), moved as (
    update delivery.deliveries d set
           state = case o.state when '' then d.state else o.state end,
           owner = case o.state when '' then d.owner end,
           last_owner = case o.state when '' then d.last_owner else $1 end,
           next_attempt_at = case o.state when '' then greatest(d.next_attempt_at, clock_timestamp() + o.retry_in_ms * interval '1 millisecond')
                                          when 'retrying' then clock_timestamp() + o.retry_in_ms * interval '1 millisecond'
                                          when 'handed_over' then clock_timestamp() + o.retry_in_ms * interval '1 millisecond' end,
           ended_at = case when o.state = '' then d.ended_at when o.state in ('succeeded', 'dead') then clock_timestamp() end,
           attempts = case when o.attempted then greatest(d.attempts, o.number) else d.attempts end,
           last_cause = case when d.last_cause = 'drained' and o.state = 'retrying' and o.cause in ('open', 'paced', 'not_started')
                             then d.last_cause else o.cause end
      from o
     where d.event_id = o.event_id and d.endpoint_id = o.endpoint_id and d.generation = o.generation
       and d.state <> 'succeeded' and (d.epoch = o.epoch or o.state = 'succeeded')
), healed as (
    delete from delivery.failing_endpoints f
     using (select distinct endpoint_id from o where state = 'succeeded') s
     where f.endpoint_id = s.endpoint_id
), fell as (
    select o.endpoint_id, bool_or(o.cause = 'gone') as gone,
           exists (select from o s where s.endpoint_id = o.endpoint_id and s.state = 'succeeded') as mixed
      from o join delivery.deliveries d
        on d.event_id = o.event_id and d.endpoint_id = o.endpoint_id and d.generation = o.generation
     where o.blamed and d.epoch = o.epoch and d.state in ('pending', 'retrying')
     group by o.endpoint_id
), failing as (
    insert into delivery.failing_endpoints (endpoint_id)
    select f.endpoint_id from fell f
     where not f.mixed and not exists (select from delivery.failing_endpoints h where h.endpoint_id = f.endpoint_id)
     order by f.endpoint_id
    on conflict do nothing
), still as (
    select h.endpoint_id, h.since, h.last_at
      from delivery.failing_endpoints h join fell f on f.endpoint_id = h.endpoint_id
     where not f.mixed and (h.last_at < clock_timestamp() - interval '1 hour' or h.since < clock_timestamp() - $16 * interval '1 millisecond')
     order by h.endpoint_id
       for no key update of h
), noted as (
    update delivery.failing_endpoints h set last_at = clock_timestamp(),
           since = case when s.last_at < clock_timestamp() - interval '2 days' then clock_timestamp() else h.since end
      from still s
     where h.endpoint_id = s.endpoint_id and s.last_at < clock_timestamp() - interval '1 hour'
), disabled as (
    update delivery.endpoints e set enabled = false, disabled_reason = case when f.gone then 'gone' else 'failing' end
      from fell f left join still s on s.endpoint_id = f.endpoint_id
     where e.id = f.endpoint_id and e.enabled
       and (f.gone or (s.since < clock_timestamp() - $16 * interval '1 millisecond' and s.last_at > clock_timestamp() - interval '2 days'))
    returning e.id, e.merchant_id, e.disabled_reason, e.disabled_at, s.since
), told as (
    insert into delivery.operational_events (merchant_id, event_type, data)
    select merchant_id, 'endpoint.disabled', jsonb_build_object('endpoint_id', id, 'reason', disabled_reason,
           'detail', case disabled_reason when 'gone' then 'the endpoint answered 410 Gone'
                     else 'every attempt has failed for ' || (extract(epoch from disabled_at - since) / 3600)::int || ' hours' end,
           'disabled_at', disabled_at, 'failing_since', since)
      from disabled
)
insert into delivery.attempts
    (event_id, endpoint_id, generation, epoch, number, status_code, latency_ms, attempted_at, owner, cause, body_sha256, answer)
select event_id, endpoint_id, generation, epoch, number, nullif(status_code, 0), latency_ms,
       clock_timestamp() - latency_ms * interval '1 millisecond', $1, cause, body_sha256, answer
  from o where attempted
 order by event_id, endpoint_id
on conflict do nothing`

// Record writes outcomes of owner's claims.
func (l *Ledger) Record(ctx context.Context, owner string, outcomes []delivery.Outcome) error {
	n := len(outcomes)
	var (
		events, endpoints    = make([][16]byte, n), make([][16]byte, n)
		generations, epochs  = make([]int64, n), make([]int64, n)
		numbers, statuses    = make([]int, n), make([]int, n)
		latencies            = make([]int64, n)
		states, causes       = make([]string, n), make([]string, n)
		attempted, blamed    = make([]bool, n), make([]bool, n)
		retryIns             = make([]int64, n)
		bodyHashes, excerpts = make([][]byte, n), make([][]byte, n)
	)
	// Sorted, so that two processes that write about the same rows lock them in the same order.
	sorted := slices.SortedFunc(slices.Values(outcomes), func(a, b delivery.Outcome) int {
		return slices.Compare(a.EventID[:], b.EventID[:])
	})
	for i, o := range sorted {
		events[i], endpoints[i], generations[i], epochs[i] = o.EventID, o.EndpointID, o.Generation, o.Epoch
		numbers[i], statuses[i], latencies[i] = o.Number, o.StatusCode, o.Latency.Milliseconds()
		states[i], causes[i], attempted[i], retryIns[i] = string(o.State), string(o.Cause), o.Attempted, o.RetryIn.Milliseconds()
		bodyHashes[i], excerpts[i] = o.BodySHA256, o.Answer
		blamed[i] = o.Attempted && o.Cause.OfEndpoint()
	}
	_, err := l.pool.Exec(ctx, recordOutcomes, owner, events, endpoints, generations, epochs, numbers, states, causes, attempted,
		statuses, latencies, retryIns, bodyHashes, excerpts, blamed, cmp.Or(l.DisableAfter, DefaultDisableAfter).Milliseconds())
	if err != nil {
		return classify("recording outcomes", err)
	}
	return nil
}

const parkTickets = `
update delivery.deliveries d set state = 'parked', next_attempt_at = null, last_cause = $5
  from unnest($2::uuid[], $3::bigint[], $4::bigint[]) as t (event_id, generation, epoch)
 where d.event_id = t.event_id and d.endpoint_id = $1 and d.generation = t.generation
   and d.epoch = t.epoch and d.state = 'retrying' and d.owner is null`

// Park takes the attempts away that the tickets are for, where the tickets are still valid: the deliveries wait for their
// endpoint's drainer.
func (l *Ledger) Park(ctx context.Context, endpointID uuid.UUID, tickets []delivery.Ticket, cause delivery.Cause) error {
	ids, generations, epochs := columnsOf(tickets)
	_, err := l.pool.Exec(ctx, parkTickets, [16]byte(endpointID), ids, generations, epochs, string(cause))
	if err != nil {
		return classify("parking deliveries", err)
	}
	return nil
}

func columnsOf(tickets []delivery.Ticket) (ids [][16]byte, generations, epochs []int64) { //nolint:nonamedreturns // two of them are easily confused
	// Sorted, so that two processes that write about the same rows lock them in the same order.
	for _, ticket := range slices.SortedFunc(slices.Values(tickets), func(a, b delivery.Ticket) int { return slices.Compare(a.EventID[:], b.EventID[:]) }) {
		ids, generations, epochs = append(ids, ticket.EventID), append(generations, ticket.Generation), append(epochs, ticket.Epoch)
	}
	return ids, generations, epochs
}

const readEndpoints = `
select e.id, e.merchant_id, e.url, e.url_sealed, e.headers_sealed, e.enabled, e.timeout_ms, e.retry_delays_ms, e.revision,
       e.ordering = 'object', coalesce(e.rate_limit, 0), e.circuit, e.circuit_changed_at, e.circuit_opens,
       array(select s.sealed from delivery.endpoint_secrets s
              where s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > clock_timestamp()) order by s.created_at desc, s.id),
       array(select coalesce(s.expires_at, 'infinity') from delivery.endpoint_secrets s
              where s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > clock_timestamp()) order by s.created_at desc, s.id)
  from delivery.endpoints e where e.id = any($1)`

// Endpoints reads the endpoints of the ids that still exist, and opens what is sealed of them. One that the keys do not
// open is marked: it is nobody's failure to deliver.
func (l *Ledger) Endpoints(ctx context.Context, ids []uuid.UUID) ([]delivery.Endpoint, error) {
	rows, err := l.pool.Query(ctx, readEndpoints, raw(ids))
	if err != nil {
		return nil, classify("reading endpoints", err)
	}
	endpoints, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (delivery.Endpoint, error) {
		var (
			e           delivery.Endpoint
			url, header *string
			timeoutMS   int64
			delaysMS    []int64
			secrets     []string
			expiries    []pgtype.Timestamptz
		)
		err := row.Scan((*[16]byte)(&e.ID), &e.MerchantID, &e.URL, &url, &header, &e.Enabled, &timeoutMS, &delaysMS, &e.Revision,
			&e.Ordered, &e.RateLimit, &e.Circuit, &e.CircuitSince, &e.CircuitOpens, &secrets, &expiries)
		e.Timeout, e.Schedule = millis(timeoutMS), scheduleOf(delaysMS)
		place := endpoint.Sealer{Keys: l.Keys, ID: e.ID}
		var failed [2]error
		e.URL, failed[0] = place.OpenURL(e.URL, url)
		e.Headers, failed[1] = place.OpenHeaders(header)
		for i, sealed := range secrets {
			value, err := place.OpenSecret(sealed)
			if err != nil {
				continue // another one may do: see below
			}
			live := delivery.Secret{Value: value}
			if expiries[i].InfinityModifier == 0 {
				live.ExpiresAt = expiries[i].Time
			}
			e.Secrets = append(e.Secrets, live)
		}
		// While keys are replaced some of the secrets may be sealed with one that this process does not have yet. The
		// merchant might know only those.
		e.Sealed = errors.Join(failed[:]...) != nil || len(e.Secrets) < len(secrets)
		return e, err
	})
	if err != nil {
		return nil, classify("reading endpoints", err)
	}
	return endpoints, nil
}

func scheduleOf(delaysMS []int64) delivery.Schedule {
	var out delivery.Schedule
	for _, delay := range delaysMS {
		out = append(out, millis(delay))
	}
	return out
}

// A text that is not sealed, of before secrets were, must not be told: it is the secret.
const missingKeys = `
select distinct split_part(sealed, '.', 1)
  from (select sealed from delivery.endpoint_secrets where expires_at is null or expires_at > clock_timestamp()
        union all select url_sealed from delivery.endpoints where url_sealed is not null
        union all select headers_sealed from delivery.endpoints where headers_sealed is not null) s
 where position('.' in sealed) > 0 and not split_part(sealed, '.', 1) = any($1)
 order by 1`

// CheckKeys fails where something that is in use is sealed with a key that is not among the ledger's, and names the key.
func (l *Ledger) CheckKeys(ctx context.Context) error {
	rows, err := l.pool.Query(ctx, missingKeys, l.Keys.IDs())
	if err != nil {
		return classify("looking for missing keys", err)
	}
	missing, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return classify("looking for missing keys", err)
	}
	if len(missing) > 0 {
		return fmt.Errorf("ENCRYPTION_KEYS has %s, but endpoints are sealed with %s", l.Keys, strings.Join(missing, ", "))
	}
	return nil
}

const buryRecord = `
insert into delivery.dead_records (topic, partition, "offset", event_id, reason, detail, key, value, value_sha256)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
on conflict (topic, partition, "offset", value_sha256) do update set
    event_id = excluded.event_id, reason = excluded.reason, detail = excluded.detail, buried = dead_records.buried + 1, redriven_at = null`

// Bury keeps a record that cannot become a delivery. One that is there already is open again, whoever has driven it. Texts,
// which may quote what came from outside, lose what PostgreSQL takes for none; key and value are kept as they are.
func (l *Ledger) Bury(ctx context.Context, record delivery.DeadRecord) error {
	text := func(s string) string {
		return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	}
	var eventID *[16]byte
	if record.EventID != uuid.Nil {
		eventID = (*[16]byte)(&record.EventID)
	}
	hash := sha256.Sum256(record.Value)
	_, err := l.pool.Exec(ctx, buryRecord, text(record.Topic), record.Partition, record.Offset, eventID, text(record.Reason), text(record.Detail),
		record.Key, record.Value, hash[:])
	if err != nil {
		return classify("keeping a dead record", err)
	}
	return nil
}

// Ping reports whether the ledger answers.
func (l *Ledger) Ping(ctx context.Context) error {
	if err := l.pool.Ping(ctx); err != nil {
		return classify("reaching the ledger", err)
	}
	return nil
}

// classify tells an unreachable ledger, which is worth another try, and data that it can never take, from everything else,
// which is wrong with the ledger or with us.
func classify(doing string, err error) error {
	if Unavailable(err) {
		return fault.Wrap(err, fault.Unavailable, "%s", doing)
	}
	if refusal, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch refusal.Code[:2] {
		case "22", "23", "54": // data exception, constraint violation, program limit exceeded
			return fault.Wrap(err, fault.Invalid, "%s", doing)
		}
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func raw(ids []uuid.UUID) [][16]byte {
	out := make([][16]byte, len(ids))
	for i, id := range ids {
		out[i] = id
	}
	return out
}

func millis(ms int64) time.Duration { return time.Duration(ms) * time.Millisecond }
