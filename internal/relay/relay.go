// Package relay brings every committed row of domain_events to Kafka, at least once.
//
// It reads a logical replication stream, produces each row as it comes, and confirms a position only when
// Kafka has acknowledged every record up to it. Whatever breaks in between, the server sends again: nothing
// is skipped, and what was produced but not confirmed is produced twice. What the slot itself missed, because it was
// invalidated or made anew, is declared as a gap: the reconciler drives it.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/wal"
)

// source is a replication slot, over one connection after the other.
type source interface {
	// Connect starts to stream from the slot's position. It returns how often to Confirm at least.
	Connect(ctx context.Context) (keepAlive time.Duration, err error)
	Next(m *wal.Message) error
	// Interrupt ends Next, and Confirm tells the server a position; from other goroutines than Next's. A position that is
	// new costs a transaction.
	Interrupt()
	Confirm(lsn wal.LSN, replyRequested bool) error
	Disconnect(ctx context.Context)
	// State and Heartbeat work without a connection.
	State(ctx context.Context) (wal.SlotState, error)
	Heartbeat(ctx context.Context) error
}

// producer is the topic.
type producer interface {
	// Produce sends a record and calls done once it is acknowledged, or never will be: with an error of class
	// fault.TooLarge where the topic does not take it. Both must not block. It retries what can be retried.
	Produce(key, value []byte, done func(error))
	// Flush waits until everything is done, or ctx is.
	Flush(ctx context.Context) error
	// Ready returns nil when the topic can be reached.
	Ready(ctx context.Context) error
}

// Options are the settings of a relay. All are wanted but Heartbeat and MaxLagBytes.
type Options struct {
	Log     *slog.Logger
	Metrics *Metrics
	// MaxRecordBytes is the longest key and value that the topic takes together.
	MaxRecordBytes int
	// MaxInFlightRecords and MaxInFlightBytes bound what waits for Kafka's acknowledgement.
	MaxInFlightRecords int
	MaxInFlightBytes   int
	// Heartbeat is how long the slot's position may stand still behind the WAL before something is written to
	// move it; 0 means for ever.
	Heartbeat time.Duration
	// MaxLagBytes is how far the slot's position may be behind the WAL before the relay is not ready; 0 means for ever.
	MaxLagBytes int64
	// DrainTimeout bounds how long a stop waits for Kafka's acknowledgements.
	DrainTimeout time.Duration
}

// How often things are done. A confirmation costs a transaction, which writes WAL itself, so that they are gathered: a
// relay that is killed sends the last two seconds again. The monitor's numbers are for people.
const (
	lookEvery    = 100 * time.Millisecond
	confirmEvery = 2 * time.Second
	// confirmQuiet is how many bytes of WAL without a record of ours are worth a confirmation. Without it an idle
	// database would never rest: each confirmation is WAL to confirm.
	confirmQuiet    = 1 << 20
	monitorEvery    = 5 * time.Second
	disconnectAfter = 2 * time.Second // of waiting for the server's good-bye
	backoffFirst    = 100 * time.Millisecond
	backoffLongest  = 2 * time.Second
	// healthyAfter is how long a connection must have lasted to start the back-off from the beginning.
	healthyAfter = 10 * time.Second
	// silentFor is how long the server may say nothing, though asked to, before it is taken for gone.
	silentFor = time.Minute
)

// Relay copies one slot to one topic.
type Relay struct {
	source   source
	producer producer
	opts     Options
	window   *window
	resends  chan resend
	session  atomic.Pointer[session] // the one that streams
	state    atomic.Pointer[state]
	lag      atomic.Int64 // bytes, at the monitor's last look
}

// state is why there is no stream, and since when; an err of nil means that there is one.
type state struct {
	err   error
	since time.Time
}

// errRefused is in the chain of an error that Kafka is the cause of.
var errRefused = errors.New("a record was refused by Kafka")

// New makes a relay. It registers a metric, so that a registry takes only one.
func New(source source, producer producer, opts Options) *Relay {
	r := &Relay{
		source: source, producer: producer, opts: opts,
		window:  newWindow(opts.MaxInFlightRecords, opts.MaxInFlightBytes),
		resends: make(chan resend, opts.MaxInFlightRecords),
	}
	r.setState(errors.New("it has not connected yet"))
	opts.Metrics.observeLag(r.lagSeconds)
	return r
}

// Run relays until ctx is cancelled, over as many connections as it takes. Then it stops reading, waits for
// what is on its way to Kafka, and confirms it. It returns nil; what fails on the way is logged and tried again.
func (r *Relay) Run(ctx context.Context) error {
	background, stop := context.WithCancel(context.WithoutCancel(ctx)) // outlives ctx by the drain
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	wg.Go(func() { r.resendTooLarge(background) })
	wg.Go(func() { r.monitor(background) })

	wait := backoffFirst
	for {
		started := time.Now()
		err := r.stream(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(started) > healthyAfter {
			wait = backoffFirst
		}
		r.setState(err)
		peer := r.opts.Metrics.postgresDue
		if errors.Is(err, errRefused) {
			peer = r.opts.Metrics.kafkaDue
		}
		peer.Inc()
		r.opts.Log.LogAttrs(ctx, slog.LevelWarn, "not streaming; trying again", slog.Duration("wait", wait), logging.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait + rand.N(wait/2)): //nolint:gosec // jitter
		}
		wait = min(2*wait, backoffLongest)
	}
}

// Ready returns nil when rows are streaming, not too far behind, and the topic can be reached, and otherwise what is
// missing.
func (r *Relay) Ready(ctx context.Context) error {
	if err := r.state.Load().err; err != nil {
		return fmt.Errorf("streaming from PostgreSQL: %w", err)
	}
	if lag := r.lag.Load(); r.opts.MaxLagBytes > 0 && lag > r.opts.MaxLagBytes {
		return fmt.Errorf("the slot is %d bytes of WAL behind, more than the %d of MAX_LAG_BYTES", lag, r.opts.MaxLagBytes)
	}
	if err := r.producer.Ready(ctx); err != nil {
		return fmt.Errorf("asking Kafka: %w", err)
	}
	return nil
}

func (r *Relay) setState(err error) {
	next := &state{err: err, since: time.Now()}
	if last := r.state.Load(); last != nil && last.err != nil && err != nil {
		next.since = last.since
	}
	r.state.Store(next)
}

func (r *Relay) lagSeconds() float64 {
	lag := 0.0
	if s := r.session.Load(); s != nil {
		if oldest := s.checkpoint.oldest(); !oldest.IsZero() {
			lag = time.Since(oldest).Seconds()
		}
	}
	if state := r.state.Load(); state.err != nil {
		lag = max(lag, time.Since(state.since).Seconds())
	}
	return max(lag, 0) // the two clocks differ
}

// resend is a record that the topic did not take.
type resend struct {
	session     *session
	record      record
	transaction *transaction
}

// resendTooLarge sends records that the topic refused again, one at a time: Kafka measures batches, so that a
// record can be refused for the company that it was in. One that is refused alone goes without its payload.
func (r *Relay) resendTooLarge(ctx context.Context) {
	for {
		var again resend
		select {
		case <-ctx.Done():
			return
		case again = <-r.resends:
		}
		held := again.record.size()
		err := r.produceAlone(ctx, again.record)
		if tooLarge(err) {
			stub := again.record.withoutPayload()
			r.opts.Log.LogAttrs(ctx, slog.LevelWarn, "the topic refused a record as too large, so it goes without its payload: set MAX_RECORD_BYTES to the topic's max.message.bytes",
				slog.Int("bytes", held), slog.Int("stub_bytes", stub.size()))
			again.record = stub
			err = r.produceAlone(ctx, stub)
		}
		again.session.settle(again.record, held, again.transaction, err)
	}
}

func (r *Relay) produceAlone(ctx context.Context, record record) error {
	done := make(chan error, 1)
	r.producer.Produce(record.key, record.value, func(err error) { done <- err })
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// monitor looks at the slot from outside: what the stream cannot see, and also while there is none.
func (r *Relay) monitor(ctx context.Context) {
	tick := time.NewTicker(monitorEvery)
	defer tick.Stop()
	var last wal.SlotState
	moved := time.Now()
	for {
		state, err := r.source.State(ctx)
		switch {
		case err != nil: // the stream's own failure is what is logged and counted
			r.opts.Log.LogAttrs(ctx, slog.LevelDebug, "looking at the slot", logging.Error(err))
		case state.Exists:
			r.observe(ctx, last, state)
			if state.Confirmed != last.Confirmed || state.Current <= state.Confirmed+confirmQuiet {
				moved = time.Now()
			}
			last = state
			if r.opts.Heartbeat > 0 && time.Since(moved) >= r.opts.Heartbeat && r.state.Load().err == nil {
				moved = time.Now()
				if err := r.source.Heartbeat(ctx); err != nil {
					r.opts.Log.LogAttrs(ctx, slog.LevelWarn, "the slot's position stands still", logging.Error(err))
				}
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// observe says how the slot stands, and warns once when that becomes worse.
func (r *Relay) observe(ctx context.Context, last, now wal.SlotState) {
	lag := distance(now.Confirmed, now.Current)
	r.lag.Store(int64(lag))
	r.opts.Metrics.lagBytes.Set(lag)
	r.opts.Metrics.retained.Set(distance(now.Restart, now.Current))
	safe := float64(now.Safe)
	switch {
	case now.Status == "lost":
		safe = 0
	case now.Safe < 0:
		safe = math.Inf(1)
	}
	r.opts.Metrics.safe.Set(safe)
	if now.Status != last.Status && (now.Status == "unreserved" || now.Status == "lost") {
		r.opts.Log.LogAttrs(ctx, slog.LevelError, "the slot is losing WAL that it needs: see max_slot_wal_keep_size",
			slog.String("wal_status", now.Status), slog.String("confirmed", now.Confirmed.String()))
	}
	if nearlyLost(now) && !nearlyLost(last) {
		r.opts.Log.LogAttrs(ctx, slog.LevelWarn, "the slot is about to be invalidated: less than a quarter of max_slot_wal_keep_size is left",
			slog.Int64("safe_wal_bytes", now.Safe), slog.Int64("max_slot_wal_keep_bytes", now.Keep))
	}
}

// nearlyLost says whether less than a quarter of what the server keeps for a slot is left.
func nearlyLost(s wal.SlotState) bool { return s.Exists && s.Keep > 0 && s.Safe < s.Keep/4 }

func distance(from, to wal.LSN) float64 {
	if from == 0 || from > to {
		return 0
	}
	return float64(to - from)
}

// tooLarge says whether the topic refused a record for its size.
func tooLarge(err error) bool { return fault.ClassOf(err) == fault.TooLarge }
