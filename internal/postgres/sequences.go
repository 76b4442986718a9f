package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
)

// releaseInTurn lets go what waits in a sequence and is in turn, which is one version at most. Where the endpoint does not
// want an order any more, or is gone, all is. What the same invocation released before, and nobody has claimed since, comes
// again: the execution that released it may have sent nothing.
const releaseInTurn = `
with object as materialized (
    select d.event_id, d.state, d.epoch, d.owner, d.last_owner, d.attempts, p.object_version
      from delivery.plans p
      join delivery.deliveries d on d.event_id = p.event_id and d.endpoint_id = $2 and d.generation = 0
     where p.object_id = $4 and p.object_type = $3 and d.state in ('waiting', 'retrying')
), waiting as (
    select o.event_id, o.object_version, coalesce(e.ordering = 'object', false) as ordered
      from object o left join delivery.endpoints e on e.id = $2
     where o.state = 'waiting'
     order by o.object_version limit $5
), chosen as (
    (select event_id from waiting
      where ordered and object_version = (select min(object_version) from waiting)
        and delivery.in_turn($2, $3, $4, object_version, 'infinity'))
    union all
    select event_id from waiting where not ordered
), released as (
    update delivery.deliveries d set epoch = d.epoch + 1, owner = null, last_owner = $1, state = 'retrying', next_attempt_at = clock_timestamp()
      from chosen c
     where d.event_id = c.event_id and d.endpoint_id = $2 and d.generation = 0 and d.state = 'waiting'
    returning d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts
)
select event_id, endpoint_id, generation, epoch, attempts from released
union all
select event_id, $2, 0, epoch, attempts from object where state = 'retrying' and owner is null and last_owner = $1`

// Release lets the next of a sequence go that is in turn, and returns it: due now and without an owner, so that an Attempt that
// never comes leaves it overdue. A second execution of owner gets what the first one released. Nothing is in turn while a
// version before is missing or open: whoever plans or ends that one wakes the sequence again.
func (l *Ledger) Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.Overdue, error) {
	return l.taken(ctx, "releasing what is in turn", releaseInTurn, owner, [16]byte(s.EndpointID), s.ObjectType, s.ObjectID, delivery.MaxTickets)
}

// The rows are read before their state is looked at: the small index of what waits leads with the endpoint, and is no way to
// an event.
const awaited = `
with planned as materialized (
    select d.endpoint_id, d.state, p.object_type, p.object_id
      from unnest($1::uuid[], $2::text[], $3::text[]) as s (endpoint_id, object_type, object_id)
      join delivery.plans p on p.object_id = s.object_id and p.object_type = s.object_type
      join delivery.deliveries d on d.event_id = p.event_id and d.generation = 0
     where s.endpoint_id = '00000000-0000-0000-0000-000000000000' or d.endpoint_id = s.endpoint_id
)
select distinct endpoint_id, object_type, object_id from planned where state = 'waiting'`

// Awaited returns those of the sequences in which something waits for its turn, each once. One without an endpoint stands for
// the object's of all endpoints. Ask it after the commit of what may have been waited for, and wake what it returns: whatever
// it does not see yet is planned later than that, and asks itself.
func (l *Ledger) Awaited(ctx context.Context, sequences []delivery.Sequence) ([]delivery.Sequence, error) {
	if len(sequences) == 0 {
		return nil, nil
	}
	var (
		endpoints  = make([][16]byte, len(sequences))
		types, ids = make([]string, len(sequences)), make([]string, len(sequences))
	)
	for i, s := range sequences {
		endpoints[i], types[i], ids[i] = s.EndpointID, s.ObjectType, s.ObjectID
	}
	rows, err := l.pool.Query(ctx, awaited, endpoints, types, ids)
	if err != nil {
		return nil, classify("looking what waits for its turn", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (delivery.Sequence, error) {
		var s delivery.Sequence
		err := row.Scan((*[16]byte)(&s.EndpointID), &s.ObjectType, &s.ObjectID)
		return s, err
	})
	if err != nil {
		return nil, classify("looking what waits for its turn", err)
	}
	return out, nil
}

// overslept walks along the index of what waits.
const overslept = `
select l.endpoint_id, l.event_id, p.object_type, p.object_id,
       l.planned_at < l.before
       and (e.ordering is distinct from 'object' or delivery.in_turn(l.endpoint_id, p.object_type, p.object_id, p.object_version, l.before))
  from (select endpoint_id, event_id, planned_at, clock_timestamp() - $3 * interval '1 millisecond' as before
          from delivery.deliveries
         where state = 'waiting' and (endpoint_id, event_id) > ($1, $2)
         order by endpoint_id, event_id limit $4) l
  join delivery.plans p on p.event_id = l.event_id
  left join delivery.endpoints e on e.id = l.endpoint_id
 order by l.endpoint_id, l.event_id`

// Overslept returns the sequences in which a delivery waits that has been in turn for longer than grace, among the limit
// waiting ones after a place, and the place to go on from: the zero Key, which is before all, where these were the last.
func (l *Ledger) Overslept(ctx context.Context, after delivery.Key, grace time.Duration, limit int) ([]delivery.Sequence, delivery.Key, error) {
	rows, err := l.pool.Query(ctx, overslept, [16]byte(after.EndpointID), [16]byte(after.EventID), grace.Milliseconds(), limit)
	if err != nil {
		return nil, delivery.Key{}, classify("looking for what is in turn", err)
	}
	var (
		out    []delivery.Sequence
		seen   = map[delivery.Sequence]bool{}
		looked int
		s      delivery.Sequence
		last   uuid.UUID
		inTurn bool
	)
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&s.EndpointID), (*[16]byte)(&last), &s.ObjectType, &s.ObjectID, &inTurn}, func() error {
		looked++
		if inTurn && !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
		return nil
	})
	if err != nil {
		return nil, delivery.Key{}, classify("looking for what is in turn", err)
	}
	if looked < limit {
		return out, delivery.Key{}, nil
	}
	return out, delivery.Key{EndpointID: s.EndpointID, EventID: last}, nil
}

// WaitingFor returns how long the oldest of at most 20,000 deliveries has waited for its turn, 0 where none waits.
func (l *Ledger) WaitingFor(ctx context.Context) (time.Duration, error) {
	var ms int64
	err := l.pool.QueryRow(ctx, `
select coalesce(extract(epoch from clock_timestamp() - min(planned_at)) * 1000, 0)::bigint
  from (select planned_at from delivery.deliveries where state = 'waiting' order by endpoint_id, event_id limit 20000) w`).Scan(&ms)
	if err != nil {
		return 0, classify("looking how long deliveries wait", err)
	}
	return millis(ms), nil
}
