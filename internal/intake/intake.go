package intake

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/logging"
)

// consumer is a member of the topic's consumer group.
type consumer interface {
	Poll(ctx context.Context, limit int, take func([]event.Record))
	Mark(record event.Record)
	Close(ctx context.Context) error
}

// dispatcher runs a batch durably and returns when it has ended. Errors of the fault.Conflict class come from the
// batch's own invocation, all others from the way to it.
type dispatcher interface {
	Dispatch(ctx context.Context, key string, batch []event.Ref) error
}

// graveyard keeps records that cannot be read.
type graveyard interface {
	Bury(ctx context.Context, record delivery.DeadRecord) error
}

const (
	// MaxInFlight bounds the batches that are under way, and beside a backlog those of the backlog and all others by themselves: more gain no throughput and cost latency and memory.
	MaxInFlight = 16
	// maxWaiting bounds the records that are read ahead; what is beyond stays in Kafka. It is deep, as what a quiet merchant
	// wrote lies behind a flood of the same partition, and costs about 500 bytes each.
	maxWaiting = 64 << 10
	// maxPoll bounds what is read at once: nothing starts while it is decoded.
	maxPoll = 1024
	// maxUnmarked bounds the records that are remembered because one before them has not ended: 100 bytes each, and
	// minutes of a full load behind a batch that does not end. Beyond it nothing more is read.
	maxUnmarked = 400_000
	// revokePatience bounds how long a rebalance waits for batches in flight.
	revokePatience = 5 * time.Second
	// stopPatience bounds how long a stop waits for them.
	stopPatience = 10 * time.Second
)

// Intake reads, batches, hands over and marks. Run it once; Revoked and Lost are for the consumer.
type Intake struct {
	dispatcher dispatcher
	graveyard  graveyard
	log        *slog.Logger
	metrics    *intakeMetrics

	mu         sync.Mutex
	consumer   consumer
	partitions map[event.Partition]*partition
	queue      *queue
	traffic    [classes]traffic
	quietAt    time.Time // the latest arrival of an event of a quiet merchant
	quietOf    string    // that merchant
	courtesy   courtesy
	held       int // records taken and not finished
	changed    chan struct{}
	calls      sync.WaitGroup
	// mostUnmarked is maxUnmarked, but for a test.
	mostUnmarked int
}

// traffic is what is under way of a class.
type traffic struct {
	pace      pace
	lastStart time.Time
	inFlight  int // batches
}

// New makes an Intake. Its metrics are added to the registry.
func New(d dispatcher, g graveyard, log *slog.Logger, registry prometheus.Registerer) *Intake {
	return &Intake{
		dispatcher: d, graveyard: g, log: log, metrics: newMetrics(registry),
		partitions: map[event.Partition]*partition{}, queue: newQueue(), courtesy: newCourtesy(),
		changed: make(chan struct{}), mostUnmarked: maxUnmarked,
	}
}

// Run takes from the consumer until ctx ends. Then it reads no more, gives the calls under way 10 s to end, commits
// what they finished, and leaves the group. What has not ended by then is read again by whoever comes next.
func (in *Intake) Run(ctx context.Context, c consumer) error {
	in.mu.Lock()
	in.consumer = c
	in.mu.Unlock()

	calls, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var loops sync.WaitGroup
	loops.Go(func() { in.poll(ctx, calls, c) })
	loops.Go(func() { in.start(ctx, calls) })
	loops.Wait()

	timer := time.AfterFunc(stopPatience, cut)
	defer timer.Stop()
	in.calls.Wait()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokePatience)
	defer cancel()
	if err := c.Close(closing); err != nil {
		return fmt.Errorf("leaving the consumer group: %w", err)
	}
	return nil
}

// poll reads while there is room.
func (in *Intake) poll(ctx, calls context.Context, c consumer) {
	for ctx.Err() == nil {
		room := in.awaitRoom(ctx)
		if room == 0 {
			return
		}
		c.Poll(ctx, room, func(records []event.Record) { in.take(calls, records) })
	}
}

func (in *Intake) awaitRoom(ctx context.Context) int {
	for {
		in.mu.Lock()
		room, changed := min(maxPoll, maxWaiting-in.held, in.mostUnmarked-in.unmarked()), in.changed
		in.mu.Unlock()
		if room > 0 {
			return room
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0
		}
	}
}

// unmarked is how many records are remembered. It is called with the lock held.
func (in *Intake) unmarked() int {
	n := 0
	for _, p := range in.partitions {
		n += len(p.open) - p.head
	}
	return n
}

// take decodes and queues records. One that cannot be read is put aside: its partition goes on.
func (in *Intake) take(calls context.Context, records []event.Record) {
	in.mu.Lock()
	defer in.mu.Unlock()
	now := time.Now()
	var arrived [classes]int
	for _, record := range records {
		in.metrics.records.Inc()
		name := event.Partition{Topic: record.Topic, ID: record.Partition}
		p := in.partitions[name]
		if p != nil && record.Offset < p.next {
			// The log was cut or made anew, and the consumer starts again: what is under way is of the old one.
			in.remove(name, p)
			p = nil
		}
		if p == nil {
			p = &partition{}
			in.partitions[name] = p
		}
		in.metrics.lag(name, record)
		p.take(record)
		in.held++
		ref, err := event.DecodeRecord(record.Value)
		if err != nil {
			in.calls.Go(func() { in.bury(calls, p, record, err) })
			continue
		}
		record.Key, record.Value = nil, nil
		c := in.queue.add(item{ref: ref, record: record, origin: p})
		arrived[c]++
		if c == quiet {
			in.quietAt, in.quietOf = now, ref.MerchantID
		}
	}
	in.queue.classify()
	for c, n := range arrived {
		if n > 0 {
			in.traffic[c].pace.arrived(n, now)
		}
	}
	in.metrics.waiting.Set(float64(in.queue.length()))
	in.wake()
}

// start starts batches: at once when none of the class is under way or one is full, otherwise at the pace.
func (in *Intake) start(ctx, calls context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		in.mu.Lock()
		now := time.Now()
		wait, changed := time.Hour, in.changed
		for c := range classes {
			due := in.untilStart(c, now)
			if due == 0 {
				in.startBatch(calls, c, now)
			}
			wait = min(wait, due)
		}
		in.mu.Unlock()
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
	}
}

func (in *Intake) startBatch(calls context.Context, c class, now time.Time) {
	batch := in.queue.cut(c)
	in.traffic[c].lastStart = now
	in.traffic[c].inFlight++
	in.metrics.waiting.Set(float64(in.queue.length()))
	in.metrics.inFlight.Set(float64(in.inFlight()))
	// A batch that nothing else slows down, or nearly.
	alone := in.traffic[busy].inFlight == 0 && in.inFlight() <= fewBatches && len(batch) < maxBatchEvents
	in.calls.Go(func() { in.call(calls, c, alone, batch) })
}

func (in *Intake) inFlight() int { return in.traffic[quiet].inFlight + in.traffic[busy].inFlight }

// untilStart is how long the next batch of the class has to wait; 0 starts one now. A busy one keeps its distance from all
// others, a quiet one only from those of its class.
func (in *Intake) untilStart(c class, now time.Time) time.Duration {
	own := in.traffic[c]
	if c == busy {
		own.inFlight = in.inFlight()
		if other := in.traffic[quiet].lastStart; other.After(own.lastStart) {
			own.lastStart = other
		}
	}
	switch {
	case in.queue.waiting[c] == 0 || in.full(c, now):
		return time.Hour // until something changes
	case own.inFlight == 0 || in.queue.waiting[c] >= maxBatchEvents:
		return 0
	case c == busy && in.beside(now):
		return max(0, besideGap-now.Sub(in.traffic[busy].lastStart))
	default:
		return max(0, own.pace.gap(now)-now.Sub(own.lastStart))
	}
}

// full reports whether as many batches of the class are under way as may be. The quiet never wait for what is busy: beside a
// backlog, also one that was cut before its merchant was known to be busy, there are as many slots again for them.
func (in *Intake) full(c class, now time.Time) bool {
	if c == busy {
		return in.inFlight() >= MaxInFlight || in.beside(now) && in.queue.underWay() >= in.courtesy.limit()
	}
	limit := MaxInFlight
	if in.queue.waiting[busy]+in.traffic[busy].inFlight > 0 {
		limit = 2 * MaxInFlight
	}
	return in.inFlight() >= limit
}

// beside reports whether the quiet have traffic now, which a backlog is to leave room for. A busy merchant was quiet before.
func (in *Intake) beside(now time.Time) bool {
	if in.queue.waiting[quiet] > 0 {
		return true
	}
	l := in.queue.lanes[in.quietOf]
	return now.Sub(in.quietAt) < besideFor && (l == nil || l.class == quiet)
}

// call hands a batch over until it has ended, or the process stops. alone says that little else was under way when it started.
func (in *Intake) call(ctx context.Context, c class, alone bool, batch []item) {
	refs := make([]event.Ref, len(batch))
	for i, each := range batch {
		refs[i] = each.ref
	}
	began := time.Now()
	key := rand.Text()
	backoff := 50 * time.Millisecond
	ended := false
	for {
		err := in.dispatcher.Dispatch(ctx, key, refs)
		if err == nil {
			ended = true
			break
		}
		if ctx.Err() != nil {
			break
		}
		in.metrics.failures.Inc()
		in.log.LogAttrs(ctx, slog.LevelWarn, "a batch is handed over again", slog.Int("events", len(refs)), logging.Error(err))
		if fault.ClassOf(err) == fault.Conflict {
			key = rand.Text() // the old one would get the same answer for ever
		}
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, 2*time.Second)
		case <-ctx.Done():
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.traffic[c].inFlight--
	in.metrics.inFlight.Set(float64(in.inFlight()))
	if ended {
		in.metrics.batches.Inc()
		in.metrics.seconds.Observe(time.Since(began).Seconds())
		if c == quiet {
			in.courtesy.ended(time.Since(began), alone)
		}
	}
	for _, each := range batch {
		in.queue.ended(each)
		if ended {
			in.finish(each.origin, each.record)
		} else {
			in.release(each.origin, each.record)
		}
	}
	in.wake()
}

// bury keeps a record that cannot be read, until the ledger has it.
func (in *Intake) bury(ctx context.Context, p *partition, record event.Record, cause error) {
	in.log.LogAttrs(ctx, slog.LevelError, "a record cannot be read", slog.String("topic", record.Topic),
		slog.Int("partition", int(record.Partition)), slog.Int64("offset", record.Offset), logging.Error(cause))
	dead := delivery.DeadRecord{
		Topic: record.Topic, Partition: record.Partition, Offset: record.Offset,
		Reason: delivery.ReasonUndecodable, Detail: cause.Error(), Key: record.Key, Value: record.Value,
	}
	err := in.graveyard.Bury(ctx, dead)
	for backoff := 50 * time.Millisecond; err != nil && ctx.Err() == nil; backoff = min(2*backoff, 2*time.Second) {
		in.log.LogAttrs(ctx, slog.LevelWarn, "a dead record waits for the ledger", logging.Error(err))
		select {
		case <-time.After(backoff):
			err = in.graveyard.Bury(ctx, dead)
		case <-ctx.Done():
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if err == nil {
		in.finish(p, record)
	} else {
		in.release(p, record)
	}
	in.wake()
}

// finish marks as far as the partition is done without a gap. A partition that has left this member is not marked.
func (in *Intake) finish(p *partition, record event.Record) {
	last, grown := p.finish(record.Offset)
	if in.release(p, record) && grown {
		in.consumer.Mark(last)
	}
}

// release takes a record off the books, and reports whether its partition is still this member's. What is cut by a
// stop is released too, or leaving the group would wait for it.
func (in *Intake) release(p *partition, record event.Record) bool {
	p.held--
	if in.partitions[event.Partition{Topic: record.Topic, ID: record.Partition}] != p {
		return false // revoked or lost meanwhile, and taken off the books then
	}
	in.held--
	return true
}

// Revoked lets batches in flight end, for 5 s at most, and forgets the partitions.
func (in *Intake) Revoked(ctx context.Context, revoked []event.Partition) {
	ctx, cancel := context.WithTimeout(ctx, revokePatience)
	defer cancel()
	in.mu.Lock()
	for _, name := range revoked { // what only waits is read by the next owner
		if p := in.partitions[name]; p != nil {
			in.drop(p)
		}
	}
	in.mu.Unlock()
	for {
		in.mu.Lock()
		left := 0
		for _, name := range revoked {
			if p := in.partitions[name]; p != nil {
				left += p.held
			}
		}
		changed := in.changed
		in.mu.Unlock()
		if left == 0 || ctx.Err() != nil {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	in.forget(revoked)
}

// Lost forgets the partitions: another member has them already.
func (in *Intake) Lost(_ context.Context, lost []event.Partition) { in.forget(lost) }

func (in *Intake) forget(names []event.Partition) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, name := range names {
		if p := in.partitions[name]; p != nil {
			in.remove(name, p)
			in.metrics.forget(name)
		}
	}
	in.wake()
}

// remove takes a partition off the books. What is in flight counts no more, and is not marked when it ends.
func (in *Intake) remove(name event.Partition, p *partition) {
	in.drop(p)
	in.held -= p.held
	delete(in.partitions, name)
}

// drop takes the partition's records out of the queue.
func (in *Intake) drop(p *partition) {
	dropped := in.queue.drop(p)
	p.held -= dropped
	in.held -= dropped
	in.metrics.waiting.Set(float64(in.queue.length()))
}

// wake tells whoever waits that something changed. It is called with the lock held.
func (in *Intake) wake() {
	close(in.changed)
	in.changed = make(chan struct{})
}
