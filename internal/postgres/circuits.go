package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/delivery"
)

// Who changes a circuit names the change before, by its time: of two that open it at once one does, and nothing that was
// judged by requests of before a change undoes the change. The revision rises, so that every cache of the endpoint is stale.
const (
	openCircuit = `
update delivery.endpoints set circuit = 'open', circuit_opens = circuit_opens + 1, circuit_changed_at = clock_timestamp(),
       probe_at = clock_timestamp() + $3 * interval '1 millisecond'
 where id = $1 and circuit_changed_at = $2 and circuit <> 'open'`
	closeCircuit = `
update delivery.endpoints set circuit = 'closed', circuit_changed_at = clock_timestamp(), probe_at = null
 where id = $1 and circuit_changed_at = $2 and circuit = 'half_open'`
	forgetOpens = `
update delivery.endpoints set circuit_opens = 0
 where id = $1 and circuit_changed_at = $2 and circuit = 'closed' and circuit_opens > 0`
)

// OpenCircuit opens the circuit that has not changed since: from now on the endpoint's deliveries are parked, and after the
// wait one of them probes. It reports false where the circuit has changed, or is open.
func (l *Ledger) OpenCircuit(ctx context.Context, endpointID uuid.UUID, since time.Time, wait time.Duration) (bool, error) {
	return l.changeCircuit(ctx, "opening a circuit", openCircuit, [16]byte(endpointID), since, wait.Milliseconds())
}

// CloseCircuit closes the circuit that is half-open and has not changed since; it reports whether it was.
func (l *Ledger) CloseCircuit(ctx context.Context, endpointID uuid.UUID, since time.Time) (bool, error) {
	return l.changeCircuit(ctx, "closing a circuit", closeCircuit, [16]byte(endpointID), since)
}

// ForgetOpens says that an endpoint whose circuit has been closed since is well: the next time it opens for the shortest wait.
func (l *Ledger) ForgetOpens(ctx context.Context, endpointID uuid.UUID, since time.Time) (bool, error) {
	return l.changeCircuit(ctx, "forgetting how often a circuit opened", forgetOpens, [16]byte(endpointID), since)
}

func (l *Ledger) changeCircuit(ctx context.Context, doing, statement string, args ...any) (bool, error) {
	tag, err := l.pool.Exec(ctx, statement, args...)
	if err != nil {
		return false, classify(doing, err)
	}
	return tag.RowsAffected() > 0, nil
}

// CountCircuits counts the enabled endpoints by their circuit. A state may be missing, and stands for none.
func (l *Ledger) CountCircuits(ctx context.Context) (map[delivery.Circuit]int, error) {
	rows, err := l.pool.Query(ctx, "select circuit, count(*) from delivery.endpoints where enabled group by circuit")
	if err != nil {
		return nil, classify("counting circuits", err)
	}
	out := map[delivery.Circuit]int{}
	var (
		state delivery.Circuit
		count int
	)
	_, err = pgx.ForEachRow(rows, []any{&state, &count}, func() error { out[state] = count; return nil })
	if err != nil {
		return nil, classify("counting circuits", err)
	}
	return out, nil
}
