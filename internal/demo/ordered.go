package demo

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/apiclient"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/simulator"
)

const (
	// orderedRate is how many payments are created per second. Each is seven events within a moment.
	orderedRate = 10
	// failEvery is the attempt that both merchants answer 503, of so many.
	failEvery = 5
)

// changes are what each payment goes through after it was created pending.
func changes() []payment.Status {
	return []payment.Status{
		payment.StatusProcessing, payment.StatusSucceeded, payment.StatusDisputed, payment.StatusSucceeded, payment.StatusDisputed, payment.StatusRefunded,
	}
}

// orderedSchedule is short, so that it shows how others wait for a retry, and not how long retries take.
func orderedSchedule() delivery.Schedule {
	return delivery.Schedule{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second}
}

// Ordered is what came of the scenario of that name. It counts events by id.
type Ordered struct {
	Scenario string `json:"scenario"`
	Payments int    `json:"payments"` // of each merchant
	OrderedMerchant
	InvalidSignatures int `json:"invalid_signatures"`
	// WaitingMost is how many deliveries waited for their turn at once.
	WaitingMost int `json:"waiting_most"`
	// Parallel is the same at an endpoint that asks for no order.
	Parallel OrderedMerchant `json:"parallel"`
	Seconds  float64         `json:"seconds"`
	Intake   string          `json:"intake"`
	Kafka    string          `json:"kafka"`
}

// OrderedMerchant is what came of one merchant's webhooks.
type OrderedMerchant struct {
	Created    int `json:"created"`
	Delivered  int `json:"delivered"` // of the created: accepted at least once
	Lost       int `json:"lost"`      // of the created: not accepted by the end
	Duplicates int `json:"duplicates"`
	// OrderViolations are versions of a payment that were first accepted before a lower one was.
	OrderViolations int              `json:"order_violations"`
	CommitToAckMS   load.Percentiles `json:"commit_to_ack_ms"`
}

// Err says what was lost, or came out of order where an order was asked for.
func (r Ordered) Err() error {
	var errs []error
	if lost := r.Lost + r.Parallel.Lost; lost > 0 {
		errs = append(errs, fmt.Errorf("%d of %d webhooks did not arrive", lost, r.Created+r.Parallel.Created))
	}
	if r.OrderViolations > 0 {
		errs = append(errs, fmt.Errorf("%d webhooks were accepted before an earlier one of their payment", r.OrderViolations))
	}
	if r.InvalidSignatures > 0 {
		errs = append(errs, fmt.Errorf("%d webhooks were not signed well", r.InvalidSignatures))
	}
	return errors.Join(errs...)
}

// Print writes the summary for a person to read.
func (r Ordered) Print(out io.Writer) {
	fmt.Fprintln(out)
	tw := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "ordering\tevents\tdelivered\tlost\tduplicates\torder violations\tcommit to 2xx, p50 and longest")
	for _, row := range []struct {
		name string
		of   OrderedMerchant
	}{{string(endpoint.PerObject), r.OrderedMerchant}, {string(endpoint.Parallel), r.Parallel}} {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%d\t%d\t%d\t%.2f s, %.2f s\n", row.name, row.of.Created, row.of.Delivered, row.of.Lost, row.of.Duplicates,
			row.of.OrderViolations, row.of.CommitToAckMS.P50/1000, row.of.CommitToAckMS.Max/1000)
	}
	tw.Flush()
	fmt.Fprintf(out, "\nat most %d versions waited at once for the one before (intake %s, kafka %s)\n", r.WaitingMost, r.Intake, r.Kafka)
}

// ordered is the scenario under way.
type ordered struct {
	Options
	session
	guests

	client *apiclient.Client
	began  time.Time
	most   int // that waited

	mu   sync.Mutex
	paid map[string][]string // payments, by merchant
}

func runOrdered(ctx context.Context, o Options) (_ Outcome, err error) {
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
	r := &ordered{Options: o, session: s, began: time.Now(), paid: map[string][]string{}}
	if r.client, err = apiclient.New("http://"+o.API, o.Token); err != nil {
		return nil, err
	}
	defer r.client.Close()
	open := true // until everything is known to have arrived
	defer func() { err = errors.Join(err, r.dismiss(ctx, r.Options, r.session, open)) }()
	if err := r.addMerchants(ctx); err != nil {
		return nil, err
	}
	created := make(chan struct{})
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(created)
		return r.create(running)
	})
	group.Go(func() error { return r.follow(running, created, r.look) })
	if err := group.Wait(); err != nil {
		return nil, err
	}
	result, err := r.account(ctx)
	if err != nil {
		return nil, err
	}
	open = result.Lost+result.Parallel.Lost > 0
	if result.InvalidSignatures, err = s.invalidSince(ctx); err != nil {
		return nil, err
	}
	result.Intake, result.Kafka = s.worker.Intake, o.Kafka
	return result, nil
}

func (r *ordered) addMerchants(ctx context.Context) error {
	secret, err := r.secret(ctx)
	if err != nil {
		return err
	}
	run := strings.ToLower(cryptorand.Text()[:6])
	for _, ordering := range []endpoint.Ordering{endpoint.PerObject, endpoint.Parallel} {
		name := "by-" + string(ordering) + "-" + run
		if err := r.merchant.Behave(ctx, simulator.Behaviour{Merchant: name, Status: http.StatusServiceUnavailable, FailEvery: failEvery}); err != nil {
			return err
		}
		err := r.invite(ctx, r.Options, endpoint.Spec{
			MerchantID: name, Description: "of a demo", Schedule: orderedSchedule(),
			Ordering: ordering, Secret: secret,
		})
		if err != nil {
			return err
		}
	}
	fmt.Fprintf(r.Out, "\nTwo merchants with %d payments each, of %d versions within a moment. Both answer 503 to every %dth webhook;\n"+
		"one wants the versions of a payment in order.\n\n", r.Payments, 1+len(changes()), failEvery)
	return nil
}

// create makes the payments, and takes each through its story.
func (r *ordered) create(ctx context.Context) error {
	bodies := make([][]byte, len(r.merchants))
	for i, merchant := range r.merchants {
		bodies[i] = fmt.Appendf(nil, `{"merchant_id":%q,"amount":1000,"currency":"USD","status":"pending"}`, merchant)
	}
	walks, walking := errgroup.WithContext(ctx)
	publisher := load.NewPublisher(r.API, r.Token, bodies)
	defer publisher.Close()
	publisher.Answered = func(answer []byte) {
		walks.Go(func() error { return r.walk(walking, answer) })
	}
	published := publisher.Rate(ctx, r.Payments*len(bodies), orderedRate)
	if err := walks.Wait(); err != nil {
		return err
	}
	if published.Err != nil {
		return fmt.Errorf("creating payments: %w", published.Err)
	}
	return nil
}

func (r *ordered) walk(ctx context.Context, created []byte) error {
	var p payment.Payment
	if err := json.Unmarshal(created, &p); err != nil {
		return fmt.Errorf("reading the answer to a payment: %w", err)
	}
	r.mu.Lock()
	r.paid[p.MerchantID] = append(r.paid[p.MerchantID], p.ID.String())
	r.mu.Unlock()
	for _, status := range changes() {
		moved, err := r.client.ChangeStatus(ctx, p.ID, p.Version, status)
		if err != nil {
			return fmt.Errorf("changing a payment's status: %w", err)
		}
		p = moved
	}
	return nil
}

// look asks how far it is, and notes how many versions wait.
func (r *ordered) look(ctx context.Context) (look, error) {
	now, err := r.account(ctx)
	if err != nil {
		return look{}, err
	}
	states, err := r.db.States(ctx, r.endpoints)
	if err != nil {
		return look{}, err
	}
	r.most = max(r.most, states[delivery.Waiting])
	return look{
		seconds: now.Seconds,
		line: fmt.Sprintf("in order %d/%d, %d wait; parallel %d/%d, %d out of order", now.Delivered, now.Created, states[delivery.Waiting],
			now.Parallel.Delivered, now.Parallel.Created, now.Parallel.OrderViolations),
		settled: now.Delivered == now.Created && now.Parallel.Delivered == now.Parallel.Created,
	}, nil
}

// account asks the database for what was committed, and the merchants for what they accepted.
func (r *ordered) account(ctx context.Context) (Ordered, error) {
	out := Ordered{
		Scenario: "ordered", Payments: r.Payments, WaitingMost: r.most, Seconds: time.Since(r.began).Round(time.Millisecond).Seconds(),
	}
	for i, of := range []*OrderedMerchant{&out.OrderedMerchant, &out.Parallel} {
		r.mu.Lock()
		paid := slices.Clone(r.paid[r.merchants[i]])
		r.mu.Unlock()
		events, err := r.db.EventsOfPayments(ctx, paid)
		if err != nil {
			return out, err
		}
		ids := make([]uuid.UUID, len(events))
		for i, e := range events {
			ids[i] = e.ID
		}
		acks, err := r.merchant.Acks(ctx, ids)
		if err != nil {
			return out, err
		}
		account := load.AccountFor(events, acks)
		*of = OrderedMerchant{
			Created: account.Created, Delivered: account.Delivered, Lost: account.Lost, Duplicates: account.Duplicates,
			OrderViolations: outOfOrder(events, acks), CommitToAckMS: load.PercentilesOf(account.CommitToAck),
		}
	}
	return out, nil
}

// outOfOrder counts the events that were first accepted before an earlier one of their payment. A payment's events are
// committed one after the other.
func outOfOrder(events []load.Event, acks map[uuid.UUID]load.Ack) int {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b load.Event) int { return a.Committed.Compare(b.Committed) })
	latest := map[string]time.Time{} // first 2xx so far, by payment
	violations := 0
	for _, e := range events {
		ack, accepted := acks[e.ID]
		switch {
		case !accepted:
		case ack.First.Before(latest[e.ObjectID]):
			violations++
		default:
			latest[e.ObjectID] = ack.First
		}
	}
	return violations
}
