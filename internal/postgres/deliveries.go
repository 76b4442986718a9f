package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/redrive"
)

// A list has one line per event and endpoint: its latest generation. One that has succeeded in any generation is not dead to
// who looks for what is lost.
const (
	isLatest = `not exists (select from delivery.deliveries n
                     where n.event_id = d.event_id and n.endpoint_id = d.endpoint_id and n.generation > d.generation)`
	neverSucceeded = `not exists (select from delivery.deliveries n
                     where n.event_id = d.event_id and n.endpoint_id = d.endpoint_id and n.state = 'succeeded')`
	newestFirst = `event_id desc, endpoint_id desc, generation desc`
)

// Every way takes the same arguments: the least and the greatest event, the least and the greatest endpoint, the merchant or
// ”, the state or ”, how many are wanted, and how many may be looked at.
const describeListed = `
select d.event_id, d.endpoint_id, d.generation, d.merchant_id, coalesce(p.event_type, ''), d.state, d.attempts, coalesce(d.last_cause, ''),
       coalesce(d.owner, ''), d.planned_at, d.next_attempt_at, d.ended_at
  from (%s) d
  left join delivery.plans p on p.event_id = d.event_id
 order by d.event_id desc, d.endpoint_id desc, d.generation desc`

var (
	// listByEvent reads the primary key backwards. Whatever it does not find, it has not looked at more than $8 rows.
	listByEvent = fmt.Sprintf(describeListed, `
    select d.* from (
        select * from delivery.deliveries where event_id between $1 and $2 order by `+newestFirst+` limit $8) d
     where d.endpoint_id between $3 and $4 and $5 in ('', d.merchant_id) and $6 in ('', d.state) and `+isLatest+`
     order by `+newestFirst+` limit $7`)

	// listDead, listParked and listWaiting take the newest of each endpoint that has any, skipping along the partial index from one
	// endpoint to the next. An endpoint is one merchant's for life, but for Svix, which is
	// everybody's.
	listDead    = listHeld("dead", isLatest+` and `+neverSucceeded)
	listParked  = listHeld("parked", isLatest)
	listWaiting = listHeld("waiting", isLatest)

	// listOpen reads all that is open: the partial index of what is due holds nothing else. The offset keeps the planner from
	// taking the range of events, which is most often all of them, for a small one.
	listOpen = listDue("state in ('pending', 'retrying')")
	// listHandedOver does so with all that Svix has.
	listHandedOver = listDue("state = 'handed_over'")
)

func listDue(which string) string {
	return fmt.Sprintf(describeListed, `
    select d.* from (
        select * from delivery.deliveries where `+which+` order by next_attempt_at offset 0) d
     where d.event_id between $1 and $2 and d.endpoint_id between $3 and $4 and $5 in ('', d.merchant_id) and $6 in ('', d.state)
       and `+isLatest+` and $8 > 0
     order by `+newestFirst+` limit $7`)
}

func listHeld(state, also string) string {
	return fmt.Sprintf(describeListed, strings.ReplaceAll(`
    with recursive holders (endpoint_id, merchant_id) as (
        (select endpoint_id, merchant_id from delivery.deliveries
          where state = '$state' and endpoint_id >= $3 and endpoint_id <= $4 order by endpoint_id limit 1)
        union all
        select n.endpoint_id, n.merchant_id
          from holders h cross join lateral (
               select endpoint_id, merchant_id from delivery.deliveries
                where state = '$state' and endpoint_id > h.endpoint_id and endpoint_id <= $4 order by endpoint_id limit 1) n)
    select l.* from holders h cross join lateral (
        select * from delivery.deliveries d
         where d.endpoint_id = h.endpoint_id and d.state = '$state' and d.event_id between $1 and $2 and $5 in ('', d.merchant_id) and `+also+`
         order by d.event_id desc limit $7) l
     where ($5 in ('', h.merchant_id) or h.endpoint_id = '`+delivery.SvixEndpoint.String()+`') and $6 in ('', l.state) and $8 > 0
     order by `+newestFirst+` limit $7`, "$state", state))
}

// mostLookedAt bounds what a list without an index of its own reads.
const mostLookedAt = 200_000

const lookedAt = `
select event_id from delivery.deliveries where event_id between $1 and $2 order by ` + newestFirst + ` offset $3 limit 1`

// Deliveries returns the newest deliveries of the filter, at most limit: the latest generation of each. Where it gave up
// looking for more after very many, it returns the event that it did not look at any more; otherwise Nil.
func (l *Ledger) Deliveries(ctx context.Context, f delivery.Filter, limit int) ([]delivery.Standing, uuid.UUID, error) {
	const doing = "listing deliveries"
	first, last := f.EventRange()
	leastEndpoint, greatestEndpoint := uuid.Nil, uuid.Max
	if f.EndpointID != uuid.Nil {
		leastEndpoint, greatestEndpoint = f.EndpointID, f.EndpointID
	}
	statement := listByEvent
	switch {
	case f.EventID != uuid.Nil: // few in any case
	case f.State == delivery.Dead:
		statement = listDead
	case f.State == delivery.Parked:
		statement = listParked
	case f.State == delivery.Waiting:
		statement = listWaiting
	case f.State == delivery.Pending, f.State == delivery.Retrying:
		statement = listOpen
	case f.State == delivery.HandedOver:
		statement = listHandedOver
	}
	// Planned anew each time: a plan for any range takes it for a small one, and would sort the whole table.
	rows, err := l.pool.Query(ctx, statement, pgx.QueryExecModeDescribeExec, [16]byte(first), [16]byte(last), [16]byte(leastEndpoint), [16]byte(greatestEndpoint),
		f.MerchantID, string(f.State), limit, mostLookedAt)
	if err != nil {
		return nil, uuid.Nil, classify(doing, err)
	}
	listed, err := pgx.CollectRows(rows, scanStanding)
	if err != nil {
		return nil, uuid.Nil, classify(doing, err)
	}
	if statement != listByEvent || len(listed) == limit {
		return listed, uuid.Nil, nil
	}
	var beyond uuid.UUID
	err = l.pool.QueryRow(ctx, lookedAt, pgx.QueryExecModeDescribeExec, [16]byte(first), [16]byte(last), mostLookedAt).Scan((*[16]byte)(&beyond))
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, uuid.Nil, classify(doing, err)
	}
	return listed, beyond, nil
}

func scanStanding(row pgx.CollectableRow) (delivery.Standing, error) {
	var s delivery.Standing
	var next, ended *time.Time
	err := row.Scan((*[16]byte)(&s.EventID), (*[16]byte)(&s.EndpointID), &s.Generation, &s.MerchantID, &s.EventType, &s.State, &s.Attempts, &s.Cause,
		&s.Owner, &s.PlannedAt, &next, &ended)
	if next != nil {
		s.NextAttemptAt = *next
	}
	if ended != nil {
		s.EndedAt = *ended
	}
	return s, err
}

const (
	readPlan = `
select event_id, event_type, merchant_id, object_type, object_id, object_version, planned_at, route, planned_by
  from delivery.plans where event_id = $1`
	readDeliveries = `
select d.event_id, d.endpoint_id, d.generation, d.merchant_id, '', d.state, d.attempts, coalesce(d.last_cause, ''),
       coalesce(d.owner, ''), d.planned_at, d.next_attempt_at, d.ended_at
  from delivery.deliveries d where d.event_id = $1 and d.endpoint_id between $2 and $3
 order by d.endpoint_id, d.generation`
	readAttempts = `
select event_id, endpoint_id, generation, epoch, number, attempted_at, coalesce(status_code, 0), latency_ms, cause, owner, body_sha256, answer
  from delivery.attempts where event_id = $1 and endpoint_id between $2 and $3
 order by endpoint_id, generation, number, epoch`
	readTargets = `select id, url, enabled, coalesce(disabled_reason, '') from delivery.endpoints where id = any($1)`
)

// History reads what became of an event, at one endpoint or, with Nil, at all. A fault.NotFound says that it has no plan.
func (l *Ledger) History(ctx context.Context, eventID, endpointID uuid.UUID) (delivery.History, error) {
	const doing = "reading an event's deliveries"
	var h delivery.History
	err := l.pool.QueryRow(ctx, readPlan, [16]byte(eventID)).Scan((*[16]byte)(&h.EventID), &h.EventType, &h.MerchantID, &h.ObjectType, &h.ObjectID,
		&h.ObjectVersion, &h.PlannedAt, &h.Route, &h.PlannedBy)
	if errors.Is(err, pgx.ErrNoRows) {
		return h, fault.New(fault.NotFound, "event %s has no plan: it has not reached a worker, or there is no such event", eventID)
	}
	if err != nil {
		return h, classify(doing, err)
	}
	least, greatest := uuid.Nil, uuid.Max
	if endpointID != uuid.Nil {
		least, greatest = endpointID, endpointID
	}
	keys := []any{[16]byte(eventID), [16]byte(least), [16]byte(greatest)}
	rows, err := l.pool.Query(ctx, readDeliveries, keys...)
	if err != nil {
		return h, classify(doing, err)
	}
	if h.Deliveries, err = pgx.CollectRows(rows, scanStanding); err != nil {
		return h, classify(doing, err)
	}
	rows, err = l.pool.Query(ctx, readAttempts, keys...)
	if err != nil {
		return h, classify(doing, err)
	}
	h.Attempts = map[delivery.Key][]delivery.Made{}
	var m delivery.Made
	var latency int64
	_, err = pgx.ForEachRow(rows, []any{
		(*[16]byte)(&m.EventID), (*[16]byte)(&m.EndpointID), &m.Generation, &m.Epoch, &m.Number, &m.At, &m.StatusCode, &latency, &m.Cause, &m.Owner,
		&m.BodySHA256, &m.Answer,
	}, func() error {
		m.Latency = millis(latency)
		h.Attempts[m.Key] = append(h.Attempts[m.Key], m)
		m.BodySHA256, m.Answer = nil, nil // or the next row would be read into these
		return nil
	})
	if err != nil {
		return h, classify(doing, err)
	}
	h.Targets, err = l.targets(ctx, h.Deliveries)
	return h, err
}

func (l *Ledger) targets(ctx context.Context, of []delivery.Standing) (map[uuid.UUID]delivery.Target, error) {
	ids := make([]uuid.UUID, len(of))
	for i, s := range of {
		ids[i] = s.EndpointID
	}
	rows, err := l.pool.Query(ctx, readTargets, raw(ids))
	if err != nil {
		return nil, classify("reading endpoints", err)
	}
	out := map[uuid.UUID]delivery.Target{}
	var t delivery.Target
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&t.ID), &t.URL, &t.Enabled, &t.Reason}, func() error {
		out[t.ID] = t
		return nil
	})
	if err != nil {
		return nil, classify("reading endpoints", err)
	}
	return out, nil
}

const hasEndpoint = `select exists (select from delivery.endpoints where id = $1)`

// HasEndpoint reports whether the endpoint is there. Svix always is.
func (l *Ledger) HasEndpoint(ctx context.Context, id uuid.UUID) (bool, error) {
	if id == delivery.SvixEndpoint {
		return true, nil
	}
	var found bool
	if err := l.pool.QueryRow(ctx, hasEndpoint, [16]byte(id)).Scan(&found); err != nil {
		return false, classify("looking for an endpoint", err)
	}
	return found, nil
}

const deadEndpoints = `
with recursive holders (endpoint_id, merchant_id) as (
    (select endpoint_id, merchant_id from delivery.deliveries where state = 'dead' order by endpoint_id limit 1)
    union all
    select n.endpoint_id, n.merchant_id
      from holders h cross join lateral (
           select endpoint_id, merchant_id from delivery.deliveries
            where state = 'dead' and endpoint_id > h.endpoint_id order by endpoint_id limit 1) n)
select endpoint_id from holders where merchant_id = $1 and endpoint_id <> $2
union all
select $2 where exists (select from delivery.deliveries where state = 'dead' and endpoint_id = $2 and merchant_id = $1)`

// DeadEndpoints returns the endpoints with dead deliveries of the merchant.
func (l *Ledger) DeadEndpoints(ctx context.Context, merchantID string) ([]uuid.UUID, error) {
	rows, err := l.pool.Query(ctx, deadEndpoints, merchantID, [16]byte(delivery.SvixEndpoint))
	if err != nil {
		return nil, classify("looking for dead deliveries", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (uuid.UUID, error) {
		var id uuid.UUID
		err := row.Scan((*[16]byte)(&id))
		return id, err
	})
	if err != nil {
		return nil, classify("looking for dead deliveries", err)
	}
	return out, nil
}

const readReplay = `select id, requested_by, selection, deliveries, created_at from delivery.replays where id = $1`

// Replay reads one; a fault.NotFound where there is none.
func (l *Ledger) Replay(ctx context.Context, id int64) (redrive.Replay, error) {
	var r redrive.Replay
	var selection []byte
	err := l.pool.QueryRow(ctx, readReplay, id).Scan(&r.ID, &r.RequestedBy, &selection, &r.Deliveries, &r.At)
	if errors.Is(err, pgx.ErrNoRows) {
		return r, fault.New(fault.NotFound, "there is no replay %d", id)
	}
	if err != nil {
		return r, classify("reading a replay", err)
	}
	if err := json.Unmarshal(selection, &r.Selection); err != nil {
		return r, fmt.Errorf("reading the selection of replay %d: %w", id, err)
	}
	return r, nil
}

// What a selection names: the deliveries of an event, or the next events with a dead delivery at an endpoint. Both take the
// same arguments: 1 and 2 the least and the greatest event, 3 and 4 the endpoints, 5 after which event, 6 how many events, 7 the
// cause or ”, 8 whether what has succeeded is taken, 9 the replay, 10 the merchant or ”, as Svix is
// many merchants' endpoint, and 11 what stands for Svix.
const (
	namedOfEvent = `select distinct event_id, endpoint_id from delivery.deliveries
     where event_id between $1 and $2 and endpoint_id between $3 and $4 and event_id > $5 and $6 > 0 and $10 in ('', merchant_id)`
	namedDead = `select distinct event_id, endpoint_id from (
        select event_id, endpoint_id from delivery.deliveries
         where state = 'dead' and endpoint_id = $3 and endpoint_id = $4 and event_id between $1 and $2 and event_id > $5
           and $10 in ('', merchant_id)
         order by event_id limit $6) d`
)

// judgeNamed looks at all generations of what is named. The latest one speaks for the delivery, but none may be open: only
// one generation of a delivery is sent at a time. A replay that is taken up leaves what it, or a later one, has taken.
const judgeNamed = `
with named as materialized (
    %s
), judged as (
    select n.event_id, n.endpoint_id, l.merchant_id,
           case when g.latest >= $9 then 'taken'
                when g.open then 'under_way'
                when g.succeeded and not $8 then 'succeeded'
                when $7 not in ('', l.last_cause) then 'other_cause'
                when n.endpoint_id = $11 then 'send'
                when e.id is null then 'endpoint_gone'
                when e.enabled then 'send'
                else 'park' end as verdict
      from named n
      cross join lateral (
           select max(generation) as latest, bool_or(state = 'succeeded') as succeeded, bool_or(state not in ('succeeded', 'dead')) as open
             from delivery.deliveries a where a.event_id = n.event_id and a.endpoint_id = n.endpoint_id) g
      cross join lateral (
           select coalesce(last_cause, '') as last_cause, merchant_id
             from delivery.deliveries a where a.event_id = n.event_id and a.endpoint_id = n.endpoint_id and a.generation = g.latest) l
      left join delivery.endpoints e on e.id = n.endpoint_id
)`

const makeJudged = `, made as (
    insert into delivery.deliveries (event_id, endpoint_id, generation, epoch, merchant_id, state, next_attempt_at, last_cause)
    select event_id, endpoint_id, $9, 1, merchant_id,
           case verdict when 'send' then 'retrying' else 'parked' end,
           case verdict when 'send' then clock_timestamp() end,
           case verdict when 'park' then 'endpoint_paused' end
      from judged where verdict in ('send', 'park') order by event_id, endpoint_id
), counted as (
    update delivery.replays set deliveries = deliveries + (select count(*) from judged where verdict in ('send', 'park')) where id = $9
)`

const giveJudged = `
select event_id, endpoint_id, verdict from judged order by event_id, endpoint_id`

var (
	judgeEvent = fmt.Sprintf(judgeNamed, namedOfEvent) + giveJudged
	judgeDead  = fmt.Sprintf(judgeNamed, namedDead) + giveJudged
	retryEvent = fmt.Sprintf(judgeNamed, namedOfEvent) + makeJudged + giveJudged
	retryDead  = fmt.Sprintf(judgeNamed, namedDead) + makeJudged + giveJudged
)

// replaysLock is the key of the advisory lock under which generations are made; its digits spell nothing. Without it two
// replays of one delivery would not see each other's rows, and both would send it.
const replaysLock = 3_908_215_477_160_329

// A process that freezes with the lock held must not keep it.
const boundReplay = `
select set_config('idle_in_transaction_session_timeout', '5s', true), set_config('lock_timeout', '30s', true), set_config('statement_timeout', '30s', true)`

const insertReplay = `insert into delivery.replays (requested_by, selection, deliveries) values ($1, $2, 0) returning id, created_at`

// errNothing rolls a replay back that would have no deliveries.
var errNothing = errors.New("nothing to make")

// Judge says what Retry would do with the chunk now.
func (l *Ledger) Judge(ctx context.Context, replay redrive.Replay, chunk redrive.Chunk) ([]redrive.Judgement, error) {
	rows, err := l.pool.Query(ctx, either(replay, judgeEvent, judgeDead), judgeArguments(replay, chunk)...)
	if err != nil {
		return nil, classify("looking at dead deliveries", err)
	}
	out, err := pgx.CollectRows(rows, scanJudgement(replay.ID))
	if err != nil {
		return nil, classify("looking at dead deliveries", err)
	}
	return out, nil
}

// Retry makes a new generation of those deliveries of the chunk that may have one: due now and without an owner, or parked where
// the endpoint is disabled. An Attempt that never comes leaves them overdue. The replay is made with the first of them, in the
// same transaction, and returned as it is then. One replay makes generations at a time.
func (l *Ledger) Retry(ctx context.Context, replay redrive.Replay, chunk redrive.Chunk) (redrive.Replay, []redrive.Judgement, error) {
	const doing = "making dead deliveries again"
	made := replay
	var judged []redrive.Judgement
	err := pgx.BeginFunc(ctx, l.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, boundReplay); err != nil {
			return err
		}
		// A statement of its own: the snapshot of the next one must be younger than the lock.
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", int64(replaysLock)); err != nil {
			return err
		}
		if replay.ID == 0 {
			selection, err := json.Marshal(replay.Selection)
			if err != nil {
				return fmt.Errorf("encoding a selection: %w", err)
			}
			if err := tx.QueryRow(ctx, insertReplay, replay.RequestedBy, selection).Scan(&made.ID, &made.At); err != nil {
				return err
			}
		}
		rows, err := tx.Query(ctx, either(replay, retryEvent, retryDead), judgeArguments(made, chunk)...)
		if err != nil {
			return err
		}
		if judged, err = pgx.CollectRows(rows, scanJudgement(made.ID)); err != nil {
			return err
		}
		before := made.Deliveries
		for _, j := range judged {
			if j.Verdict == redrive.Send || j.Verdict == redrive.Park {
				made.Deliveries++
			}
		}
		if made.Deliveries == before {
			return errNothing
		}
		return nil
	})
	if errors.Is(err, errNothing) {
		return replay, judged, nil
	}
	if err != nil {
		return replay, nil, classify(doing, err)
	}
	return made, judged, nil
}

func either(replay redrive.Replay, ofEvent, dead string) string {
	if replay.Selection.EventID != uuid.Nil {
		return ofEvent
	}
	return dead
}

func judgeArguments(replay redrive.Replay, chunk redrive.Chunk) []any {
	s := replay.Selection
	first, last := delivery.Filter{EventID: s.EventID, Since: s.Since, Until: s.Until}.EventRange()
	least, greatest := uuid.Nil, uuid.Max
	if chunk.EndpointID != uuid.Nil {
		least, greatest = chunk.EndpointID, chunk.EndpointID
	}
	id := replay.ID
	if id == 0 { // one that would be made now is later than all
		id = 1<<63 - 1
	}
	return []any{
		[16]byte(first), [16]byte(last), [16]byte(least), [16]byte(greatest), [16]byte(chunk.After), chunk.Limit,
		string(s.Cause), s.EvenSucceeded, id, s.MerchantID, [16]byte(delivery.SvixEndpoint),
	}
}

func scanJudgement(generation int64) pgx.RowToFunc[redrive.Judgement] {
	return func(row pgx.CollectableRow) (redrive.Judgement, error) {
		j := redrive.Judgement{Key: delivery.Key{Generation: generation}}
		err := row.Scan((*[16]byte)(&j.EventID), (*[16]byte)(&j.EndpointID), &j.Verdict)
		return j, err
	}
}
