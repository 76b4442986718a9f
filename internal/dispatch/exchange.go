package dispatch

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/platform/logging"
)

// exchange is a request under way. It lives as long as the request does, which may be longer than the step
// that began it: then it changes hands.
type exchange struct {
	claim    delivery.Claim // the newest one under which its outcome counts
	endpoint delivery.Endpoint
	message  deliver.Message
	occurred string // when the event was, RFC 3339
	holder   holder
	started  bool // the first byte may have left
	overdue  bool // it outlived its step
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

// exchanges are all that are open in this process, by delivery.
type exchanges struct {
	mu   sync.Mutex
	open map[delivery.Key]*exchange
	slow map[uuid.UUID]int // overdue ones by endpoint
}

func newExchanges() *exchanges {
	return &exchanges{open: map[delivery.Key]*exchange{}, slow: map[uuid.UUID]int{}}
}

// isSlow reports whether the endpoint has a request open for longer than a step waits.
func (x *exchanges) isSlow(endpoint uuid.UUID) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.slow[endpoint] > 0
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

// begin registers an exchange; it reports false, and registers nothing, where one is open already.
func (x *exchanges) begin(e *exchange) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, found := x.open[e.claim.Key]; found {
		return false
	}
	x.open[e.claim.Key] = e
	return true
}

// answered notes how the exchange ended and returns who gets that, under which claim.
func (x *exchanges) answered(e *exchange, response deliver.Response) (holder, delivery.Claim) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.answer = &response
	if e.overdue {
		if x.slow[e.claim.EndpointID]--; x.slow[e.claim.EndpointID] == 0 {
			delete(x.slow, e.claim.EndpointID)
		}
	}
	return e.holder, e.claim
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
	return e.started
}

// claimOf is the claim that the exchange runs under now.
func (x *exchanges) claimOf(e *exchange) delivery.Claim {
	x.mu.Lock()
	defer x.mu.Unlock()
	return e.claim
}

// letGo takes from of the keys what it still holds. What has started, and with dialling also what has not, goes to to;
// the rest is kept back for ever, and forgotten: another attempt of the delivery is another exchange.
func (x *exchanges) letGo(keys []delivery.Key, from, to holder, dialling bool) (open, unstarted []delivery.Key) { //nolint:nonamedreturns // two of them are easily confused
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, key := range keys {
		e, found := x.open[key]
		switch {
		case !found || e.holder != from || e.answer != nil: // its end is on its way to from
		case e.started || dialling:
			e.holder = to
			if !e.overdue {
				e.overdue = true
				x.slow[key.EndpointID]++
			}
			open = append(open, key)
		default:
			e.kept, e.holder = true, nobody{}
			delete(x.open, key)
			unstarted = append(unstarted, key)
		}
	}
	return open, unstarted
}

// nobody holds an exchange that was kept back.
type nobody struct{}

func (nobody) finished(exchangeResult) {}
func (nobody) lost(delivery.Key)       {}

// exchange posts, unless the delivery has a request under way already, which it then joins. The outcome goes to h.
func (d *Dispatcher) exchange(e *exchange, claimedAt time.Time) {
	for !d.exchanges.begin(e) {
		if d.exchanges.join(e.claim, e.holder) {
			return
		}
	}
	d.running.Go(func() {
		response := d.post(e, claimedAt)
		h, claim := d.exchanges.answered(e, response)
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

func (d *Dispatcher) post(e *exchange, claimedAt time.Time) (response deliver.Response) { //nolint:nonamedreturns // the recover sets it
	defer func() {
		if v := recover(); v != nil {
			d.log.LogAttrs(d.lifetime, slog.LevelError, "an attempt panicked", slog.Any("panic", v), slog.String("event_id", e.claim.EventID.String()))
			response = deliver.Response{Cause: delivery.CauseInternal, Sent: true}
		}
	}()
	if !e.slot.IsZero() {
		return d.postInSlot(e, claimedAt)
	}
	guard := func() error {
		return d.mayStart(e, claimedAt, func() error { return nil })
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
// failure counts, and leaves the owner to the watchdog, which alone schedules the
// next attempt; should it never come, the row is overdue when the schedule says so, and not before.
func (b *background) finished(result exchangeResult) {
	defer b.d.exchanges.forget(result.of)
	outcome := b.d.outcome(result, b.d.jitter())
	if outcome.State != delivery.Succeeded && outcome.State != delivery.HandedOver {
		if !outcome.Attempted {
			return // the watchdog makes the attempt
		}
		outcome.State = delivery.Unmoved // RetryIn stays: the row is not due before
	}
	// Until the ledger answers: a 2xx that is not written down is sent again by the watchdog.
	backoff := flushWithin
	for {
		ctx, cancel := context.WithTimeout(b.d.lifetime, ledgerPatience)
		err := b.d.ledger.Record(ctx, b.owner, []delivery.Outcome{outcome})
		cancel()
		if err == nil {
			b.d.metrics.count(outcome)
			if outcome.State == delivery.Succeeded {
				b.wake(result)
			}
			return
		}
		b.d.log.LogAttrs(b.d.lifetime, slog.LevelWarn, "an outcome waits for the ledger", slog.String("event_id", outcome.EventID.String()), logging.Error(err))
		select {
		case <-time.After(backoff):
			backoff = min(2*backoff, time.Second)
		case <-b.d.lifetime.Done():
			return
		}
	}
}

// wake tells the sequence of an exchange that has ended: the step that would have done it is over.
func (b *background) wake(result exchangeResult) {
	s, ordered := sequenceOf(result.claim, result.of.endpoint)
	if !ordered || b.d.cfg.WakeFunc == nil {
		return
	}
	ctx, cancel := context.WithTimeout(b.d.lifetime, ledgerPatience)
	defer cancel()
	if err := b.d.cfg.WakeFunc(ctx, s); err != nil {
		b.d.log.LogAttrs(ctx, slog.LevelWarn, "what waits for its turn waits for a watchdog", slog.String("event_id", result.claim.EventID.String()), logging.Error(err))
	}
}
