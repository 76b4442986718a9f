package demo

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/postgres"
)

const (
	// defaultPatience is how long a demo waits while nothing more arrives.
	defaultPatience = 30 * time.Second
	// trailing is how long it looks for duplicates when everything has arrived.
	trailing = 250 * time.Millisecond
	interval = 100 * time.Millisecond // of looks at the merchant
	// leastRate is how many payments are created per second: as many as a person can follow, and as leave the
	// pipeline time to show how fast it is. More than longest takes at that rate are created faster.
	leastRate = 50
	longest   = 10 * time.Second
	// listed is up to how many webhooks are printed one by one.
	listed = 50
)

// Options say what to show, on which stack.
type Options struct {
	API      string // host:port of payments-api
	Worker   string // host:port of webhook-worker
	Merchant string // host:port of merchant-simulator, where the demo merchant's endpoint is
	Token    string // API_TOKEN of the services; empty where they want none
	DSN      string // may read the business tables
	Kafka    string // what the stack runs, for the result
	// Topic is waited for until it is consumed; without brokers the demo begins at once.
	Topic kafka.Config

	MerchantID string // whose payments they are; a scenario with merchants of its own gives them this one's secret
	Payments   int    // of a scenario: of each merchant
	// Refunds is how many of the payments are refunded, which is a second event and a second webhook for each.
	Refunds int
	// Endpoints are the ledger's; only scenarios use them, and what follows.
	Endpoints *endpoint.Manager
	// CallbackSecret is what the payment provider signs its callbacks with.
	CallbackSecret string
	RestateAdmin   string // host:port of Restate's admin API and UI
	// Kill kills every webhook-worker and returns when they are gone; Up starts what of the stack does not run.
	Kill, Up func(ctx context.Context) error
	// Svix says that the webhooks go by Svix; nil is in-house. No scenario goes by Svix.
	Svix *Svix
	// Routes are the ledger's. Without them the merchant's stays as it is; a demo by Svix needs them.
	Routes *postgres.RouteStore
	// Out is where a person watches.
	Out io.Writer

	patience time.Duration // other than the default, for tests
}

// Validate checks what a user chose.
func (o Options) Validate() error {
	if o.Payments < 1 || o.Payments > 20_000 {
		return fmt.Errorf("a demo has 1 to 20,000 payments, not %d", o.Payments)
	}
	if o.Refunds < 0 || o.Refunds > o.Payments {
		return fmt.Errorf("0 to all %d payments can be refunded, not %d", o.Payments, o.Refunds)
	}
	return nil
}

// Result counts events by id. Each payment is one, each refund another.
type Result struct {
	Created           int              `json:"created"`
	Delivered         int              `json:"delivered"` // of the created: accepted at least once
	Lost              int              `json:"lost"`      // of the created: not accepted by the end
	Duplicates        int              `json:"duplicates"`
	InvalidSignatures int              `json:"invalid_signatures"`
	CommitToAckMS     load.Percentiles `json:"commit_to_ack_ms"` // from the commit to the merchant's first 2xx
	Payments          int              `json:"payments"`
	Refunds           int              `json:"refunds"`
	Intake            string           `json:"intake"`
	Kafka             string           `json:"kafka"`
	Deliverer         string           `json:"deliverer,omitempty"` // where it is not this deployment
	Svix              *SvixResult      `json:"svix,omitempty"`
	// Addresses are what there is to open, by name.
	Addresses map[string]string `json:"addresses"`
}

// Err is what makes a demo a failure; nil where everything arrived and was signed well.
func (r Result) Err() error {
	switch {
	case r.Lost > 0:
		return fmt.Errorf("%d of %d webhooks did not arrive", r.Lost, r.Created)
	case r.InvalidSignatures > 0:
		return fmt.Errorf("%d webhooks were not signed well", r.InvalidSignatures)
	}
	return r.Svix.err(r.Created)
}

// Run creates the payments and returns when all their webhooks have arrived, or none has for 30 s. The error is about
// the demo itself: see Result.Err for the pipeline's.
func Run(ctx context.Context, o Options) (_ Result, err error) {
	if err := o.Validate(); err != nil {
		return Result{}, err
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	s, err := begin(ctx, o)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, s.db.Close(context.WithoutCancel(ctx))) }()

	giveBack, err := o.takeRoute(ctx)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, giveBack()) }()
	began := time.Now()
	w := &watch{Options: o, session: s, arrived: map[uuid.UUID]bool{}, arrivedOf: map[string]int{}}
	if err := s.warn(ctx, o); err != nil {
		return Result{}, err
	}
	if err := w.run(ctx); err != nil {
		return Result{}, err
	}
	var bySvix *SvixResult
	deliverer := ""
	if o.Svix != nil {
		deliverer = delivery.RouteSvix
		if bySvix, err = w.settle(ctx, began); err != nil {
			return Result{}, err
		}
	}
	invalid, err := s.invalidSince(ctx)
	if err != nil {
		return Result{}, err
	}
	account, err := w.account(ctx)
	if err != nil {
		return Result{}, err
	}
	return Result{
		Created: account.Created, Delivered: account.Delivered, Lost: account.Lost, Duplicates: account.Duplicates,
		InvalidSignatures: invalid, CommitToAckMS: load.PercentilesOf(account.CommitToAck),
		Payments: o.Payments, Refunds: o.Refunds, Intake: s.worker.Intake, Kafka: o.Kafka, Deliverer: deliverer, Svix: bySvix,
	}, nil
}

// awaitWorker waits until the worker consumes the topic, and returns what it says of itself.
func awaitWorker(ctx context.Context, o Options) (load.Worker, error) {
	worker, err := load.AskWorker(ctx, o.Worker, o.Token)
	if err == nil && len(o.Topic.Brokers) > 0 {
		err = load.AwaitConsumers(ctx, o.Topic, worker.Group, o.patience)
	}
	return worker, err
}

// session is what every scenario begins with: a worker that reads, the database, and the merchant as it was.
type session struct {
	worker        load.Worker
	db            *load.Database // to be closed by who began
	merchant      load.Merchant
	invalidBefore int
}

func begin(ctx context.Context, o Options) (session, error) {
	s := session{merchant: load.NewMerchant(o.Merchant)}
	var err error
	if s.worker, err = awaitWorker(ctx, o); err != nil {
		return s, err
	}
	if s.db, err = load.Connect(ctx, o.DSN); err != nil {
		return s, err
	}
	if s.invalidBefore, err = s.merchant.InvalidSignatures(ctx); err != nil {
		return s, errors.Join(err, s.db.Close(context.WithoutCancel(ctx)))
	}
	return s, nil
}

// invalidSince is how many webhooks that were not signed well have come since the beginning.
func (s session) invalidSince(ctx context.Context) (int, error) {
	invalid, err := s.merchant.InvalidSignatures(ctx)
	return max(0, invalid-s.invalidBefore), err
}

// watch is one demo under way.
type watch struct {
	Options
	session
	// What has arrived; only follow's.
	arrived   map[uuid.UUID]bool
	arrivedOf map[string]int // by payment

	mu   sync.Mutex
	ids  []string // of the payments created so far
	errs []error
}

// warn tells of a merchant that fails on purpose before anyone wonders.
func (s session) warn(ctx context.Context, o Options) error {
	behaviours, err := s.merchant.Behaviours(ctx)
	for _, each := range behaviours {
		fmt.Fprintf(o.Out, "The merchant was told to misbehave: %s\nTo make it behave: curl -X PUT http://%s/behaviour -H 'content-type: application/json' -d '{}'\n",
			each, o.Merchant)
	}
	return err
}

// run creates everything, and watches until it has arrived or nothing more does.
func (w *watch) run(ctx context.Context) error {
	created := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(created)
		return w.create(ctx)
	})
	group.Go(func() error { return w.follow(ctx, created) })
	return group.Wait()
}

func (w *watch) follow(ctx context.Context, created <-chan struct{}) error {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for quiet := time.Now(); ; {
		complete := false // asked before the look, which then sees all that will ever be open
		select {
		case <-created:
			complete = true
		default:
		}
		news, open, err := w.look(ctx)
		if err != nil {
			return err
		}
		if news > 0 || !complete {
			quiet = time.Now()
		}
		if complete && open == 0 || time.Since(quiet) >= w.patience {
			break
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return load.Wait(ctx, trailing)
}

func (w *watch) create(ctx context.Context) error {
	body, err := json.Marshal(map[string]any{"merchant_id": w.MerchantID, "amount": 1000, "currency": "USD"})
	if err != nil {
		return fmt.Errorf("encoding a payment: %w", err)
	}
	publisher := load.NewPublisher(w.API, w.Token, [][]byte{body})
	defer publisher.Close()
	publisher.Answered = w.note
	published := publisher.Rate(ctx, w.Payments, max(leastRate, float64(w.Payments)/longest.Seconds()))
	if published.Err != nil {
		return fmt.Errorf("creating payments: %w", published.Err)
	}
	if err := errors.Join(w.errs...); err != nil {
		return err
	}
	for _, id := range w.created()[:w.Refunds] {
		if err := publisher.Refund(ctx, id); err != nil {
			return fmt.Errorf("refunding payment %s: %w", id, err)
		}
	}
	return nil
}

func (w *watch) note(answer []byte) {
	var payment struct {
		ID string `json:"id"`
	}
	err := json.Unmarshal(answer, &payment)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil {
		w.errs = append(w.errs, fmt.Errorf("reading the answer to a payment: %w", err))
		return
	}
	w.ids = append(w.ids, payment.ID)
}

func (w *watch) created() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ids)
}

// look prints what has arrived since the last look. It returns how much that is, and how many payments are still open.
func (w *watch) look(ctx context.Context) (int, int, error) {
	ids := w.open()
	events, err := w.db.EventsOfPayments(ctx, ids)
	if err != nil {
		return 0, 0, err
	}
	var waiting []uuid.UUID
	for _, event := range events {
		if !w.arrived[event.ID] {
			waiting = append(waiting, event.ID)
		}
	}
	acks, err := w.merchant.Acks(ctx, waiting)
	if err != nil {
		return 0, 0, err
	}
	slices.SortFunc(events, func(a, b load.Event) int { return acks[a.ID].First.Compare(acks[b.ID].First) })
	for _, event := range events {
		ack, ok := acks[event.ID]
		if !ok {
			continue
		}
		w.arrived[event.ID] = true
		w.arrivedOf[event.ObjectID]++
		if w.Payments+w.Refunds <= listed {
			fmt.Fprintf(w.Out, "  %s  %-17s  of payment %s  2xx %5.1f ms after its commit\n",
				ack.First.Local().Format("15:04:05.000"), event.Type, event.ObjectID, load.Milliseconds(ack.First.Sub(event.Committed)))
		}
	}
	if len(acks) > 0 && w.Payments+w.Refunds > listed {
		fmt.Fprintf(w.Out, "  %s  %d of %d webhooks have arrived\n", time.Now().Format("15:04:05.000"), len(w.arrived), w.Payments+w.Refunds)
	}
	return len(acks), len(w.open()), nil
}

// open returns the payments of which not everything has arrived.
func (w *watch) open() []string {
	var open []string
	for i, id := range w.created() {
		expected := 1
		if i < w.Refunds {
			expected = 2
		}
		if w.arrivedOf[id] < expected {
			open = append(open, id)
		}
	}
	return open
}

// account asks for everything again: the database for what was committed, the merchant for how often each was accepted.
func (w *watch) account(ctx context.Context) (load.Account, error) {
	events, err := w.db.EventsOfPayments(ctx, w.created())
	if err != nil {
		return load.Account{}, err
	}
	ids := make([]uuid.UUID, len(events))
	for i, event := range events {
		ids[i] = event.ID
	}
	acks, err := w.merchant.Acks(ctx, ids)
	if err != nil {
		return load.Account{}, err
	}
	return load.AccountFor(events, acks), nil
}

// Print writes the summary for a person to read.
func (r Result) Print(out io.Writer) {
	fmt.Fprintf(out, "\n%d payments", r.Payments)
	if r.Refunds > 0 {
		fmt.Fprintf(out, " and %d refunds", r.Refunds)
	}
	fmt.Fprintf(out, ": %d events created, %d delivered, %d lost, %d duplicates, %d invalid signatures\n",
		r.Created, r.Delivered, r.Lost, r.Duplicates, r.InvalidSignatures)
	if r.Lost > 0 {
		fmt.Fprintln(out, "what did not arrive is not gone: the pipeline goes on trying")
	}
	fmt.Fprintf(out, "from commit to 2xx: p50 %.1f ms, p95 %.1f ms, p99 %.1f ms (intake %s, kafka %s)\n",
		r.CommitToAckMS.P50, r.CommitToAckMS.P95, r.CommitToAckMS.P99, r.Intake, r.Kafka)
	r.Svix.print(out)
}
