package demo

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
)

const (
	// quietMerchants create quietRate payments per second together, evenly.
	quietMerchants = 10
	quietRate      = 50
	// floodConnections is how many requests the flooding merchant has open at a time.
	floodConnections = 8
	// floodTimes is how often a flood and the calm before it are measured.
	floodTimes = 5
	// calm is how many seconds the quiet merchants are measured alone.
	calm = 10
	// floodAllowed is how many times as long as alone the quiet merchants' 99th percentile may be beside a flood.
	floodAllowed = 2.0
)

// FloodResult is what came of the scenario flood. It counts events by id.
type FloodResult struct {
	Scenario          string `json:"scenario"`
	Created           int    `json:"created"`
	Delivered         int    `json:"delivered"` // of the created: accepted at least once
	Lost              int    `json:"lost"`      // of the created: not accepted by the end
	Duplicates        int    `json:"duplicates"`
	InvalidSignatures int    `json:"invalid_signatures"`

	QuietMerchants int     `json:"quiet_merchants"`
	QuietPerS      float64 `json:"quiet_per_s"` // of all of them together
	// Runs alternate: alone, and beside a flood.
	Runs []FloodRun `json:"runs"`
	// AloneP99MS and FloodedP99MS are the medians of the runs' 99th percentiles, and Ratio is the second by the first.
	AloneP99MS   float64 `json:"alone_p99_ms"`
	FloodedP99MS float64 `json:"flooded_p99_ms"`
	Ratio        float64 `json:"ratio"`
	Allowed      float64 `json:"allowed_ratio"`
	// Transaction is a flood that one statement commits at once. It is measured and not judged: what is committed after it
	// follows it through the WAL.
	Transaction FloodPhase `json:"one_transaction"`
	Intake      string     `json:"intake"`
	Kafka       string     `json:"kafka"`
	Seconds     float64    `json:"seconds"`
}

// FloodRun is the quiet merchants alone, and then beside a flood.
type FloodRun struct {
	Alone   QuietLoad  `json:"alone"`
	Flooded FloodPhase `json:"flooded"`
}

// QuietLoad is what the quiet merchants saw.
type QuietLoad struct {
	Events        int              `json:"events"`
	CommitToAckMS load.Percentiles `json:"commit_to_ack_ms"` // from the commit to the merchant's first 2xx
	PostMS        load.Percentiles `json:"post_ms"`          // of their requests, until the answer
}

// FloodPhase is a flood, and what the quiet merchants saw of it: of their events those that were committed between its first
// commit and its last 2xx.
type FloodPhase struct {
	Quiet      QuietLoad `json:"quiet"`
	Created    int       `json:"created"`
	Delivered  int       `json:"delivered"`
	Lost       int       `json:"lost"`
	Duplicates int       `json:"duplicates"`
	CommittedS float64   `json:"committed_s"` // from its first commit to its last
	Seconds    float64   `json:"seconds"`     // from its first commit to its last 2xx
}

// Err says what was lost, and whether the quiet merchants had to wait for the flood.
func (f FloodResult) Err() error {
	var errs []error
	if f.Lost > 0 {
		errs = append(errs, fmt.Errorf("%d of %d webhooks did not arrive", f.Lost, f.Created))
	}
	if f.InvalidSignatures > 0 {
		errs = append(errs, fmt.Errorf("%d webhooks were not signed well", f.InvalidSignatures))
	}
	if !(f.Ratio <= f.Allowed) { // a ratio of nothing is none
		errs = append(errs, fmt.Errorf("beside a flood the 99th percentile of the other merchants is %.1f ms, %.2f times the %.1f ms alone, and not at most %g times",
			f.FloodedP99MS, f.Ratio, f.AloneP99MS, f.Allowed))
	}
	return errors.Join(errs...)
}

// Print writes the summary for a person to read.
func (f FloodResult) Print(out io.Writer) {
	fmt.Fprintf(out, "\n%d quiet merchants, %g payments/s together; from commit to 2xx, ms:\n\n", f.QuietMerchants, f.QuietPerS)
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "run\talone p50\tp99\tflood p50\tp99\tratio\tflood's events\tlost\tduplicates\tcommitted in\tdelivered in\t")
	row := func(name, alone, ratio string, p FloodPhase) {
		fmt.Fprintf(tw, "%s\t%s\t%.1f\t%.1f\t%s\t%d\t%d\t%d\t%.1f s\t%.1f s\t\n", name, alone, p.Quiet.CommitToAckMS.P50, p.Quiet.CommitToAckMS.P99,
			ratio, p.Created, p.Lost, p.Duplicates, p.CommittedS, p.Seconds)
	}
	for i, run := range f.Runs {
		row(fmt.Sprint(i+1), fmt.Sprintf("%.1f\t%.1f", run.Alone.CommitToAckMS.P50, run.Alone.CommitToAckMS.P99),
			fmt.Sprintf("%.2f", run.Flooded.Quiet.CommitToAckMS.P99/run.Alone.CommitToAckMS.P99), run.Flooded)
	}
	row("one transaction", "-\t-", "-", f.Transaction)
	tw.Flush()
	fmt.Fprintf(out, "\nmedian of the 99th percentiles: alone %.1f ms, beside a flood %.1f ms: %.2f times (at most %g are allowed)\n",
		f.AloneP99MS, f.FloodedP99MS, f.Ratio, f.Allowed)
	fmt.Fprintf(out, "%d events created, %d delivered, %d lost, %d duplicates (intake %s, kafka %s)\n",
		f.Created, f.Delivered, f.Lost, f.Duplicates, f.Intake, f.Kafka)
}

// flood is the scenario under way.
type flood struct {
	Options
	session
	guests

	times, calm int
	quiet       []string           // merchants
	flooding    string             // merchant
	counted     map[uuid.UUID]bool // events of phases that are over
	result      FloodResult
}

func runFlood(ctx context.Context, o Options) (Outcome, error) {
	return floodOf(ctx, o, floodTimes, calm)
}

func floodOf(ctx context.Context, o Options, times, calm int) (_ Outcome, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	s, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.db.Close(context.WithoutCancel(ctx))) }()
	f := &flood{Options: o, session: s, times: times, calm: calm, counted: map[uuid.UUID]bool{}}
	defer func() { err = errors.Join(err, f.remove(ctx)) }()
	if err := f.addMerchants(ctx); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := f.run(ctx); err != nil {
		return nil, err
	}
	r := &f.result
	if r.InvalidSignatures, err = s.invalidSince(ctx); err != nil {
		return nil, err
	}
	r.Scenario, r.QuietMerchants, r.QuietPerS, r.Allowed = "flood", quietMerchants, quietRate, floodAllowed
	r.Intake, r.Kafka, r.Seconds = s.worker.Intake, o.Kafka, time.Since(began).Round(time.Millisecond).Seconds()
	r.judge()
	return *r, nil
}

// judge compares the medians.
func (f *FloodResult) judge() {
	var alone, flooded []float64
	for _, run := range f.Runs {
		alone = append(alone, run.Alone.CommitToAckMS.P99)
		flooded = append(flooded, run.Flooded.Quiet.CommitToAckMS.P99)
	}
	f.AloneP99MS, f.FloodedP99MS = median(alone), median(flooded)
	if f.AloneP99MS > 0 && f.FloodedP99MS > 0 {
		f.Ratio = load.Round(f.FloodedP99MS/f.AloneP99MS, 2)
	} else {
		f.Ratio = math.MaxFloat64 // nothing was measured, which is not good
	}
}

// median is the middle one of an odd number of values, the lower of the two of an even one.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)/2]
}

func (f *flood) addMerchants(ctx context.Context) error {
	secret, err := f.secret(ctx)
	if err != nil {
		return err
	}
	run := strings.ToLower(cryptorand.Text()[:6])
	f.flooding = "flooding-" + run
	for i := range quietMerchants {
		f.quiet = append(f.quiet, fmt.Sprintf("quiet-%s-%d", run, i))
	}
	for _, name := range append([]string{f.flooding}, f.quiet...) {
		if err := f.invite(ctx, f.Options, endpoint.Spec{MerchantID: name, Description: "of demo --scenario flood", Secret: secret}); err != nil {
			return err
		}
	}
	return nil
}

// remove takes the merchants away again, or disables them where something is open still.
func (f *flood) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removing)
	defer cancel()
	return f.db.RemoveEndpoints(ctx, f.endpoints, interval, removing/2)
}

func (f *flood) run(ctx context.Context) error {
	fmt.Fprintf(f.Out, "\n%d merchants create %d payments/s together; alone for %d s, and then beside one that creates %d over %d connections, %d times.\n\n",
		quietMerchants, quietRate, f.calm, f.Payments, floodConnections, f.times)
	publisher := load.NewPublisher(f.API, f.Token, bodiesOf(f.flooding))
	defer publisher.Close()
	post := func(ctx context.Context) error {
		if published := publisher.Burst(ctx, f.Payments, floodConnections); published.Err != nil {
			return fmt.Errorf("creating the flood: %w", published.Err)
		}
		return nil
	}
	if _, err := f.phase(ctx, 1, nil); err != nil { // the first events find everything cold, and are not judged
		return err
	}
	for i := range f.times {
		alone, err := f.phase(ctx, f.calm, nil)
		if err != nil {
			return err
		}
		flooded, err := f.phase(ctx, 0, post)
		if err != nil {
			return err
		}
		f.result.Runs = append(f.result.Runs, FloodRun{Alone: alone.Quiet, Flooded: flooded})
		fmt.Fprintf(f.Out, "  %d of %d: p99 %.1f ms alone, %.1f ms beside %d events that were delivered in %.1f s\n", i+1, f.times,
			alone.Quiet.CommitToAckMS.P99, flooded.Quiet.CommitToAckMS.P99, flooded.Delivered, flooded.Seconds)
	}
	var err error
	f.result.Transaction, err = f.phase(ctx, 0, func(ctx context.Context) error {
		return f.db.InsertPayments(ctx, f.flooding, f.Payments)
	})
	return err
}

// phase lets the quiet merchants create payments for so many seconds, and longer until all of a flood has arrived, where
// there is one. It returns when everything has, or nothing has for too long.
func (f *flood) phase(ctx context.Context, seconds int, flooding func(context.Context) error) (FloodPhase, error) {
	before, err := f.merchant.Unique(ctx)
	if err != nil {
		return FloodPhase{}, err
	}
	publisher := load.NewPublisher(f.API, f.Token, bodiesOf(f.quiet...))
	defer publisher.Close()
	// arrived waits until so many events of the flood have, where all of the quiet merchants' have too.
	arrived := func(ctx context.Context, want int) error {
		var failed error
		_, err := load.Settle(ctx, func() int {
			now, err := f.merchant.Unique(ctx)
			if err != nil {
				failed = err
				return want
			}
			return now - before - publisher.Posted()
		}, want, interval, f.patience)
		return errors.Join(failed, err)
	}

	var latencies []time.Duration
	want := 0
	over := make(chan struct{})
	group, running := errgroup.WithContext(ctx)
	if flooding == nil {
		close(over)
	} else {
		want = f.Payments
		group.Go(func() error {
			defer close(over)
			if err := flooding(running); err != nil {
				return err
			}
			return arrived(running, want-quietMerchants) // as some of theirs are always under way
		})
	}
	group.Go(func() error {
		for second := 0; ; second++ {
			select {
			case <-over:
				if second >= seconds {
					return nil
				}
			default:
			}
			published := publisher.Rate(running, quietRate, quietRate)
			if published.Err != nil {
				return fmt.Errorf("creating payments: %w", published.Err)
			}
			latencies = append(latencies, published.Latencies...)
		}
	})
	if err := group.Wait(); err != nil {
		return FloodPhase{}, err
	}
	if err := arrived(ctx, want); err != nil {
		return FloodPhase{}, err
	}
	if err := load.Wait(ctx, 2*trailing); err != nil { // duplicates of a flood take their time
		return FloodPhase{}, err
	}
	phase, err := f.account(ctx)
	phase.Quiet.PostMS = load.PercentilesOf(latencies)
	return phase, err
}

// account asks for everything that was created since the last account.
func (f *flood) account(ctx context.Context) (FloodPhase, error) {
	flooding, acks, err := f.news(ctx, f.flooding)
	if err != nil {
		return FloodPhase{}, err
	}
	p := FloodPhase{}
	account := load.AccountFor(flooding, acks)
	p.Created, p.Delivered, p.Lost, p.Duplicates = account.Created, account.Delivered, account.Lost, account.Duplicates
	f.count(account)
	var first, committed, last time.Time
	for _, event := range flooding {
		if first.IsZero() || event.Committed.Before(first) {
			first = event.Committed
		}
		committed = later(committed, event.Committed)
		last = later(last, acks[event.ID].First)
	}
	p.CommittedS = committed.Sub(first).Round(time.Millisecond).Seconds()
	p.Seconds = max(0, last.Sub(first).Round(time.Millisecond).Seconds())

	quiet, acks, err := f.news(ctx, f.quiet...)
	if err != nil {
		return FloodPhase{}, err
	}
	f.count(load.AccountFor(quiet, acks))
	if len(flooding) > 0 {
		quiet = slices.DeleteFunc(quiet, func(e load.Event) bool { return e.Committed.Before(first) || e.Committed.After(last) })
	}
	during := load.AccountFor(quiet, acks)
	p.Quiet = QuietLoad{Events: during.Created, CommitToAckMS: load.PercentilesOf(during.CommitToAck)}
	return p, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// count adds to what came of everything.
func (f *flood) count(account load.Account) {
	f.result.Created += account.Created
	f.result.Delivered += account.Delivered
	f.result.Lost += account.Lost
	f.result.Duplicates += account.Duplicates
}

// news returns the events of the merchants that were in no account yet, and what the simulator knows of them.
func (f *flood) news(ctx context.Context, merchants ...string) ([]load.Event, map[uuid.UUID]load.Ack, error) {
	events, err := f.db.EventsOfMerchants(ctx, merchants)
	if err != nil {
		return nil, nil, err
	}
	events = slices.DeleteFunc(events, func(e load.Event) bool { return f.counted[e.ID] })
	ids := make([]uuid.UUID, len(events))
	for i, event := range events {
		ids[i] = event.ID
		f.counted[event.ID] = true
	}
	acks, err := f.merchant.Acks(ctx, ids)
	return events, acks, err
}

// bodiesOf returns a payment of each merchant.
func bodiesOf(merchants ...string) [][]byte {
	bodies := make([][]byte, len(merchants))
	for i, merchant := range merchants {
		bodies[i] = fmt.Appendf(nil, `{"merchant_id":%q,"amount":1000,"currency":"USD"}`, merchant)
	}
	return bodies
}
