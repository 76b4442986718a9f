package load

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
)

// Backlog is how an endpoint stands at a moment.
type Backlog struct {
	EndpointID uuid.UUID
	Circuit    delivery.Circuit
	ChangedAt  time.Time // since when the circuit is in that state
	Opens      int       // how often it has opened since the endpoint was well
	Parked     int       // deliveries that wait until the endpoint takes them
	Due        int       // pending or retrying
}

const selectBacklogs = `
select e.id, e.circuit, e.circuit_changed_at, e.circuit_opens,
       (select count(*) from delivery.deliveries d where d.endpoint_id = e.id and d.state = 'parked'),
       (select count(*) from delivery.deliveries d where d.endpoint_id = e.id and d.state in ('pending', 'retrying'))
  from unnest($1::uuid[]) with ordinality as wanted (id, place) join delivery.endpoints e on e.id = wanted.id
 order by place`

const selectCircuits = `
select e.id, e.circuit, e.circuit_changed_at, e.circuit_opens, 0::bigint, 0::bigint
  from unnest($1::uuid[]) with ordinality as wanted (id, place) join delivery.endpoints e on e.id = wanted.id
 order by place`

// Backlogs returns how the endpoints stand now, in their order.
func (d *Database) Backlogs(ctx context.Context, endpoints []uuid.UUID) ([]Backlog, error) {
	return d.backlogs(ctx, selectBacklogs, endpoints)
}

// Circuits is Backlogs without the counts, which cost something.
func (d *Database) Circuits(ctx context.Context, endpoints []uuid.UUID) ([]Backlog, error) {
	return d.backlogs(ctx, selectCircuits, endpoints)
}

func (d *Database) backlogs(ctx context.Context, query string, endpoints []uuid.UUID) ([]Backlog, error) {
	rows, err := d.conn.Query(ctx, query, endpoints)
	if err != nil {
		return nil, fmt.Errorf("reading the backlogs: %w", err)
	}
	backlogs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Backlog])
	if err != nil {
		return nil, fmt.Errorf("reading the backlogs: %w", err)
	}
	return backlogs, nil
}

const selectStates = `
select state, count(*) from delivery.deliveries where endpoint_id = any($1) and generation = 0 group by state`

// States counts the deliveries of the endpoints, without replays, by state. It reads the whole table.
func (d *Database) States(ctx context.Context, endpoints []uuid.UUID) (map[delivery.State]int, error) {
	rows, err := d.conn.Query(ctx, selectStates, endpoints)
	if err != nil {
		return nil, fmt.Errorf("counting the deliveries: %w", err)
	}
	states := map[delivery.State]int{}
	var state delivery.State
	var count int
	_, err = pgx.ForEachRow(rows, []any{&state, &count}, func() error {
		states[state] = count
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("counting the deliveries: %w", err)
	}
	return states, nil
}
