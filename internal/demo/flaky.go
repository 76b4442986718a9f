package demo

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/simulator"
)

const (
	// asked is what the merchant that is overrun asks to wait for: more than the first delay of flakySchedule, jitter
	// included, so that a wait of its length cannot come from there.
	asked = 2 * time.Second
	// hangTimeout is the least that an endpoint may have.
	hangTimeout = time.Second
	// telling is the least time between two lines of progress.
	telling = 500 * time.Millisecond
	// removing bounds the cleaning up.
	removing = 10 * time.Second
)

func flakySchedule() delivery.Schedule {
	return delivery.Schedule{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second}
}

// flaw is a way in which a merchant of the scenario treats each of its webhooks.
type flaw struct {
	name      string // what its merchant's id begins with
	about     string
	behaviour simulator.Behaviour
	timeout   time.Duration // of its endpoint; 0 is the default
	// failures is how many attempts of each webhook fail, by cause.
	failures int
	cause    delivery.Cause
	// wait is the least there has to be before the second attempt; 0 where the schedule decides.
	wait time.Duration
}

func flaws() []flaw {
	return []flaw{
		{
			name: "fails-twice", about: "answers 500 to the first two attempts of each webhook",
			behaviour: simulator.Behaviour{Status: http.StatusInternalServerError, FailFirst: 2},
			failures:  2, cause: delivery.CauseServerError,
		},
		{
			name: "overrun", about: "answers 429 with Retry-After: 2 to the first attempt of each webhook",
			behaviour: simulator.Behaviour{Status: http.StatusTooManyRequests, FailFirst: 1, RetryAfter: fmt.Sprint(asked.Seconds())},
			failures:  1, cause: delivery.CauseRateLimited, wait: asked,
		},
		{
			name: "hangs-once", about: "never answers the first attempt of each webhook",
			behaviour: simulator.Behaviour{Hang: true, FailFirst: 1}, timeout: hangTimeout,
			failures: 1, cause: delivery.CauseTimeoutAnswer,
		},
		{name: "healthy", about: "accepts every webhook at once"},
	}
}

// Flaky is what came of the scenario of that name. It counts events by id.
type Flaky struct {
	Scenario          string          `json:"scenario"`
	Created           int             `json:"created"`
	Delivered         int             `json:"delivered"` // of the created: accepted at least once
	Lost              int             `json:"lost"`      // of the created: not accepted by the end
	Duplicates        int             `json:"duplicates"`
	InvalidSignatures int             `json:"invalid_signatures"`
	Attempts          int             `json:"attempts"`
	Merchants         []FlakyMerchant `json:"merchants"`
	Seconds           float64         `json:"seconds"`
	Intake            string          `json:"intake"`
	Kafka             string          `json:"kafka"`
}

// FlakyMerchant is what came of one merchant's webhooks.
type FlakyMerchant struct {
	Merchant   string `json:"merchant"`
	Behaviour  string `json:"behaviour"`
	Created    int    `json:"created"`
	Delivered  int    `json:"delivered"`
	Lost       int    `json:"lost"`
	Duplicates int    `json:"duplicates"`
	// Attempts are the ledger's. Causes counts those of them that failed.
	Attempts int                    `json:"attempts"`
	Causes   map[delivery.Cause]int `json:"causes"`
	// LeastWaitMS is the shortest time between the end of a first attempt and the beginning of the second; absent where
	// there is no second one.
	LeastWaitMS   *float64         `json:"least_wait_ms,omitempty"`
	CommitToAckMS load.Percentiles `json:"commit_to_ack_ms"`

	flaw flaw
}

// Err says what was lost, and where a merchant was not treated as it has to be.
func (f Flaky) Err() error {
	var errs []error
	if f.Lost > 0 {
		errs = append(errs, fmt.Errorf("%d of %d webhooks did not arrive", f.Lost, f.Created))
	}
	if f.InvalidSignatures > 0 {
		errs = append(errs, fmt.Errorf("%d webhooks were not signed well", f.InvalidSignatures))
	}
	for _, m := range f.Merchants {
		if want := m.flaw.failures * m.Created; m.Causes[m.flaw.cause] < want {
			errs = append(errs, fmt.Errorf("%s: the ledger has %d attempts that ended with %s, not %d", m.Merchant, m.Causes[m.flaw.cause], m.flaw.cause, want))
		}
		if m.LeastWaitMS != nil && *m.LeastWaitMS < load.Milliseconds(m.flaw.wait) {
			errs = append(errs, fmt.Errorf("%s: a second attempt came %.0f ms after the first, and was asked to wait for %s", m.Merchant, *m.LeastWaitMS, m.flaw.wait))
		}
	}
	return errors.Join(errs...)
}

// Print writes the summary for a person to read.
func (f Flaky) Print(out io.Writer) {
	fmt.Fprintln(out)
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "merchant\tpayments\tdelivered\tattempts\tfailed\tcommit to 2xx, p50 and longest\tleast wait before the 2nd attempt")
	causes := map[delivery.Cause]bool{}
	for _, m := range f.Merchants {
		wait := "-"
		if m.LeastWaitMS != nil {
			wait = fmt.Sprintf("%.2f s", *m.LeastWaitMS/1000)
		}
		var failed []string
		for _, cause := range slices.Sorted(maps.Keys(m.Causes)) {
			causes[cause] = true
			failed = append(failed, fmt.Sprintf("%s %d", cause, m.Causes[cause]))
		}
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%s\t%.2f s, %.2f s\t%s\n", m.flaw.name, m.Created, m.Delivered, m.Attempts,
			cmp.Or(strings.Join(failed, ", "), "-"), m.CommitToAckMS.P50/1000, m.CommitToAckMS.Max/1000, wait)
	}
	tw.Flush()
	if len(causes) > 0 {
		fmt.Fprintln(out, "\nwhat the ledger says of the attempts that failed:")
	}
	for _, cause := range slices.Sorted(maps.Keys(causes)) {
		fmt.Fprintf(out, "  %s: %s; %s\n", cause, cause.Explain().What, cause.Explain().Do)
	}
	fmt.Fprintf(out, "\n%d events created, %d delivered, %d lost, %d duplicates, in %d attempts (intake %s, kafka %s)\n",
		f.Created, f.Delivered, f.Lost, f.Duplicates, f.Attempts, f.Intake, f.Kafka)
}

// flaky is the scenario under way.
type flaky struct {
	Options
	session
	guests

	flaws []flaw
	began time.Time

	mu   sync.Mutex
	paid map[string][]string // payments, by merchant
	errs []error
}

func runFlaky(ctx context.Context, o Options) (_ Outcome, err error) {
	const most = 1000
	if o.Payments < 1 || o.Payments > most {
		return nil, fmt.Errorf("each merchant of the scenario has 1 to %d payments, not %d", most, o.Payments)
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	s, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.db.Close(context.WithoutCancel(ctx))) }()
	f := &flaky{Options: o, session: s, flaws: flaws(), began: time.Now(), paid: map[string][]string{}}
	lost := 0
	defer func() { err = errors.Join(err, f.dismiss(ctx, f.Options, f.session, lost > 0)) }()
	if err := f.addMerchants(ctx); err != nil {
		return nil, err
	}
	if err := f.run(ctx); err != nil {
		return nil, err
	}
	result, err := f.account(ctx)
	if err != nil {
		return nil, err
	}
	lost = result.Lost
	if result.InvalidSignatures, err = s.invalidSince(ctx); err != nil {
		return nil, err
	}
	result.Intake, result.Kafka = s.worker.Intake, o.Kafka
	return result, nil
}

// addMerchants tells the simulator how to treat each merchant, and gives each an endpoint there. Nobody else has the ids.
func (f *flaky) addMerchants(ctx context.Context) error {
	secret, err := f.secret(ctx)
	if err != nil {
		return err
	}
	run := strings.ToLower(cryptorand.Text()[:6])
	fmt.Fprintln(f.Out)
	for _, each := range f.flaws {
		name := each.name + "-" + run
		each.behaviour.Merchant = name
		if err := f.merchant.Behave(ctx, each.behaviour); err != nil {
			return err
		}
		err := f.invite(ctx, f.Options, endpoint.Spec{
			MerchantID: name, Description: each.about,
			Schedule: flakySchedule(), Timeout: each.timeout, Secret: secret,
		})
		if err != nil {
			return err
		}
		fmt.Fprintf(f.Out, "%-12s %s\n", each.name, each.about)
	}
	fmt.Fprintf(f.Out, "\nCreating %d payments of each; a failed attempt is made again after %s, more or less.\nDelivered/created in attempts:\n\n", f.Payments, flakySchedule())
	return nil
}

// secret is what the simulator verifies by: the demo merchant's endpoint's, the oldest one where it is being rotated.
func (o Options) secret(ctx context.Context) (string, error) {
	all, err := o.Endpoints.List(ctx, o.MerchantID)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("merchant %s has no endpoint, whose secret the simulator verifies by", o.MerchantID)
	}
	recipient, err := o.Endpoints.Recipient(ctx, all[0].ID)
	if err != nil {
		return "", err
	}
	if len(recipient.Secrets) == 0 {
		return "", fmt.Errorf("the endpoint of merchant %s has no secret, by which the simulator verifies", o.MerchantID)
	}
	return recipient.Secrets[len(recipient.Secrets)-1].Value, nil
}

func (f *flaky) run(ctx context.Context) error {
	created := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(created)
		return f.create(ctx)
	})
	group.Go(func() error { return f.follow(ctx, created, f.look) })
	return group.Wait()
}

func (f *flaky) create(ctx context.Context) error {
	var bodies [][]byte
	for _, name := range f.merchants {
		body, err := json.Marshal(map[string]any{"merchant_id": name, "amount": 1000, "currency": "USD"})
		if err != nil {
			return fmt.Errorf("encoding a payment: %w", err)
		}
		bodies = append(bodies, body)
	}
	publisher := load.NewPublisher(f.API, f.Token, bodies)
	defer publisher.Close()
	publisher.Answered = f.note
	count := f.Payments * len(bodies)
	published := publisher.Rate(ctx, count, max(leastRate, float64(count)/longest.Seconds()))
	if published.Err != nil {
		return fmt.Errorf("creating payments: %w", published.Err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return errors.Join(f.errs...)
}

func (f *flaky) note(answer []byte) {
	var payment struct {
		ID         string `json:"id"`
		MerchantID string `json:"merchant_id"`
	}
	err := json.Unmarshal(answer, &payment)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.errs = append(f.errs, fmt.Errorf("reading the answer to a payment: %w", err))
		return
	}
	f.paid[payment.MerchantID] = append(f.paid[payment.MerchantID], payment.ID)
}

// look asks how far it is.
func (f *flaky) look(ctx context.Context) (look, error) {
	now, err := f.account(ctx)
	return look{seconds: now.Seconds, line: now.progress(), settled: now.settled()}, err
}

// progress is a line on how far it is.
func (f Flaky) progress() string {
	parts := make([]string, len(f.Merchants))
	for i, m := range f.Merchants {
		parts[i] = fmt.Sprintf("%s %d/%d in %d", m.flaw.name, m.Delivered, m.Created, m.Attempts)
	}
	return strings.Join(parts, ", ")
}

// settled reports whether everything has arrived, and each arrival is in the ledger.
func (f Flaky) settled() bool {
	for _, m := range f.Merchants {
		failed := 0
		for _, n := range m.Causes {
			failed += n
		}
		if m.Delivered < m.Created || m.Attempts-failed < m.Created {
			return false
		}
	}
	return true
}

// account asks the database for what was committed, the merchant for what it accepted, and the ledger for what was tried.
func (f *flaky) account(ctx context.Context) (Flaky, error) {
	out := Flaky{Scenario: "flaky", Seconds: time.Since(f.began).Round(time.Millisecond).Seconds()}
	for i, each := range f.flaws {
		f.mu.Lock()
		paid := slices.Clone(f.paid[f.merchants[i]])
		f.mu.Unlock()
		events, err := f.db.EventsOfPayments(ctx, paid)
		if err != nil {
			return Flaky{}, err
		}
		ids := make([]uuid.UUID, len(events))
		for i, event := range events {
			ids[i] = event.ID
		}
		acks, err := f.merchant.Acks(ctx, ids)
		if err != nil {
			return Flaky{}, err
		}
		attempts, err := f.db.Attempts(ctx, ids)
		if err != nil {
			return Flaky{}, err
		}
		account := load.AccountFor(events, acks)
		m := FlakyMerchant{
			Merchant: f.merchants[i], Behaviour: each.about, Created: account.Created, Delivered: account.Delivered, Lost: account.Lost,
			Duplicates: account.Duplicates, Attempts: len(attempts), Causes: map[delivery.Cause]int{}, LeastWaitMS: leastWait(attempts),
			CommitToAckMS: load.PercentilesOf(account.CommitToAck), flaw: each,
		}
		for _, attempt := range attempts {
			if attempt.Cause != delivery.CauseOK {
				m.Causes[attempt.Cause]++
			}
		}
		out.Created += m.Created
		out.Delivered += m.Delivered
		out.Lost += m.Lost
		out.Duplicates += m.Duplicates
		out.Attempts += m.Attempts
		out.Merchants = append(out.Merchants, m)
	}
	return out, nil
}

// leastWait is the shortest wait between the first and the second attempt of one webhook, in milliseconds; nil where there
// is none.
func leastWait(attempts []load.Attempt) *float64 {
	var least *float64
	for i := 1; i < len(attempts); i++ {
		first, second := attempts[i-1], attempts[i]
		if first.EventID != second.EventID || first.Number != 1 || second.Number != 2 {
			continue
		}
		if ms := load.Milliseconds(second.Began.Sub(first.Began.Add(first.Took))); least == nil || ms < *least {
			least = &ms
		}
	}
	return least
}
