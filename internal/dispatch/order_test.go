package dispatch_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

// story is what happens to a merchant's events: drawn whole, so that a failure can be told shorter.
type story struct {
	objects   [][]string // of each object the types of its versions
	filters   [][]string // of each endpoint that wants an order
	late      int        // endpoint that is added when half of the events have come; -1 for none
	cursed    int        // object whose first attempt's retry takes for ever; -1 for none
	lost      []bool     // events, by their place, that nobody brings before the end
	seed      uint64     // of all else
	disasters bool       // what only a process or Restate remembers may be lost, and the reconciler helps
}

var orderTypes = []string{"payment.pending", "payment.processing", "payment.succeeded"}

func drawStory(rt *rapid.T, disasters bool) story {
	s := story{late: -1, cursed: -1, disasters: disasters, seed: rapid.Uint64().Draw(rt, "seed")}
	s.objects = rapid.SliceOfN(rapid.SliceOfN(rapid.SampledFrom(orderTypes), 1, 5), 1, 3).Draw(rt, "objects")
	filter := rapid.Custom(func(rt *rapid.T) []string {
		if rapid.Bool().Draw(rt, "all") {
			return nil
		}
		return rapid.SliceOfNDistinct(rapid.SampledFrom(orderTypes), 1, 2, rapid.ID).Draw(rt, "filter")
	})
	s.filters = rapid.SliceOfN(filter, 1, 2).Draw(rt, "filters")
	if rapid.Bool().Draw(rt, "late endpoint") {
		s.late = len(s.filters)
		s.filters = append(s.filters, filter.Draw(rt, "late filter"))
	}
	if len(s.objects) > 1 && rapid.Bool().Draw(rt, "curse") {
		s.cursed = rapid.IntRange(0, len(s.objects)-1).Draw(rt, "cursed")
	}
	s.lost = rapid.SliceOfN(rapid.Map(rapid.IntRange(0, 5), func(n int) bool { return n == 5 }), 15, 15).Draw(rt, "lost")
	return s
}

// randomStory is the same without rapid, for tests that look for one that fails.
func randomStory(seed uint64, disasters bool) story {
	random := rand.New(rand.NewPCG(seed, 1))
	s := story{late: -1, cursed: -1, disasters: disasters, seed: seed, filters: [][]string{nil, {orderTypes[2], orderTypes[0]}}}
	for range 1 + random.IntN(2) {
		object := make([]string, 2+random.IntN(4))
		for i := range object {
			object[i] = orderTypes[random.IntN(len(orderTypes))]
		}
		s.objects = append(s.objects, object)
	}
	for range 15 {
		s.lost = append(s.lost, random.IntN(6) == 0)
	}
	return s
}

// invocation is one that Restate has: exactly one of the inputs is set.
type invocation struct {
	id      string
	process []event.Ref
	attempt *delivery.AttemptList
	wake    *delivery.Sequence
}

// faultyLedger errs now and then, before it has done what it was asked to, or after.
type faultyLedger struct {
	*postgres.Ledger
	double orderLedger
	sim    *simulation
	dead   *deadProcess
}

// orderLedger is what is replaced in a test that must find a defect.
type orderLedger interface {
	Plan(ctx context.Context, owner, route string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error)
	Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.Overdue, error)
}

// deadProcess is one that was killed: nothing that it does any more counts.
type deadProcess struct {
	mu   sync.Mutex
	dead bool
}

func (d *deadProcess) kill() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dead = true
}

func (d *deadProcess) is() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dead
}

var errAway = fault.New(fault.Unavailable, "the ledger does not answer")

// Awaited implements the dispatcher's ledger.
func (l *faultyLedger) Awaited(ctx context.Context, sequences []delivery.Sequence) ([]delivery.Sequence, error) {
	return around(l, func() ([]delivery.Sequence, error) { return l.Ledger.Awaited(ctx, sequences) })
}

// around makes a call of the ledger, or errs before it or after it.
func around[T any](l *faultyLedger, call func() (T, error)) (T, error) {
	var none T
	if l.dead.is() || l.sim.chance(20) {
		return none, errAway
	}
	out, err := call()
	if err == nil && (l.dead.is() || l.sim.chance(20)) {
		return none, errAway
	}
	return out, err
}

type twoOf[A, B any] struct {
	a A
	b B
}

func (l *faultyLedger) Plan(ctx context.Context, owner, route string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error) {
	out, err := around(l, func() (twoOf[[]delivery.Claim, delivery.Planned], error) {
		a, b, err := l.double.Plan(ctx, owner, route, refs)
		return twoOf[[]delivery.Claim, delivery.Planned]{a, b}, err
	})
	return out.a, out.b, err
}

func (l *faultyLedger) Resume(ctx context.Context, owner string, ids []uuid.UUID) ([]delivery.Claim, []delivery.Settled, error) {
	out, err := around(l, func() (twoOf[[]delivery.Claim, []delivery.Settled], error) {
		a, b, err := l.Ledger.Resume(ctx, owner, ids)
		return twoOf[[]delivery.Claim, []delivery.Settled]{a, b}, err
	})
	return out.a, out.b, err
}

func (l *faultyLedger) Claim(ctx context.Context, owner string, id uuid.UUID, tickets []delivery.Ticket) ([]delivery.Claim, []delivery.Settled, error) {
	out, err := around(l, func() (twoOf[[]delivery.Claim, []delivery.Settled], error) {
		a, b, err := l.Ledger.Claim(ctx, owner, id, tickets)
		return twoOf[[]delivery.Claim, []delivery.Settled]{a, b}, err
	})
	return out.a, out.b, err
}

func (l *faultyLedger) Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.Overdue, error) {
	return around(l, func() ([]delivery.Overdue, error) { return l.double.Release(ctx, owner, s) })
}

func (l *faultyLedger) Record(ctx context.Context, owner string, outcomes []delivery.Outcome) error {
	_, err := around(l, func() (struct{}, error) { return struct{}{}, l.Ledger.Record(ctx, owner, outcomes) })
	return err
}

// simulation is a Restate that delivers what it was sent, and timers too, in any order, runs a step again whose result it
// did not get, and forgets everything where the story has disasters; and the merchant.
type simulation struct {
	story
	ledger  *postgres.Ledger
	double  orderLedger // what the processes use
	all     *pgxpool.Pool
	refs    []event.Ref // in the order of their commits
	ordered []uuid.UUID // endpoints
	shop    string
	cursed  uuid.UUID // the event
	// deaf drops wakes that a step's result names: a defect for a test to find.
	deaf bool

	mu       sync.Mutex
	random   *rand.Rand
	queue    []invocation
	withheld []invocation
	posts    map[delivery.Key]int
	accepted map[uuid.UUID]map[string][]int64 // by endpoint and object, the versions in the order of their first 2xx
	seen     map[delivery.Key]bool
	version  map[uuid.UUID]event.Ref
	hangs    []chan struct{}
	hung     int
	steps    int
	process  *dispatch.Dispatcher
	life     *deadProcess
	quiet    bool // no more faults: everything is to come to its end
}

func (s *simulation) intn(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.random.IntN(n)
}

// chance is one in n, until all is to come to an end.
func (s *simulation) chance(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.quiet && s.random.IntN(n) == 0
}

func (s *simulation) send(i invocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i.id = "inv-" + uuid.NewString()
	s.queue = append(s.queue, i)
}

// Post implements the merchant. What becomes of an attempt is drawn by the delivery and the number of the post.
func (s *simulation) Post(_ context.Context, e delivery.Endpoint, m deliver.Message, _ int, guard deliver.Guard) deliver.Response {
	if guard() != nil {
		return deliver.Response{Cause: delivery.CauseNotStarted}
	}
	key := delivery.Key{EventID: m.EventID, EndpointID: e.ID}
	s.mu.Lock()
	life := s.life
	s.posts[key]++
	h := fnv.New64a()
	fmt.Fprintf(h, "%d %s %d %s", s.seed, s.version[key.EventID].ObjectID+fmt.Sprint(s.version[key.EventID].ObjectVersion), s.posts[key], e.URL)
	fate := rand.New(rand.NewPCG(h.Sum64(), 0)).IntN(100)
	refuses := s.version[key.EventID].ObjectVersion%4 == 2 && s.seed%3 == 0 // for good: it ends dead
	hangs := fate < 3 && s.hung < 1 && !s.quiet
	var gate chan struct{}
	if hangs {
		s.hung++
		gate = make(chan struct{})
		s.hangs = append(s.hangs, gate)
	}
	if s.cursedKey(key) && !s.quiet {
		fate, gate = 40, nil
	}
	s.mu.Unlock()
	if gate != nil {
		<-gate
		if life.is() { // the request was cut with its process
			return deliver.Response{Cause: delivery.CauseReset, Sent: true}
		}
	}
	failed := deliver.Response{Cause: delivery.CauseServerError, StatusCode: 500, Sent: true, Latency: time.Millisecond}
	switch {
	case refuses, fate >= 35 && fate < 55:
		return failed
	case fate >= 55 && fate < 60: // it has it, and the answer is lost
		s.accept(key)
		return deliver.Response{Cause: delivery.CauseReset, Sent: true}
	}
	s.accept(key)
	return deliver.Response{Cause: delivery.CauseOK, StatusCode: 200, Sent: true}
}

func (s *simulation) cursedKey(key delivery.Key) bool {
	return key.EventID == s.cursed && key.EndpointID == s.ordered[0]
}

func (s *simulation) accept(key delivery.Key) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen[key] {
		return
	}
	s.seen[key] = true
	ref := s.version[key.EventID]
	if s.accepted[key.EndpointID] == nil {
		s.accepted[key.EndpointID] = map[string][]int64{}
	}
	s.accepted[key.EndpointID][ref.ObjectID] = append(s.accepted[key.EndpointID][ref.ObjectID], ref.ObjectVersion)
}

// letGo lets the merchant answer what it has kept waiting.
func (s *simulation) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, gate := range s.hangs {
		close(gate)
	}
	s.hangs = nil
}

// begin starts a process.
func (s *simulation) begin(t *testing.T) {
	life := &deadProcess{}
	s.mu.Lock()
	s.life = life
	s.mu.Unlock()
	wake := func(_ context.Context, sequence delivery.Sequence) error {
		if life.is() || (s.disasters && s.chance(3)) {
			return errors.New("Restate does not answer")
		}
		s.send(invocation{wake: &sequence})
		return nil
	}
	s.process = dispatch.New(t.Context(), dispatch.Config{
		Route: "inhouse", Schedule: delivery.Schedule{time.Millisecond, time.Millisecond}, Jitter: 0.2, WakeFunc: wake,
	}, &faultyLedger{s.ledger, s.double, s, life}, &data{}, s, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
}

// end waits for what the process has open, or kills it with that.
func (s *simulation) end(t *testing.T, kill bool) {
	patience := 10 * time.Second
	if kill {
		s.life.kill()
		patience = 0
	}
	s.letGo()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := s.process.Close(ctx); !kill {
		require.NoError(t, err)
	}
}

// invoke runs an invocation to its end, as the handlers of the package restate do.
func (s *simulation) invoke(t *testing.T, i invocation) {
	ctx := t.Context()
	if i.wake != nil {
		var lists []delivery.AttemptList
		for {
			var err error
			if lists, err = s.process.Release(ctx, i.id, *i.wake); err == nil && !s.chance(8) {
				break // else its result is lost, and it is run again
			}
		}
		for _, list := range lists {
			s.schedule(list)
		}
		return
	}
	var result dispatch.Result
	for {
		var err error
		if i.process != nil {
			result, err = s.process.Process(ctx, i.id, i.process)
		} else {
			result, err = s.process.Attempt(ctx, i.id, *i.attempt)
		}
		if err == nil && !s.chance(8) {
			break
		}
	}
	for result.Unrecorded() {
		if s.process.Record(ctx, i.id, result) == nil {
			break
		}
	}
	for _, next := range result.FollowUps() {
		s.schedule(next.List)
	}
	if !s.deaf {
		for _, sequence := range result.Wake {
			s.send(invocation{wake: &sequence})
		}
	}
}

// schedule sends a list. The retry of what is cursed does not come before everything else has come to its end.
func (s *simulation) schedule(list delivery.AttemptList) {
	var cursed []delivery.Ticket
	list.Tickets = slices.DeleteFunc(slices.Clone(list.Tickets), func(ticket delivery.Ticket) bool {
		is := s.cursedKey(delivery.Key{EventID: ticket.EventID, EndpointID: list.EndpointID})
		if is {
			cursed = append(cursed, ticket)
		}
		return is
	})
	if len(list.Tickets) > 0 {
		s.send(invocation{attempt: &list})
	}
	if len(cursed) > 0 {
		apart := list
		apart.Tickets = cursed
		s.mu.Lock()
		s.withheld = append(s.withheld, invocation{id: "inv-" + uuid.NewString(), attempt: &apart})
		s.mu.Unlock()
	}
}

// turn takes a few invocations out of the queue, in any order, and runs them, sometimes at once. It reports whether there
// were any.
func (s *simulation) turn(t *testing.T) bool {
	s.mu.Lock()
	n := min(len(s.queue), 1+s.random.IntN(3)*s.random.IntN(2))
	var now []invocation
	keys := map[string]bool{}
	for range n {
		at := s.random.IntN(len(s.queue))
		if wake := s.queue[at].wake; wake != nil { // one object runs one at a time
			if keys[wake.Key()] {
				continue
			}
			keys[wake.Key()] = true
		}
		now = append(now, s.queue[at])
		s.queue = slices.Delete(s.queue, at, at+1)
	}
	s.mu.Unlock()
	var running sync.WaitGroup
	for _, each := range now {
		if s.chance(10) { // the topic has it twice, or a ticket comes again
			s.send(each)
		}
		running.Go(func() { s.invoke(t, each) })
	}
	running.Wait()
	s.steps++
	switch {
	case s.chance(30):
		s.end(t, true)
		s.begin(t)
	case s.chance(10):
		s.letGo()
	case s.disasters && s.chance(25):
		s.mu.Lock()
		s.queue = nil // Restate has forgotten everything
		s.mu.Unlock()
	}
	return len(now) > 0
}

// reconcile is a look of the reconciler when time enough has passed for all of its graces.
func (s *simulation) reconcile(t *testing.T) bool {
	ctx := t.Context()
	_, err := s.all.Exec(ctx, "update delivery.deliveries set next_attempt_at = clock_timestamp() - interval '1 minute' where merchant_id = $1 and state in ('pending', 'retrying')", s.shop)
	require.NoError(t, err)
	overdue, err := s.ledger.Overdue(ctx, time.Second, 1000)
	require.NoError(t, err)
	taken, err := s.ledger.TakeOver(ctx, overdue)
	require.NoError(t, err)
	for _, list := range delivery.AttemptLists(taken) {
		s.schedule(list)
	}
	var asleep []delivery.Sequence
	for after := (delivery.Key{}); ; {
		found, next, err := s.ledger.Overslept(ctx, after, 0, 5)
		require.NoError(t, err)
		asleep = append(asleep, found...)
		if after = next; after == (delivery.Key{}) {
			break
		}
	}
	for _, each := range asleep {
		s.send(invocation{wake: &each})
	}
	s.mu.Lock()
	s.withheld = nil
	s.mu.Unlock()
	return len(taken)+len(asleep) > 0
}

func (s *simulation) drain(t *testing.T) error {
	for s.turn(t) {
		if s.steps > 20_000 {
			return errors.New("it never comes to an end")
		}
	}
	return nil
}

// settle lets everything come to its end: what is open in a process, and what follows from that.
func (s *simulation) settle(t *testing.T) error {
	for {
		if err := s.drain(t); err != nil {
			return err
		}
		s.end(t, false)
		s.begin(t)
		s.mu.Lock()
		more := len(s.queue) > 0
		s.mu.Unlock()
		if !more {
			return nil
		}
	}
}

// open says what has not ended.
func (s *simulation) open(t *testing.T) map[delivery.Key]string {
	t.Helper()
	rows, err := s.all.Query(t.Context(), "select event_id, endpoint_id, state from delivery.deliveries where merchant_id = $1 and ended_at is null", s.shop)
	require.NoError(t, err)
	defer rows.Close()
	out := map[delivery.Key]string{}
	for rows.Next() {
		var key delivery.Key
		var state string
		require.NoError(t, rows.Scan((*[16]byte)(&key.EventID), (*[16]byte)(&key.EndpointID), &state))
		out[key] = state
	}
	require.NoError(t, rows.Err())
	return out
}

func (s *simulation) describe(open map[delivery.Key]string) string {
	var lines []string
	for key, state := range open {
		ref := s.version[key.EventID]
		lines = append(lines, fmt.Sprintf("%s version %d at endpoint %d is %s", ref.ObjectID, ref.ObjectVersion, slices.Index(s.ordered, key.EndpointID), state))
	}
	slices.Sort(lines)
	return strings.Join(lines, "; ")
}

// orderWorld is a ledger in which each story has a merchant of its own.
type orderWorld struct {
	ledger *postgres.Ledger
	all    *pgxpool.Pool
}

func newOrderWorld(t *testing.T) orderWorld {
	t.Helper()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleWorker),
		postgres.Options{ApplicationName: "test", MaxConns: 8, Settings: postgres.WorkerSettings()})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return orderWorld{postgres.NewLedger(pool, postgres.LedgerOptions{Keys: endpointtest.Keys(t)}), db.Pool(t, "")}
}

func (w orderWorld) addEndpoint(t *testing.T, s *simulation, filter []string) {
	t.Helper()
	s.ordered = append(s.ordered, endpointtest.Add(t, w.all, s.shop, func(spec *endpoint.Spec) {
		spec.URL, spec.EventTypes, spec.Ordering, spec.Timeout = fmt.Sprintf("http://merchant.test/%d", len(s.ordered)), filter, endpoint.PerObject, time.Second
	}))
}

// tell lets the story happen, and says what was not as promised.
func (w orderWorld) tell(t *testing.T, st story, change func(*simulation)) error {
	t.Helper()
	s := &simulation{
		story: st, ledger: w.ledger, double: w.ledger, all: w.all, shop: "m-" + uuid.NewString(), random: rand.New(rand.NewPCG(st.seed, 0)),
		posts: map[delivery.Key]int{}, accepted: map[uuid.UUID]map[string][]int64{}, seen: map[delivery.Key]bool{}, version: map[uuid.UUID]event.Ref{},
	}
	if change != nil {
		change(s)
	}
	for i, filter := range s.filters {
		if i != s.late {
			w.addEndpoint(t, s, filter)
		}
	}
	s.commit()
	s.begin(t)
	defer func() { s.end(t, false) }()

	topic, lost := s.topic()
	for i, batch := range topic {
		if i == len(topic)/2 && s.late >= 0 {
			w.addEndpoint(t, s, s.filters[s.late])
		}
		s.send(invocation{process: batch})
		for s.chance(2) {
			s.turn(t)
		}
	}
	if s.late >= len(s.ordered) {
		w.addEndpoint(t, s, s.filters[s.late])
	}
	if err := s.drain(t); err != nil {
		return err
	}
	for _, ref := range lost { // the reconciler's walk along the feed finds them
		s.send(invocation{process: []event.Ref{ref}})
	}
	if err := s.settle(t); err != nil {
		return err
	}
	if !s.disasters {
		for key := range s.open(t) {
			if s.version[key.EventID].ObjectID != s.version[s.cursed].ObjectID || key.EndpointID != s.ordered[0] {
				return fmt.Errorf("nothing is under way any more, and %s", s.describe(s.open(t)))
			}
		}
	}
	s.mu.Lock()
	s.quiet = true
	s.queue = append(s.queue, s.withheld...)
	s.withheld, s.cursed = nil, uuid.Nil
	s.mu.Unlock()
	if err := s.settle(t); err != nil {
		return err
	}
	if s.disasters {
		for _, ref := range s.refs { // and what Restate has forgotten
			s.send(invocation{process: []event.Ref{ref}})
		}
		for again := true; again; again = s.reconcile(t) {
			if err := s.settle(t); err != nil {
				return err
			}
		}
	}
	if open := s.open(t); len(open) > 0 {
		return fmt.Errorf("at the end %s", s.describe(open))
	}
	for i, id := range s.ordered {
		for object, versions := range s.accepted[id] {
			if !slices.IsSorted(versions) {
				return fmt.Errorf("endpoint %d accepted the versions of %s in the order %v", i, object, versions)
			}
		}
	}
	return nil
}

// commit makes the story's events, the versions of each object in their order.
func (s *simulation) commit() {
	for i, types := range s.objects {
		for v, eventType := range types {
			ref := event.Ref{
				ID: uuid.Must(uuid.NewV7()), TxID: int64(len(s.refs) + 1), Type: eventType, ObjectType: "payment", ObjectID: fmt.Sprintf("%s/%d", s.shop, i),
				ObjectVersion: int64(v + 1), MerchantID: s.shop,
			}
			s.refs = append(s.refs, ref)
			s.version[ref.ID] = ref
			if i == s.story.cursed && v == 0 {
				s.cursed = ref.ID
			}
		}
	}
}

// topic is how the events come, batch by batch: out of order, some of them twice, some not before the end.
func (s *simulation) topic() (batches [][]event.Ref, lost []event.Ref) {
	var come []event.Ref
	for i, ref := range s.refs {
		if i < len(s.lost) && s.lost[i] {
			lost = append(lost, ref)
			continue
		}
		come = append(come, ref)
		if s.intn(8) == 0 {
			come = append(come, ref)
		}
	}
	place := map[int]int{}
	for i := range come {
		place[i] = i + s.intn(6) // near the order of the commits
	}
	order := make([]int, len(come))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(place[a], place[b]) })
	for len(order) > 0 {
		n := min(len(order), 1+s.intn(4))
		var batch []event.Ref
		for _, i := range order[:n] {
			batch = append(batch, come[i])
		}
		batches, order = append(batches, batch), order[n:]
	}
	return batches, lost
}

func TestObjectsArriveInOrderHoweverRestateAndTheMerchantBehave(t *testing.T) {
	t.Parallel()
	w := newOrderWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		if err := w.tell(t, drawStory(rt, false), nil); err != nil {
			rt.Fatal(err)
		}
	})
}

func TestObjectsArriveInOrderAlsoWhereRestateForgetsEverything(t *testing.T) {
	t.Parallel()
	w := newOrderWorld(t)
	rapid.Check(t, func(rt *rapid.T) {
		if err := w.tell(t, drawStory(rt, true), nil); err != nil {
			rt.Fatal(err)
		}
	})
}

// hasty releases the next one as soon as it is asked, whatever became of those before.
type hasty struct {
	*postgres.Ledger
	all *pgxpool.Pool
}

func (l hasty) Release(ctx context.Context, owner string, s delivery.Sequence) ([]delivery.Overdue, error) {
	_, err := l.all.Exec(ctx, `update delivery.deliveries d set state = 'retrying', epoch = epoch + 1, next_attempt_at = clock_timestamp(), last_owner = $3
		where endpoint_id = $1 and generation = 0 and event_id = (select p.event_id from delivery.plans p join delivery.deliveries w using (event_id)
		      where w.endpoint_id = $1 and w.state = 'waiting' and p.object_id = $2 order by p.object_version limit 1)`, [16]byte(s.EndpointID), s.ObjectID, owner)
	if err != nil {
		return nil, err
	}
	return l.Ledger.Release(ctx, owner, s)
}

// silent tells nobody whom its plans wake.
type silent struct{ *postgres.Ledger }

func (l silent) Plan(ctx context.Context, owner, route string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error) {
	claims, planned, err := l.Ledger.Plan(ctx, owner, route, refs)
	planned.Wake, planned.Ask = nil, nil
	return claims, planned, err
}

// forgetful does not know what it has released.
type forgetful struct{ *postgres.Ledger }

func (l forgetful) Release(ctx context.Context, _ string, s delivery.Sequence) ([]delivery.Overdue, error) {
	return l.Ledger.Release(ctx, uuid.NewString(), s)
}

func TestTheStoriesFindDefects(t *testing.T) {
	t.Parallel()
	w := newOrderWorld(t)
	for name, defect := range map[string]struct {
		change func(*simulation)
		finds  string
	}{
		"a release that does not look at the versions before": {func(s *simulation) { s.double = hasty{w.ledger, w.all} }, "in the order"},
		"a plan that wakes nobody":                            {func(s *simulation) { s.double = silent{w.ledger} }, "is waiting"},
		"an end that wakes nobody":                            {func(s *simulation) { s.deaf = true }, "is waiting"},
		"a release whose second execution knows nothing":      {func(s *simulation) { s.double = forgetful{w.ledger} }, "is retrying"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(200) {
				if err := w.tell(t, randomStory(seed, false), defect.change); err != nil {
					require.ErrorContains(t, err, defect.finds)
					return
				}
			}
			require.Fail(t, "no story has found it")
		})
	}
}
