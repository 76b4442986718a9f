package dispatch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/circuit"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/logging"
)

// ledger is what the dispatcher keeps its books in.
type ledger interface {
	Plan(ctx context.Context, owner, route string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error)
	Resume(ctx context.Context, owner string, eventIDs []uuid.UUID) ([]delivery.Claim, []delivery.Settled, error)
	Claim(ctx context.Context, owner string, endpointID uuid.UUID, tickets []delivery.Ticket) ([]delivery.Claim, []delivery.Settled, error)
	Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.Overdue, error)
	Awaited(ctx context.Context, sequences []delivery.Sequence) ([]delivery.Sequence, error)
	Holds(ctx context.Context, claim delivery.Claim) (bool, error)
	Record(ctx context.Context, owner string, outcomes []delivery.Outcome) error
	Endpoints(ctx context.Context, ids []uuid.UUID) ([]delivery.Endpoint, error)
	OpenCircuit(ctx context.Context, endpointID uuid.UUID, since time.Time, wait time.Duration) (bool, error)
	CloseCircuit(ctx context.Context, endpointID uuid.UUID, since time.Time) (bool, error)
	ForgetOpens(ctx context.Context, endpointID uuid.UUID, since time.Time) (bool, error)
	Bury(ctx context.Context, record delivery.DeadRecord) error
	Park(ctx context.Context, endpointID uuid.UUID, tickets []delivery.Ticket, cause delivery.Cause) error
}

// payloads tells what an attempt sends.
type payloads interface {
	Payloads(ctx context.Context, asked []event.PayloadRequest) ([]event.Payload, error)
}

// poster makes one attempt.
type poster interface {
	Post(ctx context.Context, endpoint delivery.Endpoint, message deliver.Message, number int, guard deliver.Guard) deliver.Response
}

// Timings of the exactness; docs/states.md explains each.
const (
	// Budget is how long a step waits for its posts, and how old a claim may be when a post starts: what has
	// not started by then goes to Attempt, what is open is handed over.
	Budget = time.Second
	// hangingBudget is how long an Attempt waits for an endpoint that has a request overdue already: the slot is
	// needed for those that answer.
	hangingBudget = 50 * time.Millisecond
	// flushWithin is how long an answer may wait for others before it is written down: what a crash loses
	// of it is sent twice.
	flushWithin = 20 * time.Millisecond
	// watchdogMargin is how long after an exchange's own deadline its watchdog looks at it.
	watchdogMargin = 2 * time.Second
	// phantomAfter is how long an event's row may stay out of sight before the event is given up.
	phantomAfter = 24 * time.Hour
	// askAgain is the pause between two looks for a row that is not visible yet.
	askAgain = 50 * time.Millisecond
	// ledgerPatience bounds one write of outcomes; the ledger's own statement time-out is the same.
	ledgerPatience = 5 * time.Second
)

// Config are the deployment's choices.
type Config struct {
	Route    string            // of new plans for merchants without one of their own
	Svix     svixClient        // nil in a worker without settings for it: what is Svix's waits
	Schedule delivery.Schedule // of endpoints without one of their own
	Jitter   float64           // 0.2 spreads a delay by up to 20 % both ways
	// WakeFunc, where there is one, wakes a sequence for an exchange that outlived its step. Where it errs, or the process
	// ends, the exchange's watchdog does it, later.
	WakeFunc func(ctx context.Context, s delivery.Sequence) error
	// DrainFunc, where there is one, wakes the drainer of an endpoint for an exchange that outlived its step, as WakeFunc does.
	DrainFunc func(ctx context.Context, endpointID uuid.UUID) error
	// WatchFunc, where there is one, hands Restate a list that is due after the delay, and returns when Restate has it durably.
	// Where it errs it is called again.
	WatchFunc func(ctx context.Context, list delivery.AttemptList, delay time.Duration) error
	// MaxOpen is how many requests of this process to one endpoint may be under way at once; 0 sets no bound.
	MaxOpen int
	// OpenAt is the share of failures at which an endpoint's circuit opens; 0 opens none.
	OpenAt float64
	// ProbeAfter is how long an open circuit waits the first time until a delivery probes the endpoint.
	ProbeAfter time.Duration
}

// Dispatcher plans, delivers and records. It is safe for concurrent use; Close it to wait for open exchanges.
type Dispatcher struct {
	cfg       Config
	ledger    ledger
	payloads  payloads
	poster    poster
	log       *slog.Logger
	metrics   *dispatchMetrics
	endpoints *endpointCache
	exchanges *exchanges
	circuits  *circuit.Watch
	watches   *watches
	// leads are of requests that missed their slots after their steps, by endpoint, until its pacer is asked for other ones.
	leads sync.Map

	lifetime context.Context //nolint:containedctx // exchanges outlive the step that began them, and end with the process
	end      context.CancelFunc
	closing  context.Context //nolint:containedctx // ends when Close begins: what waits for company goes as it is
	hurry    context.CancelFunc
	running  sync.WaitGroup
}

// New makes a Dispatcher, which lives until Close: of ctx it takes the values, and not the end. Its metrics are added to
// the registry.
func New(ctx context.Context, cfg Config, l ledger, p payloads, post poster, log *slog.Logger, registry prometheus.Registerer) *Dispatcher {
	lifetime, end := context.WithCancel(context.WithoutCancel(ctx))
	closing, hurry := context.WithCancel(lifetime)
	return &Dispatcher{
		cfg: cfg, ledger: l, payloads: p, poster: post, log: log, metrics: newMetrics(registry),
		endpoints: newEndpointCache(l, svixEndpoint(cfg.Svix)), exchanges: newExchanges(cfg.MaxOpen), circuits: circuit.NewWatch(cfg.OpenAt),
		watches: newWatches(), lifetime: lifetime, end: end, closing: closing, hurry: hurry,
	}
}

// Close waits until every open exchange has ended and is written down, at most until ctx ends; what is open
// then is cut, and its watchdog or a second execution takes over.
func (d *Dispatcher) Close(ctx context.Context) error {
	defer d.end()
	d.hurry()
	done := make(chan struct{})
	go func() { d.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for open exchanges: %w", ctx.Err())
	}
}

// Process plans a batch of events and makes the first attempt of each delivery. owner is the invocation. Its
// error means that something could not be reached and nothing was sent: execute it again. A second execution
// finds what the first one did, and sends only what it did not.
func (d *Dispatcher) Process(ctx context.Context, owner string, refs []event.Ref) (Result, error) {
	refs = unique(refs)
	d.metrics.batchEvents.Observe(float64(len(refs)))

	// The payloads are fetched while the plan is written: both are round trips, and a plan that turns out a
	// duplicate is rare.
	asked := make([]event.PayloadRequest, len(refs))
	for i, ref := range refs {
		asked[i] = event.PayloadRequest{EventID: ref.ID, TxID: ref.TxID, MinVersion: ref.ObjectVersion}
	}
	fetched := make(chan fetch, 1)
	go func() { fetched <- d.fetch(ctx, asked) }()

	claimedAt := time.Now() // before the statement leaves, so that a claim is never younger than it seems
	p, err := d.plan(ctx, owner, refs)
	payload := <-fetched
	if err != nil {
		return Result{}, err
	}
	if payload.err != nil && len(p.claims) > 0 {
		return Result{}, payload.err
	}
	return d.deliver(ctx, owner, p.claims, p.so, slots{}, payload, claimedAt, lane{})
}

// plan is what there is to do about a batch of events.
type plan struct {
	claims []delivery.Claim
	so     Result // what needs no attempt now
}

// plan plans the events that are new and resumes those that an earlier execution of owner planned.
func (d *Dispatcher) plan(ctx context.Context, owner string, refs []event.Ref) (plan, error) {
	claims, planned, err := d.ledger.Plan(ctx, owner, d.cfg.Route, refs)
	if err != nil {
		if fault.ClassOf(err) != fault.Invalid || ctx.Err() != nil {
			return plan{}, err // a ledger that is away, or wrong itself: nobody's events are given up for that
		}
		// The ledger refuses what one of the events says: that one must not hold up the others.
		return d.planEach(ctx, owner, refs, err)
	}
	d.metrics.planned.Add(float64(len(planned.Events)))
	out := plan{claims: claims}
	out.so.wake(planned.Wake...)
	if len(planned.Events) == len(refs) {
		return out, d.wakeAwaited(ctx, &out.so, planned.Ask)
	}
	known := make(map[uuid.UUID]bool, len(planned.Events))
	for _, id := range planned.Events {
		known[id] = true
	}
	var rest []uuid.UUID
	for _, ref := range refs {
		if !known[ref.ID] {
			rest = append(rest, ref.ID)
		}
	}
	resumed, settled, err := d.ledger.Resume(ctx, owner, rest)
	if err != nil {
		return plan{}, err
	}
	out.claims = append(out.claims, resumed...)
	return out, d.wakeAwaited(ctx, &out.so, append(planned.Ask, out.so.settle(settled)...))
}

func (d *Dispatcher) planEach(ctx context.Context, owner string, refs []event.Ref, cause error) (plan, error) {
	if len(refs) == 1 {
		value, err := json.Marshal(refs[0])
		if err != nil {
			return plan{}, fmt.Errorf("encoding a pointer: %w", err)
		}
		d.log.LogAttrs(ctx, slog.LevelError, "event cannot be planned", slog.String("event_id", refs[0].ID.String()), logging.Error(cause))
		err = d.Bury(ctx, delivery.DeadRecord{
			Partition: -1, Offset: -1, EventID: refs[0].ID, Reason: delivery.ReasonUnplannable, Detail: cause.Error(), Value: value,
		})
		return plan{so: Result{Deliveries: []Line{{EventID: refs[0].ID, State: delivery.Dead, Cause: delivery.CauseInternal}}}}, err
	}
	var out plan
	for i := range refs {
		one, err := d.plan(ctx, owner, refs[i:i+1])
		if err != nil {
			return plan{}, err
		}
		out.claims = append(out.claims, one.claims...)
		out.so.Deliveries = append(out.so.Deliveries, one.so.Deliveries...)
		out.so.wake(one.so.Wake...)
	}
	return out, nil
}

// Attempt makes the attempts of a list, of which it takes what is still claimable. Errors are as Process's.
func (d *Dispatcher) Attempt(ctx context.Context, owner string, list delivery.AttemptList) (Result, error) {
	claimedAt := time.Now()
	claims, settled, err := d.ledger.Claim(ctx, owner, list.EndpointID, list.Tickets)
	if err != nil {
		return Result{}, err
	}
	endpoints, err := d.endpoints.get(ctx, claims)
	if err != nil {
		return Result{}, err
	}
	jitter := d.jitter() // drawn once, or a list would fall apart into as many timers as it has deliveries
	var (
		done  []delivery.Outcome
		due   []delivery.Claim
		asked []event.PayloadRequest
	)
	for _, claim := range claims {
		if claim.Number > list.Number {
			// A watchdog's list: the exchange that was handed over has failed meanwhile, and is recorded. Its
			// next attempt is due by the schedule, counted from now: never before the schedule's, or before the
			// endpoint's Retry-After, which is in the record.
			done = append(done, d.afterWatchdog(claim, endpoints, jitter))
			continue
		}
		due = append(due, claim)
		if !slices.Contains(asked, claim.Event) {
			asked = append(asked, claim.Event)
		}
	}
	var so Result
	if err := d.wakeAwaited(ctx, &so, so.settle(settled)); err != nil {
		return Result{}, err
	}
	lines := d.record(owner, done)
	so.Deliveries = append(so.Deliveries, lines...)
	d.wakeAfter(&so, lines, claims, endpoints)
	if len(done) > 0 && isSpared(endpoints[list.EndpointID], lane{}) {
		so.drain(nil, list.EndpointID) // a request that outlived its step may have opened the circuit: nobody has said so yet
	}
	if len(due) == 0 {
		return so, nil
	}
	if list.SlotUS == 0 && endpoints[list.EndpointID].RateLimit > 0 {
		asked = nil // it is not their turn
	}
	payload := d.fetch(ctx, asked)
	if payload.err != nil {
		return Result{}, payload.err
	}
	return d.deliver(ctx, owner, due, so, slotsOf(list), payload, claimedAt, lane{alone: true, backlog: list.Backlog || list.Probe, probe: list.Probe})
}

func (d *Dispatcher) afterWatchdog(claim delivery.Claim, endpoints map[uuid.UUID]delivery.Endpoint, jitter float64) delivery.Outcome {
	endpoint, found := endpoints[claim.EndpointID]
	if outcome, is := d.unfit(claim, endpoint, found); is {
		return outcome
	}
	outcome := delivery.Outcome{Key: claim.Key, Epoch: claim.Epoch, Number: claim.Number - 1, Cause: delivery.CauseRecorded}
	d.reschedule(&outcome, endpoint, 0, jitter)
	if outcome.State == delivery.Retrying && float64(claim.NotBefore) > float64(outcome.RetryIn)/jitter*(1+d.cfg.Jitter) {
		outcome.RetryIn = claim.NotBefore // later than any schedule would have it: the endpoint asked for that
	}
	return outcome
}

// Release lets go what is in turn in a sequence, for owner, and returns the attempts to be made at once. A second execution
// returns what the first one released. Its error means that the ledger could not be reached.
func (d *Dispatcher) Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.AttemptList, error) {
	released, err := d.ledger.Release(ctx, owner, s)
	if err != nil {
		return nil, err
	}
	return delivery.AttemptLists(released), nil
}

// Record writes the outcomes that a step's ledger did not take. Its error means that the ledger still does not.
func (d *Dispatcher) Record(ctx context.Context, owner string, result Result) error {
	return d.ledger.Record(ctx, owner, result.unrecorded())
}

// Bury keeps a record that cannot become a delivery.
func (d *Dispatcher) Bury(ctx context.Context, record delivery.DeadRecord) error {
	if err := d.ledger.Bury(ctx, record); err != nil {
		return err
	}
	d.metrics.dead.WithLabelValues(record.Reason).Inc()
	return nil
}

// fetch is what data-service answered, by event.
type fetch struct {
	found map[uuid.UUID]event.Payload
	err   error // only when data-service could not be reached
}

func (d *Dispatcher) fetch(ctx context.Context, asked []event.PayloadRequest) fetch {
	out := fetch{found: make(map[uuid.UUID]event.Payload, len(asked))}
	if len(asked) == 0 {
		return out
	}
	answers, err := d.payloads.Payloads(ctx, asked)
	if err != nil && ctx.Err() == nil && fault.ClassOf(err) == fault.Unavailable {
		answers, err = d.fetchEach(ctx, asked, err)
	}
	if err != nil {
		if fault.ClassOf(err) == fault.Unavailable || ctx.Err() != nil {
			out.err = err
			return out
		}
		// A refusal is a defect of ours: each delivery fails as an attempt does, and is seen.
		d.log.LogAttrs(ctx, slog.LevelError, "data-service refused a request for payloads", logging.Error(err))
		return out
	}
	for _, answer := range answers {
		out.found[answer.EventID] = answer
	}
	return out
}

// eachPatience bounds how long events are asked for by themselves; the step they are in has a second for its posts.
const eachPatience = 5 * time.Second

// probe names an event that there cannot be: any answer about it says that data-service is there.
var probe = event.PayloadRequest{EventID: uuid.Max, TxID: 1, MinVersion: 1}

// fetchEach asks for one event after the other, because a request for all of them failed. An event for which data-service
// fails while it answers for others is that event's failure, and must not hold up the rest of its batch, or its partition,
// for ever. Where it does not answer for an event that does not exist either, or takes long, it is away or overloaded, and
// cause says so: nobody's attempts are used up for that.
func (d *Dispatcher) fetchEach(ctx context.Context, asked []event.PayloadRequest, cause error) ([]event.Payload, error) {
	ctx, cancel := context.WithTimeout(ctx, eachPatience)
	defer cancel()
	if _, err := d.payloads.Payloads(ctx, []event.PayloadRequest{probe}); err != nil {
		return nil, cause
	}
	answers := []event.Payload{}
	for _, each := range asked {
		answer, err := d.payloads.Payloads(ctx, []event.PayloadRequest{each})
		if ctx.Err() != nil {
			return nil, cause
		}
		if err != nil {
			d.log.LogAttrs(ctx, slog.LevelWarn, "data-service fails for an event", slog.String("event_id", each.EventID.String()), logging.Error(err))
			continue
		}
		answers = append(answers, answer...)
	}
	return answers, nil
}

// reschedule says what follows the failure of the outcome's attempt. An endpoint that asked to be left alone for longer than
// the schedule says is: all that it said so to is due together, which the jitter spreads.
func (d *Dispatcher) reschedule(outcome *delivery.Outcome, endpoint delivery.Endpoint, retryAfter time.Duration, jitter float64) {
	schedule := endpoint.Schedule
	if schedule == nil {
		schedule = d.cfg.Schedule
	}
	delay, more := schedule.After(outcome.Number)
	if !more {
		outcome.State = delivery.Dead
		return
	}
	outcome.State, outcome.Next = delivery.Retrying, outcome.Number+1
	outcome.RetryIn = max(time.Duration(float64(delay)*jitter), min(time.Duration(float64(retryAfter)*max(1, jitter)), deliver.MaxRetryAfter))
}

// jitter draws a factor around 1.
func (d *Dispatcher) jitter() float64 {
	return 1 + d.cfg.Jitter*(2*rand.Float64()-1) //nolint:gosec // spreads load, guards nothing
}

// record writes outcomes and returns their lines, marked where the ledger did not take them.
func (d *Dispatcher) record(owner string, outcomes []delivery.Outcome) []Line {
	if len(outcomes) == 0 {
		return nil
	}
	// Not the step's context: what was sent is written down even when Restate has given up on the step.
	ctx, cancel := context.WithTimeout(d.lifetime, ledgerPatience)
	defer cancel()
	err := d.ledger.Record(ctx, owner, outcomes)
	if err != nil {
		d.log.LogAttrs(ctx, slog.LevelWarn, "outcomes wait for the ledger", slog.Int("outcomes", len(outcomes)), logging.Error(err))
	}
	lines := make([]Line, len(outcomes))
	for i, outcome := range outcomes {
		d.metrics.count(outcome)
		lines[i] = lineOf(outcome, err == nil)
	}
	return lines
}

// unique drops the second pointer to an event: one batch claims a delivery once.
func unique(refs []event.Ref) []event.Ref {
	seen := make(map[uuid.UUID]bool, len(refs))
	return slices.DeleteFunc(slices.Clone(refs), func(ref event.Ref) bool {
		if seen[ref.ID] {
			return true
		}
		seen[ref.ID] = true
		return false
	})
}

// errNotHeld keeps back a request whose claim has been taken away.
var errNotHeld = errors.New("the claim is no longer held")
