package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
)

const deadColumns = `id, topic, partition, "offset", event_id, reason, detail, key, value, buried, created_at, redriven_at`

const readDeadRecords = `
select ` + deadColumns + ` from delivery.dead_records
 where id > $1 and ($2 = '' or reason = $2) and (redriven_at is null or not $3)
 order by id limit $4`

// DeadRecords returns the page of dead records after the id, of all reasons where reason is empty; with open only those
// that nobody has driven since.
func (l *Ledger) DeadRecords(ctx context.Context, after int64, reason string, open bool, limit int) ([]delivery.Buried, error) {
	rows, err := l.pool.Query(ctx, readDeadRecords, after, reason, open, limit)
	if err != nil {
		return nil, classify("reading dead records", err)
	}
	records, err := pgx.CollectRows(rows, scanBuried)
	if err != nil {
		return nil, classify("reading dead records", err)
	}
	return records, nil
}

const readDeadRecord = `select ` + deadColumns + ` from delivery.dead_records where id = $1`

// DeadRecord reads one; a fault.NotFound where there is none.
func (l *Ledger) DeadRecord(ctx context.Context, id int64) (delivery.Buried, error) {
	rows, err := l.pool.Query(ctx, readDeadRecord, id)
	if err != nil {
		return delivery.Buried{}, classify("reading a dead record", err)
	}
	record, err := pgx.CollectExactlyOneRow(rows, scanBuried)
	if errors.Is(err, pgx.ErrNoRows) {
		return delivery.Buried{}, fault.New(fault.NotFound, "there is no dead record %d", id)
	}
	if err != nil {
		return delivery.Buried{}, classify("reading a dead record", err)
	}
	return record, nil
}

func scanBuried(row pgx.CollectableRow) (delivery.Buried, error) {
	var r delivery.Buried
	var eventID *[16]byte
	var redriven *time.Time
	err := row.Scan(&r.ID, &r.Topic, &r.Partition, &r.Offset, &eventID, &r.Reason, &r.Detail, &r.Key, &r.Value, &r.Times, &r.At, &redriven)
	if eventID != nil {
		r.EventID = *eventID
	}
	if redriven != nil {
		r.RedrivenAt = *redriven
	}
	return r, err
}

const markRedriven = `update delivery.dead_records set redriven_at = clock_timestamp() where id = $1 and buried = $2`

// MarkRedriven notes that the record was driven again, unless it was buried once more since it was read: then it reports
// false, and the record stays open.
func (l *Ledger) MarkRedriven(ctx context.Context, record delivery.Buried) (bool, error) {
	tag, err := l.pool.Exec(ctx, markRedriven, record.ID, record.Times)
	if err != nil {
		return false, classify("closing a dead record", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Only what died before anything could be sent because of the event itself: a delivery that is out of attempts, or whose
// endpoint is gone, is for a replay. One that a replay has a later generation of is that one's.
const reviveDeliveries = `
update delivery.deliveries d set state = 'retrying', epoch = epoch + 1, owner = null, ended_at = null, next_attempt_at = clock_timestamp()
 where event_id = $1 and state = 'dead' and last_cause in ('phantom', 'not_visible', 'body_too_large')
   and not exists (select from delivery.deliveries n
                    where n.event_id = d.event_id and n.endpoint_id = d.endpoint_id and n.generation > d.generation)
returning event_id, endpoint_id, generation, epoch, attempts`

// Revive makes deliveries of the event possible again that died because its row was missing or its body too large. They
// are due now and have no owner: an Attempt that never comes leaves them overdue, for the reconciler to find.
func (l *Ledger) Revive(ctx context.Context, eventID uuid.UUID) ([]delivery.Overdue, error) {
	return l.taken(ctx, "reviving deliveries", reviveDeliveries, [16]byte(eventID))
}

const readFates = `
select p.event_id, coalesce(d.state, ''), count(d.state)
  from delivery.plans p left join delivery.deliveries d on d.event_id = p.event_id
 where p.event_id = any($1)
 group by p.event_id, d.state`

// Fates says what became of the events; one that was never planned is not among them.
func (l *Ledger) Fates(ctx context.Context, eventIDs []uuid.UUID) (map[uuid.UUID]delivery.Fate, error) {
	rows, err := l.pool.Query(ctx, readFates, raw(eventIDs))
	if err != nil {
		return nil, classify("reading the fate of events", err)
	}
	out := map[uuid.UUID]delivery.Fate{}
	var id uuid.UUID
	var state delivery.State
	var n int
	_, err = pgx.ForEachRow(rows, []any{(*[16]byte)(&id), &state, &n}, func() error {
		if out[id] == nil {
			out[id] = delivery.Fate{}
		}
		if n > 0 {
			out[id][state] = n
		}
		return nil
	})
	if err != nil {
		return nil, classify("reading the fate of events", err)
	}
	return out, nil
}
