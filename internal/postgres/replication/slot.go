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
	cfg  Config
	log  *slog.Logger
	mu   sync.Mutex
	conn *pgx.Conn // of state and heartbeat; nil until it is needed
}

const selectServer = `
select (select setting::bigint from pg_settings where name = 'wal_sender_timeout'),
       current_setting('server_version_num')::int >= 170000 and not pg_is_in_recovery(),
       exists (select from pg_publication where pubname = $1)`

const selectSlot = `
select coalesce(plugin, ''), coalesce(database, ''), current_database(), coalesce(wal_status, ''),
       coalesce(confirmed_flush_lsn::text, 'none')
  from pg_replication_slots where slot_name = $1`

// Each is a statement, and so a transaction, of its own: a slot cannot be made in a transaction that wrote.
const (
	createSlot = `select from pg_create_logical_replication_slot($1, 'pgoutput')`
	// Since 17 a slot can be kept on the standbys too, so that a failover does not lose it.
	createFailoverSlot = `select from pg_create_logical_replication_slot($1, 'pgoutput', false, false, true)`
)

// ensure makes the slot where it is missing and refuses one that cannot be read. It returns how often the
// server must hear of a connection at least: a third of its wal_sender_timeout, at most 10 s.
func (s *slot) ensure(ctx context.Context) (time.Duration, error) {
	conn, err := pgx.Connect(ctx, s.cfg.DatabaseURL)
	if err != nil {
		return 0, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	var timeoutMS int64
	var failover, published bool
	if err := conn.QueryRow(ctx, selectServer, s.cfg.Publication).Scan(&timeoutMS, &failover, &published); err != nil {
		return 0, fmt.Errorf("asking the server for its settings: %w", err)
	}
	// Before the slot: one that is older than its publication fails on decoding for as long as it lives.
	if !published {
		return 0, fmt.Errorf("there is no publication %s in the database: run the migrations", s.cfg.Publication)
	}
	keepAlive := keepAliveLongest
	if timeout := time.Duration(timeoutMS) * time.Millisecond; timeout > 0 {
		keepAlive = min(keepAlive, timeout/3)
	}

	var plugin, database, current, status, confirmed string
	err = conn.QueryRow(ctx, selectSlot, s.cfg.Slot).Scan(&plugin, &database, &current, &status, &confirmed)
	if errors.Is(err, pgx.ErrNoRows) {
		create := createSlot
		if failover {
			create = createFailoverSlot
		}
		if _, err := conn.Exec(ctx, create, s.cfg.Slot); err != nil {
			return 0, fmt.Errorf("making the slot %s: %w", s.cfg.Slot, err)
		}
		s.log.LogAttrs(ctx, slog.LevelWarn, "there was no slot, so it was made: what was committed before is not relayed",
			slog.String("slot", s.cfg.Slot), slog.Bool("failover", failover))
		return keepAlive, nil
	}
	if err != nil {
		return 0, fmt.Errorf("asking for the slot %s: %w", s.cfg.Slot, err)
	}
	switch {
	case plugin != "pgoutput" || database != current:
		return 0, fmt.Errorf("the slot %s is of plugin %q and database %q, not pgoutput and %s: set SLOT_NAME to another", s.cfg.Slot, plugin, database, current)
	case status == "lost":
		return 0, fmt.Errorf("%w: %s was confirmed up to %s, and what was committed from there on is no longer in the WAL; "+
			"`select pg_drop_replication_slot('%s')` makes the relay start again from now, and the reconciler has to drive what lies between",
			wal.ErrSlotLost, s.cfg.Slot, confirmed, s.cfg.Slot)
	}
	return keepAlive, nil
}

const selectState = `
select coalesce(wal_status, ''),
       (case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end - '0/0'::pg_lsn)::bigint,
       coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint,
       coalesce(restart_lsn - '0/0'::pg_lsn, 0)::bigint
  from pg_replication_slots where slot_name = $1`

func (s *slot) state(ctx context.Context) (wal.SlotState, error) {
	state := wal.SlotState{Exists: true}
	err := s.with(ctx, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, selectState, s.cfg.Slot).Scan(&state.Status, &state.Current, &state.Confirmed, &state.Restart)
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
	err := s.with(ctx, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, emitHeartbeat)
		return err
	})
	if err != nil {
		return fmt.Errorf("writing a heartbeat to the WAL: %w", err)
	}
	return nil
}

// with runs do on the kept connection, connecting first where there is none.
func (s *slot) with(ctx context.Context, do func(conn *pgx.Conn) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.IsClosed() {
		s.conn = nil
	}
	if s.conn == nil {
		conn, err := pgx.Connect(ctx, s.cfg.DatabaseURL)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	return do(s.conn)
}

func (s *slot) close(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close(ctx)
		s.conn = nil
	}
}
