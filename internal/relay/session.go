package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/wal"
)

// The one table that is relayed, whatever else the publication holds.
const (
	relayedSchema = "public"
	relayedTable  = "domain_events"
)

// session is one connection to the slot, from Connect to Disconnect.
type session struct {
	relay      *Relay
	checkpoint checkpoint
	encoder    *encoder      // of the relation that came last
	asked      chan struct{} // the server wants to hear a position now
	cancel     context.CancelCauseFunc

	heard        atomic.Int64 // messages read
	acknowledged atomic.Int64 // records
	blocked      atomic.Bool  // not reading, as the window is full
}

// stream runs one session until it fails or ctx is cancelled.
func (r *Relay) stream(ctx context.Context) error {
	keepAlive, err := r.source.Connect(ctx)
	if err != nil {
		return err
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{relay: r, asked: make(chan struct{}, 1), cancel: cancel}
	r.session.Store(s)
	r.setState(nil)
	r.opts.Log.LogAttrs(ctx, slog.LevelInfo, "streaming")

	interrupted := make(chan struct{})
	stop := context.AfterFunc(reading, func() {
		defer close(interrupted)
		r.source.Interrupt()
	})
	reporting, stopReporting := context.WithCancel(context.WithoutCancel(ctx)) // the server must hear of us during the drain, too
	reported := make(chan struct{})
	go func() {
		defer close(reported)
		s.report(reporting, keepAlive)
	}()

	err = s.read(reading)
	if !stop() {
		<-interrupted // else it could hit the next connection
	}
	if cause := context.Cause(reading); cause != nil && ctx.Err() == nil {
		err = cause
	}
	if ctx.Err() != nil {
		s.drain(ctx)
	}
	stopReporting()
	<-reported
	s.finish(ctx)
	return err
}

// read takes the stream apart until it ends or reading is cancelled.
func (s *session) read(reading context.Context) error {
	var m wal.Message
	inTransaction := false
	for {
		if err := s.relay.source.Next(&m); err != nil {
			return err
		}
		s.heard.Add(1)
		if !inTransaction && (m.Kind == wal.Insert || m.Kind == wal.Commit) {
			return errors.New("reading the stream: a row or a commit outside of a transaction")
		}
		switch m.Kind {
		case wal.Begin:
			s.checkpoint.begin(m.Time)
			inTransaction = true
		case wal.Insert:
			if err := s.insert(reading, &m); err != nil {
				return err
			}
		case wal.Commit:
			s.checkpoint.commit(m.LSN)
			inTransaction = false
		case wal.KeepAlive:
			s.checkpoint.keepAlive(m.LSN)
			if m.ReplyRequested {
				select {
				case s.asked <- struct{}{}:
				default:
				}
			}
		case wal.Other:
		}
	}
}

func (s *session) insert(reading context.Context, m *wal.Message) error {
	if m.Relation.Name != relayedTable || m.Relation.Schema != relayedSchema {
		return nil
	}
	if s.encoder == nil || s.encoder.relation != m.Relation {
		s.encoder = newEncoder(m.Relation)
	}
	record := s.encoder.encode(m.Values, s.relay.opts.MaxRecordBytes)
	s.blocked.Store(true)
	err := s.relay.window.acquire(reading, record.size())
	s.blocked.Store(false)
	if err != nil {
		return err
	}
	transaction := s.checkpoint.add()
	s.relay.producer.Produce(record.key, record.value, func(err error) { s.done(record, transaction, err) })
	return nil
}

// done is called when a record is acknowledged, or will not be. It does not block.
func (s *session) done(r record, t *transaction, err error) {
	if tooLarge(err) {
		select {
		case s.relay.resends <- resend{session: s, record: r, transaction: t}: // it keeps its place in the window
			return
		default: // cannot be: there is room for all that fits into the window
		}
	}
	s.settle(r, r.size(), t, err)
}

// settle counts a record out; held is what it held of the window. After the session's end it changes nothing
// but the window: what was not confirmed by then comes again.
func (s *session) settle(r record, held int, t *transaction, err error) {
	if err == nil {
		s.relay.opts.Metrics.records.Inc()
		if r.stub {
			s.relay.opts.Metrics.stubs.Inc()
		}
		s.checkpoint.acknowledge(t)
		s.acknowledged.Add(1)
	} else {
		// What can be retried was retried. This record is not acknowledged, so that nothing from here on will be
		// confirmed: the server must send it again.
		s.cancel(fmt.Errorf("%w: %w", errRefused, err))
	}
	s.relay.window.release(held)
}

// report tells the server the position: soon after it moved, and otherwise as often as it must hear of us.
func (s *session) report(ctx context.Context, keepAlive time.Duration) {
	tick := time.NewTicker(min(lookEvery, keepAlive))
	defer tick.Stop()
	var told wal.LSN
	var heard, acknowledged int64
	var movedAt time.Time
	toldAt, heardAt := time.Now(), time.Now()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return
		case <-s.asked:
			asked = true
		case <-tick.C:
		}
		now := time.Now()
		if n := s.heard.Load(); n != heard || s.blocked.Load() {
			heard, heardAt = n, now
		}
		if silence := now.Sub(heardAt); silence > silentFor {
			s.cancel(fmt.Errorf("the server has said nothing for %s", silence.Round(time.Second)))
		}
		records := s.acknowledged.Load() // before the position, which can only be ahead of it then
		position := s.checkpoint.position()
		// A server that asks may be shutting down, and waits for all of it.
		worth := asked || (now.Sub(movedAt) >= confirmEvery && (records != acknowledged || position >= told+confirmQuiet))
		due := now.Sub(toldAt) >= keepAlive
		switch {
		case position > told && worth:
			told, movedAt, acknowledged = position, now, records
		case !asked && !due:
			continue
		}
		// With a reply requested: it says how far the server is, and that it lives.
		if err := s.confirm(told, due); err != nil {
			s.cancel(err)
			return
		}
		toldAt = now
	}
}

func (s *session) confirm(position wal.LSN, replyRequested bool) error {
	if err := s.relay.source.Confirm(position, replyRequested); err != nil {
		return err
	}
	if position > 0 {
		s.relay.opts.Metrics.confirmed.Set(float64(position))
	}
	return nil
}

// drain waits for Kafka's acknowledgements after a stop.
func (s *session) drain(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.relay.opts.DrainTimeout)
	defer cancel()
	if err := s.relay.producer.Flush(ctx); err != nil {
		s.relay.opts.Log.LogAttrs(ctx, slog.LevelWarn, "records were not acknowledged in time; the next start sends them again",
			slog.Int("records", s.relay.window.inFlight()), logging.Error(err))
	}
}

// finish confirms what can be confirmed, and disconnects.
func (s *session) finish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), disconnectAfter)
	defer cancel()
	position := s.checkpoint.position()
	err := s.confirm(position, false)
	s.relay.source.Disconnect(ctx)
	level := slog.LevelInfo
	if err != nil && !errors.Is(err, context.Canceled) {
		level = slog.LevelDebug // the connection is gone, which is why the session ends
	}
	s.relay.opts.Log.LogAttrs(ctx, level, "disconnected", slog.String("confirmed", position.String()), slog.Bool("in_transaction", s.checkpoint.open()))
}
