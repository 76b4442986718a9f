package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
)

// next_attempt_at of a delivery that Svix has says when somebody is to look what became of it. The partial index
// deliveries_handed_over holds just those. A quarter of a look is for what became due last, or what comes now would wait for all
// that an outage has left.
const dueHandedOver = `
with chosen as (
    (select event_id, endpoint_id, generation, epoch, merchant_id, next_attempt_at, planned_at
       from delivery.deliveries where state = 'handed_over' and next_attempt_at <= clock_timestamp()
      order by next_attempt_at limit $1 - $1 / 4)
    union
    (select event_id, endpoint_id, generation, epoch, merchant_id, next_attempt_at, planned_at
       from delivery.deliveries where state = 'handed_over' and next_attempt_at <= clock_timestamp()
      order by next_attempt_at desc limit $1 / 4)
)
select d.event_id, d.generation, d.epoch, d.merchant_id, coalesce(p.event_type, ''), d.next_attempt_at,
       d.planned_at, coalesce(a.held_at, d.planned_at),
       (extract(epoch from clock_timestamp() - coalesce(a.held_at, d.planned_at)) * 1000)::bigint
  from chosen d
  left join delivery.plans p on p.event_id = d.event_id
  left join lateral (
      select max(ended_at) as held_at from delivery.attempts
       where event_id = d.event_id and endpoint_id = d.endpoint_id and generation = d.generation and cause = 'svix_accepted') a on true
 order by d.next_attempt_at`

// HandedOver returns at most limit deliveries at which it is time to look, most of them those that are due for longest, sorted
// so.
func (l *Ledger) HandedOver(ctx context.Context, limit int) ([]delivery.HandedOverDelivery, error) {
	rows, err := l.pool.Query(ctx, dueHandedOver, limit)
	if err != nil {
		return nil, classify("looking for what Svix has", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (delivery.HandedOverDelivery, error) {
		d := delivery.HandedOverDelivery{Key: delivery.Key{EndpointID: delivery.SvixEndpoint}}
		var held int64
		err := row.Scan((*[16]byte)(&d.EventID), &d.Generation, &d.Epoch, &d.MerchantID, &d.EventType, &d.Due, &d.PlannedAt, &d.HeldAt, &held)
		d.Held = millis(held)
		return d, err
	})
	if err != nil {
		return nil, classify("looking for what Svix has", err)
	}
	return out, nil
}

// A look that found nothing new leaves the row where somebody has asked for another look meanwhile: what it says is older than
// what they know. Every other move raises the epoch, so that a hand-over that is written down late finds its claim gone.
const settleHandedOver = `
with v as (
    select * from unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::text[], $8::bigint[])
        as v (event_id, generation, epoch, due, state, cause, next_ms)
), moved as (
    update delivery.deliveries d set
           state = v.state,
           epoch = d.epoch + case v.state when 'handed_over' then 0 else 1 end,
           next_attempt_at = case when v.state in ('handed_over', 'retrying') then clock_timestamp() + v.next_ms * interval '1 millisecond' end,
           ended_at = case when v.state in ('succeeded', 'dead') then clock_timestamp() end,
           last_cause = coalesce(nullif(v.cause, ''), d.last_cause)
      from v
     where d.event_id = v.event_id and d.endpoint_id = $1 and d.generation = v.generation
       and d.state = 'handed_over' and d.epoch = v.epoch and (v.state <> 'handed_over' or d.next_attempt_at = v.due)
    returning d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts, d.state
)
select event_id, endpoint_id, generation, epoch, attempts from moved where state = 'retrying'`

// SettleHandedOver writes down what became of deliveries that Svix has, where they are still as they were read. It returns
// those that are to be handed over again, due now and without an owner: an Attempt that never comes leaves them overdue.
func (l *Ledger) SettleHandedOver(ctx context.Context, verdicts []delivery.SvixVerdict) ([]delivery.Overdue, error) {
	n := len(verdicts)
	events, generations, epochs := make([][16]byte, n), make([]int64, n), make([]int64, n)
	dues, states, causes, nexts := make([]time.Time, n), make([]string, n), make([]string, n), make([]int64, n)
	for i, v := range verdicts {
		events[i], generations[i], epochs[i], dues[i] = v.Of.EventID, v.Of.Generation, v.Of.Epoch, v.Of.Due
		states[i], causes[i], nexts[i] = string(v.State), string(v.Cause), v.LookIn.Milliseconds()
	}
	return l.taken(ctx, "writing down what Svix says", settleHandedOver, [16]byte(delivery.SvixEndpoint), events, generations, epochs, dues, states, causes, nexts)
}

const lookAtHandedOver = `
update delivery.deliveries set next_attempt_at = clock_timestamp()
 where event_id = $1 and endpoint_id = $2 and generation = $3 and state = 'handed_over'`

// LookAtHandedOver has the sweep look at a delivery now that Svix has; one that Svix does not have, or that is not written down
// yet as handed over, is looked at soon anyway.
func (l *Ledger) LookAtHandedOver(ctx context.Context, eventID uuid.UUID, generation int64) error {
	_, err := l.pool.Exec(ctx, lookAtHandedOver, [16]byte(eventID), [16]byte(delivery.SvixEndpoint), generation)
	if err != nil {
		return classify("asking for a look at what Svix has", err)
	}
	return nil
}

// Those that wait for their first answer were looked at just now or will be soon; the ones with the latest look are the oldest.
const unansweredSince = `
select coalesce((extract(epoch from clock_timestamp() - min(o.planned_at)) * 1000)::bigint, 0)
  from (select planned_at, last_cause from delivery.deliveries where state = 'handed_over' order by next_attempt_at desc limit 20000) o
 where o.last_cause is distinct from 'svix_failing'`

// OldestUnanswered returns how long ago the oldest delivery was planned that Svix has, and shows no attempt of; 0 without one.
// It looks at 20,000 of those that Svix has.
func (l *Ledger) OldestUnanswered(ctx context.Context) (time.Duration, error) {
	var ago int64
	if err := l.pool.QueryRow(ctx, unansweredSince).Scan(&ago); err != nil {
		return 0, classify("looking for the oldest delivery that Svix has", err)
	}
	return millis(ago), nil
}
