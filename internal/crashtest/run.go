package crashtest

import (
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/stack"
)

// run is one crash test.
type run struct {
	o         Options
	name      string // what the run's merchants and Idempotency-Keys begin with; no other run has it, whatever its seed
	began     time.Time
	loaded    time.Time // when the last payment was answered
	merchants []string  // the last one is quiet: it has no part in the load
	group     string    // of the consumers
	endpoints []uuid.UUID

	clients  *clients
	receipts *receipts
	records  *records
	random   *rand.Rand

	// gate is held for reading by each payment under way: who holds it for writing has a quiet stack.
	gate   sync.RWMutex
	posted atomic.Int64
	enough chan struct{} // closed when the load may end

	mu          sync.Mutex
	status      stack.Status
	windows     []Window
	findings    []string // what failed beside the sets
	ended       []string // components that ended by themselves
	expectEnded map[string]bool
	unaccounted int // at most, over the run
	lately      int // likewise, since somebody set it to 0
	waiting     *WaitingRetries
	report      reconcilerReport
	reportedAt  time.Time
}

// reconcilerReport is what the worker's reconciler says of itself.
type reconcilerReport struct {
	Leading     bool `json:"leading"`
	Unplanned   int  `json:"unplanned"`
	Unaccounted int  `json:"unaccounted"`
}

func newRun(o Options) *run {
	return &run{
		// Keys that came before would be answered with the payments of that run, and nothing new would be made.
		name: fmt.Sprintf("crash-%x-%s", o.Seed, strings.ToLower(cryptorand.Text()[:6])),
		o:    o, enough: make(chan struct{}), expectEnded: map[string]bool{},
		random: rand.New(rand.NewPCG(o.Seed, 0)), //nolint:gosec // the same seed must draw the same faults
	}
}

// Run brings the stack up, puts the load on it, injects what is to be injected, waits until all has settled, and
// compares. Its error says that the test could not be made; what the test found is in the Result.
func Run(ctx context.Context, o Options) (_ Result, err error) {
	o, err = o.complete()
	if err != nil {
		return Result{}, err
	}
	r := newRun(o)
	if err := r.up(ctx); err != nil {
		return Result{}, err
	}
	r.records, err = connect(ctx, r.status.DSN)
	if err != nil {
		return Result{}, err
	}
	defer r.records.close()
	remove, err := r.addMerchants(ctx)
	if err != nil {
		return Result{}, err
	}
	defer func() { err = errors.Join(err, remove()) }()

	worker, err := load.AskWorker(ctx, r.status.Address(stack.WebhookWorker), o.Token)
	if err != nil {
		return Result{}, err
	}
	r.group = worker.Group
	if err := load.AwaitConsumers(ctx, r.topic(), r.group, o.patience); err != nil {
		return Result{}, err
	}
	r.clients = newClients(r.status.Address(stack.PaymentsAPI), o.Token, r.name)
	defer r.clients.close()
	return r.test(ctx)
}

// test is the run proper: load, fault, settling, verdict.
func (r *run) test(ctx context.Context) (Result, error) {
	watching, stopWatching := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	defer watchers.Wait()
	defer stopWatching()
	for interval, watch := range map[time.Duration]func(context.Context){
		100 * time.Millisecond: func(context.Context) { _ = r.receipts.read() }, // looked at again when it counts
		200 * time.Millisecond: r.lookAtReconciler,
		time.Second:            r.show,
	} {
		watchers.Go(func() { every(watching, interval, watch) })
	}

	r.began = time.Now()
	if r.o.HangOne {
		if err := r.behave(ctx, r.merchants[0], `"hang":true`); err != nil {
			return Result{}, err
		}
	}
	group, driving := errgroup.WithContext(ctx)
	group.Go(func() error { return r.drive(driving) })
	group.Go(func() error {
		defer close(r.enough)
		if err := r.inject(driving); err != nil {
			return err
		}
		return load.Wait(driving, 2*time.Second) // of load after the fault: recovery is seen by it
	})
	err := group.Wait()
	if r.o.HangOne {
		err = errors.Join(err, r.behave(context.WithoutCancel(ctx), r.merchants[0], ""))
	}
	if err != nil {
		return Result{}, err
	}
	r.loaded = time.Now()
	settled, err := r.settle(ctx)
	if err != nil {
		return Result{}, err
	}
	if err := r.remember(); err != nil {
		return Result{}, err
	}
	return r.verdict(ctx, settled, time.Since(r.loaded))
}

func every(ctx context.Context, interval time.Duration, do func(context.Context)) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			do(ctx)
		}
	}
}

func (r *run) say(format string, args ...any) {
	if r.o.Progress != nil {
		r.o.Progress(fmt.Sprintf(format, args...))
	}
}

func (r *run) find(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	r.mu.Lock()
	r.findings = append(r.findings, line)
	r.mu.Unlock()
	r.say("FOUND: %s", line)
}

func (r *run) topic() kafka.Config {
	return kafka.Config{Brokers: []string{r.address(stack.Kafka)}, Topic: stack.Topic}
}

func (r *run) address(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status.Address(name)
}

func (r *run) pid(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range r.status.Components {
		if c.Name == name {
			return c.PID
		}
	}
	return 0
}

// up starts what does not run. An operator's restart loop would try again, so this does too, and tells of it.
func (r *run) up(ctx context.Context) error {
	const tries = 3
	for try := 1; ; try++ {
		status, err := stack.Up(ctx, r.o.Stack, r.note)
		if err == nil {
			r.mu.Lock()
			r.status = status
			clear(r.expectEnded)
			r.mu.Unlock()
			return nil
		}
		if ctx.Err() != nil || try == tries || r.began.IsZero() {
			return err
		}
		r.find("a start did not succeed at once: %s", strings.Join(strings.Fields(err.Error()), " "))
	}
}

// note passes on what up says, and remembers which components had ended that nobody had hit.
func (r *run) note(line string) {
	if name, found := strings.CutSuffix(line, " had ended"); found {
		fields := strings.Fields(name)
		name = fields[len(fields)-1]
		r.mu.Lock()
		if !r.expectEnded[name] && !r.began.IsZero() {
			r.ended = append(r.ended, name)
		}
		r.mu.Unlock()
	}
	r.say("    %s", line)
}

// addMerchants gives each merchant an endpoint at the simulator; what is returned takes them away again.
func (r *run) addMerchants(ctx context.Context) (func() error, error) {
	secret, err := r.records.secret(ctx, r.status.Keys, stack.DemoMerchant)
	if err != nil {
		return nil, err
	}
	var urls []string
	for i := range r.o.Merchants + 1 {
		name := fmt.Sprintf("%s-%d", r.name, i)
		r.merchants = append(r.merchants, name)
		urls = append(urls, "http://"+r.status.Address(stack.MerchantSimulator)+webhooks+name)
	}
	r.receipts = newReceipts(receiptsFile(r.o.Stack), r.name+"-")
	db, err := load.Connect(ctx, r.status.DSN)
	if err != nil {
		return nil, err
	}
	r.endpoints, err = db.AddEndpoints(ctx, r.status.Keys, r.merchants, urls, secret)
	if err == nil && r.o.Ordered {
		err = db.OrderObjects(ctx, r.endpoints)
	}
	if err := errors.Join(err, db.Close(ctx)); err != nil {
		return nil, err
	}
	return func() error {
		cleanUp, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		db, err := load.Connect(cleanUp, r.status.DSN) // PostgreSQL may have been killed meanwhile
		if err != nil {
			return err
		}
		return errors.Join(db.RemoveEndpoints(cleanUp, r.endpoints, 50*time.Millisecond, 2*time.Second), db.Close(cleanUp))
	}, nil
}

func (r *run) behave(ctx context.Context, merchant, fields string) error {
	return behave(ctx, r.address(stack.MerchantSimulator), merchant, fields)
}

// behave tells a simulator how to treat a merchant's webhooks, by the fields of its behaviour; empty is normal.
func behave(ctx context.Context, simulator, merchant, fields string) error {
	body := fmt.Sprintf(`{"merchant":%q`, merchant)
	if fields != "" {
		body += "," + fields
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+simulator+"/behaviour", strings.NewReader(body+"}"))
	if err != nil {
		return fmt.Errorf("telling the merchant how to behave: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := asking.Do(req)
	if err != nil {
		return fmt.Errorf("telling the merchant how to behave: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 300)) // it only explains
		return fmt.Errorf("telling the merchant how to behave: %s: %s", res.Status, text)
	}
	return nil
}

// drive makes the payments at a steady rate, whether or not those before were answered, until there are as many as are
// wanted and the fault, where it lasts, is over. It returns when all are answered.
func (r *run) drive(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	next := time.Now()
	for i := 0; ; i++ {
		rate := r.o.Rate
		if i >= r.o.Payments {
			if r.o.brief() {
				return group.Wait()
			}
			if !r.o.Random {
				rate = min(rate, tailRate)
			}
			select {
			case <-r.enough:
				return group.Wait()
			default:
			}
		}
		if err := load.Wait(ctx, time.Until(next)); err != nil {
			return errors.Join(group.Wait(), err)
		}
		next = next.Add(time.Duration(float64(time.Second) / rate))
		r.gate.RLock() // held until it is answered
		if behind := time.Since(next); behind > time.Second {
			next = time.Now() // the gate was closed
		}
		group.Go(func() error {
			defer r.gate.RUnlock()
			merchant := r.merchants[i%r.o.Merchants]
			var err error
			if r.o.Ordered {
				err = r.clients.walk(ctx, i, merchant)
			} else {
				err = r.clients.pay(ctx, i, merchant, refunded(i, r.o.Refunds))
			}
			if err != nil {
				return err
			}
			r.posted.Add(1)
			return nil
		})
	}
}

// refunded spreads the refunds evenly.
func refunded(i int, share float64) bool { return int(float64(i+1)*share) > int(float64(i)*share) }

// await waits until the condition holds; what names it.
func await(ctx context.Context, what string, within time.Duration, condition func(context.Context) (bool, error)) error {
	deadline := time.Now().Add(within)
	for {
		holds, err := condition(ctx)
		if holds {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Now().After(deadline) {
			return errors.Join(fmt.Errorf("waiting until %s: it did not come true within %s", what, within), err)
		}
		if err := load.Wait(ctx, 20*time.Millisecond); err != nil {
			return err
		}
	}
}

// lookAtReconciler asks the workers what they hold for lost: the one that leads knows. One that does not answer is asked
// again.
func (r *run) lookAtReconciler(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probing)
	defer cancel()
	var asks sync.WaitGroup
	for _, address := range r.workers() {
		asks.Go(func() { r.askReconciler(ctx, address) })
	}
	asks.Wait()
}

// workers are the addresses of all there are.
func (r *run) workers() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var addresses []string
	for _, name := range r.status.WorkerNames() {
		addresses = append(addresses, r.status.Address(name))
	}
	return addresses
}

func (r *run) askReconciler(ctx context.Context, address string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/reconciler", nil)
	if err != nil {
		return
	}
	if r.o.Token != "" {
		req.Header.Set("Authorization", "Bearer "+r.o.Token)
	}
	asked := time.Now()
	res, err := asking.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	var report reconcilerReport
	if res.StatusCode != http.StatusOK || json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&report) != nil || !report.Leading {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report, r.reportedAt = report, asked
	r.unaccounted = max(r.unaccounted, report.Unaccounted)
	r.lately = max(r.lately, report.Unaccounted)
}

// show tells a person how far it is.
func (r *run) show(context.Context) {
	r.mu.Lock()
	unaccounted, now := r.report.Unaccounted, time.Now()
	r.mu.Unlock()
	r.say("%4.0f s: %d acknowledged, %d received, %d unaccounted", now.Sub(r.began).Seconds(), r.clients.count(), r.receipts.count(), unaccounted)
}

// settle waits until all that was committed is planned, delivered and received, and the reconciler agrees; or until
// nothing has moved for too long.
func (r *run) settle(ctx context.Context) (bool, error) {
	type state struct {
		progress

		received, unaccounted int
	}
	var last state
	moved := time.Now()
	since := time.Now()
	for {
		if err := r.receipts.read(); err != nil {
			return false, err
		}
		p, err := r.records.progress(ctx, r.merchants)
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		r.mu.Lock()
		report, fresh := r.report, r.reportedAt.After(since)
		r.mu.Unlock()
		now := state{p, r.receipts.count(), report.Unaccounted}
		if err == nil && p.Planned >= p.Committed && p.Open == 0 && now.received >= p.Committed &&
			fresh && report.Leading && report.Unaccounted == 0 && report.Unplanned == 0 {
			return true, load.Wait(ctx, 2*time.Second) // what would come once more has the time to come
		}
		if now != last {
			last, moved = now, time.Now()
		} else if time.Since(moved) > r.o.patience {
			r.say("nothing has moved for %s: %+v, reconciler %+v (fresh: %t): %v", r.o.patience, now, report, fresh, err)
			return false, nil
		}
		if err := load.Wait(ctx, 300*time.Millisecond); err != nil {
			return false, err
		}
	}
}
