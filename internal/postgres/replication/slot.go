package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/hookline/hookline/internal/wal"
)

// slot asks and tells about the slot over plain connections.
type slot struct {
	cfg      Config
	log      *slog.Logger
	declared func()
	looks    kept // of state and heartbeat
	memory   kept // of remember: it must not wait for a look

	warnUnlimited sync.Once

	// Of the goroutine that connects, and then of the one that confirms:
	standby    bool // a standby cannot be written to: nothing is remembered, and a gap is not seen
	remembered wal.LSN
	history    history
}

// history names what LSNs count in.
type history struct {
	system   string
	timeline int32
}

// kept is a connection that is made when it is needed, and again when it broke.
type kept struct {
	url  string
	mu   sync.Mutex
	conn *pgx.Conn
}

const selectServer = `
select (select setting::bigint from pg_settings where name = 'wal_sender_timeout'),
       current_setting('server_version_num')::int >= 170000 and not pg_is_in_recovery(),
       pg_is_in_recovery(),
       coalesce((select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size'), 0) < 0,
       exists (select from pg_publication where pubname = $1)`

const selectSlot = `
select coalesce(plugin, ''), coalesce(database, ''), current_database(), coalesce(wal_status, ''),
       coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint
  from pg_replication_slots where slot_name = $1`

// Each is a statement, and so a transaction, of its own: a slot cannot be made in a transaction that wrote.
const (
	createSlot = `select from pg_create_logical_replication_slot($1, 'pgoutput')`
	// Since 17 a slot can be kept on the standbys too, so that a failover does not lose it.
	createFailoverSlot = `select from pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)`
)

// Only where nobody has made it anew since it was looked at.
const dropLostSlot = `
select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1 and wal_status = 'lost' and not active`

// suspicion is why a slot may have missed commits; what is remembered decides.
type suspicion struct {
	reason string  // empty where there is none
	from   wal.LSN // 0 where it is not known
}

// Reasons of gaps.
const (
	reasonLost     = "the slot was invalidated: the server had removed WAL that it still needed"
	reasonVanished = "there was no slot any more"
	reasonMoved    = "the slot stands beyond what was ever confirmed: it was made anew, or moved"
	reasonSystem   = "the database was copied from another server"
	reasonFirst    = "events were committed before the first slot"
)

// ensure makes the slot where it is missing or can never be read again, and refuses one that is somebody else's. It
// returns how often the server must hear of a connection at least, a third of its wal_sender_timeout, at most 10 s;
// and why the slot may have missed something.
func (s *slot) ensure(ctx context.Context) (time.Duration, suspicion, error) {
	conn, err := pgx.Connect(ctx, s.cfg.DatabaseURL)
	if err != nil {
		return 0, suspicion{}, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	var timeoutMS int64
	var failover, unlimited, published bool
	if err := conn.QueryRow(ctx, selectServer, s.cfg.Publication).Scan(&timeoutMS, &failover, &s.standby, &unlimited, &published); err != nil {
		return 0, suspicion{}, fmt.Errorf("asking the server for its settings: %w", err)
	}
	// Before the slot: one that is older than its publication fails on decoding for as long as it lives.
	if !published {
		return 0, suspicion{}, fmt.Errorf("there is no publication %s in the database: run the migrations", s.cfg.Publication)
	}
	if unlimited {
		s.warnUnlimited.Do(func() {
			s.log.LogAttrs(ctx, slog.LevelWarn, "max_slot_wal_keep_size is -1: a slot that nobody reads fills the disk of the database; "+
				"set it to what the disk can spare, as a slot that is invalidated loses nothing")
		})
	}
	keepAlive := keepAliveLongest
	if timeout := time.Duration(timeoutMS) * time.Millisecond; timeout > 0 {
		keepAlive = min(keepAlive, timeout/3)
	}

	var plugin, database, current, status string
	var confirmed wal.LSN
	err = conn.QueryRow(ctx, selectSlot, s.cfg.Slot).Scan(&plugin, &database, &current, &status, &confirmed)
	missing := errors.Is(err, pgx.ErrNoRows)
	switch {
	case err != nil && !missing:
		return 0, suspicion{}, fmt.Errorf("asking for the slot %s: %w", s.cfg.Slot, err)
	case missing:
		return keepAlive, suspicion{reason: reasonVanished}, s.create(ctx, conn, failover)
	case plugin != "pgoutput" || database != current:
		return 0, suspicion{}, fmt.Errorf("the slot %s is of plugin %q and database %q, not pgoutput and %s: set SLOT_NAME to another", s.cfg.Slot, plugin, database, current)
	case status == "lost":
		// It can never be read again. Dying between the two statements leaves no slot, and says so too.
		if _, err := conn.Exec(ctx, dropLostSlot, s.cfg.Slot); err != nil {
			return 0, suspicion{}, fmt.Errorf("dropping the invalidated slot %s: %w", s.cfg.Slot, err)
		}
		return keepAlive, suspicion{reason: reasonLost, from: confirmed}, s.create(ctx, conn, failover)
	}
	return keepAlive, suspicion{}, nil
}

func (s *slot) create(ctx context.Context, conn *pgx.Conn, failover bool) error {
	create := createSlot
	if failover {
		create = createFailoverSlot
	}
	if _, err := conn.Exec(ctx, create, s.cfg.Slot); err != nil {
		return fmt.Errorf("making the slot %s: %w", s.cfg.Slot, err)
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "there was no slot, so it was made", slog.String("slot", s.cfg.Slot), slog.Bool("failover", failover))
	return nil
}

const selectPosition = `
select coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint from pg_replication_slots where slot_name = $1`

const selectMemory = `
select (confirmed_lsn - '0/0'::pg_lsn)::bigint, system_identifier from public.relay_state where slot_name = $1`

// Of a slot that nobody remembers. A slot holds its catalog_xmin from the moment it is made, and moves it forward only, so
// that an event of an older transaction was, as a rule, committed before there was a slot.
const selectOlder = `
select exists (
    select from public.domain_events e
     where e.txid < (select x.next - (x.next - s.catalog_xmin::text::bigint) % 4294967296 -- its xid in 64 bits
                       from pg_replication_slots s, (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as x (next)
                      where s.slot_name = $1))`

const selectAny = `select exists (select from public.domain_events)`

const insertGap = `insert into public.relay_gaps (slot_name, from_lsn, to_lsn, reason) values ($1, $2::text::pg_lsn, $3::text::pg_lsn, $4)`

const upsertMemory = `
insert into public.relay_state (slot_name, confirmed_lsn, system_identifier, timeline) values ($1, $2::text::pg_lsn, $3, $4)
on conflict (slot_name) do update set confirmed_lsn = excluded.confirmed_lsn, system_identifier = excluded.system_identifier,
       timeline = excluded.timeline, updated_at = clock_timestamp()`

// settle compares the slot with what is remembered, and declares a gap where the slot may have missed commits. The
// caller streams from the slot already: nobody else can move it, drop it or make it anew.
func (s *slot) settle(ctx context.Context, suspected suspicion) error {
	if s.standby {
		s.log.LogAttrs(ctx, slog.LevelWarn, "reading from a standby, which cannot be written to: a slot that was made anew goes unseen, and only the reconciler makes up for it")
		return nil
	}
	err := s.memory.with(ctx, func(conn *pgx.Conn) error {
		var at wal.LSN
		if err := conn.QueryRow(ctx, selectPosition, s.cfg.Slot).Scan(&at); err != nil {
			return err
		}
		gap, known, err := s.judge(ctx, conn, at, suspected)
		switch {
		case err != nil:
			return err
		case gap.reason != "":
			return s.declare(ctx, conn, gap, at)
		case known:
			s.remembered = max(at, gap.from)
			return nil
		}
		s.remembered = at
		_, err = conn.Exec(ctx, upsertMemory, s.cfg.Slot, at.String(), s.history.system, s.history.timeline)
		return err
	})
	if err != nil {
		return fmt.Errorf("comparing the slot %s with what is remembered of it (run the migrations?): %w", s.cfg.Slot, err)
	}
	return nil
}

// judge says whether a slot that stands at a position may have missed commits since what is remembered, and whether
// anything is. Of a slot that missed nothing, from is what is remembered.
func (s *slot) judge(ctx context.Context, conn *pgx.Conn, at wal.LSN, suspected suspicion) (gap suspicion, known bool, err error) {
	var last wal.LSN
	var system string
	err = conn.QueryRow(ctx, selectMemory, s.cfg.Slot).Scan(&last, &system)
	if errors.Is(err, pgx.ErrNoRows) {
		gap, err = s.judgeFirst(ctx, conn, suspected)
		return gap, false, err
	}
	if err != nil {
		return gap, false, err
	}
	switch {
	case system != s.history.system:
		return suspicion{reason: reasonSystem}, true, nil
	case suspected.reason == "" && at > last:
		return suspicion{reason: reasonMoved, from: last}, true, nil
	default:
		return suspicion{reason: suspected.reason, from: last}, true, nil
	}
}

// judgeFirst is judge where nothing is remembered.
func (s *slot) judgeFirst(ctx context.Context, conn *pgx.Conn, suspected suspicion) (suspicion, error) {
	var missed bool
	var err error
	switch suspected.reason {
	case reasonLost:
		return suspected, nil
	case reasonVanished: // it was made a moment ago: what is there now was there before, as a rule
		err = conn.QueryRow(ctx, selectAny).Scan(&missed)
	default:
		err = conn.QueryRow(ctx, selectOlder, s.cfg.Slot).Scan(&missed)
	}
	if err != nil || !missed {
		return suspicion{}, err
	}
	return suspicion{reason: reasonFirst}, nil
}

// declare says that what was committed before a position may not have been relayed.
func (s *slot) declare(ctx context.Context, conn *pgx.Conn, gap suspicion, to wal.LSN) error {
	var from *string
	if gap.from > 0 {
		text := gap.from.String()
		from = &text
	}
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { // both or neither: what is remembered would hide the gap
		if _, err := tx.Exec(ctx, insertGap, s.cfg.Slot, from, to.String(), gap.reason); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, upsertMemory, s.cfg.Slot, to.String(), s.history.system, s.history.timeline)
		return err
	})
	if err != nil {
		return fmt.Errorf("declaring a gap: %w", err)
	}
	s.remembered = to
	s.declared()
	s.log.LogAttrs(ctx, slog.LevelError, "GAP: what was committed in between does not come through the slot; the reconciler finds it and drives it",
		slog.String("slot", s.cfg.Slot), slog.String("reason", gap.reason), slog.String("from", gap.from.String()), slog.String("to", to.String()))
	return nil
}

// remember writes down that lsn is about to be confirmed. Never after: a slot that is found beyond what is remembered is
// then one that somebody else made or moved, whenever this process died.
func (s *slot) remember(ctx context.Context, lsn wal.LSN) error {
	if s.standby || lsn <= s.remembered {
		return nil
	}
	err := s.memory.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, upsertMemory, s.cfg.Slot, lsn.String(), s.history.system, s.history.timeline)
		return err
	})
	if err != nil {
		return fmt.Errorf("remembering the position: %w", err)
	}
	s.remembered = lsn
	return nil
}

const selectState = `
select coalesce(wal_status, ''),
       (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end - '0/0'::pg_lsn)::bigint,
       coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint,
       coalesce(restart_lsn - '0/0'::pg_lsn, 0)::bigint,
       coalesce(safe_wal_size, -1),
       (select setting::bigint * 1024 * 1024 from pg_settings where name = 'max_slot_wal_keep_size')
  from pg_replication_slots where slot_name = $1`

func (s *slot) state(ctx context.Context) (wal.SlotState, error) {
	state := wal.SlotState{Exists: true}
	err := s.looks.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, selectState, s.cfg.Slot).Scan(&state.Status, &state.Current, &state.Confirmed, &state.Restart, &state.Safe, &state.Keep)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return wal.SlotState{}, nil
	}
	if err != nil {
		return wal.SlotState{}, fmt.Errorf("asking for the state of the slot %s: %w", s.cfg.Slot, err)
	}
	return state, nil
}

// Not transactional: such a message needs no commit to be decoded. Everybody may execute the function.
const emitHeartbeat = `select from pg_logical_emit_message(false, 'hookline.heartbeat', '')`

func (s *slot) heartbeat(ctx context.Context) error {
	err := s.looks.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, emitHeartbeat)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing a heartbeat to the WAL: %w", err)
	}
	return nil
}

func (s *slot) close(ctx context.Context) {
	s.looks.close(ctx)
	s.memory.close(ctx)
}

// with runs do on the connection, connecting first where there is none.
func (k *kept) with(ctx context.Context, do func(conn *pgx.Conn) error) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil && k.conn.IsClosed() {
		k.conn = nil
	}
	if k.conn == nil {
		conn, err := pgx.Connect(ctx, k.url)
		if err != nil {
			return err
		}
		k.conn = conn
	}
	return do(k.conn)
}

func (k *kept) close(ctx context.Context) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn != nil {
		k.conn.Close(ctx)
		k.conn = nil
	}
}
