package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/event"
)

const unpublishedEvents = `
select id, merchant_id, event_type, data from delivery.operational_events
 where published_at is null order by created_at limit $1`

// Unpublished returns the oldest events of our own that payments-api has not taken yet.
func (l *Ledger) Unpublished(ctx context.Context, limit int) ([]event.Operational, error) {
	rows, err := l.pool.Query(ctx, unpublishedEvents, limit)
	if err != nil {
		return nil, classify("reading operational events", err)
	}
	out, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (event.Operational, error) {
		var o event.Operational
		err := row.Scan((*[16]byte)(&o.ID), &o.MerchantID, &o.Type, &o.Data)
		return o, err
	})
	if err != nil {
		return nil, classify("reading operational events", err)
	}
	return out, nil
}

// MarkPublished notes that payments-api has taken the event, or with a refusal that it never will.
func (l *Ledger) MarkPublished(ctx context.Context, id uuid.UUID, refusal string) error {
	_, err := l.pool.Exec(ctx, "update delivery.operational_events set published_at = clock_timestamp(), refusal = nullif($2, '') where id = $1",
		[16]byte(id), refusal)
	if err != nil {
		return classify("closing an operational event", err)
	}
	return nil
}

const tellOnce = `insert into delivery.operational_events (id, merchant_id, event_type, data) values ($1, $2, $3, $4) on conflict (id) do nothing`

// Tell keeps an event of our own for payments-api. It reports false where one of the id is there already, published or not.
func (l *Ledger) Tell(ctx context.Context, e event.Operational) (bool, error) {
	tag, err := l.pool.Exec(ctx, tellOnce, [16]byte(e.ID), e.MerchantID, e.Type, e.Data)
	if err != nil {
		return false, classify("keeping an operational event", err)
	}
	return tag.RowsAffected() == 1, nil
}
