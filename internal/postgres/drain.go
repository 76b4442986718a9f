package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
)

// fit is whether an endpoint e that there is takes what is parked there, but for its circuit. $1 are the ids of the keys: what
// is sealed with another one would come back.
const fit = `
e.enabled and coalesce(split_part(e.url_sealed, '.', 1) = any($1), true) and coalesce(split_part(e.headers_sealed, '.', 1) = any($1), true)
and not exists (select from delivery.endpoint_secrets s
                 where s.endpoint_id = e.id and (s.expires_at is null or s.expires_at > clock_timestamp())
                   and position('.' in s.sealed) > 0 and not split_part(s.sealed, '.', 1) = any($1))`

// maxOpen is how far the deliveries of an endpoint are counted that were parked and are under way.
const maxOpen = 2_000

// drainable finds the endpoints that have parked deliveries by skipping along the index of those, from one endpoint to the
// next: nearly always there are none. A drainer that is late by seconds is gone, and one that sleeps does not know yet what
// is.
const drainable = `
with recursive holders (id) as (
    (select endpoint_id from delivery.deliveries where state = 'parked' order by endpoint_id limit 1)
    union all
    select (select d.endpoint_id from delivery.deliveries d where d.state = 'parked' and d.endpoint_id > h.id order by d.endpoint_id limit 1)
      from holders h where h.id is not null
)
select h.id from holders h left join delivery.endpoints e on e.id = h.id left join delivery.drains r on r.endpoint_id = h.id
 where h.id is not null
   and (e.id is null or (e.circuit = 'closed' or e.probe_at <= clock_timestamp()) and ` + fit + `)
   and (r.next_at between clock_timestamp() - interval '10 seconds' and clock_timestamp() + interval '2 seconds') is not true
 limit $2`

// Drainable returns at most limit endpoints whose parked deliveries could be attempted, or ended because the endpoint is gone,
// and whose drainer does nothing about it.
func (l *Ledger) Drainable(ctx context.Context, limit int) ([]uuid.UUID, error) {
	rows, err := l.pool.Query(ctx, drainable, l.Keys.IDs(), limit)
	if err != nil {
		return nil, classify("looking for parked deliveries", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (uuid.UUID, error) {
		var id uuid.UUID
		err := row.Scan((*[16]byte)(&id))
		return id, err
	})
	if err != nil {
		return nil, classify("looking for parked deliveries", err)
	}
	return out, nil
}

const readBacklog = `
select e.id is null, coalesce(` + fit + `, false), coalesce(e.circuit, 'closed'), coalesce(e.rate_limit, 0),
       coalesce(extract(epoch from e.probe_at - clock_timestamp()) * 1000, 0)::bigint,
       exists (select from delivery.deliveries where endpoint_id = $2 and state = 'parked'),
       (select count(*) from (select from delivery.deliveries
                               where endpoint_id = $2 and state in ('pending', 'retrying') and last_cause = 'drained' limit $4) o),
       exists (select from delivery.deliveries
                where endpoint_id = $2 and state = 'retrying' and last_cause = 'drained' and owner is null and last_owner = $3)
  from (values ($2::uuid)) as asked (id) left join delivery.endpoints e on e.id = asked.id`

// Backlog reads an endpoint as its drainer wants to see it. owner is who takes deliveries then.
func (l *Ledger) Backlog(ctx context.Context, owner string, endpointID uuid.UUID) (delivery.Backlog, error) {
	var (
		b       delivery.Backlog
		probeIn int64
	)
	err := l.pool.QueryRow(ctx, readBacklog, l.Keys.IDs(), [16]byte(endpointID), owner, maxOpen).Scan(
		&b.Gone, &b.Fit, &b.Circuit, &b.RateLimit, &probeIn, &b.Parked, &b.Open, &b.Took)
	if err != nil {
		return b, classify("reading a backlog", err)
	}
	b.ProbeIn = millis(probeIn)
	return b, nil
}

// A delivery that is taken has no owner, and is due: an Attempt that never comes leaves it overdue. last_owner says who took
// it, so that a second execution finds what the first one took instead of taking as much again.
const (
	takenBefore = `
with before as (
    select event_id, endpoint_id, generation, epoch, attempts from delivery.deliveries
     where endpoint_id = $2 and state = 'retrying' and last_cause = 'drained' and owner is null and last_owner = $1
)`
	takeChosen = `
    update delivery.deliveries d set epoch = d.epoch + 1, owner = null, last_owner = $1, state = 'retrying', last_cause = 'drained',
           next_attempt_at = clock_timestamp()
      from chosen c
     where d.event_id = c.event_id and d.endpoint_id = $2 and d.generation = c.generation and d.state = 'parked'
    returning d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts
)
select * from before union all select * from taken`
	takeParked = takenBefore + `, chosen as (
    select event_id, generation from delivery.deliveries d
     where d.endpoint_id = $2 and d.state = 'parked'
       and (exists (select from delivery.endpoints e where e.id = $2 and e.enabled and e.circuit = 'closed')
            or not exists (select from delivery.endpoints e where e.id = $2))
     order by d.event_id limit greatest(0, $3 - (select count(*) from before))
), taken as (` + takeChosen
	// The endpoint is locked first, as in every statement that changes one.
	takeProbe = takenBefore + `, due as (
    update delivery.endpoints e set circuit = 'half_open', circuit_changed_at = clock_timestamp(),
           probe_at = clock_timestamp() + (e.timeout_ms + $3) * interval '1 millisecond'
     where e.id = $2 and e.enabled and e.circuit <> 'closed' and e.probe_at <= clock_timestamp() and not exists (select from before)
    returning e.id
), chosen as (
    select p.event_id, p.generation from due cross join lateral (
        select event_id, generation from delivery.deliveries where endpoint_id = due.id and state = 'parked' order by event_id limit 1) p
), taken as (` + takeChosen
	closeIdle = `
update delivery.endpoints set circuit = 'closed', circuit_changed_at = clock_timestamp(), probe_at = null
 where id = $1 and enabled and circuit <> 'closed' and probe_at <= clock_timestamp()
   and not exists (select from delivery.deliveries where endpoint_id = $1 and state = 'parked')`
)

// TakeParked takes at most limit parked deliveries of an endpoint whose circuit is closed, or that is gone, the oldest first,
// and returns them with those that owner took before and nobody attempts.
func (l *Ledger) TakeParked(ctx context.Context, owner string, endpointID uuid.UUID, limit int) ([]delivery.Overdue, error) {
	return l.taken(ctx, "taking parked deliveries", takeParked, owner, [16]byte(endpointID), limit)
}

// TakeProbe makes the circuit half-open whose probe is due, or whose last one was lost, and takes the oldest parked delivery
// for it. It has the endpoint's time-out and patience; then another one may be taken.
func (l *Ledger) TakeProbe(ctx context.Context, owner string, endpointID uuid.UUID, patience time.Duration) ([]delivery.Overdue, error) {
	return l.taken(ctx, "taking a probe", takeProbe, owner, [16]byte(endpointID), patience.Milliseconds())
}

// CloseIdleCircuit closes a circuit whose probe is due while nothing is parked to probe with: the next delivery is as good. How
// often it opened stays, so that it soon opens again. It reports whether it closed it.
func (l *Ledger) CloseIdleCircuit(ctx context.Context, endpointID uuid.UUID) (bool, error) {
	return l.changeCircuit(ctx, "closing a circuit", closeIdle, [16]byte(endpointID))
}

const (
	noteDrain = `
insert into delivery.drains (endpoint_id, next_at, at_once, per_second)
values ($1, clock_timestamp() + $2 * interval '1 millisecond', $3, $4)
on conflict (endpoint_id) do update set
    started_at = case when drains.next_at is null then clock_timestamp() else drains.started_at end,
    ticked_at = clock_timestamp(), next_at = excluded.next_at, at_once = $3, per_second = $4`
	endDrain = `update delivery.drains set ticked_at = clock_timestamp(), next_at = null, at_once = 0, per_second = 0 where endpoint_id = $1`
	// Of an endpoint that is gone nobody asks any more.
	dropDrain = `delete from delivery.drains where endpoint_id = $1 and not exists (select from delivery.endpoints where id = $1)`
)

// NoteDrain keeps how a drain goes. One without a next turn has ended.
func (l *Ledger) NoteDrain(ctx context.Context, d delivery.Drain) error {
	var err error
	if d.Next > 0 {
		_, err = l.pool.Exec(ctx, noteDrain, [16]byte(d.EndpointID), d.Next.Milliseconds(), d.AtOnce, d.PerSecond)
	} else if _, err = l.pool.Exec(ctx, dropDrain, [16]byte(d.EndpointID)); err == nil {
		_, err = l.pool.Exec(ctx, endDrain, [16]byte(d.EndpointID))
	}
	if err != nil {
		return classify("keeping how a drain goes", err)
	}
	return nil
}
