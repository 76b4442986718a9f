package demo

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/provider"
)

const (
	// times is how often the provider sends each callback.
	times = 3
	// deliveries are under way at once.
	deliveriesAtOnce = 16
	// deliveryPatience is how long the provider goes on with a callback that is not accepted.
	deliveryPatience = 3 * time.Minute
	// unflushed is what may be sent twice when a worker is killed: webhooks whose answer came so shortly before that it was
	// not written down yet.
	unflushed = 250 * time.Millisecond
	// callbackInterval is between two looks at the payments.
	callbackInterval = 250 * time.Millisecond
)

// way is what happens to a payment at the provider, in its order there.
type way struct {
	happens []happening
	end     payment.Status
}

// happening is a type of Stripe's events, and the status of the object that it is about where that matters.
type happening struct{ eventType, status string }

// ways are what the payments go through in turn. The first has the longest story.
func ways() []way {
	return []way{
		{[]happening{{"payment_intent.succeeded", ""}, {"charge.dispute.created", ""}, {"charge.dispute.closed", "won"}}, payment.StatusSucceeded},
		{[]happening{{"payment_intent.succeeded", ""}, {"charge.succeeded", ""}}, payment.StatusSucceeded},
		{[]happening{{"payment_intent.processing", ""}, {"payment_intent.succeeded", ""}}, payment.StatusSucceeded},
		{[]happening{{"payment_intent.processing", ""}, {"payment_intent.payment_failed", ""}}, payment.StatusFailed},
		{[]happening{{"payment_intent.succeeded", ""}, {"charge.refunded", ""}}, payment.StatusRefunded},
		{[]happening{{"payment_intent.canceled", ""}}, payment.StatusCanceled},
	}
}

// Callbacks is what came of the scenario of that name. It counts webhooks by id.
type Callbacks struct {
	Scenario          string         `json:"scenario"`
	Callbacks         CallbackCounts `json:"callbacks"`
	Payments          int            `json:"payments"`
	PaymentsRight     int            `json:"payments_right"` // whose status and history are as they have to be
	Events            int            `json:"events"`         // one of each payment's creation, and of each change of its status
	Delivered         int            `json:"delivered"`      // of the events: accepted by the merchant at least once
	Lost              int            `json:"lost"`           // of the events: not accepted by the end
	Duplicates        int            `json:"duplicates"`     // accepted more than once
	Unexplained       int            `json:"duplicates_unexplained"`
	InvalidSignatures int            `json:"invalid_signatures"`
	Seconds           float64        `json:"seconds"`
	DownSeconds       float64        `json:"worker_down_seconds"` // from its kill until everything was ready again
	Intake            string         `json:"intake"`
	Kafka             string         `json:"kafka"`
	// Addresses are what there is to open, by name.
	Addresses map[string]string `json:"addresses"`

	story story // of one payment
	url   string
}

// CallbackCounts count what the provider sent, and what became of it.
type CallbackCounts struct {
	Distinct int `json:"distinct"` // events of the provider's
	Sent     int `json:"sent"`     // deliveries, those that were refused and repeated included
	Accepted int `json:"accepted"` // deliveries that were answered 2xx
	Refused  int `json:"refused"`  // deliveries that were not, and had to be repeated
	// Applied are distinct callbacks that moved their payment: one for each change of a status there is.
	Applied int `json:"applied"`
	Changes int `json:"changes"` // of the payments' statuses, as the database has them
	// AlreadyThere and Overtaken are distinct callbacks that had nothing more to say; Repeated, of the accepted ones, are those
	// that were sent before.
	AlreadyThere int `json:"already_there"`
	Overtaken    int `json:"stale"`
	Repeated     int `json:"repeated"`
}

// Err says what is wrong.
func (c Callbacks) Err() error {
	var errs []error
	if c.PaymentsRight < c.Payments {
		errs = append(errs, fmt.Errorf("%d of %d payments are not what their provider says", c.Payments-c.PaymentsRight, c.Payments))
	}
	if want := times * c.Callbacks.Distinct; c.Callbacks.Accepted != want {
		errs = append(errs, fmt.Errorf("%d of %d callbacks were accepted", c.Callbacks.Accepted, want))
	}
	if c.Callbacks.Applied != c.Callbacks.Changes {
		errs = append(errs, fmt.Errorf("%d callbacks were applied, and the payments' statuses changed %d times", c.Callbacks.Applied, c.Callbacks.Changes))
	}
	if c.Lost > 0 {
		errs = append(errs, fmt.Errorf("%d of %d webhooks did not arrive", c.Lost, c.Events))
	}
	if c.Unexplained > 0 {
		errs = append(errs, fmt.Errorf("%d webhooks came twice, and the worker was not killed within %s of their answer", c.Unexplained, unflushed))
	}
	if c.InvalidSignatures > 0 {
		errs = append(errs, fmt.Errorf("%d webhooks were not signed well", c.InvalidSignatures))
	}
	return errors.Join(errs...)
}

// Print writes the summary for a person to read.
func (c Callbacks) Print(out io.Writer) {
	n := c.Callbacks
	fmt.Fprintf(out, "\n%d callbacks, each sent %d times: %d deliveries, %d accepted, %d refused and repeated\n", n.Distinct, times, n.Sent, n.Accepted, n.Refused)
	fmt.Fprintf(out, "%d applied once each, for %d changes of status; %d told what was so already, %d came too late to matter; %d repetitions dropped\n",
		n.Applied, n.Changes, n.AlreadyThere, n.Overtaken, n.Repeated)
	fmt.Fprintf(out, "%d of %d payments are right\n", c.PaymentsRight, c.Payments)
	fmt.Fprintf(out, "%d events, %d delivered, %d lost, %d duplicates", c.Events, c.Delivered, c.Lost, c.Duplicates)
	if c.Duplicates > c.Unexplained {
		fmt.Fprintf(out, " (%d of them answered within %s of the kill)", c.Duplicates-c.Unexplained, unflushed)
	}
	fmt.Fprintf(out, "; the worker was away for %.1f s of %.1f (intake %s, kafka %s)\n", c.DownSeconds, c.Seconds, c.Intake, c.Kafka)
	c.story.print(out, c.url)
	fmt.Fprintf(out, "\nWhat Restate keeps of each payment, by its id: %s\n", c.Addresses["payment_tracker"])
}

// story is the answer to GET /payments/{id}/history.
type story struct {
	Payment   payment.Payment  `json:"payment"`
	Callbacks []callback.Entry `json:"callbacks"`
}

func (s story) print(out io.Writer, url string) {
	fmt.Fprintf(out, "\nOne payment's story, from %s:\n", url)
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, each := range s.Callbacks {
		outcome := string(each.Outcome)
		if waited := each.DecidedAt.Sub(each.ReceivedAt); each.Outcome == callback.Applied && waited >= time.Millisecond {
			outcome += fmt.Sprintf(", %.0f ms after it came", load.Milliseconds(waited))
		}
		fmt.Fprintf(tw, "  came %s\t%s\t%s\tof %s\t%s\n", each.ReceivedAt.Local().Format("15:04:05.000"), each.Type, each.Status,
			each.OccurredAt.Local().Format(time.TimeOnly), outcome)
	}
	tw.Flush()
	fmt.Fprintf(out, "  the payment is %s, version %d\n", s.Payment.Status, s.Payment.Version)
}

// paid is a payment of the scenario.
type paid struct {
	id     string
	way    way
	events []provider.Event
	story  story // as it was last read
	err    error // of the last look
}

// right reports whether the payment is what its provider says, and every callback of it has been decided about.
func (p *paid) right() bool {
	decided := map[string]bool{}
	for _, each := range p.story.Callbacks {
		switch each.Outcome {
		case callback.Applied, callback.AlreadyThere, callback.Overtaken:
			decided[each.EventID] = true
		default:
		}
	}
	return p.err == nil && p.story.Payment.Status == p.way.end && len(decided) == len(p.events) && len(p.story.Callbacks) == len(p.events)
}

// callbacks is the scenario under way.
type callbacks struct {
	Options

	session
	client *http.Client
	began  time.Time
	paid   []*paid

	sent, accepted atomic.Int64
	// Of the worker: when it was killed, at the earliest and at the latest, and when all was well again.
	killed, gone, back time.Time
}

func runCallbacks(ctx context.Context, o Options) (_ Outcome, err error) {
	const most = 1000
	if o.Payments < 1 || o.Payments > most {
		return nil, fmt.Errorf("the scenario has 1 to %d payments, not %d", most, o.Payments)
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	s, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.db.Close(context.WithoutCancel(ctx))) }()
	c := &callbacks{
		Options: o, session: s, began: time.Now(),
		client: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: deliveriesAtOnce}},
	}
	defer c.client.CloseIdleConnections()
	if err := s.warn(ctx, o); err != nil {
		return nil, err
	}
	if err := c.create(ctx); err != nil {
		return nil, err
	}
	if err := c.tell(ctx); err != nil {
		return nil, err
	}
	if err := c.settle(ctx); err != nil {
		return nil, err
	}
	result, err := c.result(ctx)
	if err != nil {
		return nil, err
	}
	if result.InvalidSignatures, err = s.invalidSince(ctx); err != nil {
		return nil, err
	}
	result.Intake, result.Kafka = s.worker.Intake, o.Kafka
	return result, nil
}

func (c *callbacks) say(format string, args ...any) {
	fmt.Fprintf(c.Out, "  %5.1f s  %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// create makes the payments, all pending, and draws what their provider will say about them.
func (c *callbacks) create(ctx context.Context) error {
	body, err := json.Marshal(map[string]any{"merchant_id": c.MerchantID, "amount": 1000, "currency": "USD", "status": payment.StatusPending})
	if err != nil {
		return fmt.Errorf("encoding a payment: %w", err)
	}
	w := &watch{Options: c.Options} // which notes the payments
	publisher := load.NewPublisher(c.API, c.Token, [][]byte{body})
	defer publisher.Close()
	publisher.Answered = w.note
	published := publisher.Rate(ctx, c.Payments, max(leastRate, float64(c.Payments)/longest.Seconds()))
	if err := errors.Join(append(w.errs, published.Err)...); err != nil {
		return fmt.Errorf("creating payments: %w", err)
	}
	all := ways()
	began := time.Now().Add(-time.Minute) // at the provider
	for i, text := range w.created() {
		id, err := uuid.Parse(text)
		if err != nil {
			return fmt.Errorf("reading the id of a payment: %w", err)
		}
		p := &paid{id: text, way: all[i%len(all)]}
		for step, each := range p.way.happens {
			p.events = append(p.events, provider.Event{
				ID: "evt_" + cryptorand.Text(), Type: each.eventType, ObjectStatus: each.status, PaymentID: id,
				Created: began.Add(time.Duration(step) * time.Second),
			})
		}
		c.paid = append(c.paid, p)
	}
	c.say("%d payments created, all pending", len(c.paid))
	return nil
}

// distinct is how many callbacks there are, of all payments.
func (c *callbacks) distinct() int {
	n := 0
	for _, p := range c.paid {
		n += len(p.events)
	}
	return n
}

// tell has the provider send everything, in any order, and restarts the workers when half of it has been accepted.
func (c *callbacks) tell(ctx context.Context) error {
	var all []provider.Event
	for _, p := range c.paid {
		for range times {
			all = append(all, p.events...)
		}
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] }) //nolint:gosec // there is nothing to guess
	c.say("the provider sends %d callbacks %d times each, in any order, up to %d at once", c.distinct(), times, deliveriesAtOnce)

	stripe := provider.New("http://"+c.API+"/callbacks/"+callback.Stripe, c.CallbackSecret, deliveriesAtOnce)
	defer stripe.Close()
	half := make(chan struct{})
	reached := sync.OnceFunc(func() { close(half) })
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(deliveriesAtOnce + 1)
	group.Go(func() error {
		select {
		case <-half:
		case <-ctx.Done():
			return ctx.Err()
		}
		return c.restart(ctx)
	})
	for _, event := range all {
		group.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, deliveryPatience)
			defer cancel()
			sent, err := stripe.Deliver(ctx, event)
			c.sent.Add(int64(sent))
			if err != nil {
				return fmt.Errorf("the provider's event %s: %w", event.ID, err)
			}
			if c.accepted.Add(1) >= int64(len(all)+1)/2 {
				reached()
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	c.say("%d of %d accepted, in %d deliveries", c.accepted.Load(), len(all), c.sent.Load())
	return nil
}

func (c *callbacks) restart(ctx context.Context) error {
	c.killed = time.Now()
	if err := c.Kill(ctx); err != nil {
		return fmt.Errorf("killing the worker: %w", err)
	}
	c.gone = time.Now()
	c.say("webhook-worker is killed, with %d accepted", c.accepted.Load())
	if err := c.Up(ctx); err != nil {
		return fmt.Errorf("starting the worker again: %w", err)
	}
	c.back = time.Now()
	c.say("webhook-worker is back, with %d accepted", c.accepted.Load())
	return nil
}

// settle waits until every payment is right and every webhook has arrived, or nothing has moved for too long.
func (c *callbacks) settle(ctx context.Context) error {
	tick := time.NewTicker(callbackInterval)
	defer tick.Stop()
	last := ""
	for moved := time.Now(); ; {
		right, err := c.look(ctx)
		if err != nil {
			return err
		}
		account, _, err := c.account(ctx)
		if err != nil {
			return err
		}
		if line := fmt.Sprintf("%d of %d payments are right, %d of %d webhooks have arrived", right, len(c.paid), account.Delivered, account.Created); line != last {
			last, moved = line, time.Now()
			c.say("%s", line)
		}
		if right == len(c.paid) && account.Lost == 0 {
			return load.Wait(ctx, trailing)
		}
		if time.Since(moved) >= c.patience {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// look reads the history of every payment that was not right at the last look, and returns how many are right now.
func (c *callbacks) look(ctx context.Context) (right int, err error) {
	var group errgroup.Group
	group.SetLimit(deliveriesAtOnce)
	for _, p := range c.paid {
		if !p.right() {
			group.Go(func() error {
				p.story, p.err = c.read(ctx, p.id)
				return nil
			})
		}
	}
	if err := errors.Join(group.Wait(), ctx.Err()); err != nil {
		return 0, err
	}
	for _, p := range c.paid {
		if p.right() {
			right++
		}
	}
	return right, nil
}

func (c *callbacks) url(id string) string { return "http://" + c.API + "/payments/" + id + "/history" }

func (c *callbacks) read(ctx context.Context, id string) (story, error) {
	var s story
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(id), nil)
	if err != nil {
		return s, fmt.Errorf("making the request: %w", err)
	}
	if c.Token != "" {
		request.Header.Set("Authorization", "Bearer "+c.Token)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return s, fmt.Errorf("reading the history of payment %s: %w", id, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return s, fmt.Errorf("reading the history of payment %s: payments-api answered %d", id, response.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&s); err != nil {
		return s, fmt.Errorf("reading the history of payment %s: %w", id, err)
	}
	return s, nil
}

// account compares the events of the payments with what the merchant accepted.
func (c *callbacks) account(ctx context.Context) (load.Account, map[uuid.UUID]load.Ack, error) {
	ids := make([]string, len(c.paid))
	for i, p := range c.paid {
		ids[i] = p.id
	}
	events, err := c.db.EventsOfPayments(ctx, ids)
	if err != nil {
		return load.Account{}, nil, err
	}
	eventIDs := make([]uuid.UUID, len(events))
	for i, event := range events {
		eventIDs[i] = event.ID
	}
	acks, err := c.merchant.Acks(ctx, eventIDs)
	if err != nil {
		return load.Account{}, nil, err
	}
	return load.AccountFor(events, acks), acks, nil
}

func (c *callbacks) result(ctx context.Context) (Callbacks, error) {
	right, err := c.look(ctx)
	if err != nil {
		return Callbacks{}, err
	}
	account, acks, err := c.account(ctx)
	if err != nil {
		return Callbacks{}, err
	}
	out := Callbacks{
		Scenario: "callbacks", Payments: len(c.paid), PaymentsRight: right,
		Events: account.Created, Delivered: account.Delivered, Lost: account.Lost, Duplicates: account.Duplicates,
		Seconds:     load.Round(time.Since(c.began).Seconds(), 3),
		DownSeconds: load.Round(c.back.Sub(c.killed).Seconds(), 3),
		Callbacks: CallbackCounts{
			Distinct: c.distinct(), Sent: int(c.sent.Load()), Accepted: int(c.accepted.Load()), Changes: account.Created - len(c.paid),
		},
		Addresses: map[string]string{
			"history": c.url("{id}"), "payment_tracker": "http://" + c.RestateAdmin + "/ui/state/PaymentTracker",
		},
		story: c.paid[0].story, url: c.url(c.paid[0].id),
	}
	out.Callbacks.Refused = out.Callbacks.Sent - out.Callbacks.Accepted
	out.Callbacks.Repeated = out.Callbacks.Accepted - out.Callbacks.Distinct
	for _, ack := range acks {
		if ack.Times > 1 && !c.explains(ack.First) {
			out.Unexplained++
		}
	}
	var problems []string
	for _, p := range c.paid {
		if !p.right() {
			problems = append(problems, p.problem())
		}
		for _, each := range p.story.Callbacks {
			switch each.Outcome {
			case callback.Applied:
				out.Callbacks.Applied++
			case callback.AlreadyThere:
				out.Callbacks.AlreadyThere++
			case callback.Overtaken:
				out.Callbacks.Overtaken++
			default:
			}
		}
	}
	for _, line := range slices.Sorted(slices.Values(problems)) {
		fmt.Fprintln(c.Out, line)
	}
	return out, nil
}

// explains reports whether a webhook that was first answered then may come twice because of the kill.
func (c *callbacks) explains(answered time.Time) bool {
	return !answered.Before(c.killed.Add(-unflushed)) && !answered.After(c.gone.Add(unflushed))
}

// problem says what is wrong with a payment that is not right.
func (p *paid) problem() string {
	if p.err != nil {
		return p.err.Error()
	}
	told := make([]string, len(p.story.Callbacks))
	for i, each := range p.story.Callbacks {
		told[i] = each.Type + " " + string(each.Outcome)
	}
	return fmt.Sprintf("payment %s is %s and should be %s, by %d callbacks: %s", p.id, p.story.Payment.Status, p.way.end, len(p.events), strings.Join(told, ", "))
}
