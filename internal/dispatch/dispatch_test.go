package dispatch_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) {
	// Each story of order_test.go is a second of SQL. The command line may say otherwise.
	if err := flag.Set("rapid.checks", "40"); err != nil {
		panic(err)
	}
	pgtest.Main(m)
}

// world is a dispatcher on a real ledger, with a merchant and a data-service that do as a test says.
type world struct {
	*dispatch.Dispatcher
	ledger   *flakyLedger
	merchant *merchant
	data     *data
	all      *pgxpool.Pool
	endpoint uuid.UUID
}

const shop = "joes-tshirt-shop"

func newWorld(t *testing.T) *world {
	t.Helper()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleWorker),
		postgres.Options{ApplicationName: "test", MaxConns: 8, Settings: postgres.WorkerSettings()})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	w := &world{
		ledger: &flakyLedger{Ledger: postgres.NewLedger(pool, postgres.LedgerOptions{Keys: endpointtest.Keys(t)})}, merchant: &merchant{}, data: &data{}, all: db.Pool(t, ""),
	}
	w.endpoint = endpointtest.Add(t, w.all, shop, func(s *endpoint.Spec) { s.URL, s.Timeout = "http://merchant.test/webhooks", 3*time.Second })
	w.Dispatcher = w.newProcess(t)
	return w
}

// newProcess is another worker on the same ledger: what it holds open is its own.
func (w *world) newProcess(t *testing.T) *dispatch.Dispatcher {
	t.Helper()
	d := dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Minute, time.Hour}, Jitter: 0.2},
		w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, d.Close(ctx))
	})
	return d
}

// merchant answers attempts. It is a poster, so that a test can hold an attempt at any point.
type merchant struct {
	mu      sync.Mutex
	answers []func(guard deliver.Guard) deliver.Response // for the next attempts; then 200
	posts   []post
	held    []chan struct{}
}

type post struct {
	event  uuid.UUID
	number int
	body   string
}

func (m *merchant) Post(_ context.Context, _ delivery.Endpoint, message deliver.Message, number int, guard deliver.Guard) deliver.Response {
	m.mu.Lock()
	var answer func(deliver.Guard) deliver.Response
	if len(m.answers) > 0 {
		answer, m.answers = m.answers[0], m.answers[1:]
	}
	m.mu.Unlock()
	response := deliver.Response{Cause: delivery.CauseOK, StatusCode: 200, Sent: true}
	if answer != nil {
		response = answer(guard)
	} else if err := guard(); err != nil {
		return deliver.Response{Cause: delivery.CauseNotStarted}
	}
	if response.Sent {
		m.mu.Lock()
		m.posts = append(m.posts, post{message.EventID, number, string(message.Body)})
		m.mu.Unlock()
	}
	return response
}

func (m *merchant) next(answers ...func(deliver.Guard) deliver.Response) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.answers = append(m.answers, answers...)
}

func (m *merchant) sent() []post {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]post(nil), m.posts...)
}

func status(code int) func(deliver.Guard) deliver.Response {
	return func(deliver.Guard) deliver.Response {
		cause := delivery.CauseStatus
		if code < 300 {
			cause = delivery.CauseOK
		}
		return deliver.Response{Cause: cause, StatusCode: code, Sent: true, Latency: time.Millisecond, Answer: []byte("answer")}
	}
}

// hang takes the request, and holds the answer back until the returned function is called.
func (m *merchant) hang(answer func(deliver.Guard) deliver.Response) (begun <-chan struct{}, let func()) {
	return m.hold(answer, true)
}

// connect holds the request back, as a server does that takes long to reach, until the returned function is called.
func (m *merchant) connect() (begun <-chan struct{}, let func()) { return m.hold(status(200), false) }

func (m *merchant) hold(answer func(deliver.Guard) deliver.Response, started bool) (begun <-chan struct{}, let func()) {
	held, gate := make(chan struct{}), make(chan struct{})
	m.mu.Lock()
	m.held = append(m.held, gate)
	m.mu.Unlock()
	m.next(func(guard deliver.Guard) deliver.Response {
		if started && guard() != nil {
			return deliver.Response{Cause: delivery.CauseNotStarted}
		}
		close(held)
		<-gate
		if !started && guard() != nil { // right before the first byte
			return deliver.Response{Cause: delivery.CauseNotStarted}
		}
		return answer(guard)
	})
	return held, sync.OnceFunc(func() { m.open(gate) })
}

func (m *merchant) open(gate chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, each := range m.held {
		if each == gate {
			m.held = append(m.held[:i], m.held[i+1:]...)
			close(gate)
			return
		}
	}
}

func (m *merchant) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, gate := range m.held {
		close(gate)
	}
	m.held = nil
}

// data is a data-service for which every event is visible, but for what a test says.
type data struct {
	mu      sync.Mutex
	special map[uuid.UUID][]event.Visibility // answers before the event becomes visible; a last Missing stays
	err     error
	poison  uuid.UUID // every request for it fails
	asked   int       // requests
}

func (d *data) Payloads(_ context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked++
	if d.err != nil {
		return nil, d.err
	}
	if slices.ContainsFunc(asked, func(r event.PayloadRequest) bool { return r.EventID == d.poison }) {
		return nil, fault.New(fault.Unavailable, "data-service answered 500")
	}
	out := make([]event.Payload, 0, len(asked))
	for _, each := range asked {
		p := event.Payload{
			EventID: each.EventID, Visibility: event.Visible, Type: "payment.succeeded", ObjectVersion: each.MinVersion,
			OccurredAt: "2026-02-23T12:00:00.000000Z", Payment: json.RawMessage(`{"version":2}`), Snapshot: json.RawMessage(`{"version":1}`),
		}
		if answers := d.special[each.EventID]; len(answers) > 0 {
			p = event.Payload{EventID: each.EventID, Visibility: answers[0]}
			if len(answers) > 1 || answers[0] == event.NotVisible {
				d.special[each.EventID] = answers[1:]
			}
		}
		out = append(out, p)
	}
	return out, nil
}

func (d *data) fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

func (d *data) answers(id uuid.UUID, visibilities ...event.Visibility) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.special == nil {
		d.special = map[uuid.UUID][]event.Visibility{}
	}
	d.special[id] = visibilities
}

// flakyLedger is the real one, whose outcomes can be refused.
type flakyLedger struct {
	*postgres.Ledger
	mu      sync.Mutex
	refuses int
	planErr error
	// awaitedErr is what it says instead of who waits.
	awaitedErr error
}

func (l *flakyLedger) Awaited(ctx context.Context, sequences []delivery.Sequence) ([]delivery.Sequence, error) {
	l.mu.Lock()
	err := l.awaitedErr
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return l.Ledger.Awaited(ctx, sequences)
}

func (l *flakyLedger) Plan(ctx context.Context, owner, route string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error) {
	l.mu.Lock()
	err := l.planErr
	l.mu.Unlock()
	if err != nil {
		return nil, delivery.Planned{}, err
	}
	return l.Ledger.Plan(ctx, owner, route, refs)
}

func (l *flakyLedger) Record(ctx context.Context, owner string, outcomes []delivery.Outcome) error {
	l.mu.Lock()
	refuse := l.refuses > 0
	l.refuses--
	l.mu.Unlock()
	if refuse {
		return fault.New(fault.Unavailable, "the ledger is away")
	}
	return l.Ledger.Record(ctx, owner, outcomes)
}

func (l *flakyLedger) refuse(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refuses = n
}

func newRef() event.Ref {
	id := uuid.Must(uuid.NewV7())
	return event.Ref{ID: id, TxID: 7, Type: "payment.succeeded", ObjectType: "payment", ObjectID: id.String(), ObjectVersion: 1, MerchantID: shop}
}

func (w *world) state(t *testing.T, ref event.Ref) string {
	t.Helper()
	var state string
	require.NoError(t, w.all.QueryRow(t.Context(), `select state || ' attempts=' || attempts || coalesce(' owner=' || owner, '') from delivery.deliveries where event_id = $1`,
		[16]byte(ref.ID)).Scan(&state))
	return state
}

func (w *world) attempts(t *testing.T, ref event.Ref) int {
	t.Helper()
	var n int
	require.NoError(t, w.all.QueryRow(t.Context(), "select count(*) from delivery.attempts where event_id = $1", [16]byte(ref.ID)).Scan(&n))
	return n
}

func (w *world) process(t *testing.T, owner string, refs ...event.Ref) dispatch.Result {
	t.Helper()
	result, err := w.Process(t.Context(), owner, refs)
	require.NoError(t, err)
	return result
}

func TestProcessDeliversAndNamesWhatItDid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b, nobody := newRef(), newRef(), newRef()
	nobody.MerchantID = "unknown-merchant"
	result := w.process(t, "inv-1", a, b, nobody, a)
	require.Len(t, w.merchant.sent(), 2, "an event twice in a batch is delivered once")
	require.JSONEq(t, `{"event_id":"`+a.ID.String()+`","event_type":"payment.succeeded","object_version":1,
		"occurred_at":"2026-02-23T12:00:00.000000Z","payment":{"version":2},"snapshot":{"version":1}}`, bodyOf(t, w, a))
	require.Equal(t, "succeeded attempts=1", w.state(t, a))
	require.Len(t, result.Deliveries, 2)
	require.Empty(t, result.FollowUps())
	require.False(t, result.Unrecorded())
	journal, err := json.Marshal(result)
	require.NoError(t, err)
	require.Contains(t, string(journal), `"status_code":200`)
	for _, secret := range []string{"merchant.test", "whsec", "snapshot", "answer"} {
		require.NotContains(t, string(journal), secret)
	}
}

func bodyOf(t *testing.T, w *world, ref event.Ref) string {
	t.Helper()
	for _, p := range w.merchant.sent() {
		if p.event == ref.ID {
			return p.body
		}
	}
	require.Fail(t, "the merchant got nothing for the event")
	return ""
}

// Interleaving: the same events are handed over again, by another invocation, after they were delivered.
func TestProcessOfWhatAnotherInvocationPlannedSendsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.process(t, "inv-1", ref)
	result := w.process(t, "inv-2", ref)
	require.Len(t, w.merchant.sent(), 1)
	require.Empty(t, result.Deliveries)
}

func TestFailureIsAValueThatSchedulesTheNextAttemptUntilTheScheduleIsUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := newRef(), newRef()
	w.merchant.next(status(503), status(302), status(500), status(404), status(503), status(410))
	result := w.process(t, "inv-1", a, b)
	require.Equal(t, "retrying attempts=1", w.state(t, a))
	follow := result.FollowUps()
	require.Len(t, follow, 1, "one list: jitter is drawn once")
	require.Len(t, follow[0].List.Tickets, 2)
	require.Equal(t, 2, follow[0].List.Number)
	require.InDelta(t, 60, follow[0].Delay.Seconds(), 12.1)

	result, err := w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	follow = result.FollowUps()
	require.Len(t, follow, 1)
	require.Equal(t, 3, follow[0].List.Number)
	require.InDelta(t, 3600, follow[0].Delay.Seconds(), 721)

	result, err = w.Attempt(t.Context(), "inv-3", follow[0].List)
	require.NoError(t, err)
	require.Empty(t, result.FollowUps())
	require.Equal(t, "dead attempts=3", w.state(t, a))
	require.Equal(t, 3, w.attempts(t, b))
	require.Len(t, w.merchant.sent(), 6)
}

// Interleaving: an execution writes its outcome and dies before Restate has its result; it is executed again.
func TestSecondExecutionTakesTheOutcomeInsteadOfSending(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ok, failed := newRef(), newRef()
	w.process(t, "inv-1", ok)
	w.merchant.next(status(503))
	first := w.process(t, "inv-2", failed)

	again := w.process(t, "inv-1", ok)
	require.Empty(t, again.FollowUps())
	again = w.process(t, "inv-2", failed)
	require.Len(t, w.merchant.sent(), 2, "nothing is sent again")
	require.Len(t, again.FollowUps(), 1, "the failure still gets its next attempt")
	require.Equal(t, first.FollowUps()[0].List, again.FollowUps()[0].List)

	_, err := w.Attempt(t.Context(), "inv-3", again.FollowUps()[0].List)
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=2", w.state(t, failed))
	_, err = w.Attempt(t.Context(), "inv-4", first.FollowUps()[0].List)
	require.NoError(t, err)
	require.Len(t, w.merchant.sent(), 3, "the other timer's ticket is void")
}

// Interleaving: the merchant hangs; the step lets go after its budget; then the merchant answers 2xx.
func TestOpenExchangeIsHandedOverAndItsSuccessRecorded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	slow, quick := newRef(), newRef()
	_, let := w.merchant.hang(status(200))
	start := time.Now()
	result := w.process(t, "inv-1", slow, quick)
	require.Less(t, time.Since(start), 3*dispatch.Budget)
	require.Len(t, w.merchant.sent(), 1)
	watchdog := result.FollowUps()
	require.Len(t, watchdog, 1)
	require.Equal(t, 1, watchdog[0].List.Number, "it is about the first attempt, which is still open")
	require.Equal(t, 4*time.Second, watchdog[0].Delay, "time-out 3 s, margin 2 s, less the budget")

	let()
	require.Eventually(t, func() bool { return len(w.merchant.sent()) == 2 }, 5*time.Second, 5*time.Millisecond)
	slowRef := slow
	if w.merchant.sent()[0].event == slow.ID { // the hanging answer went to whichever was posted first
		slowRef = quick
	}
	require.Eventually(t, func() bool { return w.state(t, slowRef) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)

	_, err := w.Attempt(t.Context(), "watchdog", watchdog[0].List)
	require.NoError(t, err)
	require.Len(t, w.merchant.sent(), 2, "the watchdog sends nothing")
}

// Interleaving: one merchant hangs. The batches that hold events of it and of others wait for it once: after that they make its
// requests, and let go of them when the others have ended.
func TestABatchDoesNotWaitForAnEndpointThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	endpointtest.Add(t, w.all, "other-shop", nil)
	var lets []func()
	hang := func() {
		_, let := w.merchant.hang(status(200))
		lets = append(lets, let)
	}
	hang()
	first := newRef()
	w.process(t, "inv-1", first)

	hang()
	ref := newRef()
	start := time.Now()
	follow := w.process(t, "inv-2", ref).FollowUps()
	require.Less(t, time.Since(start), dispatch.Budget, "nobody waits for it again")
	require.Equal(t, "retrying attempts=0", w.state(t, ref))
	require.Len(t, follow, 1)
	require.Equal(t, 5*time.Second, follow[0].Delay, "a watchdog: time-out 3 s, margin 2 s")
	require.Empty(t, w.merchant.sent())

	_, letConnect := w.merchant.connect() // one whose server takes long to reach, too: it is reached in the background
	unreached := newRef()
	start = time.Now()
	follow = w.process(t, "inv-3", unreached).FollowUps()
	require.Less(t, time.Since(start), dispatch.Budget)
	require.Len(t, follow, 1)
	require.Positive(t, follow[0].Delay)

	for _, let := range lets {
		let()
	}
	letConnect()
	for _, each := range []event.Ref{first, ref, unreached} {
		require.Eventually(t, func() bool { return w.state(t, each) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)
	}
	require.Len(t, w.merchant.sent(), 3)
	last := newRef()
	require.Eventually(t, func() bool { return len(w.process(t, "inv-"+uuid.NewString(), newRef()).FollowUps()) == 0 }, 5*time.Second, 10*time.Millisecond)
	require.Empty(t, w.process(t, "inv-4", last).FollowUps())
	require.Equal(t, "succeeded attempts=1", w.state(t, last), "it answers again, and is waited for")
}

// Interleaving: a batch is executed again that has let go of a request in haste: after the ledger took that, or before.
func TestASecondExecutionOfABatchThatLetGoInHaste(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, letFirst := w.merchant.hang(status(200))
	w.process(t, "inv-1", newRef())
	_, let := w.merchant.hang(status(200))
	written := newRef()
	first := w.process(t, "inv-2", written)
	require.Len(t, first.FollowUps(), 1)
	again := w.process(t, "inv-2", written)
	require.Len(t, again.FollowUps(), 1, "the watchdog")
	require.Equal(t, first.FollowUps()[0].List, again.FollowUps()[0].List)

	_, letLost := w.merchant.hang(status(200))
	lost := newRef()
	w.ledger.refuse(1)
	require.True(t, w.process(t, "inv-3", lost).Unrecorded())
	require.Equal(t, "pending attempts=0 owner=inv-3", w.state(t, lost))
	again = w.process(t, "inv-3", lost)
	require.Len(t, again.FollowUps(), 1)
	require.Equal(t, delivery.CauseOpen, again.Deliveries[0].Cause, "it has joined the request")

	let()
	letFirst()
	letLost()
	for _, ref := range []event.Ref{written, lost} {
		require.Eventually(t, func() bool { return w.state(t, ref) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)
	}
	require.Len(t, w.merchant.sent(), 3)
}

// One that has never answered may be any: the first batch waits for it, and those that come meanwhile do not.
func TestWhileAnEndpointTakesLongerThanUsualNoOtherBatchWaitsForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	posted, let := w.merchant.hang(status(200))
	first := make(chan error, 1)
	ref := newRef()
	go func() {
		_, err := w.Process(t.Context(), "inv-1", []event.Ref{ref})
		first <- err
	}()
	<-posted
	var result dispatch.Result
	require.Eventually(t, func() bool {
		result = w.process(t, "inv-"+uuid.NewString(), newRef())
		return len(result.FollowUps()) == 1
	}, dispatch.Budget/2, time.Millisecond, "long before the first one's second is over")
	require.Zero(t, result.FollowUps()[0].Delay)
	let()
	require.NoError(t, <-first)
	require.Equal(t, "succeeded attempts=1", w.state(t, ref))
}

func TestAnEndpointThatHangsNowAndThenHoldsUpOneBatch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := newRef()
	_, let := w.merchant.hang(status(200))
	w.process(t, "inv-1", first)
	let()
	require.Eventually(t, func() bool { return w.state(t, first) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)

	for i := range 2 { // nothing is open to it any more, each time
		ref := newRef()
		w.merchant.next(func(deliver.Guard) deliver.Response {
			<-time.After(dispatch.Budget) // that is how slow this merchant is
			return status(200)(nil)
		})
		start := time.Now()
		follow := w.process(t, fmt.Sprint("batch-", i), ref).FollowUps()
		require.Less(t, time.Since(start), dispatch.Budget, "no other batch waits for it")
		require.Len(t, follow, 1)
		require.Eventually(t, func() bool { return w.state(t, ref) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)
	}

	quick := newRef()
	w.process(t, "inv-2", quick)
	require.Eventually(t, func() bool { return w.state(t, quick) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)
	require.Empty(t, w.process(t, "inv-4", newRef()).FollowUps(), "a fast answer, and it is back")
}

// Interleaving: the step has let go; then the merchant answers 503, and later the watchdog comes.
func TestWatchdogAloneSchedulesAfterAFailureInTheBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	_, let := w.merchant.hang(status(503))
	watchdog := w.process(t, "inv-1", ref).FollowUps()
	let()
	require.Eventually(t, func() bool { return w.state(t, ref) == "retrying attempts=1" }, 5*time.Second, 5*time.Millisecond)

	result, err := w.Attempt(t.Context(), "watchdog", watchdog[0].List)
	require.NoError(t, err)
	require.Len(t, w.merchant.sent(), 1, "not before the schedule says so")
	follow := result.FollowUps()
	require.Len(t, follow, 1)
	require.Equal(t, 2, follow[0].List.Number)
	require.InDelta(t, 60, follow[0].Delay.Seconds(), 12.1)
	_, err = w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=2", w.state(t, ref))
}

// A list stays a list: jitter is drawn once for it.
func TestWatchdogsListIsRescheduledAsOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refs := []event.Ref{newRef(), newRef(), newRef()}
	var lets []func()
	for range refs {
		_, let := w.merchant.hang(status(503))
		lets = append(lets, let)
	}
	watchdog := w.process(t, "inv-1", refs...).FollowUps()
	require.Len(t, watchdog, 1)
	for i, let := range lets {
		let()
		require.Eventually(t, func() bool { return len(w.merchant.sent()) == i+1 }, 5*time.Second, 5*time.Millisecond)
	}
	for _, ref := range refs {
		require.Eventually(t, func() bool { return w.state(t, ref) == "retrying attempts=1" }, 5*time.Second, 5*time.Millisecond)
	}
	result, err := w.Attempt(t.Context(), "watchdog", watchdog[0].List)
	require.NoError(t, err)
	require.Len(t, result.FollowUps(), 1)
	require.Len(t, result.FollowUps()[0].List.Tickets, 3)
}

// Interleaving: an exchange that was handed over is answered 2xx while the ledger takes no outcomes; the watchdog claims
// the delivery before that is written down. What this process knows was answered is not sent again.
func TestAnswerThatIsNotWrittenDownYetIsTakenInsteadOfSendingAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	_, let := w.merchant.hang(status(200))
	watchdog := w.process(t, "inv-1", ref).FollowUps()
	w.ledger.refuse(1 << 20)
	let()
	require.Eventually(t, func() bool { return len(w.merchant.sent()) == 1 }, 5*time.Second, 5*time.Millisecond)
	result, err := w.Attempt(t.Context(), "watchdog", watchdog[0].List)
	require.NoError(t, err)
	require.Len(t, result.Deliveries, 1)
	require.Equal(t, delivery.Succeeded, result.Deliveries[0].State)
	require.True(t, result.Unrecorded())
	w.ledger.refuse(0)
	require.NoError(t, w.Record(t.Context(), "watchdog", result))
	require.Equal(t, "succeeded attempts=1", w.state(t, ref))
	require.Len(t, w.merchant.sent(), 1)
}

// A ledger that is wrong itself, such as one that lacks a grant or a migration, gives nobody's events up.
func TestLedgerThatRefusesEverythingBuriesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := newRef(), newRef()
	w.ledger.planErr = errors.New("permission denied for table plans")
	_, err := w.Process(t.Context(), "inv-1", []event.Ref{a, b})
	require.Error(t, err)
	require.Zero(t, w.buried(t))

	bad := newRef()
	bad.ObjectID = "\x00" // which no text column takes
	w.ledger.planErr = nil
	result := w.process(t, "inv-1", a, bad, b)
	require.Len(t, w.merchant.sent(), 2, "one bad event does not hold up the others")
	require.Len(t, result.Deliveries, 3)
	require.Equal(t, 1, w.buried(t))
}

func (w *world) buried(t *testing.T) int {
	t.Helper()
	var n int
	require.NoError(t, w.all.QueryRow(t.Context(), "select count(*) from delivery.dead_records").Scan(&n))
	return n
}

// Interleaving: the process dies with an exchange open, so nobody writes its outcome; the watchdog comes.
func TestWatchdogMakesTheAttemptWhoseOutcomeNobodyWrote(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.merchant.hang(status(200))
	watchdog := w.process(t, "inv-1", ref).FollowUps()
	result, err := w.newProcess(t).Attempt(t.Context(), "watchdog", watchdog[0].List)
	require.NoError(t, err)
	require.Empty(t, result.FollowUps())
	require.Equal(t, "succeeded attempts=1", w.state(t, ref))
	require.Equal(t, 1, w.merchant.sent()[0].number, "it is still the first attempt")
}

// Interleaving: Restate loses the stream while the post is open and executes the step again in the same process.
func TestSecondExecutionInTheSameProcessJoinsTheOpenExchange(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	begun, let := w.merchant.hang(status(200))
	results := make(chan dispatch.Result, 2)
	execute := func() {
		result, err := w.Process(context.Background(), "inv-1", []event.Ref{ref})
		if err != nil {
			t.Error(err)
		}
		results <- result
	}
	go execute()
	<-begun
	go execute()
	require.Empty(t, (<-results).Deliveries, "the first execution has lost the delivery to the second")
	let()
	second := <-results
	require.Len(t, second.Deliveries, 1)
	require.Equal(t, delivery.Succeeded, second.Deliveries[0].State)
	require.Len(t, w.merchant.sent(), 1)
	require.Equal(t, 1, w.attempts(t, ref))
}

// Interleaving: a process freezes between its claim and its post; an Attempt takes over and delivers; the frozen one
// wakes.
func TestFrozenProcessThatWakesStartsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.merchant.next(status(503))
	follow := w.process(t, "inv-1", ref).FollowUps()
	_, let := w.merchant.connect()
	frozen, err := w.Attempt(t.Context(), "inv-2", follow[0].List) // in the slow lane, so that it stays open
	require.NoError(t, err)
	require.Len(t, frozen.FollowUps(), 1)

	other := w.newProcess(t)
	_, err = other.Attempt(t.Context(), "watchdog", frozen.FollowUps()[0].List)
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=2", w.state(t, ref))
	let()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, w.Close(ctx))
	require.Len(t, w.merchant.sent(), 2)
	require.Equal(t, "succeeded attempts=2", w.state(t, ref))
}

// Interleaving: the merchant's server takes longer to reach than the budget. In a batch that was no attempt, and the
// delivery leaves for an Attempt at once; the batch's own request never starts. The Attempt waits in the background.
func TestPostThatHasNotStartedLeavesTheBatchAndWasNoAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	_, letFirst := w.merchant.connect()
	follow := w.process(t, "inv-1", ref).FollowUps()
	require.Len(t, follow, 1)
	require.Zero(t, follow[0].Delay)
	require.Equal(t, 1, follow[0].List.Number)
	require.Equal(t, "retrying attempts=0", w.state(t, ref))

	_, letSecond := w.merchant.connect()
	result, err := w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Len(t, result.FollowUps(), 1)
	require.Positive(t, result.FollowUps()[0].Delay, "a watchdog")
	letFirst()
	letSecond()
	require.Eventually(t, func() bool { return w.state(t, ref) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, w.Close(ctx))
	require.Len(t, w.merchant.sent(), 1)
}

// Interleaving: the ledger goes away between the post and the flush.
func TestOutcomeThatTheLedgerDidNotTakeIsRecordedByAStepOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.merchant.next(status(503))
	w.ledger.refuse(2)
	result := w.process(t, "inv-1", ref)
	require.True(t, result.Unrecorded())
	require.Equal(t, "pending attempts=0 owner=inv-1", w.state(t, ref))
	require.Error(t, w.Record(t.Context(), "inv-1", result))
	require.NoError(t, w.Record(t.Context(), "inv-1", result))
	require.Equal(t, "retrying attempts=1", w.state(t, ref))
	require.Len(t, result.FollowUps(), 1)
	require.Equal(t, 1, w.attempts(t, ref))
}

func TestStepFailsOnlyBeforeItSentAnything(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.fail(fault.New(fault.Unavailable, "data-service is away"))
	_, err := w.Process(t.Context(), "inv-1", []event.Ref{ref})
	require.Error(t, err)
	require.Empty(t, w.merchant.sent())
	w.data.fail(nil)
	result := w.process(t, "inv-1", ref)
	require.Len(t, result.Deliveries, 1)
	require.Equal(t, "succeeded attempts=1", w.state(t, ref))
}

func TestRefusalOfDataServiceFailsTheAttemptsAndNotTheStep(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.fail(errors.New("422"))
	result := w.process(t, "inv-1", ref)
	require.Len(t, result.FollowUps(), 1)
	require.Equal(t, "retrying attempts=1", w.state(t, ref))
}

func TestPanicInAnAttemptIsItsFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad, good := newRef(), newRef()
	w.merchant.next(func(deliver.Guard) deliver.Response { panic("a defect") })
	result := w.process(t, "inv-1", bad, good)
	require.Len(t, result.Deliveries, 2)
	require.Len(t, result.FollowUps(), 1)
	require.Len(t, w.merchant.sent(), 1)
}

// Interleaving: a record outruns the visibility of its own row.
func TestRowThatIsNotVisibleYetIsAskedForAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	soon, later, visible := newRef(), newRef(), newRef()
	w.data.answers(soon.ID, event.NotVisible, event.NotVisible)
	many := make([]event.Visibility, 1000)
	for i := range many {
		many[i] = event.NotVisible
	}
	w.data.answers(later.ID, many...)
	result := w.process(t, "inv-1", soon, later, visible)
	require.Equal(t, "succeeded attempts=1", w.state(t, soon))
	require.Equal(t, "succeeded attempts=1", w.state(t, visible))
	require.Equal(t, "retrying attempts=0", w.state(t, later), "no attempt was made")
	follow := result.FollowUps()
	require.Len(t, follow, 1)
	require.Equal(t, 1, follow[0].List.Number)

	w.data.answers(later.ID)
	_, err := w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=1", w.state(t, later))
}

func TestPhantomIsKeptAsADeadRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.answers(ref.ID, event.Missing)
	w.process(t, "inv-1", ref)
	require.Equal(t, "dead attempts=0", w.state(t, ref))
	require.Empty(t, w.merchant.sent())
	var reason string
	require.NoError(t, w.all.QueryRow(t.Context(), "select reason from delivery.dead_records where event_id = $1", [16]byte(ref.ID)).Scan(&reason))
	require.Equal(t, delivery.ReasonPhantom, reason)
}

// Interleaving: an endpoint is removed, and another disabled, between the plan and the retry.
func TestEndpointThatIsGoneOrDisabledGetsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.merchant.next(status(503), status(503))
	follow := w.process(t, "inv-1", ref).FollowUps()
	_, err := w.all.Exec(t.Context(), "update delivery.endpoints set enabled = false")
	require.NoError(t, err)
	_, err = w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Equal(t, "parked attempts=1", w.state(t, ref))

	other := newRef()
	_, err = w.all.Exec(t.Context(), "update delivery.endpoints set enabled = true")
	require.NoError(t, err)
	follow = w.process(t, "inv-3", other).FollowUps()
	_, err = w.all.Exec(t.Context(), "delete from delivery.endpoints")
	require.NoError(t, err)
	_, err = w.Attempt(t.Context(), "inv-4", follow[0].List)
	require.NoError(t, err)
	require.Equal(t, "dead attempts=1", w.state(t, other))
	require.Len(t, w.merchant.sent(), 2)
}

func TestA410ParksTheDeliveryAndDisablesItsEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref, later := newRef(), newRef()
	gone := func(deliver.Guard) deliver.Response {
		return deliver.Response{Cause: delivery.CauseGone, StatusCode: 410, Sent: true}
	}
	w.merchant.next(gone)
	require.Empty(t, w.process(t, "inv-1", ref).FollowUps())
	require.Equal(t, "parked attempts=1", w.state(t, ref))
	w.process(t, "inv-2", later)
	require.Equal(t, "parked attempts=0", w.state(t, later))
	require.Len(t, w.merchant.sent(), 1)

	_, err := endpointtest.NewManager(t, w.all).Enable(t.Context(), w.endpoint, false)
	require.NoError(t, err)
	taken, err := w.ledger.TakeParked(t.Context(), "drainer", w.endpoint, 10)
	require.NoError(t, err)
	for i, list := range delivery.AttemptLists(taken) {
		_, err := w.Attempt(t.Context(), fmt.Sprintf("inv-%d", 3+i), list)
		require.NoError(t, err)
	}
	require.Equal(t, "succeeded attempts=2", w.state(t, ref))
	require.Equal(t, "succeeded attempts=1", w.state(t, later))
}

// Interleaving: an endpoint answers 410 after its step has handed the request over.
func TestA410OfARequestThatOutlivedItsStepDisablesTheEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	begun, let := w.merchant.hang(func(deliver.Guard) deliver.Response {
		return deliver.Response{Cause: delivery.CauseGone, StatusCode: 410, Sent: true}
	})
	watchdog := w.process(t, "inv-1", ref).FollowUps()
	<-begun
	require.Len(t, watchdog, 1)
	let()
	require.Eventually(t, func() bool {
		var enabled bool
		require.NoError(t, w.all.QueryRow(t.Context(), "select enabled from delivery.endpoints").Scan(&enabled))
		return !enabled
	}, 10*time.Second, 10*time.Millisecond)
	result, err := w.Attempt(t.Context(), "inv-2", watchdog[0].List)
	require.NoError(t, err)
	require.Empty(t, result.FollowUps())
	require.Equal(t, "parked attempts=1", w.state(t, ref))
	require.Len(t, w.merchant.sent(), 1)
}

func TestRetryAfterIsHonouredAndNeverEarlierThanTheSchedule(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		asked, least, most time.Duration
	}{
		{0, 48 * time.Second, 72 * time.Second},
		{time.Second, 48 * time.Second, 72 * time.Second},
		{10 * time.Minute, 10 * time.Minute, 12 * time.Minute},
	} {
		w := newWorld(t)
		w.merchant.next(func(deliver.Guard) deliver.Response {
			return deliver.Response{Cause: delivery.CauseRateLimited, StatusCode: 429, Sent: true, RetryAfter: test.asked}
		})
		follow := w.process(t, "inv-1", newRef()).FollowUps()
		require.Len(t, follow, 1)
		require.GreaterOrEqual(t, follow[0].Delay, test.least, test.asked)
		require.LessOrEqual(t, follow[0].Delay, test.most, test.asked)
	}
}

// Interleaving: an endpoint that is slow to say that it wants to be left alone.
func TestRetryAfterOfARequestThatOutlivedItsStepIsHonoured(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	begun, let := w.merchant.hang(func(deliver.Guard) deliver.Response {
		return deliver.Response{Cause: delivery.CauseRateLimited, StatusCode: 429, Sent: true, RetryAfter: time.Hour}
	})
	watchdog := w.process(t, "inv-1", ref).FollowUps()
	<-begun
	require.Len(t, watchdog, 1)
	let()
	require.Eventually(t, func() bool { return w.state(t, ref) == "retrying attempts=1" }, 10*time.Second, 10*time.Millisecond)
	result, err := w.Attempt(t.Context(), "inv-2", watchdog[0].List)
	require.NoError(t, err)
	require.Empty(t, w.merchant.sent()[1:], "the watchdog makes no attempt")
	follow := result.FollowUps()
	require.Len(t, follow, 1)
	require.Greater(t, follow[0].Delay, 59*time.Minute)
	require.Less(t, follow[0].Delay, 75*time.Minute)
}

func TestEndpointThatCannotBeOpenedLosesNoAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	keys := w.ledger.Keys
	var others seal.Keyring
	require.NoError(t, others.UnmarshalText([]byte(seal.NewKey("other"))))
	w.ledger.Keys = others
	ref := newRef()
	w.process(t, "inv-1", ref)
	require.Equal(t, "parked attempts=0", w.state(t, ref))
	require.Empty(t, w.merchant.sent())
	drainable, err := w.ledger.Drainable(t.Context(), 10)
	require.NoError(t, err)
	require.Empty(t, drainable, "who lacks the key does not drain what would come back")
	backlog, err := w.ledger.Backlog(t.Context(), "drainer", w.endpoint)
	require.NoError(t, err)
	require.False(t, backlog.Fit)

	w.ledger.Keys = keys
	w.Dispatcher = w.newProcess(t) // with the key
	taken, err := w.ledger.TakeParked(t.Context(), "drainer", w.endpoint, 10)
	require.NoError(t, err)
	require.Len(t, taken, 1)
	_, err = w.Attempt(t.Context(), "inv-2", delivery.AttemptLists(taken)[0])
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=1", w.state(t, ref))
}

func TestEventThatDataServiceFailsForHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	good, bad, other := newRef(), newRef(), newRef()
	w.data.poison = bad.ID
	follow := w.process(t, "inv-1", good, bad, other).FollowUps()
	require.Equal(t, "succeeded attempts=1", w.state(t, good))
	require.Equal(t, "succeeded attempts=1", w.state(t, other))
	require.Equal(t, "retrying attempts=1", w.state(t, bad))
	require.Len(t, follow, 1, "it has its schedule, as any failure of one event")
	w.data.poison = uuid.Nil
	_, err := w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=2", w.state(t, bad))
}

func TestEventThatDataServiceFailsForEndsAlsoWhereItIsAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	bad := newRef()
	w.data.poison = bad.ID
	follow := w.process(t, "inv-1", bad).FollowUps()
	require.Len(t, follow, 1)
	require.Equal(t, "retrying attempts=1", w.state(t, bad))
}

func TestDataServiceThatIsAwayIsNotAskedForEachEvent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.data.err = fault.New(fault.Unavailable, "connection refused")
	_, err := w.Process(t.Context(), "inv-1", []event.Ref{newRef(), newRef(), newRef(), newRef(), newRef(), newRef()})
	require.ErrorIs(t, err, w.data.err)
	require.Equal(t, 2, w.data.asked, "all of them at once, then for a sign of life")
	require.Empty(t, w.merchant.sent())
}

// A secret that is added between two attempts signs the second: what is cached is never older than the claim.
func TestAttemptSeesTheEndpointAsItIsNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.merchant.next(status(503))
	follow := w.process(t, "inv-1", ref).FollowUps()
	_, err := w.all.Exec(t.Context(), "update delivery.endpoints set retry_delays_ms = '{7000}'")
	require.NoError(t, err)
	w.merchant.next(status(503))
	result, err := w.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Empty(t, result.FollowUps(), "the endpoint's own schedule has one retry, and it is used up")
	require.Equal(t, "dead attempts=2", w.state(t, ref))
}
