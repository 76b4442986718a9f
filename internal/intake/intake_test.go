package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

var (
	errDown   = fault.New(fault.Unavailable, "Restate is down")
	errKilled = fault.New(fault.Conflict, "the invocation was killed")
)

// topic is a consumer that never rebalances by itself.
type topic struct {
	mu       sync.Mutex
	records  []event.Record
	arrived  chan struct{}
	polling  bool
	polls    int
	given    int
	marks    map[int32][]int64
	closed   int
	onClose  func()
	closeErr error
}

func newTopic() *topic { return &topic{arrived: make(chan struct{}, 1), marks: map[int32][]int64{}} }

func (c *topic) Poll(ctx context.Context, limit int, take func([]event.Record)) {
	c.mu.Lock()
	c.polls++
	c.polling = true
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.polling = false
		c.mu.Unlock()
	}()
	for {
		c.mu.Lock()
		n := min(limit, len(c.records))
		records := c.records[:n:n]
		c.records = c.records[n:]
		c.given += n
		c.mu.Unlock()
		if n > 0 {
			take(records)
			return
		}
		select {
		case <-c.arrived:
		case <-ctx.Done():
			return
		}
	}
}

func (c *topic) Mark(record event.Record) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.marks[record.Partition] = append(c.marks[record.Partition], record.Offset)
}

func (c *topic) Close(context.Context) error {
	c.mu.Lock()
	c.closed++
	c.mu.Unlock()
	if c.onClose != nil {
		c.onClose()
	}
	return c.closeErr
}

func (c *topic) write(records ...event.Record) {
	c.mu.Lock()
	c.records = append(c.records, records...)
	c.mu.Unlock()
	select {
	case c.arrived <- struct{}{}:
	default:
	}
}

func (c *topic) marked(partition int32) []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.marks[partition])
}

// call is one call of the dispatcher; the test ends it.
type call struct {
	at    time.Time
	key   string
	batch []event.Ref
	ctx   context.Context
	end   chan error
}

func (c call) offsets() []string {
	var out []string
	for _, ref := range c.batch {
		out = append(out, ref.ObjectID)
	}
	return out
}

// with is the call whose batch begins with the object: calls of one moment come in any order.
func with(t *testing.T, calls []call, object string) call {
	t.Helper()
	i := slices.IndexFunc(calls, func(c call) bool { return c.batch[0].ObjectID == object })
	require.GreaterOrEqual(t, i, 0, "no batch begins with %s", object)
	return calls[i]
}

// harness is an intake under way, with time that is the test's own.
type harness struct {
	*Intake
	topic *topic
	stop  context.CancelFunc
	ended chan struct{} // then err is what Run returned
	err   error

	mu     sync.Mutex
	calls  []call
	answer func(call) error // nil: the test ends each call
	graves []delivery.DeadRecord
	bury   func() error
}

func (h *harness) Dispatch(ctx context.Context, key string, batch []event.Ref) error {
	c := call{at: time.Now(), key: key, batch: slices.Clone(batch), ctx: ctx, end: make(chan error, 1)}
	h.mu.Lock()
	h.calls = append(h.calls, c)
	answer := h.answer
	h.mu.Unlock()
	if answer != nil {
		return answer(c)
	}
	select {
	case err := <-c.end:
		return err
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.Unavailable, "calling")
	}
}

func (h *harness) Bury(_ context.Context, record delivery.DeadRecord) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.bury != nil {
		if err := h.bury(); err != nil {
			return err
		}
	}
	h.graves = append(h.graves, record)
	return nil
}

func (h *harness) seen() []call {
	synctest.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

// run makes an intake that runs until the test ends; all that is still open then has to end within its patience.
func run(t *testing.T, test func(t *testing.T, h *harness)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		h := &harness{topic: newTopic(), ended: make(chan struct{})}
		h.Intake = New(h, h, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		h.stop = stop
		go func() { h.err = h.Run(ctx, h.topic); close(h.ended) }()
		t.Cleanup(func() {
			stop()
			<-h.ended
			require.Equal(t, 1, h.topic.closed, "the group is left once")
		})
		synctest.Wait()
		test(t, h)
	})
}

// pass lets the bubble's time go on.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// records are the partition's from offset on; the object's id tells them apart.
func records(partition int32, offset int64, n int) []event.Record {
	out := make([]event.Record, n)
	for i := range out {
		at := offset + int64(i)
		id := uuid.NewSHA1(uuid.Nil, fmt.Appendf(nil, "%d/%d", partition, at))
		out[i] = event.Record{
			Topic: "webhook-events", Partition: partition, Offset: at, HighWatermark: at + 1, Key: []byte("m"),
			Value: fmt.Appendf(nil, `{"id":"%s","txid":7,"event_type":"payment.succeeded","object_type":"payment","object_id":"%d/%d","object_version":1,"merchant_id":"m"}`, id, partition, at),
		}
	}
	return out
}

func TestTheFirstEventStartsABatchAtOnce(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		began := time.Now()
		h.topic.write(records(0, 0, 1)...)
		calls := h.seen()
		require.Len(t, calls, 1)
		require.Equal(t, began, calls[0].at)
		require.Equal(t, []string{"0/0"}, calls[0].offsets())
		calls[0].end <- nil
		pass(0)
		require.Equal(t, []int64{0}, h.topic.marked(0))

		pass(time.Second)
		h.topic.write(records(0, 1, 3)...)
		require.Len(t, h.seen(), 2, "what waits together goes together")
	})
}

func TestStartsArePacedWhileABatchIsInFlight(t *testing.T) {
	t.Parallel()
	for rate, want := range map[int]time.Duration{100: 8 * time.Millisecond, 500: 10 * time.Millisecond, 1000: 20 * time.Millisecond} {
		t.Run(fmt.Sprint(rate), func(t *testing.T) {
			t.Parallel()
			run(t, func(t *testing.T, h *harness) {
				h.mu.Lock()
				h.answer = func(call) error { <-time.After(100 * time.Millisecond); return nil }
				h.mu.Unlock()
				const seconds = 8
				for i := range seconds * rate {
					h.topic.write(records(0, int64(i), 1)...)
					pass(time.Second / time.Duration(rate))
				}
				calls := h.seen()
				events := 0
				for i, c := range calls {
					events += len(c.batch)
					if i == 0 {
						continue
					}
					gap := c.at.Sub(calls[i-1].at)
					require.GreaterOrEqual(t, gap, 8*time.Millisecond)
					if i > len(calls)/2 { // the rate is known by then
						require.InDelta(t, max(want, time.Second/time.Duration(rate)), gap, float64(3*time.Millisecond))
					}
				}
				require.InDelta(t, seconds*rate, events, float64(rate)/25, "nothing waits longer than a pace")
			})
		})
	}
}

func TestAFullBatchStartsAtOnce(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		began := time.Now()
		h.topic.write(records(0, 0, 1)...)
		require.Len(t, h.seen(), 1)
		h.topic.write(records(0, 1, 64+63)...)
		calls := h.seen()
		require.Len(t, calls, 2)
		require.Len(t, calls[1].batch, 64)
		require.Equal(t, began, calls[1].at)
		pass(20 * time.Millisecond)
		calls = h.seen()
		require.Len(t, calls, 3)
		require.Len(t, calls[2].batch, 63)
		require.GreaterOrEqual(t, calls[2].at.Sub(began), 8*time.Millisecond)
	})
}

func TestAtMost16BatchesAreInFlight(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 20*64)...)
		calls := h.seen()
		require.Len(t, calls, MaxInFlight)
		pass(time.Minute)
		require.Len(t, h.seen(), MaxInFlight)
		with(t, calls, "0/320").end <- nil
		require.Len(t, h.seen(), MaxInFlight+1)
		require.Empty(t, h.topic.marked(0), "batches before it are still under way")
	})
}

func TestNothingIsReadWhenThereIsNoRoom(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 2*maxWaiting)...)
		calls := h.seen()
		require.Equal(t, maxWaiting, h.topic.given)
		require.False(t, h.topic.polling, "what is beyond stays in Kafka")
		polls := h.topic.polls
		pass(time.Minute)
		require.Equal(t, polls, h.topic.polls)

		calls[0].end <- nil
		h.seen()
		require.Equal(t, maxWaiting+64, h.topic.given, "as much is read as has ended")
		require.EqualValues(t, maxWaiting-MaxInFlight*64, testutil.ToFloat64(h.metrics.waiting))
	})
}

func TestABatchThatDoesNotEndBoundsWhatIsRememberedBehindIt(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		const most = 5 * maxWaiting
		h.Intake.mu.Lock()
		h.mostUnmarked = most
		h.Intake.mu.Unlock()
		h.topic.write(records(0, 0, most+2*maxWaiting)...)
		calls := h.seen()
		stuck := with(t, calls, "0/0")
		h.mu.Lock()
		h.answer = func(call) error { return nil } // all that come later end at once
		h.mu.Unlock()
		for _, each := range calls {
			if each.key != stuck.key {
				each.end <- nil
			}
		}
		pass(time.Hour)
		require.Equal(t, most, h.topic.given, "what is beyond stays in Kafka")
		require.Empty(t, h.topic.marked(0))
		stuck.end <- nil
		pass(time.Hour)
		require.Equal(t, most+2*maxWaiting, h.topic.given, "and goes on when it has ended")
	})
}

func TestABatchIsHandedOverUntilItHasEnded(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 3)...)
		answers := []error{errDown, errDown, errKilled, errors.New("anything else"), errDown, errDown, errDown, errDown, nil}
		for i, answer := range answers {
			calls := h.seen()
			require.Len(t, calls, i+1)
			require.Equal(t, []string{"0/0", "0/1", "0/2"}, calls[i].offsets())
			require.Empty(t, h.topic.marked(0))
			calls[i].end <- answer
			pass(2 * time.Second)
		}
		ms := time.Millisecond
		require.Equal(t, []time.Duration{0, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1600 * ms, 2000 * ms, 2000 * ms}, backoffs(h.seen()))
		require.EqualValues(t, 2, slices.Max(h.topic.marked(0)))
		calls := h.seen()
		for i := range calls[:3] {
			require.Equal(t, calls[0].key, calls[i].key, "a call that got no answer is sent again under its own key")
		}
		require.NotEqual(t, calls[0].key, calls[3].key, "the killed invocation's key has its answer for ever")
		for i := range calls[3:] {
			require.Equal(t, calls[3].key, calls[3+i].key)
		}
		require.EqualValues(t, 8, testutil.ToFloat64(h.metrics.failures))
		require.EqualValues(t, 1, testutil.ToFloat64(h.metrics.batches))
	})
}

// backoffs are the pauses between an answer and the next call; the test above answers at once and looks 2 s later.
func backoffs(calls []call) []time.Duration {
	out := []time.Duration{0}
	answered := calls[0].at
	for _, c := range calls[1:] {
		out = append(out, c.at.Sub(answered))
		answered = answered.Add(2 * time.Second)
	}
	return out
}

func TestARecordThatCannotBeReadIsBuriedAndItsPartitionGoesOn(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		poison := event.Record{Topic: "webhook-events", Partition: 0, Offset: 1, Key: []byte("k"), Value: []byte(`{"id":7}`)}
		tombstone := event.Record{Topic: "webhook-events", Partition: 0, Offset: 2}
		h.topic.write(append(append(records(0, 0, 1), poison, tombstone), records(0, 3, 1)...)...)
		calls := h.seen()
		require.Len(t, calls, 1)
		require.Equal(t, []string{"0/0", "0/3"}, calls[0].offsets())
		require.Empty(t, h.topic.marked(0), "what comes before is still under way")
		calls[0].end <- nil
		h.seen()
		require.Equal(t, []int64{2, 3}, h.topic.marked(0), "the first takes along those that are buried")

		require.Len(t, h.graves, 2)
		slices.SortFunc(h.graves, func(a, b delivery.DeadRecord) int { return int(a.Offset - b.Offset) })
		require.Contains(t, h.graves[0].Detail, "not a record of domain_events")
		h.graves[0].Detail = ""
		require.Equal(t, delivery.DeadRecord{
			Topic: "webhook-events", Partition: 0, Offset: 1, Reason: delivery.ReasonUndecodable, Key: []byte("k"), Value: []byte(`{"id":7}`),
		}, h.graves[0])
		require.Nil(t, h.graves[1].Value)
	})
}

func TestARecordThatCannotBeReadWaitsForTheGraveyard(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		down := true
		tries := 0
		h.bury = func() error {
			tries++
			if down {
				return errors.New("the ledger is down")
			}
			return nil
		}
		poison := event.Record{Topic: "webhook-events", Partition: 0, Offset: 0, Value: []byte("poison")}
		h.topic.write(append([]event.Record{poison}, records(0, 1, 2)...)...)
		calls := h.seen()
		require.Len(t, calls, 1)
		calls[0].end <- nil
		pass(time.Minute)
		require.Empty(t, h.topic.marked(0), "the offset of a record that nobody keeps is not marked, nor what comes after")
		h.mu.Lock()
		require.InDelta(t, 34, tries, 3, "at most 2 s apart")
		down = false
		h.mu.Unlock()
		pass(2 * time.Second)
		require.EqualValues(t, 2, slices.Max(h.topic.marked(0)))
	})
}

func TestOffsetsAreMarkedAsFarAsEverythingBeforeHasEnded(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(append(records(0, 0, 64), append(records(0, 64, 32), records(1, 0, 32)...)...)...)
		h.topic.write(records(0, 96, 64)...)
		calls := h.seen()
		require.Len(t, calls, 3)
		with(t, calls, "0/64").end <- nil
		h.seen()
		require.Empty(t, h.topic.marked(0), "the batch before is still under way")
		require.EqualValues(t, 31, slices.Max(h.topic.marked(1)), "another partition does not wait")
		with(t, calls, "0/0").end <- nil
		h.seen()
		require.EqualValues(t, 95, slices.Max(h.topic.marked(0)))
		with(t, calls, "0/96").end <- nil
		h.seen()
		require.EqualValues(t, 159, slices.Max(h.topic.marked(0)))
		require.True(t, slices.IsSorted(h.topic.marked(0)))
	})
}

func zero() []event.Partition { return []event.Partition{{Topic: "webhook-events", ID: 0}} }

func TestARevokeWaitsForWhatIsInFlightAndDropsWhatWaits(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 10)...)
		first := h.seen()[0]
		h.topic.write(append(records(0, 10, 10), records(1, 0, 1)...)...)
		synctest.Wait()
		began := time.Now()
		go func() { <-time.After(2 * time.Second); first.end <- nil }()
		h.Revoked(t.Context(), zero())
		require.Equal(t, 2*time.Second, time.Since(began))
		require.Equal(t, []int64{9}, h.topic.marked(0)[len(h.topic.marked(0))-1:], "the marks are there to be committed when it returns")

		pass(time.Minute)
		for _, c := range h.seen()[1:] {
			require.Equal(t, []string{"1/0"}, c.offsets(), "what waited belongs to the next owner now")
		}
		require.Zero(t, testutil.ToFloat64(h.metrics.waiting))
	})
}

func TestARevokeWaits5SecondsAtMost(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 10)...)
		old := h.seen()[0]
		began := time.Now()
		h.Revoked(t.Context(), zero())
		require.Equal(t, 5*time.Second, time.Since(began))

		// The partition comes back, from where its last owner committed, while the old batch is still under way.
		h.topic.write(records(0, 0, 2)...)
		calls := h.seen()
		require.Len(t, calls, 2)
		old.end <- nil
		h.seen()
		require.Empty(t, h.topic.marked(0), "what another assignment took marks nothing of this one")
		calls[1].end <- nil
		h.seen()
		require.Equal(t, []int64{0, 1}, h.topic.marked(0)[:2])
		require.Zero(t, h.held)
	})
}

func TestLostPartitionsAreForgottenAtOnce(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 10)...)
		first := h.seen()[0]
		h.topic.write(records(0, 10, 10)...)
		synctest.Wait()
		began := time.Now()
		h.Lost(t.Context(), zero())
		require.Equal(t, began, time.Now())
		require.Zero(t, h.held, "there is room for others")
		first.end <- nil
		pass(time.Minute)
		require.Len(t, h.seen(), 1)
		require.Empty(t, h.topic.marked(0))
	})
}

func TestALogThatStartsAgainIsReadAgain(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 1000, 2)...)
		old := h.seen()[0]
		h.topic.write(records(0, 0, 2)...) // the topic was made anew, and the consumer went to its start
		pass(20 * time.Millisecond)
		calls := h.seen()
		require.Len(t, calls, 2)
		calls[1].end <- nil
		h.seen()
		require.Equal(t, []int64{0, 1}, h.topic.marked(0))
		old.end <- nil
		h.seen()
		require.Equal(t, []int64{0, 1}, h.topic.marked(0), "an offset of the old log is none of the new one")
		require.Zero(t, h.held)
	})
}

func TestAStopLetsOwnCallsEnd(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		h.topic.write(records(0, 0, 10)...)
		first := h.seen()[0]
		h.topic.write(records(0, 10, 1)...)
		synctest.Wait()
		h.stop()
		synctest.Wait()
		h.topic.write(records(0, 11, 1)...)
		pass(9 * time.Second)
		require.NoError(t, first.ctx.Err())
		require.Zero(t, h.topic.closed)
		require.Equal(t, 11, h.topic.given, "nothing more is read")
		first.end <- nil
		synctest.Wait()
		<-h.ended
		require.NoError(t, h.err)
		require.Len(t, h.seen(), 1, "no batch starts any more")
		require.EqualValues(t, 9, slices.Max(h.topic.marked(0)))
		require.Equal(t, 1, h.topic.closed)
	})
}

func TestAStopCutsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	run(t, func(t *testing.T, h *harness) {
		// Leaving the group revokes what the member has.
		h.topic.onClose = func() { h.Revoked(context.Background(), zero()) }
		h.topic.closeErr = errors.New("no broker answers")
		h.bury = func() error { return errors.New("the ledger is down") }
		h.topic.write(append(records(0, 0, 10), event.Record{Topic: "webhook-events", Partition: 0, Offset: 10, Value: []byte("poison")})...)
		h.seen()
		began := time.Now()
		h.stop()
		<-h.ended
		require.ErrorContains(t, h.err, "leaving the consumer group: no broker answers")
		require.Equal(t, 10*time.Second, time.Since(began), "and what was cut is not waited for once more")
		require.Empty(t, h.topic.marked(0))
		require.Len(t, h.seen(), 1)
	})
}
