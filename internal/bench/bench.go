package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

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
	// Progress gets a line now and then for a person to read; it may be nil.
	Progress func(line string)

	patience time.Duration // other than the default, for tests
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
	}
	return nil
}

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
	receiver, err := listen(ctx, secret, o.payments())
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
	defer func() {
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if removing := db.RemoveEndpoints(cleanUp, endpoints, 50*time.Millisecond, 2*time.Second); removing != nil {
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
	published, err := o.drive(ctx, publisher, receiver)
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
	events, err := db.EventsOfMerchants(ctx, merchantIDs)
	if err != nil {
		return Report{}, err
	}
	if _, err := load.Settle(ctx, receiver.unique, len(events), settleInterval, o.patience); err != nil {
		return Report{}, err
	}

	r := o.report(events, published, receiver)
	r.Intake = worker.Intake
	r.Machine = Machine{CPU: proc.cpuModel(), Cores: runtime.NumCPU()}
	err = r.addUsage(o, proc, before, after, backends)
	return r, err
}

// drive publishes and waits until what was published has arrived.
func (o Options) drive(ctx context.Context, publisher *load.Publisher, receiver *merchants) (load.Published, error) {
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
	if _, err := load.Settle(ctx, receiver.unique, published.Accepted, settleInterval, o.patience); err != nil {
		return published, err
	}
	timer := time.NewTimer(trailing)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return published, ctx.Err()
	case <-timer.C:
		return published, nil
	}
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
