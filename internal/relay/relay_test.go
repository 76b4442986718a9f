package relay

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/wal"
)

// fakeSource is a slot whose every connection plays the script again, and then waits.
type fakeSource struct {
	mu         sync.Mutex
	connectErr func(connection int) error // nil: it connects
	script     []wal.Message
	more       chan wal.Message // what comes after the script
	state      wal.SlotState
	stateErr   error

	connections int
	played      int
	interrupted chan struct{}
	confirmed   []confirmation
	heartbeats  int
}

type confirmation struct {
	lsn            wal.LSN
	replyRequested bool
	at             time.Time
}

const keepAlive = 10 * time.Second

func (f *fakeSource) Connect(context.Context) (time.Duration, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connections++
	f.played, f.interrupted = 0, make(chan struct{})
	if f.connectErr != nil {
		if err := f.connectErr(f.connections); err != nil {
			return 0, err
		}
	}
	return keepAlive, nil
}

func (f *fakeSource) Next(m *wal.Message) error {
	f.mu.Lock()
	if f.played < len(f.script) {
		*m = f.script[f.played]
		f.played++
		f.mu.Unlock()
		return nil
	}
	interrupted := f.interrupted
	f.mu.Unlock()
	select {
	case *m = <-f.more:
		return nil
	case <-interrupted:
		return errors.New("interrupted")
	}
}

func (f *fakeSource) Interrupt() {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.interrupted)
}

func (f *fakeSource) Confirm(lsn wal.LSN, replyRequested bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.confirmed = append(f.confirmed, confirmation{lsn, replyRequested, time.Now()})
	return nil
}

func (f *fakeSource) Disconnect(context.Context) {}

func (f *fakeSource) State(context.Context) (wal.SlotState, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, f.stateErr
}

func (f *fakeSource) set(change func(*wal.SlotState)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.state)
}

func (f *fakeSource) Heartbeat(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.heartbeats++
	return nil
}

// confirmations returns what was confirmed since the last call.
func (f *fakeSource) confirmations() []confirmation {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.confirmed
	f.confirmed = nil
	return out
}

func (f *fakeSource) connected() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.connections
}

func (f *fakeSource) beats() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.heartbeats
}

func (f *fakeSource) last() wal.LSN {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.confirmed) == 0 {
		return 0
	}
	return f.confirmed[len(f.confirmed)-1].lsn
}

// fakeProducer is a topic whose acknowledgements the test gives.
type fakeProducer struct {
	mu      sync.Mutex
	records []produced
	answer  func(value string) error // nil: the test answers
	ready   error
}

type produced struct {
	value string
	done  func(error)
}

func (f *fakeProducer) Produce(_, value []byte, done func(error)) {
	f.mu.Lock()
	f.records = append(f.records, produced{string(value), done})
	answer := f.answer
	f.mu.Unlock()
	if answer != nil {
		go func() { done(answer(string(value))) }()
	}
}

func (f *fakeProducer) Flush(ctx context.Context) error {
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeProducer) Ready(context.Context) error { return f.ready }

func (f *fakeProducer) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.records)
}

func (f *fakeProducer) at(i int) produced {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.records[i]
}

func begin() wal.Message { return wal.Message{Kind: wal.Begin, Time: time.Now()} }

func insert(payload string) wal.Message {
	return wal.Message{Kind: wal.Insert, Relation: domainEvents, Values: row(payload)}
}

func commit(end wal.LSN) wal.Message {
	return wal.Message{Kind: wal.Commit, LSN: end, Time: time.Now()}
}

type harness struct {
	*Relay
	source   *fakeSource
	producer *fakeProducer
	log      *lockedBuffer
	stop     func()
}

type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start runs a relay in the test's bubble.
func start(t *testing.T, source *fakeSource, producer *fakeProducer, change func(*Options)) *harness {
	t.Helper()
	source.more = make(chan wal.Message)
	h := &harness{source: source, producer: producer, log: &lockedBuffer{}}
	opts := Options{
		Log: slog.New(slog.NewTextHandler(h.log, nil)), Metrics: NewMetrics(prometheus.NewRegistry()),
		MaxRecordBytes: 1 << 20, MaxInFlightRecords: 100, MaxInFlightBytes: 1 << 20, DrainTimeout: 3 * time.Second,
	}
	if change != nil {
		change(&opts)
	}
	h.Relay = New(source, producer, opts)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(h.stop)
	synctest.Wait()
	return h
}

// pass lets virtual time go by.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestAcknowledgementsOutOfOrderConfirmInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{script: []wal.Message{
			begin(), insert("1"), commit(10), begin(), insert("2"), insert("3"), commit(20),
		}}, &fakeProducer{}, nil)
		require.Equal(t, 3, h.producer.count())
		h.producer.at(1).done(nil)
		h.producer.at(2).done(nil)
		pass(30 * time.Second)
		require.Zero(t, h.source.last(), "nothing before the first record")
		require.InDelta(t, 30, h.lagSeconds(), 0.001)
		h.producer.at(0).done(nil)
		pass(confirmEvery)
		require.Equal(t, wal.LSN(20), h.source.last())
		require.Zero(t, h.lagSeconds())
		require.Equal(t, 3.0, testutil.ToFloat64(h.opts.Metrics.records))
		require.Equal(t, 20.0, testutil.ToFloat64(h.opts.Metrics.confirmed))
	})
}

func TestTheServerHearsOfUsInTimeAlsoWhenTheWindowIsFull(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{script: []wal.Message{
			begin(), insert("1"), commit(10), begin(), insert("2"), commit(20),
		}}, &fakeProducer{}, func(o *Options) { o.MaxInFlightRecords = 1 })
		require.Equal(t, 1, h.producer.count(), "the second waits")
		pass(10 * time.Minute) // far beyond what an idle server may be silent
		heard := h.source.confirmations()
		require.InDelta(t, 60, len(heard), 2, "rarely, but in time")
		for i, c := range heard {
			require.Zero(t, c.lsn)
			require.True(t, c.replyRequested)
			if i > 0 {
				require.LessOrEqual(t, c.at.Sub(heard[i-1].at), keepAlive+confirmEvery)
			}
		}
		h.producer.at(0).done(nil)
		synctest.Wait()
		require.Equal(t, 2, h.producer.count())
		require.Equal(t, 1, h.source.connected())
	})
}

func TestKeepAlivesMoveAnIdleSlotAndAreAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{}, &fakeProducer{}, nil)
		h.source.more <- wal.Message{Kind: wal.KeepAlive, LSN: 100, ReplyRequested: true}
		synctest.Wait() // no time passes
		require.Equal(t, wal.LSN(100), h.source.last())
		h.source.more <- wal.Message{Kind: wal.KeepAlive, LSN: 100 + confirmQuiet - 1}
		pass(10 * confirmEvery)
		require.Equal(t, wal.LSN(100), h.source.last(), "an idle database rests: a confirmation is WAL, too")
		h.source.more <- wal.Message{Kind: wal.KeepAlive, LSN: 100 + confirmQuiet}
		pass(confirmEvery)
		require.Equal(t, wal.LSN(100+confirmQuiet), h.source.last())
	})
}

func TestPositionsAreGatheredUnderLoad(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{}, &fakeProducer{answer: func(string) error { return nil }}, nil)
		for i := range 100 {
			h.source.more <- begin()
			h.source.more <- insert("1")
			h.source.more <- commit(wal.LSN(10 * (i + 1)))
			pass(100 * time.Millisecond)
		}
		pass(confirmEvery)
		require.Equal(t, wal.LSN(1000), h.source.last())
		require.InDelta(t, 6, len(h.source.confirmations()), 2, "one every two seconds of ten, and the server's due")
	})
}

func TestAServerThatSaysNothingIsGone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{}, &fakeProducer{}, nil)
		pass(silentFor - time.Second)
		require.Equal(t, 1, h.source.connected())
		pass(10 * time.Second)
		require.Equal(t, 2, h.source.connected())
		require.Contains(t, h.log.String(), "the server has said nothing for 1m0s")
		require.Equal(t, 1.0, testutil.ToFloat64(h.opts.Metrics.postgresDue))
	})
}

func TestAStopConfirmsWhatWasAcknowledgedDuringIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{script: []wal.Message{begin(), insert("1"), commit(10), begin(), insert("2"), commit(20)}}, &fakeProducer{}, nil)
		go func() {
			<-time.After(2 * time.Second)
			h.producer.at(0).done(nil)
		}()
		started := time.Now()
		h.stop()
		require.Equal(t, 3*time.Second, time.Since(started), "it waits for the second one as long as it may")
		require.Equal(t, wal.LSN(10), h.source.last())
	})
}

func TestARefusedRecordIsSentAgainByTheServer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		refusals := 2
		var mu sync.Mutex
		h := start(t, &fakeSource{script: []wal.Message{begin(), insert(`"a"`), insert(`"b"`), commit(10)}}, &fakeProducer{answer: func(value string) error {
			mu.Lock()
			defer mu.Unlock()
			if strings.Contains(value, `"b"`) && refusals > 0 {
				refusals--
				return errors.New("TOPIC_AUTHORIZATION_FAILED")
			}
			return nil
		}}, nil)
		pass(5 * time.Second)
		require.Equal(t, wal.LSN(10), h.source.last())
		require.Equal(t, 3, h.source.connected())
		require.Equal(t, 6, h.producer.count(), "all of it, three times: at least once")
		require.Equal(t, 2.0, testutil.ToFloat64(h.opts.Metrics.kafkaDue))
		require.Contains(t, h.log.String(), "TOPIC_AUTHORIZATION_FAILED")
		require.Zero(t, h.window.inFlight())
	})
}

func TestARecordThatTheTopicRefusesForItsSize(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		large := `"` + strings.Repeat("x", 1000) + `"`
		h := start(t, &fakeSource{script: []wal.Message{begin(), insert(large), insert(`"small"`), commit(10)}}, &fakeProducer{}, nil)
		refusal := fault.New(fault.TooLarge, "too large")
		for i := range 2 { // one batch
			h.producer.at(i).done(refusal)
		}
		synctest.Wait()
		require.Equal(t, 3, h.producer.count(), "the first, alone")
		require.Contains(t, h.producer.at(2).value, large)
		h.producer.at(2).done(refusal)
		synctest.Wait()
		require.Contains(t, h.producer.at(3).value, `"payload":null,"payload_omitted":true`)
		h.producer.at(3).done(nil)
		synctest.Wait()
		require.Contains(t, h.producer.at(4).value, `"small"`, "the other was only in bad company")
		h.producer.at(4).done(nil)
		pass(confirmEvery)
		require.Equal(t, wal.LSN(10), h.source.last())
		require.Equal(t, 1.0, testutil.ToFloat64(h.opts.Metrics.stubs))
		require.Zero(t, h.window.inFlight())
		require.Equal(t, 1, h.source.connected())
	})
}

func TestAServerThatDoesNotAnswerLeavesTheRelayUnready(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		down := errors.New("connection refused")
		h := start(t, &fakeSource{connectErr: func(connection int) error {
			if connection < 50 {
				return down
			}
			return nil
		}}, &fakeProducer{}, nil)
		pass(time.Minute)
		require.ErrorIs(t, h.Ready(t.Context()), down)
		require.InDelta(t, 60, h.lagSeconds(), 0.1, "there is no stream, so it lags")
		pass(2 * time.Minute)
		require.NoError(t, h.Ready(t.Context()))
		h.producer.ready = errors.New("no broker")
		require.ErrorContains(t, h.Ready(t.Context()), "asking Kafka: no broker")
	})
}

func TestASlotFarBehindIsNotReady(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{state: wal.SlotState{Exists: true, Current: 1001, Confirmed: 1, Restart: 1, Safe: -1, Keep: -1}}
		h := start(t, source, &fakeProducer{}, func(o *Options) { o.MaxLagBytes = 1000 })
		require.NoError(t, h.Ready(t.Context()))
		require.Equal(t, math.Inf(1), testutil.ToFloat64(h.opts.Metrics.safe))
		source.set(func(s *wal.SlotState) { s.Current = 1002 })
		pass(monitorEvery)
		require.ErrorContains(t, h.Ready(t.Context()), "1001 bytes of WAL behind, more than the 1000 of MAX_LAG_BYTES")
		source.set(func(s *wal.SlotState) { s.Confirmed = 2 })
		pass(monitorEvery)
		require.NoError(t, h.Ready(t.Context()))
	})
}

func TestASlotThatIsAboutToBeInvalidatedIsToldOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{state: wal.SlotState{Exists: true, Status: "extended", Current: 10, Safe: 25, Keep: 100}}
		h := start(t, source, &fakeProducer{}, nil)
		const warning = "the slot is about to be invalidated"
		require.NotContains(t, h.log.String(), warning)
		source.set(func(s *wal.SlotState) { s.Safe = 24 })
		pass(10 * monitorEvery)
		require.Equal(t, 1, strings.Count(h.log.String(), warning))
		require.Equal(t, 24.0, testutil.ToFloat64(h.opts.Metrics.safe))
		source.set(func(s *wal.SlotState) { s.Safe = 90 })
		pass(monitorEvery)
		source.set(func(s *wal.SlotState) { s.Status, s.Safe = "lost", -1 })
		pass(10 * monitorEvery)
		require.Equal(t, 1, strings.Count(h.log.String(), "level=ERROR"))
		require.Zero(t, testutil.ToFloat64(h.opts.Metrics.safe))
	})
}

func TestAHeartbeatMovesAPositionThatStandsStillBehindTheWAL(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := &fakeSource{state: wal.SlotState{Exists: true, Status: "reserved", Current: confirmQuiet + 100, Confirmed: 100, Restart: 40}}
		h := start(t, source, &fakeProducer{}, func(o *Options) { o.Heartbeat = 30 * time.Second })
		go func() { // a server that lives
			for t.Context().Err() == nil {
				select {
				case <-t.Context().Done():
				case <-time.After(20 * time.Second):
					source.more <- wal.Message{Kind: wal.KeepAlive}
				}
			}
		}()
		pass(2 * time.Minute)
		require.Zero(t, source.beats(), "nothing is behind")
		source.set(func(s *wal.SlotState) { s.Current++ })
		pass(time.Minute + monitorEvery)
		require.Equal(t, 2, source.beats())
		require.Equal(t, float64(confirmQuiet+1), testutil.ToFloat64(h.opts.Metrics.lagBytes))
		require.Equal(t, float64(confirmQuiet+61), testutil.ToFloat64(h.opts.Metrics.retained))
	})
}

func TestOtherTablesOfThePublicationAreNotRelayed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		other := insert("{}")
		other.Relation = &wal.Relation{Schema: "public", Name: "payments", Columns: domainEvents.Columns}
		h := start(t, &fakeSource{script: []wal.Message{begin(), other, commit(confirmQuiet)}}, &fakeProducer{}, nil)
		pass(confirmEvery)
		require.Zero(t, h.producer.count())
		require.Equal(t, wal.LSN(confirmQuiet), h.source.last())
	})
}

func TestAStreamOutOfOrderIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		h := start(t, &fakeSource{script: []wal.Message{insert("{}")}}, &fakeProducer{}, nil)
		require.ErrorContains(t, h.Ready(t.Context()), "outside of a transaction")
	})
}
