// Package replication reads what PostgreSQL commits, through a logical replication slot.
package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/hookline/hookline/internal/wal"
)

// Config are the settings of a slot.
type Config struct {
	DatabaseURL string `env:"DATABASE_URL,required,notEmpty" secret:"true" desc:"the database to relay from, as a role with the right of replication; replication=database is added"`
	Slot        string `env:"SLOT_NAME" envDefault:"hookline_relay" desc:"the logical replication slot; made where it is missing"`
	Publication string `env:"PUBLICATION" envDefault:"hookline_events" desc:"the publication to read; the migrations make it"`
}

// Validate refuses names that PostgreSQL would refuse, or fold into others.
func (c Config) Validate() error {
	if _, err := pgconn.ParseConfig(c.DatabaseURL); err != nil {
		return errors.New("DATABASE_URL: not a PostgreSQL address") // the cause can quote the password
	}
	if c.Slot == "" || len(c.Slot) > 63 || strings.Trim(c.Slot, "abcdefghijklmnopqrstuvwxyz0123456789_") != "" {
		return errors.New("SLOT_NAME: want at most 63 lower-case letters, digits and underscores")
	}
	if c.Publication == "" || len(c.Publication) > 63 || strings.ContainsAny(c.Publication, "'\\") {
		return errors.New("PUBLICATION: want the name of a publication, without quotes or backslashes")
	}
	return nil
}

const (
	// keepAliveLongest is how rarely the server hears of us where its wal_sender_timeout allows that.
	keepAliveLongest = 10 * time.Second
	// rememberWithin bounds how long a confirmation waits until its position is written down.
	rememberWithin = 5 * time.Second
)

// Source is one slot, over one connection after the other. One goroutine connects, reads and disconnects;
// Interrupt and Confirm may be called by another, State and Heartbeat by a third.
type Source struct {
	cfg     Config
	mu      sync.Mutex // guards conn, for Interrupt
	conn    *pgconn.PgConn
	decoder *wal.Decoder
	slot    slot
}

// New makes a source; it does not connect. cfg must be valid. declared is called for every gap that is declared: what
// was committed in it does not come through the slot.
func New(cfg Config, log *slog.Logger, declared func()) *Source {
	return &Source{cfg: cfg, slot: slot{cfg: cfg, log: log, declared: declared, looks: kept{url: cfg.DatabaseURL}, memory: kept{url: cfg.DatabaseURL}}}
}

// Connect makes the slot where it is missing or invalidated, starts to stream from its confirmed position, declares a gap
// where the slot may have missed commits, and returns how often the server must hear of us at least.
//
// It never asks for another position than the slot's own: after a failover LSNs go back, and a position that
// was remembered would skip what was committed since.
func (s *Source) Connect(ctx context.Context) (time.Duration, error) {
	keepAlive, suspected, err := s.slot.ensure(ctx)
	if err != nil {
		return 0, err
	}
	cfg, err := pgconn.ParseConfig(s.cfg.DatabaseURL)
	if err != nil {
		return 0, errors.New("reading DATABASE_URL") // the cause can quote the password
	}
	// The forms that the encoder expects, whatever the role, the database or the URL say.
	for name, value := range map[string]string{
		"replication": "database", "client_encoding": "UTF8", "TimeZone": "UTC", "DateStyle": "ISO, MDY",
		"IntervalStyle": "postgres", "bytea_output": "hex", "extra_float_digits": "1", "statement_timeout": "0",
	} {
		cfg.RuntimeParams[name] = value
	}
	if cfg.RuntimeParams["application_name"] == "" {
		cfg.RuntimeParams["application_name"] = "cdc-relay"
	}
	conn, err := pgconn.ConnectConfig(ctx, cfg)
	if err != nil {
		return 0, fmt.Errorf("connecting for replication: %w", err)
	}
	system, err := pglogrepl.IdentifySystem(ctx, conn)
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return 0, fmt.Errorf("asking the server who it is: %w", err)
	}
	s.slot.history = history{system: system.SystemID, timeline: system.Timeline}
	// A double quote in an identifier is doubled, and so is a single one in a literal; Validate excludes the latter.
	publication := strings.ReplaceAll(s.cfg.Publication, `"`, `""`)
	err = pglogrepl.StartReplication(ctx, conn, s.cfg.Slot, 0, pglogrepl.StartReplicationOptions{
		PluginArgs: []string{"proto_version '1'", `publication_names '"` + publication + `"'`},
	})
	if err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return 0, fmt.Errorf("starting replication from the slot %s: %w", s.cfg.Slot, err)
	}
	if err := s.slot.settle(ctx, suspected); err != nil {
		conn.Close(context.WithoutCancel(ctx))
		return 0, err
	}
	s.mu.Lock()
	s.conn = conn
	s.mu.Unlock()
	s.decoder = &wal.Decoder{}
	return keepAlive, nil
}

// Next waits for a message and reads it into m. An error ends the connection: Disconnect, then Connect again.
func (s *Source) Next(m *wal.Message) error {
	for {
		received, err := s.conn.ReceiveMessage(context.Background()) //nolint:forbidigo // another one costs a goroutine per message; Interrupt ends the wait
		if err != nil {
			return fmt.Errorf("reading from the slot %s: %w", s.cfg.Slot, err)
		}
		switch received := received.(type) {
		case *pgproto3.CopyData:
			return s.decode(received.Data, m)
		case *pgproto3.ErrorResponse:
			return fmt.Errorf("reading from the slot %s: %w", s.cfg.Slot, pgconn.ErrorResponseToPgError(received))
		case *pgproto3.CopyDone, *pgproto3.CommandComplete:
			return fmt.Errorf("reading from the slot %s: the server ended the stream", s.cfg.Slot)
		default: // a notice, a parameter that changed
		}
	}
}

func (s *Source) decode(data []byte, m *wal.Message) error {
	if len(data) == 0 {
		return errors.New("reading a replication message: it is empty")
	}
	switch data[0] {
	case pglogrepl.XLogDataByteID:
		xlog, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return fmt.Errorf("reading a replication message: %w", err)
		}
		return s.decoder.Decode(xlog.WALData, m)
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		keepAlive, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return fmt.Errorf("reading a keep-alive: %w", err)
		}
		*m = wal.Message{Kind: wal.KeepAlive, LSN: wal.LSN(keepAlive.ServerWALEnd), ReplyRequested: keepAlive.ReplyRequested}
		return nil
	default:
		*m = wal.Message{}
		return nil
	}
}

// Interrupt makes Next return, now and from now on, until the next Connect.
func (s *Source) Interrupt() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		_ = s.conn.Conn().SetReadDeadline(time.Unix(1, 0)) // fails only on a closed connection, where Next fails too
	}
}

// Confirm tells the server that everything up to lsn is safe: it may remove that WAL, and sends only what
// comes after it to the next connection. 0 says no more than that we live. With replyRequested the server
// answers with a keep-alive. A position that is new is written down first, in the database: that is a transaction.
func (s *Source) Confirm(lsn wal.LSN, replyRequested bool) error {
	remembering, cancel := context.WithTimeout(context.Background(), rememberWithin) //nolint:forbidigo // also during the drain
	defer cancel()
	if err := s.slot.remember(remembering, lsn); err != nil {
		return fmt.Errorf("confirming %s: %w", lsn, err)
	}
	if err := s.conn.Conn().SetWriteDeadline(time.Now().Add(keepAliveLongest)); err != nil {
		return fmt.Errorf("confirming %s: %w", lsn, err)
	}
	err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, pglogrepl.StandbyStatusUpdate{ //nolint:forbidigo // it is not looked at
		WALWritePosition: pglogrepl.LSN(lsn), ReplyRequested: replyRequested,
	})
	if err != nil {
		return fmt.Errorf("confirming %s: %w", lsn, err)
	}
	return nil
}

// Disconnect ends the stream and the connection, within ctx. It waits until the server has read what was
// confirmed: a connection that is closed with unread data in it takes the last confirmation along.
func (s *Source) Disconnect(ctx context.Context) {
	s.mu.Lock()
	conn := s.conn
	s.conn = nil
	s.mu.Unlock()
	if conn == nil {
		return
	}
	defer conn.Close(ctx)
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(time.Second)
	}
	if err := conn.Conn().SetDeadline(deadline); err != nil {
		return // closed already
	}
	conn.Frontend().Send(&pgproto3.CopyDone{})
	if err := conn.Frontend().Flush(); err != nil {
		return
	}
	for {
		received, err := conn.ReceiveMessage(context.Background()) //nolint:forbidigo // the deadline is ctx's
		if err != nil {
			return
		}
		switch received.(type) {
		case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ErrorResponse:
			return
		default: // what was under way
		}
	}
}

// State asks the server about the slot, over a connection of its own.
func (s *Source) State(ctx context.Context) (wal.SlotState, error) { return s.slot.state(ctx) }

// Heartbeat writes a few bytes to the WAL, so that the server has something to send.
func (s *Source) Heartbeat(ctx context.Context) error { return s.slot.heartbeat(ctx) }

// Close ends the connection of State and Heartbeat.
func (s *Source) Close(ctx context.Context) { s.slot.close(ctx) }
