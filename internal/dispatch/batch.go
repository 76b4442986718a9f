package dispatch

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
)

// batch is one execution of a step: it starts the posts of its claims, gathers how they end, and lets go of
// what is still open when its budget is used up.
type batch struct {
	d         *Dispatcher
	owner     string
	claimedAt time.Time
	lane      lane
	budget    time.Duration
	slots     slots
	// hanging are the endpoints that hang: their claims are not waited for, and let go when all others have ended.
	hanging map[uuid.UUID]bool
	// together are those whose watchdogs go with others.
	together map[delivery.Key]bool
	events   chan batchEvent
	changed  []uuid.UUID // endpoints whose circuit changed by the batch's outcomes

	mu      sync.Mutex
	jitters map[jitterKey]float64
}

// lane is the way of a step's posts. The zero value is that of first attempts, in a batch with others: what has not started
// when the budget is used up goes to Attempt, and was no attempt.
type lane struct {
	alone   bool // an Attempt: a server that takes long to reach is reached in the background
	backlog bool // of what was parked: it goes after what comes now
	probe   bool // it finds out how an endpoint is whose circuit is half-open
}

// batchEvent is the end of one of the batch's claims, as far as the batch is concerned: its exchange ended, or it
// ended without one; with neither, another execution has it.
type batchEvent struct {
	key    delivery.Key
	result *exchangeResult
	direct *delivery.Outcome
}

// jitterKey: jitter is drawn once per list, or a list of 64 would fall apart into 64 timers.
type jitterKey struct {
	endpoint uuid.UUID
	number   int
}

func (b *batch) jitter(endpoint uuid.UUID, number int) float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	key := jitterKey{endpoint, number}
	factor, drawn := b.jitters[key]
	if !drawn {
		factor = b.d.jitter()
		b.jitters[key] = factor
	}
	return factor
}

func (b *batch) finished(result exchangeResult) {
	b.events <- batchEvent{key: result.claim.Key, result: &result}
}

func (b *batch) lost(key delivery.Key) { b.events <- batchEvent{key: key} }

// deliver makes the attempts of the claims, writes down how they ended, and returns one line each, beside what the result
// so far has. It errs only before anything was sent.
func (d *Dispatcher) deliver(ctx context.Context, owner string, claims []delivery.Claim, so Result, slots slots, payload fetch, claimedAt time.Time, lane lane) (Result, error) {
	if len(claims) == 0 {
		return so, nil
	}
	endpoints, err := d.endpoints.get(ctx, claims)
	if err != nil {
		return Result{}, err
	}
	b := &batch{
		d: d, owner: owner, claimedAt: claimedAt, lane: lane, slots: slots, budget: Budget, jitters: map[jitterKey]float64{},
		hanging: map[uuid.UUID]bool{}, together: map[delivery.Key]bool{},
		events: make(chan batchEvent, len(claims)), // each claim ends once: who tells the batch never waits for it
	}
	if lane.alone && d.exchanges.lags(claims[0].EndpointID) {
		b.budget = hangingBudget // all claims of an Attempt are of one endpoint
	}
	var (
		done     []delivery.Outcome
		late     []delivery.Claim
		open     = make(map[delivery.Key]delivery.Claim, len(claims))
		messages = map[uuid.UUID]*deliver.Message{}
	)
	d.warnOfSvix(ctx, claims)
	for _, claim := range claims {
		endpoint, found := endpoints[claim.EndpointID]
		if outcome, is := d.unfit(claim, endpoint, found); is {
			done = append(done, outcome)
			continue
		}
		if isSpared(endpoint, lane) {
			if d.exchanges.join(claim, b) { // it is under way here since before the circuit opened
				open[claim.Key] = claim
				continue
			}
			done = append(done, delivery.Outcome{
				Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number, State: delivery.Parked, Cause: delivery.CauseCircuitOpen,
			})
			continue
		}
		if slot, _ := slots.of(claim.Key); endpoint.RateLimit > 0 && slot.IsZero() {
			// A request that is under way here already has had its slot: its answer is what is wanted.
			if d.exchanges.join(claim, b) {
				open[claim.Key] = claim
				continue
			}
			d.metrics.paced.WithLabelValues(pacedNoSlot).Inc()
			var lead time.Duration
			if kept, found := d.leads.LoadAndDelete(claim.EndpointID); found {
				lead, _ = kept.(time.Duration)
			}
			done = append(done, outOfTurn(claim, lead))
			continue
		}
		if !lane.alone {
			if outcome, is := b.sidelined(claim); is {
				done = append(done, outcome)
				continue
			}
		}
		open[claim.Key] = claim
		p := payload.found[claim.Event.EventID]
		if p.Visibility == event.NotVisible {
			late = append(late, claim)
			continue
		}
		if outcome, failed := b.start(claim, endpoint, p, messages); failed {
			delete(open, claim.Key)
			done = append(done, outcome)
		}
	}
	if len(late) > 0 {
		d.running.Go(func() { b.await(late, endpoints) })
	}
	lines := withLimits(b.gather(done, open, endpoints), endpoints, lane)
	d.watch(lines, b.together)
	b.suspect(endpoints)
	so.Deliveries = append(so.Deliveries, lines...)
	d.wakeAfter(&so, lines, claims, endpoints)
	so.drain(lines, b.changed...)
	return so, nil
}

// sidelined says what becomes of a claim of a batch whose endpoint takes no request, or longer than usual. To one that hangs the
// batch makes the request, and does not wait for it.
func (b *batch) sidelined(claim delivery.Claim) (delivery.Outcome, bool) {
	outcome := delivery.Outcome{Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number}
	x := b.d.exchanges
	if !x.hangs(claim.EndpointID) {
		// Whoever shares a batch with it might wait for it: its deliveries go to an Attempt of their own.
		outcome.State, outcome.Cause, outcome.Next = delivery.Retrying, delivery.CauseNotStarted, claim.Number
		return outcome, x.lags(claim.EndpointID)
	}
	b.hanging[claim.EndpointID] = true
	if x.isFull(claim.EndpointID) && !x.has(claim.Key) { // what is under way is joined
		return noRoom(outcome), true
	}
	return outcome, false
}

// gather waits for the open claims, at most as long as the budget, and writes outcomes down in groups.
func (b *batch) gather(done []delivery.Outcome, open map[delivery.Key]delivery.Claim, endpoints map[uuid.UUID]delivery.Endpoint) []Line {
	started := time.Now()
	lines := make([]Line, 0, len(done)+len(open))
	var ended []exchangeResult                          // whose outcomes are not written down yet
	budget := time.NewTimer(b.budget + b.slots.ahead()) // nobody is slow to answer who was not asked yet
	defer budget.Stop()
	flush := time.NewTimer(time.Hour)
	defer flush.Stop()
	write := func() {
		flush.Stop()
		lines = append(lines, b.d.record(b.owner, done)...)
		b.changed = append(b.changed, b.d.judge(ended)...)
		for _, e := range ended {
			b.d.exchanges.forget(e.of)
		}
		done, ended = nil, nil
	}
	add := func(outcome delivery.Outcome) {
		if len(done) == 0 {
			flush.Reset(flushWithin)
		}
		done = append(done, outcome)
	}
	letGo := func(key delivery.Key, cause delivery.Cause, retryIn time.Duration) {
		claim := open[key]
		delete(open, key)
		add(delivery.Outcome{
			Key: key, Epoch: claim.Epoch, Number: claim.Number, State: delivery.Retrying, Cause: cause, Next: claim.Number, RetryIn: retryIn,
		})
	}
	park := func(key delivery.Key) {
		claim := open[key]
		delete(open, key)
		add(noRoom(delivery.Outcome{Key: key, Epoch: claim.Epoch, Number: claim.Number}))
	}
	if len(done) > 0 {
		flush.Reset(flushWithin)
	}
	hurries := false
	for len(open) > 0 {
		if !hurries && b.isHasty(open) {
			hurries = true
			budget.Reset(flushWithin)
		}
		select {
		case e := <-b.events:
			delete(open, e.key)
			switch {
			case e.result != nil:
				ended = append(ended, *e.result)
				add(b.d.outcome(*e.result, b.jitter(e.key.EndpointID, e.result.claim.Number)))
			case e.direct != nil:
				add(*e.direct)
			}
		case <-flush.C:
			write()
		case <-budget.C:
			keys := make([]delivery.Key, 0, len(open))
			for key := range open {
				keys = append(keys, key)
			}
			dialling := func(key delivery.Key) bool { return b.lane.alone || b.hanging[key.EndpointID] }
			overdue, unstarted, queued := b.d.exchanges.letGo(keys, b, &background{d: b.d, owner: b.owner}, dialling)
			for _, key := range overdue {
				// A watchdog looks when the exchange, which began about a budget ago, must have ended.
				begun := b.budget
				if b.hanging[key.EndpointID] {
					begun = 0
				}
				in := endpoints[key.EndpointID].Timeout + watchdogMargin - begun
				if b.d.goesTogether(key.EndpointID) {
					b.together[key] = true
					in += in / watchShare
				}
				letGo(key, delivery.CauseOpen, in)
			}
			for _, key := range unstarted {
				letGo(key, delivery.CauseNotStarted, 0)
			}
			for _, key := range queued {
				park(key)
			}
			// What is neither ended nor handed over is about to be: a row that was just found, an outcome on its way.
			budget.Reset(flushWithin)
		}
	}
	b.d.metrics.stepSeconds.Observe(time.Since(started).Seconds())
	write()
	return lines
}

// suspect opens the circuits of endpoints that answer nothing.
func (b *batch) suspect(endpoints map[uuid.UUID]delivery.Endpoint) {
	for id := range b.hanging {
		if b.d.hasStalled(endpoints[id]) {
			b.changed = append(b.changed, id)
		}
	}
}

// isHasty reports whether none of the open claims is to be waited for: their endpoints hang, and none waits for its turn there.
func (b *batch) isHasty(open map[delivery.Key]delivery.Claim) bool {
	if len(b.hanging) == 0 {
		return false
	}
	for key := range open {
		if !b.hanging[key.EndpointID] || b.d.exchanges.waits(key) {
			return false
		}
	}
	return true
}

// outcome says what an exchange's end means for its delivery.
func (d *Dispatcher) outcome(result exchangeResult, jitter float64) delivery.Outcome {
	claim, response := result.claim, result.response
	outcome := delivery.Outcome{
		Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number, Cause: response.Cause, Attempted: true,
		StatusCode: response.StatusCode, Latency: response.Latency, BodySHA256: result.of.message.Hash[:], Answer: response.Answer,
	}
	switch response.Cause {
	case delivery.CauseOK:
		outcome.State = delivery.Succeeded
	case delivery.CauseNotStarted:
		// Kept back: the claim was taken away, and then this is void, or the ledger did not answer.
		outcome.Attempted = false
		outcome.State, outcome.Next, outcome.RetryIn = delivery.Retrying, claim.Number, Budget
	case delivery.CausePaced:
		return outOfTurn(claim, response.Latency)
	case delivery.CauseBulkhead:
		outcome.Attempted = false
		return noRoom(outcome)
	case delivery.CauseCircuitOpen:
		// No request was made, and no time is set for the next: the endpoint's drainer takes it.
		outcome.Attempted, outcome.State = false, delivery.Parked
	case delivery.CauseGone:
		// The ledger disables the endpoint in the statement that writes this down. When it is enabled again the delivery
		// goes on.
		outcome.State = delivery.Parked
	default:
		if claim.EndpointID == delivery.SvixEndpoint {
			d.handedOver(&outcome, result.of.endpoint, response.RetryAfter, jitter)
		} else {
			d.reschedule(&outcome, result.of.endpoint, response.RetryAfter, jitter)
		}
	}
	return outcome
}

// noRoom is the outcome of a delivery for which no request could be made, as too many are open: it is parked, and the endpoint's
// drainer takes it. Svix has no drainer, as it is many merchants': what finds no room there comes again soon, in no more than five
// lists.
func noRoom(outcome delivery.Outcome) delivery.Outcome {
	outcome.Cause = delivery.CauseBulkhead
	if outcome.EndpointID == delivery.SvixEndpoint {
		outcome.State, outcome.Next = delivery.Retrying, outcome.Number
		outcome.RetryIn = time.Duration(1+rand.IntN(svixRoomIn)) * time.Second //nolint:gosec // no secret
	} else {
		outcome.State, outcome.Next, outcome.RetryIn = delivery.Parked, 0, 0
	}
	return outcome
}

// unfit says what becomes of a claim whose endpoint takes nothing.
func (d *Dispatcher) unfit(claim delivery.Claim, endpoint delivery.Endpoint, found bool) (delivery.Outcome, bool) {
	outcome := delivery.Outcome{Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number}
	switch {
	case claim.EndpointID == delivery.SvixEndpoint && d.cfg.Svix == nil:
		outcome.State, outcome.Cause, outcome.Next, outcome.RetryIn = delivery.Retrying, delivery.CauseSvixOff, claim.Number, svixOffWait
	case !found:
		outcome.State, outcome.Cause = delivery.Dead, delivery.CauseNoEndpoint
	case !endpoint.Enabled:
		outcome.State, outcome.Cause = delivery.Parked, delivery.CauseDisabled
	case endpoint.Sealed:
		// Not an attempt, or a key that one worker lacks would use up the schedule of everything. The drainer tries again.
		outcome.State, outcome.Cause = delivery.Parked, delivery.CauseSealed
	default:
		return outcome, false
	}
	return outcome, true
}

// isSpared reports whether the endpoint's circuit lets nothing through that comes this way.
func isSpared(endpoint delivery.Endpoint, way lane) bool {
	switch endpoint.Circuit {
	case delivery.CircuitOpen:
		return true
	case delivery.CircuitHalfOpen:
		return !way.probe
	default:
		return false
	}
}

// start begins the claim's exchange, whose end comes as an event, or says why there is none.
func (b *batch) start(claim delivery.Claim, endpoint delivery.Endpoint, p event.Payload, messages map[uuid.UUID]*deliver.Message) (outcome delivery.Outcome, failed bool) { //nolint:nonamedreturns // the recover sets them
	outcome = delivery.Outcome{Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number}
	defer func() {
		if v := recover(); v != nil { // of one event, which must not hold up the others
			b.d.log.LogAttrs(b.d.lifetime, slog.LevelError, "an event panicked", slog.Any("panic", v), slog.String("event_id", claim.EventID.String()))
			outcome.Cause, outcome.Attempted, failed = delivery.CauseInternal, true, true
			b.d.reschedule(&outcome, endpoint, 0, b.jitter(endpoint.ID, claim.Number))
		}
	}()
	switch p.Visibility {
	case event.Visible:
	case event.Missing:
		// The transaction that the record names has ended, and its row is not there: nothing was ever committed.
		outcome.Cause = delivery.CausePhantom
		b.giveUp(claim, outcome, delivery.ReasonPhantom, "the event's row is missing, and the transaction that the record names has ended")
		return outcome, false
	default: // no answer about this event
		outcome.Cause, outcome.Attempted = delivery.CauseInternal, true
		b.d.reschedule(&outcome, endpoint, 0, b.jitter(endpoint.ID, claim.Number))
		return outcome, true
	}
	message := messages[claim.EventID]
	if message == nil {
		rendered, err := deliver.Render(p)
		if err != nil {
			outcome.Cause = delivery.CauseBodyTooLarge
			b.giveUp(claim, outcome, delivery.ReasonOversize, err.Error())
			return outcome, false
		}
		message = &rendered
		messages[claim.EventID] = message
	}
	e := &exchange{
		claim: claim, endpoint: endpoint, message: *message, occurred: p.OccurredAt, holder: b, lane: b.lane, claimedAt: b.claimedAt,
	}
	if endpoint.RateLimit > 0 {
		e.slot, e.lead = b.slots.of(claim.Key)
	}
	b.d.exchange(e)
	return outcome, false
}

// giveUp keeps a record of what can never be attempted, beside the posts of the batch, and then ends the claim. While the
// ledger does not take the record the delivery stays, to be given up again.
func (b *batch) giveUp(claim delivery.Claim, outcome delivery.Outcome, reason, detail string) {
	b.d.running.Go(func() {
		outcome.State = delivery.Dead
		if err := b.bury(claim, reason, detail); err != nil {
			outcome.State, outcome.Next, outcome.RetryIn = delivery.Retrying, claim.Number, Budget
		}
		b.events <- batchEvent{key: claim.Key, direct: &outcome}
	})
}

// bury keeps a record about an event whose deliveries can never be attempted. Its value is the event's id: it names what
// to drive again, and makes one record of all the event's endpoints.
func (b *batch) bury(claim delivery.Claim, reason, detail string) error {
	ctx, cancel := context.WithTimeout(b.d.lifetime, ledgerPatience)
	defer cancel()
	b.d.log.LogAttrs(ctx, slog.LevelError, "an event cannot be delivered", slog.String("reason", reason), slog.String("detail", detail),
		slog.String("event_id", claim.EventID.String()), slog.Int64("txid", claim.Event.TxID))
	return b.d.Bury(ctx, delivery.DeadRecord{
		Partition: -1, Offset: -1, EventID: claim.EventID, Reason: reason, Detail: detail, Value: claim.EventID[:],
	})
}

// await looks again for rows that were not visible, until the budget is used up: a CDC record can outrun the
// visibility of its own row by milliseconds.
func (b *batch) await(claims []delivery.Claim, endpoints map[uuid.UUID]delivery.Endpoint) {
	messages := map[uuid.UUID]*deliver.Message{}
	tick := time.NewTicker(askAgain)
	defer tick.Stop()
	for len(claims) > 0 && time.Since(b.claimedAt) < Budget {
		<-tick.C
		asked := make([]event.PayloadRequest, len(claims))
		for i, claim := range claims {
			asked[i] = claim.Event
		}
		ctx, cancel := context.WithTimeout(b.d.lifetime, Budget)
		answer := b.d.fetch(ctx, asked)
		cancel()
		var rest []delivery.Claim
		for _, claim := range claims {
			p, answered := answer.found[claim.EventID]
			if !answered || p.Visibility == event.NotVisible {
				rest = append(rest, claim)
				continue
			}
			if outcome, failed := b.start(claim, endpoints[claim.EndpointID], p, messages); failed {
				b.events <- batchEvent{direct: &outcome, key: claim.Key}
			}
		}
		claims = rest
	}
	for _, claim := range claims {
		outcome := delivery.Outcome{
			Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number, Cause: delivery.CauseNotVisible,
			State: delivery.Retrying, Next: claim.Number, RetryIn: min(max(claim.Age/2, Budget), 5*time.Minute),
		}
		if claim.Age > phantomAfter && b.bury(claim, delivery.ReasonPhantom, "the event's row has not been visible for a day") == nil {
			outcome.State, outcome.Next, outcome.RetryIn = delivery.Dead, 0, 0
		}
		b.events <- batchEvent{direct: &outcome, key: claim.Key}
	}
}
