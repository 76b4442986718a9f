package stack

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// envDatabaseURL names a database other than the embedded stack's.
const envDatabaseURL = "DATABASE_URL"

// cdcSlots are the slots of the two ways from the WAL to Kafka: one of them is used, and the other one only keeps WAL.
var cdcSlots = []string{"hookline_relay", "sequin_slot"}

const selectCDCSlots = `
select slot_name, active, coalesce((pg_current_wal_lsn() - restart_lsn)::bigint, 0)
  from pg_replication_slots where slot_type = 'logical' and slot_name = any($1) order by slot_name`

// checkSlots looks for a slot that nobody reads: it keeps the server from removing WAL, until the disk is full or the slot
// invalidated. It has nothing to say where there is no database to ask.
func (s *stack) checkSlots(ctx context.Context) []Check {
	dsn := lookup(s.Environ, envDatabaseURL)
	check := Check{Name: "replication slots", Detail: "the database at " + envDatabaseURL + " cannot be asked"}
	elsewhere := dsn != ""
	if !elsewhere {
		dsn = s.dsn()
	}
	if dsn == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	slots, err := readCDCSlots(ctx, dsn)
	switch {
	case err != nil && !elsewhere:
		return nil // the stack does not run
	case err != nil:
		return []Check{check} // without the cause, which can quote the password
	default:
		return []Check{judgeSlots(slots)}
	}
}

type cdcSlot struct {
	name     string
	active   bool
	retained int64
}

func readCDCSlots(ctx context.Context, dsn string) ([]cdcSlot, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, err := conn.Query(ctx, selectCDCSlots, cdcSlots)
	if err != nil {
		return nil, fmt.Errorf("reading the replication slots: %w", err)
	}
	slots, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (cdcSlot, error) {
		var slot cdcSlot
		err := row.Scan(&slot.name, &slot.active, &slot.retained)
		return slot, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading the replication slots: %w", err)
	}
	return slots, nil
}

// judgeSlots names what is idle. Where no slot is read it cannot tell which one is left over, and names no command: to
// drop the one that is used would be a gap.
func judgeSlots(slots []cdcSlot) Check {
	check := Check{Name: "replication slots", OK: true, Detail: "none of the CDC's"}
	var idle, active []string
	var drop string
	for _, slot := range slots {
		if slot.active {
			active = append(active, slot.name)
			continue
		}
		idle = append(idle, fmt.Sprintf("%s, which nobody reads, keeps %d bytes of WAL", slot.name, slot.retained))
		drop = slot.name
	}
	switch {
	case len(idle) > 0 && len(active) > 0:
		check.OK = false
		check.Detail = strings.Join(idle, "; ") + ", while " + strings.Join(active, " and ") + " is read"
		check.Fix = fmt.Sprintf(`psql "$%s" -c "select pg_drop_replication_slot('%s')"`, envDatabaseURL, drop)
	case len(idle) > 0:
		check.OK = false
		check.Detail = strings.Join(idle, "; ") + ": start the CDC, and drop the slot of the one that is not used"
	case len(active) > 0:
		check.Detail = strings.Join(active, " and ") + ", which is read"
	}
	return check
}
