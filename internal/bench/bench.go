package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
)

const (
	// defaultPatience is how long a run waits while nothing more arrives: longer than the first delays of the retry
	// schedule, so that a delivery that had to be repeated is not taken for lost.
	defaultPatience = 30 * time.Second
	// trailing is how long after the last 2xx the stack may still work for it: write outcomes, commit offsets.
	trailing = 250 * time.Millisecond

	settleInterval = 10 * time.Millisecond
	maxLostIDs     = 20
)

// Options say what to run, and against which stack. Either Burst or Rate and Duration are set.
type Options struct {
	API    string       // host:port of payments-api
	Worker string       // host:port of webhook-worker
	Token  string       // API_TOKEN of the services; empty where they want none
	DSN    string       // may read the business tables and write the ledger
	Keys   seal.Keyring // of the ledger's secrets
	Kafka  string       // what the stack runs, for the report
	// Topic is waited for until it is consumed; without brokers the run begins at once.
	Topic      kafka.Config
	Components []Component
	// Database is the component that is PostgreSQL; its CPU is also reported by client.
	Database string

	Burst      int           // payments, as fast as Publishers can
	Publishers int           // of a burst
	Rate       float64       // payments per second, in an open loop
	Duration   time.Duration // of a rate
	Merchants  int
	BodyBytes  int // of a webhook, about
	// Hanging and Failing are the shares of the merchants whose endpoints never answer, or answer 500.
	Hanging, Failing float64
	// Endpoints removes those; it may be nil where there are none.
	Endpoints Remover
	// Progress gets a line now and then for a person to read; it may be nil.
	Progress func(line string)

	patience time.Duration // other than the default, for tests
}

// Remover removes an endpoint, and ends what waits for it.
type Remover interface {
	Remove(ctx context.Context, id uuid.UUID) (int64, error)
}

// Validate checks what a user chose.
func (o Options) Validate() error {
	switch {
	case (o.Burst == 0) == (o.Rate == 0):
		return errors.New("want either a burst or a rate")
	case o.Burst < 0 || o.Burst > 10_000_000:
		return fmt.Errorf("a burst has 1 to 10,000,000 payments, not %d", o.Burst)
	case o.Burst > 0 && (o.Publishers < 1 || o.Publishers > 1000):
		return fmt.Errorf("a burst has 1 to 1,000 publishers, not %d", o.Publishers)
	case o.Rate < 0 || o.Rate > 100_000:
		return fmt.Errorf("a rate is up to 100,000 per second, not %g", o.Rate)
	case o.Rate > 0 && (o.Duration <= 0 || o.Rate*o.Duration.Seconds() < 1 || o.Rate*o.Duration.Seconds() > 10_000_000):
		return fmt.Errorf("%g per second for %s is not 1 to 10,000,000 payments", o.Rate, o.Duration)
	case o.Merchants < 1 || o.Merchants > 1000:
		return fmt.Errorf("there are 1 to 1,000 merchants, not %d", o.Merchants)
	case o.BodyBytes < 1 || o.BodyBytes > MaxBodyBytes:
		return fmt.Errorf("a webhook has 1 to %d bytes, not %d", MaxBodyBytes, o.BodyBytes)
	case o.Hanging < 0 || o.Failing < 0 || o.Hanging+o.Failing >= 1:
		return errors.New("of hanging and failing endpoints there have to be fewer than all")
	case !slices.Contains(o.kinds(), healthy):
		return fmt.Errorf("of %d merchants none would be healthy", o.Merchants)
	}
	return nil
}

// kinds says how each merchant's endpoint is.
func (o Options) kinds() []kind { return kinds(o.Merchants, o.Hanging, o.Failing) }

func (o Options) payments() int {
	if o.Burst > 0 {
		return o.Burst
	}
	return int(o.Rate * o.Duration.Seconds())
}

// Run puts the load on the stack and reports once everything that was committed is delivered, or nothing has come for
// 30 s. Its merchants have their endpoints in the ledger for as long as it runs.
func Run(ctx context.Context, o Options) (_ Report, err error) {
	if err := o.Validate(); err != nil {
		return Report{}, err
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	worker, err := load.AskWorker(ctx, o.Worker, o.Token)
	if err != nil {
		return Report{}, err
	}
	if len(o.Topic.Brokers) > 0 {
		if err := load.AwaitConsumers(ctx, o.Topic, worker.Group, o.patience); err != nil {
			return Report{}, err
		}
	}
	db, err := load.Connect(ctx, o.DSN)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, db.Close(context.WithoutCancel(ctx))) }()

	secret, err := signing.NewSecret(signing.HMAC)
	if err != nil {
		return Report{}, err
	}
	receiver, err := listen(ctx, secret, o.payments(), o.kinds())
	if err != nil {
		return Report{}, fmt.Errorf("starting the merchants: %w", err)
	}
	defer func() { err = errors.Join(err, receiver.close()) }()
	merchantIDs, urls := newMerchantIDs(o.Merchants), make([]string, o.Merchants)
	for i := range urls {
		urls[i] = receiver.url(i)
	}
	endpoints, err := db.AddEndpoints(ctx, o.Keys, merchantIDs, urls, secret)
	if err != nil {
		return Report{}, err
	}
	groups := group(merchantIDs, endpoints, receiver.kinds)
	defer func() {
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if removing := o.remove(cleanUp, db, groups); removing != nil {
			o.progress("%s", removing) // also where an interruption is all that is told
			err = errors.Join(err, removing)
		}
	}()

	publisher := load.NewPublisher(o.API, o.Token, paymentBodies(merchantIDs, o.BodyBytes))
	defer publisher.Close()
	proc := procFS{root: "/proc"}
	before, err := proc.processes()
	if err != nil {
		return Report{}, err
	}
	memory := watchMemory(ctx, proc, o.Components)
	defer memory.stop()
	circuits, err := watchCircuits(ctx, o.DSN, slices.Concat(groups[hanging].endpoints, groups[failing].endpoints))
	if err != nil {
		return Report{}, err
	}
	defer circuits.stop()
	published, err := o.drive(ctx, publisher, receiver, func() (int, error) {
		if len(groups) == 1 {
			return 0, nil
		}
		events, err := db.EventsOfMerchants(ctx, groups[healthy].merchants)
		return len(events), err
	}, memory.stop)
	if err != nil {
		return Report{}, err
	}
	after, err := proc.processes()
	if err != nil {
		return Report{}, err
	}
	backends, err := db.Backends(ctx)
	if err != nil {
		return Report{}, err
	}
	// What was committed decides, not what was answered: a post whose answer got lost has its event too.
	events, err := db.EventsOfMerchants(ctx, groups[healthy].merchants)
	if err != nil {
		return Report{}, err
	}
	if _, err := load.Settle(ctx, receiver.unique, len(events), settleInterval, o.patience); err != nil {
		return Report{}, err
	}
	r := o.report(events, published, receiver)
	r.Intake = worker.Intake
	r.Machine = Machine{CPU: proc.cpuModel(), Cores: runtime.NumCPU()}
	circuits.stop()
	if circuits.err != nil {
		return Report{}, circuits.err
	}
	if r.Troubled, err = o.troubled(ctx, db, groups, receiver, published, circuits.opened); err != nil {
		return Report{}, err
	}
	err = errors.Join(r.addUsage(o, proc, before, after, backends), r.addMemory(o, memory))
	return r, err
}

// endpointGroup is the merchants whose endpoints are of one kind.
type endpointGroup struct {
	merchants []string
	endpoints []uuid.UUID
	places    []int // in the receiver
}

func group(merchants []string, endpoints []uuid.UUID, kinds []kind) map[kind]endpointGroup {
	groups := map[kind]endpointGroup{}
	for i, k := range kinds {
		g := groups[k]
		g.merchants, g.endpoints, g.places = append(g.merchants, merchants[i]), append(g.endpoints, endpoints[i]), append(g.places, i)
		groups[k] = g
	}
	return groups
}

// remove takes the endpoints away again, and with those that hang or fail what waits for them.
func (o Options) remove(ctx context.Context, db *load.Database, groups map[kind]endpointGroup) error {
	errs := []error{db.RemoveEndpoints(ctx, groups[healthy].endpoints, 50*time.Millisecond, 2*time.Second)}
	for _, k := range []kind{hanging, failing} {
		for _, id := range groups[k].endpoints {
			_, err := o.Endpoints.Remove(ctx, id)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// troubled says what came of the endpoints that are not healthy, by the requests that they got and by the ledger.
func (o Options) troubled(ctx context.Context, db *load.Database, groups map[kind]endpointGroup, receiver *merchants, published load.Published, opened map[uuid.UUID]time.Time) ([]Troubled, error) {
	var all []Troubled
	for _, k := range []kind{hanging, failing} {
		g, found := groups[k]
		if !found {
			continue
		}
		t := Troubled{Kind: k.String(), Endpoints: len(g.endpoints)}
		var tallies []*tally
		for _, place := range g.places {
			tallies = append(tallies, &receiver.tallies[place])
			t.add(&receiver.tallies[place], published.Last)
		}
		events, err := db.EventsOfMerchants(ctx, g.merchants)
		if err != nil {
			return nil, err
		}
		// Planning may be a moment behind: only what stays away is missing.
		var failed error
		look := func() int {
			states, err := db.States(ctx, g.endpoints)
			if err != nil {
				failed = err
				return len(events)
			}
			t.account(len(events), states, nil)
			return len(events) - t.Unaccounted
		}
		_, err = load.Settle(ctx, look, len(events), memoryInterval, o.patience)
		if err := errors.Join(failed, err); err != nil {
			return nil, err
		}
		backlogs, err := db.Backlogs(ctx, g.endpoints)
		if err != nil {
			return nil, err
		}
		t.account(len(events), t.States, backlogs)
		t.spare(published.First, opened, backlogs, tallies)
		all = append(all, t)
	}
	return all, nil
}

// drive publishes and waits until what was published has arrived. Where not all of it is to arrive, expected says how much
// is; ended is called once everything is published.
func (o Options) drive(ctx context.Context, publisher *load.Publisher, receiver *merchants, expected func() (int, error), ended func()) (load.Published, error) {
	stopProgress := o.showProgress(publisher, receiver)
	defer stopProgress()

	var published load.Published
	if o.Burst > 0 {
		published = publisher.Burst(ctx, o.Burst, o.Publishers)
	} else {
		published = publisher.Rate(ctx, o.payments(), o.Rate)
	}
	if err := ctx.Err(); err != nil {
		return published, err
	}
	if published.Errors > 0 {
		o.progress("%d posts failed, the first with: %s", published.Errors, published.Err)
	}
	ended()
	want, err := expected()
	if err != nil {
		return published, err
	}
	if _, err := load.Settle(ctx, receiver.unique, cmp.Or(want, published.Accepted), settleInterval, o.patience); err != nil {
		return published, err
	}
	return published, load.Wait(ctx, trailing)
}

func (o Options) progress(format string, args ...any) {
	if o.Progress != nil {
		o.Progress(fmt.Sprintf(format, args...))
	}
}

// showProgress tells every second how far it is, until the function that it returns is called.
func (o Options) showProgress(publisher *load.Publisher, receiver *merchants) func() {
	if o.Progress == nil {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for second, before := 1, 0; ; second++ {
			select {
			case <-quit:
				return
			case <-tick.C:
				now := receiver.unique()
				o.progress("%3d s: %d published, %d delivered, %d in the last second", second, publisher.Posted(), now, now-before)
				before = now
			}
		}
	}()
	return func() { close(quit); <-ended }
}

func (o Options) report(events []load.Event, published load.Published, receiver *merchants) Report {
	acks, last := receiver.acknowledged()
	account := load.AccountFor(events, acks)
	r := Report{
		Mode: "burst", Kafka: o.Kafka,
		Created: account.Created, Delivered: account.Delivered, Lost: account.Lost, Duplicates: account.Duplicates,
		CommitToAckMS: load.PercentilesOf(account.CommitToAck), PublishMS: load.PercentilesOf(published.Latencies),
		OfferedPerS: o.Rate, Publishers: o.Publishers, Merchants: o.Merchants, BodyBytes: receiver.meanBody(),
		Errors: published.Errors, LateStarts: published.Late, InvalidSignatures: int(receiver.invalid.Load()),
		Unexpected: account.Unexpected, LostIDs: account.LostIDs[:min(len(account.LostIDs), maxLostIDs)],
	}
	if o.Rate > 0 {
		r.Mode, r.Publishers = "rate", 0
	}
	if publishing := published.Last.Sub(published.First).Seconds(); publishing > 0 {
		r.PublishedPerS = load.Round(float64(published.Accepted)/publishing, 1)
	}
	if seconds := last.Sub(published.First).Seconds(); account.Delivered > 0 && seconds > 0 {
		r.Seconds = load.Round(seconds, 3)
		r.DeliveredPerS = load.Round(float64(account.Delivered)/seconds, 1)
	}
	return r
}

func (r *Report) addUsage(o Options, proc procFS, before, after sample, backends map[int]string) error {
	var sum time.Duration
	for _, c := range o.Components {
		var names map[int]string
		if c.Name == o.Database {
			names = backends
		}
		cpu, parts := spent(before, after, c, names)
		peak, err := proc.peakMemory(family(after, c.PID))
		if err != nil {
			return err
		}
		row := usage(c.Name, cpu, r.Delivered, peak, parts)
		row.Ended = after[c.PID].started != before[c.PID].started
		r.Processes = append(r.Processes, row)
		sum += cpu
	}
	r.CPUMSPerEvent = perEvent(sum, r.Delivered)
	// Without its children: it may just have started the stack.
	self := after[os.Getpid()]
	peak, err := proc.peakMemory([]process{self})
	if err != nil {
		return err
	}
	r.LoadGenerator = usage("load generator and merchants", self.cpu-before[self.pid].cpu, r.Delivered, peak, nil)
	return nil
}

func (r *Report) addMemory(o Options, watch *memoryWatch) error {
	if o.Rate == 0 {
		return nil
	}
	for i := range r.Processes {
		r.Processes[i].Memory = memoryOf(watch.held[r.Processes[i].Name])
	}
	return watch.err
}
