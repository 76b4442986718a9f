package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
)

// reconcilerLock is the key of the advisory lock under which one process reconciles; its digits spell nothing.
const reconcilerLock = 7_240_611_985_003_217

// Lead tries to take the reconciler's lock, and runs do while it holds it. It reports false where another process
// leads. The lock belongs to one connection of its own: when that breaks, do's context ends.
func (l *Ledger) Lead(ctx context.Context, do func(context.Context) error) (bool, error) {
	conn, err := l.pool.Acquire(ctx)
	if err != nil {
		return false, classify("taking the reconciler's lock", err)
	}
	defer conn.Release()
	var got bool
	if err := conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", int64(reconcilerLock)).Scan(&got); err != nil {
		return false, classify("taking the reconciler's lock", err)
	}
	if !got {
		return false, nil
	}
	// A leader that froze, or whose host is gone, must not keep the lock for as long as TCP takes to notice: it asks
	// every second, and the server ends a session that asks for nothing.
	if _, err := conn.Exec(ctx, "set idle_session_timeout = '10s'"); err != nil {
		conn.Conn().Close(ctx) // which gives the lock back
		return false, classify("bounding the reconciler's lock", err)
	}
	defer func() {
		// The connection goes back to the pool: without this it would keep the lock.
		unlock, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if _, err := conn.Exec(unlock, "reset idle_session_timeout; select pg_advisory_unlock("+strconv.Itoa(reconcilerLock)+")"); err != nil {
			conn.Conn().Close(unlock) // which gives the lock back
		}
	}()

	leading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	done := make(chan error, 1)
	go func() { done <- do(leading) }()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case err := <-done:
			return true, err
		case <-tick.C:
			ping, cancel := context.WithTimeout(ctx, 2*time.Second)
			err := conn.Ping(ping)
			cancel()
			if err != nil {
				stop(fmt.Errorf("losing the reconciler's lock: %w", err))
			}
		}
	}
}

// Watermark reads the planned watermark; the zero value is the start of the feed, of no history.
func (l *Ledger) Watermark(ctx context.Context) (delivery.Watermark, error) {
	var w delivery.Watermark
	err := l.pool.QueryRow(ctx, "select cursor, system, timeline from delivery.watermarks where name = 'planned'").Scan(&w.Cursor, &w.System, &w.Timeline)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return w, classify("reading the watermark", err)
	}
	return w, nil
}

// SetWatermark writes it.
func (l *Ledger) SetWatermark(ctx context.Context, w delivery.Watermark) error {
	_, err := l.pool.Exec(ctx, `insert into delivery.watermarks (name, cursor, system, timeline) values ('planned', $1, $2, $3)
		on conflict (name) do update set cursor = $1, system = $2, timeline = $3, updated_at = clock_timestamp()`, w.Cursor, w.System, w.Timeline)
	if err != nil {
		return classify("writing the watermark", err)
	}
	return nil
}

const plannedSince = `
select u.id, (extract(epoch from clock_timestamp() - p.planned_at) * 1000)::bigint
  from unnest($1::uuid[]) as u (id) join delivery.plans p on p.event_id = u.id
union all
select u.id, -1 from unnest($1::uuid[]) as u (id) join delivery.dead_records d on d.event_id = u.id`

// Planned returns how long ago each of the events was planned; an event that a dead record explains is among them, with
// a negative time, and one that is neither planned nor explained is not.
func (l *Ledger) Planned(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]time.Duration, error) {
	rows, err := l.pool.Query(ctx, plannedSince, raw(ids))
	if err != nil {
		return nil, classify("looking for plans", err)
	}
	out := make(map[uuid.UUID]time.Duration, len(ids))
	var id uuid.UUID
	var ago int64
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&id), &ago}, func() error {
		out[id] = max(out[id], millis(ago))
		return nil
	})
	if err != nil {
		return nil, classify("looking for plans", err)
	}
	return out, nil
}

// The partial index deliveries_due holds only what is open, in the order in which it is due.
const overdueDeliveries = `
select event_id, endpoint_id, generation, epoch, attempts, coalesce(owner, '')
  from delivery.deliveries
 where state in ('pending', 'retrying') and next_attempt_at < clock_timestamp() - $1 * interval '1 millisecond'
 order by next_attempt_at
 limit $2`

// Overdue returns at most limit deliveries whose attempt has been due for longer than grace, the longest first.
func (l *Ledger) Overdue(ctx context.Context, grace time.Duration, limit int) ([]delivery.Overdue, error) {
	rows, err := l.pool.Query(ctx, overdueDeliveries, grace.Milliseconds(), limit)
	if err != nil {
		return nil, classify("looking for overdue deliveries", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (delivery.Overdue, error) {
		var o delivery.Overdue
		err := row.Scan((*[16]byte)(&o.EventID), (*[16]byte)(&o.EndpointID), &o.Generation, &o.Epoch, &o.Number, &o.Owner)
		o.Number++
		return o, err
	})
	if err != nil {
		return nil, classify("looking for overdue deliveries", err)
	}
	return out, nil
}

const takeOver = `
update delivery.deliveries d set epoch = d.epoch + 1, owner = null, state = 'retrying', next_attempt_at = clock_timestamp()
  from unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::bigint[]) as t (event_id, endpoint_id, generation, epoch)
 where d.event_id = t.event_id and d.endpoint_id = t.endpoint_id and d.generation = t.generation
   and d.epoch = t.epoch and d.state in ('pending', 'retrying')
returning d.event_id, d.endpoint_id, d.generation, d.epoch, d.attempts`

// TakeOver takes away the deliveries whose epoch is still the one that was read, and returns them with their new epoch,
// due now and without an owner: an Attempt that never comes leaves them overdue again.
func (l *Ledger) TakeOver(ctx context.Context, overdue []delivery.Overdue) ([]delivery.Overdue, error) {
	events, endpoints := make([][16]byte, len(overdue)), make([][16]byte, len(overdue))
	generations, epochs := make([]int64, len(overdue)), make([]int64, len(overdue))
	for i, o := range overdue {
		events[i], endpoints[i], generations[i], epochs[i] = o.EventID, o.EndpointID, o.Generation, o.Epoch
	}
	return l.taken(ctx, "taking deliveries over", takeOver, events, endpoints, generations, epochs)
}

// taken runs a statement that takes deliveries and returns them with their new epoch.
func (l *Ledger) taken(ctx context.Context, doing, statement string, args ...any) ([]delivery.Overdue, error) {
	rows, err := l.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, classify(doing, err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (delivery.Overdue, error) {
		var o delivery.Overdue
		err := row.Scan((*[16]byte)(&o.EventID), (*[16]byte)(&o.EndpointID), &o.Generation, &o.Epoch, &o.Number)
		o.Number++
		return o, err
	})
	if err != nil {
		return nil, classify(doing, err)
	}
	return out, nil
}

// openSince reads at most as many open deliveries as a person can make sense of; beyond it the answer is a bound.
const openSince = `
select o.merchant_id, min(o.planned_at)
  from ((select merchant_id, planned_at from delivery.deliveries
          where state in ('pending', 'retrying') order by next_attempt_at limit 20000)
        union all
        (select merchant_id, planned_at from delivery.deliveries
          where state = 'handed_over' order by next_attempt_at desc limit 20000)) o
 group by o.merchant_id`

// OpenSince returns when the oldest event with a delivery under way, or at Svix, was planned, by merchant: the settled watermark. A
// merchant without open deliveries is not among them. It is for display.
func (l *Ledger) OpenSince(ctx context.Context) (map[string]time.Time, error) {
	rows, err := l.pool.Query(ctx, openSince)
	if err != nil {
		return nil, classify("reading the settled watermark", err)
	}
	out := map[string]time.Time{}
	var merchant string
	var since time.Time
	_, err = pgx.ForEachRow(rows, []any{&merchant, &since}, func() error {
		out[merchant] = since
		return nil
	})
	if err != nil {
		return nil, classify("reading the settled watermark", err)
	}
	return out, nil
}

// Each part reads one of the partial indexes, and no further than a person counts.
const countDeliveries = `
select state, count(*)
  from (select state from delivery.deliveries where state in ('pending', 'retrying') order by next_attempt_at limit 20000) o
 group by state
union all
select 'waiting', count(*) from (select from delivery.deliveries where state = 'waiting' limit 20000) w
union all
select 'handed_over', count(*) from (select from delivery.deliveries where state = 'handed_over' limit 20000) h
union all
select 'parked', count(*) from (select from delivery.deliveries where state = 'parked' limit 20000) p
union all
select 'dead', count(*) from (select from delivery.deliveries where state = 'dead' limit 20000) d`

// CountDeliveries counts those that have not succeeded, by state: up to 20,000 of pending and retrying together, and of each
// other state. A state may be missing, and stands for none.
func (l *Ledger) CountDeliveries(ctx context.Context) (map[delivery.State]int, error) {
	rows, err := l.pool.Query(ctx, countDeliveries)
	if err != nil {
		return nil, classify("counting deliveries", err)
	}
	out := map[delivery.State]int{}
	var state delivery.State
	var count int
	_, err = pgx.ForEachRow(rows, []any{&state, &count}, func() error {
		out[state] = count
		return nil
	})
	if err != nil {
		return nil, classify("counting deliveries", err)
	}
	return out, nil
}

// CountEndpoints counts the endpoints that take deliveries, and those that are disabled.
func (l *Ledger) CountEndpoints(ctx context.Context) (int, int, error) {
	var enabled, disabled int
	err := l.pool.QueryRow(ctx, "select count(*) filter (where enabled), count(*) filter (where not enabled) from delivery.endpoints").Scan(&enabled, &disabled)
	if err != nil {
		return 0, 0, classify("counting endpoints", err)
	}
	return enabled, disabled, nil
}
