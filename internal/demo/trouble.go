package demo

import (
	"cmp"
	"context"
	cryptorand "crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/simulator"
)

const (
	// sampling is how often the ledger is asked for backlogs and circuits.
	sampling = 250 * time.Millisecond
	// longestRecovery bounds the wait for what a merchant did not take: the circuit's longest wait for a probe, and a while.
	longestRecovery = 8 * time.Minute
)

// troubleSchedule outlasts what is wrong, and soon finds that it is over.
func troubleSchedule() delivery.Schedule {
	return delivery.Schedule{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 30 * time.Second, time.Minute, time.Minute}
}

// troubles are scenarios in which some merchants have a bad time, with steady traffic to all.
type troubles struct {
	ill, well int     // merchants
	perS      float64 // payments, of each merchant
	behaviour simulator.Behaviour
	timeout   time.Duration // of the endpoints of those that fall ill; 0 is the default
	from, to  time.Duration // when they do, and when they are well again
	least     time.Duration // of traffic
}

// ordeal is such a scenario under way. Its times count from its beginning.
type ordeal struct {
	Options
	session
	guests
	troubles

	began     time.Time
	fell      time.Duration // when they were told to misbehave
	recovered time.Duration // when they were told to behave
	samples   []sample
	saying    sync.Mutex
}

// sample is how the endpoints stood at a moment.
type sample struct {
	at       time.Duration
	backlogs []load.Backlog
}

// fate is what became of one merchant's events.
type fate struct {
	events   []arrival // by their commit
	account  load.Account
	attempts []load.Attempt
}

// arrival is an event, by the scenario's clock.
type arrival struct {
	committed time.Duration
	accepted  time.Duration // of the first time; 0 for never
}

func (a arrival) took() time.Duration { return a.accepted - a.committed }

// between counts those that were committed in a time, and says how long they took. What never arrived counts as nothing.
func between(events []arrival, from, to time.Duration) Latency {
	var took []time.Duration
	for _, e := range events {
		if e.committed >= from && e.committed < to && e.accepted > 0 {
			took = append(took, e.took())
		}
	}
	return Latency{Events: len(took), CommitToAckMS: load.PercentilesOf(took)}
}

// Latency is how long some webhooks took, from the commit to the merchant's first 2xx.
type Latency struct {
	Events        int              `json:"events"`
	CommitToAckMS load.Percentiles `json:"commit_to_ack_ms"`
}

// endure runs the scenario, and returns what became of each merchant's events.
func (t troubles) endure(ctx context.Context, o Options) (_ *ordeal, _ []fate, err error) {
	if o.Payments < int(t.least.Seconds()*t.perS) || o.Payments > 10_000 {
		return nil, nil, fmt.Errorf("each merchant of the scenario has %.0f to 10,000 payments, %g per second, not %d", t.least.Seconds()*t.perS, t.perS, o.Payments)
	}
	o.patience = cmp.Or(o.patience, defaultPatience)
	s, err := begin(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, s.db.Close(context.WithoutCancel(ctx))) }()
	d := &ordeal{Options: o, session: s, troubles: t}
	open := true // until everything is known to have arrived
	defer func() { err = errors.Join(err, d.dismiss(ctx, d.Options, d.session, open)) }()
	if err := d.addMerchants(ctx); err != nil {
		return nil, nil, err
	}
	if err := d.run(ctx); err != nil {
		return nil, nil, err
	}
	fates, err := d.fates(ctx)
	open = slices.ContainsFunc(fates, func(f fate) bool { return f.account.Lost > 0 })
	return d, fates, err
}

func (d *ordeal) addMerchants(ctx context.Context) error {
	secret, err := d.secret(ctx)
	if err != nil {
		return err
	}
	run := strings.ToLower(cryptorand.Text()[:6])
	for i := range d.ill + d.well {
		name, timeout := fmt.Sprintf("well-%s-%d", run, i-d.ill), time.Duration(0)
		if i < d.ill {
			name, timeout = fmt.Sprintf("ill-%s-%d", run, i), d.timeout
		}
		err := d.invite(ctx, d.Options, endpoint.Spec{
			MerchantID: name, Description: "of a demo", Schedule: troubleSchedule(), Timeout: timeout, Secret: secret,
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// behave tells the merchants that are to fall ill how.
func (d *ordeal) behave(ctx context.Context, how simulator.Behaviour) error {
	for _, merchant := range d.merchants[:min(d.ill, len(d.merchants))] {
		how.Merchant = merchant
		if err := d.merchant.Behave(ctx, how); err != nil {
			return err
		}
	}
	return nil
}

func (d *ordeal) clock() time.Duration { return time.Since(d.began) }

// say tells a person what happens now. The merchants' behaviour and the watch do so at the same time.
func (d *ordeal) say(format string, args ...any) {
	d.saying.Lock()
	defer d.saying.Unlock()
	fmt.Fprintf(d.Out, "  %5.1f s  %s\n", d.clock().Seconds(), fmt.Sprintf(format, args...))
}

func (d *ordeal) run(ctx context.Context) error {
	watching, err := load.Connect(ctx, d.DSN) // a connection of its own
	if err != nil {
		return err
	}
	defer func() { _ = watching.Close(context.WithoutCancel(ctx)) }() // it only reads
	d.began = time.Now()
	created := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer close(created)
		return d.create(ctx)
	})
	group.Go(func() error {
		if err := load.Wait(ctx, d.from-d.clock()); err != nil {
			return err
		}
		d.say("%d of the merchants misbehave from now on", d.ill)
		d.fell = d.clock()
		if err := d.behave(ctx, d.behaviour); err != nil {
			return err
		}
		if err := load.Wait(ctx, d.to-d.clock()); err != nil {
			return err
		}
		if err := d.behave(ctx, simulator.Behaviour{}); err != nil {
			return err
		}
		d.recovered = d.clock()
		d.say("they are well again")
		return nil
	})
	group.Go(func() error { return d.watch(ctx, watching, created) })
	return group.Wait()
}

func (d *ordeal) create(ctx context.Context) error {
	bodies := make([][]byte, len(d.merchants))
	for i, merchant := range d.merchants {
		bodies[i] = fmt.Appendf(nil, `{"merchant_id":%q,"amount":1000,"currency":"USD"}`, merchant)
	}
	publisher := load.NewPublisher(d.API, d.Token, bodies)
	defer publisher.Close()
	if published := publisher.Rate(ctx, d.Payments*len(bodies), d.perS*float64(len(bodies))); published.Err != nil {
		return fmt.Errorf("creating payments: %w", published.Err)
	}
	return nil
}

// watch samples until everything has been created and delivered, or nothing has moved for too long.
func (d *ordeal) watch(ctx context.Context, db *load.Database, created <-chan struct{}) error {
	tick := time.NewTicker(sampling)
	defer tick.Stop()
	var said, last string
	moved := time.Now()
	for n := 0; ; n++ {
		complete := false // asked before the look, which then sees all there will ever be
		select {
		case <-created:
			complete = true
		default:
		}
		backlogs, err := db.Backlogs(ctx, d.endpoints)
		if err != nil {
			return err
		}
		d.samples = append(d.samples, sample{d.clock(), backlogs})
		open, spared, line := d.describe(backlogs)
		if line != last {
			last, moved = line, time.Now()
		}
		if line != said && n%4 == 0 {
			said = line
			d.say("%s", line)
		}
		if complete && d.clock() > d.to {
			idle := time.Since(moved)
			switch {
			case open == 0 && idle >= 4*sampling, // what is not planned yet would have shown itself
				!spared && idle >= d.patience,
				d.clock() >= d.to+longestRecovery:
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// describe says what is open, whether a circuit spares an endpoint, and both in words.
func (d *ordeal) describe(backlogs []load.Backlog) (int, bool, string) {
	var parked, due, others int
	circuits := map[delivery.Circuit]int{}
	for i, each := range backlogs {
		if i >= d.ill {
			others += each.Parked + each.Due
			continue
		}
		parked, due = parked+each.Parked, due+each.Due
		circuits[each.Circuit]++
	}
	var states []string
	for _, state := range []delivery.Circuit{delivery.CircuitClosed, delivery.CircuitHalfOpen, delivery.CircuitOpen} {
		if circuits[state] > 0 {
			states = append(states, fmt.Sprintf("%s %d", state, circuits[state]))
		}
	}
	line := fmt.Sprintf("circuits: %s; parked %d, to be tried %d", strings.Join(states, ", "), parked, due)
	return parked + due + others, circuits[delivery.CircuitClosed] < d.ill, line
}

// fates asks the database for what was committed, the merchant for what it accepted, and the ledger for what was tried.
func (d *ordeal) fates(ctx context.Context) ([]fate, error) {
	all := make([]fate, len(d.merchants))
	for i, merchant := range d.merchants {
		events, err := d.db.EventsOfMerchants(ctx, []string{merchant})
		if err != nil {
			return nil, err
		}
		ids := make([]uuid.UUID, len(events))
		for i, event := range events {
			ids[i] = event.ID
		}
		acks, err := d.merchant.Acks(ctx, ids)
		if err != nil {
			return nil, err
		}
		f := fate{account: load.AccountFor(events, acks)}
		for _, event := range events {
			a := arrival{committed: event.Committed.Sub(d.began)}
			if ack, ok := acks[event.ID]; ok {
				a.accepted = ack.First.Sub(d.began)
			}
			f.events = append(f.events, a)
		}
		slices.SortFunc(f.events, func(a, b arrival) int { return cmp.Compare(a.committed, b.committed) })
		if i < d.ill {
			if f.attempts, err = d.db.Attempts(ctx, ids); err != nil {
				return nil, err
			}
		}
		all[i] = f
	}
	return all, nil
}

// tried is what the ledger says of the attempts at one endpoint in a time.
type tried struct {
	total, perS, atOnce int // all of them, and the most of them within a second, and open at once
}

func (d *ordeal) tried(attempts []load.Attempt, from, to time.Duration) tried {
	var began, ended []time.Duration
	for _, a := range attempts {
		if at := a.Began.Sub(d.began); at >= from && at < to {
			began, ended = append(began, at), append(ended, at+a.Took)
		}
	}
	slices.Sort(began)
	slices.Sort(ended)
	t := tried{total: len(began)}
	first, over := 0, 0
	for i, at := range began {
		for at-began[first] >= time.Second {
			first++
		}
		for ended[over] < at {
			over++
		}
		t.perS, t.atOnce = max(t.perS, i-first+1), max(t.atOnce, i-over+1)
	}
	return t
}

// phase is a time that a circuit was in one state.
type phase struct {
	state    delivery.Circuit
	from, to time.Duration
}

// phases are those of one endpoint's circuit. A state that came and went between two looks is not among them.
func (d *ordeal) phases(endpoint int) []phase {
	var out []phase
	var since time.Time
	for _, s := range d.samples {
		if endpoint >= len(s.backlogs) {
			continue
		}
		now := s.backlogs[endpoint]
		last := len(out) - 1
		switch {
		case last < 0:
			out = append(out, phase{now.Circuit, 0, s.at})
		case !now.ChangedAt.Equal(since) || now.Circuit != out[last].state:
			at := max(now.ChangedAt.Sub(d.began), out[last].from)
			out[last].to = at
			out = append(out, phase{now.Circuit, at, max(at, s.at)})
		default:
			out[last].to = s.at
		}
		since = now.ChangedAt
	}
	return out
}

// circuitOf is when a circuit opened first, when it closed at last, and how often it opened; nil where it did not. One that
// is half open had been open, for a shorter time than there is between two looks.
func circuitOf(phases []phase) (opened, closed *float64, opens int) {
	var before delivery.Circuit // empty: what it was at the beginning began earlier
	for _, p := range phases {
		at := seconds(p.from)
		switch {
		case before == "":
		case p.state == delivery.CircuitClosed:
			closed = &at
		case p.state == delivery.CircuitOpen || before == delivery.CircuitClosed:
			opens++
			closed = nil
			if opened == nil {
				opened = &at
			}
		}
		before = p.state
	}
	return opened, closed, opens
}

func seconds(d time.Duration) float64 { return load.Round(d.Seconds(), 2) }

// mostParked is the longest backlog of an endpoint.
func (d *ordeal) mostParked(endpoint int) int {
	most := 0
	for _, s := range d.samples {
		if endpoint < len(s.backlogs) {
			most = max(most, s.backlogs[endpoint].Parked)
		}
	}
	return most
}

// total adds the accounts of the merchants up.
func total(fates []fate) load.Account {
	var sum load.Account
	for _, f := range fates {
		sum.Created += f.account.Created
		sum.Delivered += f.account.Delivered
		sum.Lost += f.account.Lost
		sum.Duplicates += f.account.Duplicates
	}
	return sum
}

// eventsOf are those of several merchants.
func eventsOf(fates []fate) []arrival {
	var all []arrival
	for _, f := range fates {
		all = append(all, f.events...)
	}
	return all
}

// unavailable is how a merchant that is down answers.
func unavailable() simulator.Behaviour {
	return simulator.Behaviour{Status: http.StatusServiceUnavailable}
}

// joined makes one line of what was found; nil where nothing was.
func joined(findings []string) error {
	if len(findings) == 0 {
		return nil
	}
	return errors.New(strings.Join(findings, "; "))
}
