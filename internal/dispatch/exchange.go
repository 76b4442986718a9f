package dispatch

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/svix"
)

// exchange is a request under way. It lives as long as the request does, which may be longer than the step
// that began it: then it changes hands.
type exchange struct {
	claim    delivery.Claim // the newest one under which its outcome counts
	endpoint delivery.Endpoint
	message  deliver.Message
	occurred string // when the event was, RFC 3339
	holder   holder
	lane     lane
	// claimedAt is before the claim's statement left.
	claimedAt time.Time
	begunAt   time.Time     // zero while it waits for its turn
	place     *list.Element // in its pen
	started   bool          // the first byte may have left
	startedAt time.Time
	renewing  bool // it waits for the ledger, and not for the endpoint
	overdue   bool // it outlived its step
	// answer is how it ended. It stays among the open ones until that is written down: whoever claims the delivery
	// meanwhile gets the answer instead of making another request.
	answer *deliver.Response
	kept   bool // kept back: it must not start any more
	// slot is when it is to start, where its endpoint has a rate limit, and lead how long before it is begun; zero otherwise.
	slot time.Time
	lead time.Duration
}

// holder is told how an exchange ended.
type holder interface {
	finished(result exchangeResult)
	// lost says that another execution in this process has joined the exchange and takes its outcome.
	lost(key delivery.Key)
}

type exchangeResult struct {
	of       *exchange // to be forgotten when the result is written down
	claim    delivery.Claim
	response deliver.Response
}

// Bounds of the memory that requests take, of all endpoints together: what they hold of us while nobody answers. What is
// beyond is parked, first at endpoints that are slow.
const (
	exchangeOverhead = 32 << 10 // goroutine, connection and buffers, beside the body
	openBytes        = 256 << 20
	overdueBytes     = openBytes / 2 // of those that have outlived their step
)

// exchanges are all that are open in this process, by delivery.
type exchanges struct {
	most int // requests to one endpoint at once

	mu      sync.Mutex
	open    map[delivery.Key]*exchange
	pens    map[uuid.UUID]*pen
	bytes   int64 // held by all
	overdue int64 // of those, by the ones that have outlived their step
	// slow is when an endpoint's last request ended that took longer than a step waits, as long as none has been faster since.
	slow   map[uuid.UUID]time.Time
	habits map[uuid.UUID]habit
}

// habit is how an endpoint answers.
type habit struct {
	usual time.Duration // how long it takes, the mean of about its last four answers
	last  time.Time     // when it answered last
}

// An endpoint holds a batch up when its oldest open request is older than unusual times what it usually takes, but for
// leastPatience. One that has not answered yet could be any: else the first second of many endpoints that hang would take
// all the batches that there may be.
const (
	unusual       = 4
	leastPatience = 50 * time.Millisecond
)

// stalledAfter is how long a request is open, at least, that counts as failed while it is: it has taken unusual times what is
// usual, too, and the endpoint has answered nothing since it began. So an endpoint that hangs is known after seconds, and not
// after its time-out.
const stalledAfter = 2 * time.Second

// It takes two looks to find that requests have stalled, so far apart: a process that was frozen finds old requests first, and
// their answers a moment later.
const (
	leastBetweenLooks = 250 * time.Millisecond
	mostBetweenLooks  = 5 * time.Second
)

// How long, and of how many endpoints, it is remembered that they were slow: one that is forgotten holds up one more batch.
const (
	slowFor     = 10 * time.Minute
	slowAtATime = 10_000
)

// pen is the bulkhead of one endpoint.
type pen struct {
	begun   list.List // exchanges, the oldest first
	backlog int       // of those
	overdue int       // of those, they have outlived their step
	// Who waits for a turn. What was parked before goes after what comes now, and leaves half of the room to it.
	live, parked list.List
	full         time.Time // when one last waited in vain
	stalled      time.Time // the first look that found that requests had stalled; zero where the last one did not
}

func newExchanges(most int) *exchanges {
	return &exchanges{most: most, open: map[delivery.Key]*exchange{}, pens: map[uuid.UUID]*pen{}, slow: map[uuid.UUID]time.Time{}, habits: map[uuid.UUID]habit{}}
}

// lags reports whether the endpoint takes longer right now than is usual for it. Then nobody waits for it.
func (x *exchanges) lags(endpoint uuid.UUID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.lagsNow(endpoint)
}

func (x *exchanges) lagsNow(endpoint uuid.UUID) bool {
	p := x.pens[endpoint]
	return p.isSlow() || p.age() >= min(Budget, max(leastPatience, unusual*x.habits[endpoint].usual))
}

// hangs reports whether the endpoint has a request that has outlived its step, or had one when it last ended one: whoever waited
// for it would wait in vain.
func (x *exchanges) hangs(endpoint uuid.UUID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	at, was := x.slow[endpoint]
	return was && time.Since(at) < slowFor || x.pens[endpoint].isSlow()
}

// overdueAt counts the endpoint's requests that have outlived their step.
func (x *exchanges) overdueAt(endpoint uuid.UUID) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	if p := x.pens[endpoint]; p != nil {
		return p.overdue
	}
	return 0
}

// age is how long the oldest request has been open.
func (p *pen) age() time.Duration {
	if p == nil || p.begun.Len() == 0 {
		return 0
	}
	return time.Since(exchangeOf(p.begun.Front()).begunAt)
}

// note remembers how long the exchange took. One that made no request is no sign of an endpoint that answers.
func (x *exchanges) note(e *exchange, response deliver.Response) {
	id := e.claim.EndpointID
	if response.StatusCode != 0 {
		took, before := time.Since(e.begunAt), x.habits[id].usual
		if before == 0 {
			if len(x.habits) >= slowAtATime {
				clear(x.habits)
			}
			before = took
		}
		x.habits[id] = habit{usual: before + (took-before)/4, last: time.Now()}
	}
	switch {
	case time.Since(e.begunAt) >= Budget:
		if len(x.slow) >= slowAtATime {
			maps.DeleteFunc(x.slow, func(_ uuid.UUID, at time.Time) bool { return time.Since(at) >= slowFor })
		}
		if len(x.slow) >= slowAtATime {
			clear(x.slow)
		}
		x.slow[id] = time.Now()
	case response.Cause != delivery.CauseNotStarted && response.Cause != delivery.CausePaced:
		delete(x.slow, id)
	}
}

// stalled counts the endpoint's requests that count as failed, of those that began when its circuit had last changed at since;
// at the first look, and where the last one is long ago, it says that there are none.
func (x *exchanges) stalled(endpoint uuid.UUID, since time.Time) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pens[endpoint]
	if p == nil {
		return 0
	}
	n, h, now := 0, x.habits[endpoint], time.Now()
	patience := max(stalledAfter, unusual*h.usual)
	for element := p.begun.Front(); element != nil; element = element.Next() {
		e := exchangeOf(element)
		if now.Sub(e.begunAt) < patience {
			break
		}
		waits := e.begunAt // for a connection
		if e.started {
			waits = e.startedAt
		}
		if !e.renewing && now.Sub(waits) >= patience && !e.begunAt.Before(h.last) && e.endpoint.CircuitSince.Equal(since) {
			n++
		}
	}
	switch looked := now.Sub(p.stalled); {
	case n == 0:
		p.stalled = time.Time{}
	case p.stalled.IsZero() || looked > mostBetweenLooks:
		p.stalled = now
		return 0
	case looked < leastBetweenLooks:
		return 0
	}
	return n
}

// isFull reports whether it is slow, and takes no further request either.
func (x *exchanges) isFull(endpoint uuid.UUID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pens[endpoint]
	most := x.mostTo(endpoint)
	return p.isSlow() && most > 0 && p.begun.Len() >= most
}

func (p *pen) isSlow() bool {
	if p == nil {
		return false
	}
	return p.age() >= Budget || !p.full.IsZero() && time.Since(p.full) < Budget
}

func exchangeOf(element *list.Element) *exchange {
	e, _ := element.Value.(*exchange)
	return e
}

// mostTo is how many requests to the endpoint may be open at once; 0 is any number. Svix is no merchant's: what is open beyond
// the connections to it would only wait for one.
func (x *exchanges) mostTo(endpoint uuid.UUID) int {
	if endpoint == delivery.SvixEndpoint {
		return svix.DefaultMaxConns
	}
	return x.most
}

// hasRoom reports whether one more request to the endpoint may begin. At an endpoint with a rate limit those do not count whose
// slot has not come: the limit bounds them.
func (x *exchanges) hasRoom(p *pen, e *exchange) bool {
	if e.claim.EndpointID == delivery.SvixEndpoint {
		return p.begun.Len() < svix.DefaultMaxConns
	}
	if x.most <= 0 || e.lane.probe { // requests of before the circuit opened may be open until their time-outs
		return true
	}
	if !e.slot.IsZero() {
		return p.underWay() < x.most
	}
	return p.begun.Len() < x.most && (!e.lane.backlog || p.backlog < max(1, x.most/2))
}

// underWay is how many have begun, and not only wait for their slot.
func (p *pen) underWay() int {
	n, now := 0, time.Now()
	for element := p.begun.Front(); element != nil; element = element.Next() {
		if !exchangeOf(element).begunAt.After(now) {
			n++
		}
	}
	return n
}

func (e *exchange) bytes() int64 { return exchangeOverhead + int64(len(e.message.Body)) }

// entry is what becomes of an exchange that wants to begin.
type entry int

const (
	entryTaken   entry = iota // the delivery has one already
	entryBegun                // it is to be made now
	entryQueued               // it is made when it has its turn
	entryRefused              // there is no room
)

// enter registers an exchange, unless the delivery has one.
func (x *exchanges) enter(e *exchange) entry {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, found := x.open[e.claim.Key]; found {
		return entryTaken
	}
	p := x.pens[e.claim.EndpointID]
	if p == nil {
		p = &pen{}
		x.pens[e.claim.EndpointID] = p
	}
	slow := p.isSlow()
	room := x.hasRoom(p, e)
	if x.bytes+e.bytes() > openBytes || !room && !e.slot.IsZero() || slow && !e.lane.probe && (!room || x.overdue+e.bytes() > overdueBytes) {
		x.drop(e.claim.EndpointID)
		return entryRefused
	}
	x.open[e.claim.Key] = e
	x.bytes += e.bytes()
	if room {
		x.begin(p, e)
		return entryBegun
	}
	if e.lane.backlog {
		e.place = p.parked.PushBack(e)
	} else {
		e.place = p.live.PushBack(e)
	}
	return entryQueued
}

func (x *exchanges) begin(p *pen, e *exchange) {
	e.begunAt = time.Now()
	if e.slot.After(e.begunAt) {
		e.begunAt = e.slot
	}
	e.place = p.begun.PushBack(e)
	if e.lane.backlog {
		p.backlog++
	}
}

// leave makes the room of e's request free, and returns who has it now.
func (x *exchanges) leave(e *exchange) []*exchange {
	p := x.pens[e.claim.EndpointID]
	p.begun.Remove(e.place)
	x.bytes -= e.bytes()
	if e.lane.backlog {
		p.backlog--
	}
	if e.overdue {
		p.overdue--
		x.overdue -= e.bytes()
	}
	var next []*exchange
	for _, queue := range []*list.List{&p.live, &p.parked} {
		for first := queue.Front(); first != nil && x.hasRoom(p, exchangeOf(first)); first = queue.Front() {
			queue.Remove(first)
			x.begin(p, exchangeOf(first))
			next = append(next, exchangeOf(first))
		}
	}
	x.drop(e.claim.EndpointID)
	return next
}

// drop forgets the pen of an endpoint that nothing is open to.
func (x *exchanges) drop(endpoint uuid.UUID) {
	if p := x.pens[endpoint]; p.begun.Len() == 0 && p.live.Len() == 0 && p.parked.Len() == 0 {
		delete(x.pens, endpoint)
	}
}

// unqueue takes an exchange off that has not had its turn.
func (x *exchanges) unqueue(e *exchange) {
	p := x.pens[e.claim.EndpointID]
	if e.lane.backlog {
		p.parked.Remove(e.place)
	} else {
		p.live.Remove(e.place)
	}
	x.bytes -= e.bytes()
	delete(x.open, e.claim.Key)
	x.drop(e.claim.EndpointID)
}

// spare takes all off that wait for a turn at the endpoint, and returns them: its circuit has opened.
func (x *exchanges) spare(endpoint uuid.UUID) []*exchange {
	x.mu.Lock()
	defer x.mu.Unlock()
	p := x.pens[endpoint]
	if p == nil {
		return nil
	}
	var out []*exchange
	for _, queue := range []*list.List{&p.live, &p.parked} {
		for first := queue.Front(); first != nil; first = queue.Front() {
			out = append(out, exchangeOf(first))
			x.unqueue(exchangeOf(first))
		}
	}
	return out
}

// waits reports whether the delivery's exchange waits for its turn.
func (x *exchanges) waits(key delivery.Key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e, found := x.open[key]
	return found && e.begunAt.IsZero()
}

// has reports whether the delivery has an open exchange.
func (x *exchanges) has(key delivery.Key) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, found := x.open[key]
	return found
}

// join makes h the holder of the delivery's open exchange, and reports whether there is one: a second
// execution waits for the request of the first, or takes its answer, instead of making another.
func (x *exchanges) join(claim delivery.Claim, h holder) bool {
	x.mu.Lock()
	e, found := x.open[claim.Key]
	if !found {
		x.mu.Unlock()
		return false
	}
	before, answer := e.holder, e.answer
	e.claim, e.holder = claim, h
	x.mu.Unlock()
	if answer != nil { // the one before has it, too, and will find that its claim is gone
		h.finished(exchangeResult{of: e, claim: claim, response: *answer})
	} else {
		before.lost(claim.Key)
	}
	return true
}

// answered notes how the exchange ended, and returns who gets that, under which claim, and which exchanges have their turn.
func (x *exchanges) answered(e *exchange, response deliver.Response) (holder, delivery.Claim, []*exchange) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.answer = &response
	x.note(e, response)
	return e.holder, e.claim, x.leave(e)
}

// forget takes the exchange off the books: its outcome is written down, or in a journaled result.
func (x *exchanges) forget(e *exchange) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.open[e.claim.Key] == e {
		delete(x.open, e.claim.Key)
	}
}

// mayStart marks the exchange as started, unless it was kept back before.
func (x *exchanges) mayStart(e *exchange) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.started = !e.kept
	e.startedAt = time.Now()
	return e.started
}

// renews marks the exchange as one that waits for the ledger, or takes the mark away.
func (x *exchanges) renews(e *exchange, does bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.renewing = does
}

// claimOf is the claim that the exchange runs under now.
func (x *exchanges) claimOf(e *exchange) delivery.Claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.claim
}

// letGo takes from of the keys what it still holds. What has started, and where dialling says so also what has not, goes to to;
// the rest is kept back for ever, and forgotten: another attempt of the delivery is another exchange. Of that, queued had no
// turn.
func (x *exchanges) letGo(keys []delivery.Key, from, to holder, dialling func(delivery.Key) bool) (open, unstarted, queued []delivery.Key) { //nolint:nonamedreturns // they are easily confused
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, key := range keys {
		e, found := x.open[key]
		switch {
		case !found || e.holder != from || e.answer != nil: // its end is on its way to from
		case e.begunAt.IsZero():
			if !e.lane.backlog {
				x.pens[key.EndpointID].full = time.Now()
			}
			x.unqueue(e)
			queued = append(queued, key)
		case e.started || dialling(key):
			e.holder = to
			if !e.overdue {
				e.overdue = true
				x.pens[key.EndpointID].overdue++
				x.overdue += e.bytes()
			}
			open = append(open, key)
		default:
			e.kept, e.holder = true, nobody{}
			delete(x.open, key)
			unstarted = append(unstarted, key)
		}
	}
	return open, unstarted, queued
}

// nobody holds an exchange that was kept back.
type nobody struct{}

func (nobody) finished(exchangeResult) {}
func (nobody) lost(delivery.Key)       {}

// exchange posts when there is room, unless the delivery has a request under way already, which it then joins. The outcome
// goes to the exchange's holder.
func (d *Dispatcher) exchange(e *exchange) {
	for {
		switch d.exchanges.enter(e) {
		case entryBegun:
			d.request(e)
			return
		case entryQueued:
			return
		case entryRefused:
			e.holder.finished(exchangeResult{of: e, claim: e.claim, response: deliver.Response{Cause: delivery.CauseBulkhead}})
			return
		case entryTaken:
			if d.exchanges.join(e.claim, e.holder) {
				return
			}
		}
	}
}

func (d *Dispatcher) request(e *exchange) {
	d.running.Go(func() {
		response := d.post(e)
		h, claim, next := d.exchanges.answered(e, response)
		for _, each := range next {
			d.request(each)
		}
		if response.Cause != delivery.CausePaced {
			d.metrics.attempts.WithLabelValues(string(response.Cause)).Inc()
			d.metrics.latency.Observe(response.Latency.Seconds())
		}
		if response.Cause == delivery.CauseOK {
			d.metrics.acknowledged(claim, e.occurred)
		}
		h.finished(exchangeResult{of: e, claim: claim, response: response})
	})
}

func (d *Dispatcher) post(e *exchange) (response deliver.Response) { //nolint:nonamedreturns // the recover sets it
	defer func() {
		if v := recover(); v != nil {
			d.log.LogAttrs(d.lifetime, slog.LevelError, "an attempt panicked", slog.Any("panic", v), slog.String("event_id", e.claim.EventID.String()))
			response = deliver.Response{Cause: delivery.CauseInternal, Sent: true}
		}
	}()
	if !e.slot.IsZero() {
		return d.postInSlot(e, e.claimedAt)
	}
	guard := func() error {
		return d.mayStart(e, e.claimedAt, func() error { return nil })
	}
	if e.endpoint.ID == delivery.SvixEndpoint {
		return d.handOver(e, guard)
	}
	return d.poster.Post(d.lifetime, e.endpoint, e.message, e.claim.Number, guard)
}

// mayStart is the guard of a request: it starts where its claim holds, and the last word is nothing against it.
func (d *Dispatcher) mayStart(e *exchange, claimedAt time.Time, last func() error) error {
	if err := d.renew(e, claimedAt); err != nil {
		return err
	}
	if err := last(); err != nil {
		return err
	}
	if !d.exchanges.mayStart(e) {
		return errNotHeld
	}
	return nil
}

// renew looks whether the exchange's claim still holds where it is older than a post may be: the endpoint's server
// took long to reach, or this process was frozen, and whoever has claimed the delivery since sends it.
func (d *Dispatcher) renew(e *exchange, claimedAt time.Time) error {
	asked := time.Now()
	backoff := flushWithin
	d.exchanges.renews(e, true)
	defer d.exchanges.renews(e, false)
	for time.Since(claimedAt) > Budget {
		looked := time.Now()
		ctx, cancel := context.WithTimeout(d.lifetime, Budget)
		holds, err := d.ledger.Holds(ctx, d.exchanges.claimOf(e))
		cancel()
		switch {
		case err == nil && !holds:
			return errNotHeld
		case err == nil:
			claimedAt = looked // and not now: it may have been frozen in between
		case time.Since(asked) > ledgerPatience:
			return fmt.Errorf("renewing a claim: %w", err)
		default:
			<-time.After(backoff)
			backoff *= 2
		}
	}
	return nil
}

// background holds exchanges that outlived their step: it writes down how they end.
type background struct {
	d     *Dispatcher
	owner string
}

func (*background) lost(delivery.Key) {}

// finished records a 2xx, and a hand-over that Svix accepted, as any other: the second counts only while the claim holds. A
// failure counts, and leaves the owner to the watchdog, which alone schedules the next attempt; should it never come, the
// row is overdue when the schedule says so, and not before.
func (b *background) finished(result exchangeResult) {
	defer b.d.exchanges.forget(result.of)
	outcome := b.d.outcome(result, b.d.jitter())
	if outcome.State != delivery.Succeeded && outcome.State != delivery.HandedOver {
		if !outcome.Attempted {
			if outcome.Cause == delivery.CausePaced && outcome.Latency > 0 {
				b.d.leads.Store(outcome.EndpointID, outcome.Latency)
			}
			return // the watchdog makes the attempt
		}
		outcome.State = delivery.Unmoved // RetryIn stays: the row is not due before
	}
	// Until the ledger answers: a 2xx that is not written down is sent again by the watchdog.
	written := b.d.insist(func() bool {
		ctx, cancel := context.WithTimeout(b.d.lifetime, ledgerPatience)
		defer cancel()
		err := b.d.ledger.Record(ctx, b.owner, []delivery.Outcome{outcome})
		if err != nil {
			b.d.log.LogAttrs(b.d.lifetime, slog.LevelWarn, "an outcome waits for the ledger", slog.String("event_id", outcome.EventID.String()), logging.Error(err))
		}
		return err == nil
	})
	if !written {
		return
	}
	b.d.metrics.count(outcome)
	b.d.exchanges.forget(result.of) // before what may take long: the next attempt is not to get this one's answer
	if outcome.State == delivery.Succeeded {
		b.wake(result)
	}
	b.drain(b.d.judge([]exchangeResult{result}))
}

// insist tries until that has done what it is to do, and reports whether it has; or the process ends.
func (d *Dispatcher) insist(try func() bool) bool {
	for backoff := flushWithin; !try(); backoff = min(2*backoff, time.Second) {
		select {
		case <-time.After(backoff):
		case <-d.lifetime.Done():
			return false
		}
	}
	return true
}

// drain has the drainers look of endpoints whose circuits have changed: the step that would have done it is over. Where that
// errs they look by themselves, a little later.
func (b *background) drain(endpoints []uuid.UUID) {
	if b.d.cfg.DrainFunc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.d.lifetime, ledgerPatience)
	defer cancel()
	for _, id := range endpoints {
		if err := b.d.cfg.DrainFunc(ctx, id); err != nil {
			b.d.log.LogAttrs(ctx, slog.LevelWarn, "a drainer is not woken, and looks by itself", slog.String("endpoint_id", id.String()), logging.Error(err))
		}
	}
}

// wake tells the sequence of an exchange that has ended, where something waits or the ledger does not say: the step that would
// have done it is over.
func (b *background) wake(result exchangeResult) {
	s, ordered := sequenceOf(result.claim, result.of.endpoint)
	if !ordered || b.d.cfg.WakeFunc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.d.lifetime, ledgerPatience)
	defer cancel()
	if awaited, err := b.d.ledger.Awaited(ctx, []delivery.Sequence{s}); err == nil && len(awaited) == 0 {
		return
	}
	if err := b.d.cfg.WakeFunc(ctx, s); err != nil {
		b.d.log.LogAttrs(ctx, slog.LevelWarn, "what waits for its turn waits for a watchdog", slog.String("event_id", result.claim.EventID.String()), logging.Error(err))
	}
}
