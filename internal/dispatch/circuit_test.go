package dispatch_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/circuit"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
)

const maxOpen = 4

// strict is a process that opens circuits, and lets four requests to one endpoint be under way.
func (w *world) strict(t *testing.T) *dispatch.Dispatcher {
	t.Helper()
	return w.strictWithin(t, maxOpen)
}

func (w *world) strictWithin(t *testing.T, maxOpen int) *dispatch.Dispatcher {
	t.Helper()
	d := dispatch.New(t.Context(), dispatch.Config{
		Route: "inhouse", Schedule: delivery.Schedule{time.Minute, time.Hour}, Jitter: 0.2, MaxOpen: maxOpen, OpenAt: 0.5, ProbeAfter: time.Minute,
	}, w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, d.Close(ctx))
	})
	return d
}

func newRefs(n int) []event.Ref {
	out := make([]event.Ref, n)
	for i := range out {
		out[i] = newRef()
	}
	return out
}

func repeat(n int, answer func(deliver.Guard) deliver.Response) []func(deliver.Guard) deliver.Response {
	out := make([]func(deliver.Guard) deliver.Response, n)
	for i := range out {
		out[i] = answer
	}
	return out
}

// circuit is the endpoint's, how often it opened, and whether the probe is between half a minute and two away.
func (w *world) circuit(t *testing.T) (state string, opens int) {
	t.Helper()
	require.NoError(t, w.all.QueryRow(t.Context(), "select circuit, circuit_opens from delivery.endpoints where id = $1", [16]byte(w.endpoint)).Scan(&state, &opens))
	return state, opens
}

func (w *world) count(t *testing.T, where string) int {
	t.Helper()
	var n int
	require.NoError(t, w.all.QueryRow(t.Context(), "select count(*) from delivery.deliveries where "+where).Scan(&n))
	return n
}

func (w *world) exec(t *testing.T, statement string, args ...any) {
	t.Helper()
	_, err := w.all.Exec(t.Context(), statement, args...)
	require.NoError(t, err)
}

func (w *world) tickets(t *testing.T, refs ...event.Ref) []delivery.Ticket {
	t.Helper()
	out := make([]delivery.Ticket, len(refs))
	for i, ref := range refs {
		out[i] = delivery.Ticket{EventID: ref.ID}
		require.NoError(t, w.all.QueryRow(t.Context(), "select epoch from delivery.deliveries where event_id = $1", [16]byte(ref.ID)).Scan(&out[i].Epoch))
	}
	return out
}

func process(t *testing.T, d *dispatch.Dispatcher, owner string, refs ...event.Ref) dispatch.Result {
	t.Helper()
	result, err := d.Process(t.Context(), owner, refs)
	require.NoError(t, err)
	return result
}

func TestACircuitThatOpensParksWithoutAttemptsAndTimers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strict(t)
	failing := newRefs(circuit.Samples)
	w.merchant.next(repeat(len(failing), status(500))...)
	result := process(t, d, "inv-1", failing...)
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint}}, result.Drain)
	state, opens := w.circuit(t)
	require.Equal(t, "open", state)
	require.Equal(t, 1, opens)
	var wait float64
	require.NoError(t, w.all.QueryRow(t.Context(), "select extract(epoch from probe_at - clock_timestamp()) from delivery.endpoints where id = $1", [16]byte(w.endpoint)).Scan(&wait))
	require.InDelta(t, 60, wait, 14, "the first wait, jittered")
	require.Equal(t, len(failing), w.count(t, "state = 'retrying' and attempts = 1"), "what failed keeps its own schedule")

	// What comes now is parked by its plan: nobody claims it.
	live := newRefs(10)
	result = process(t, d, "inv-2", live...)
	require.Empty(t, result.Deliveries)
	require.Equal(t, 10, w.count(t, "state = 'parked' and attempts = 0 and next_attempt_at is null and owner is null"))

	// And a timer that comes parks, too.
	retry, err := d.Attempt(t.Context(), "inv-3", delivery.AttemptList{EndpointID: w.endpoint, Number: 2, Tickets: w.tickets(t, failing[:3]...)})
	require.NoError(t, err)
	require.Empty(t, retry.FollowUps())
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint}}, retry.Drain)
	require.Equal(t, 3, w.count(t, "state = 'parked' and attempts = 1 and last_cause = 'circuit_open' and next_attempt_at is null"))
	require.Len(t, w.merchant.sent(), len(failing), "none of them was sent")

	// An open circuit takes no probe: one that comes late is of another time.
	probe := delivery.AttemptList{EndpointID: w.endpoint, Number: 2, Probe: true, Tickets: w.tickets(t, failing[4])}
	_, err = d.Attempt(t.Context(), "inv-4", probe)
	require.NoError(t, err)
	require.Equal(t, "parked attempts=1", w.state(t, failing[4]))
}

func TestNoRetryAfterSparesAnEndpointForLongerThanACircuitMay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strict(t)
	w.merchant.next(repeat(circuit.Samples, func(deliver.Guard) deliver.Response {
		return deliver.Response{Cause: delivery.CauseRateLimited, StatusCode: 429, Sent: true, RetryAfter: 12 * time.Hour}
	})...)
	process(t, d, "inv-1", newRefs(circuit.Samples)...)
	var wait float64
	require.NoError(t, w.all.QueryRow(t.Context(), "select extract(epoch from probe_at - clock_timestamp()) from delivery.endpoints where id = $1", [16]byte(w.endpoint)).Scan(&wait))
	require.InDelta(t, circuit.LongestWait.Seconds(), wait, 10)
}

// Both directions of a probe, by the ledger alone: the drainer's part is played by a statement.
func TestAProbeClosesTheCircuitOrOpensItForLonger(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strict(t)
	failed, well, waiting := newRef(), newRef(), newRef()
	w.exec(t, "update delivery.endpoints set circuit = 'open', circuit_opens = 1, probe_at = now()")
	process(t, d, "inv-1", failed, well, waiting)
	probe := func(owner string, ref event.Ref) dispatch.Result {
		w.exec(t, "update delivery.deliveries set state = 'retrying', next_attempt_at = now() where event_id = $1", [16]byte(ref.ID))
		w.exec(t, "update delivery.endpoints set circuit = 'half_open', circuit_changed_at = clock_timestamp()")
		result, err := d.Attempt(t.Context(), owner, delivery.AttemptList{EndpointID: w.endpoint, Number: 1, Probe: true, Tickets: w.tickets(t, ref)})
		require.NoError(t, err)
		return result
	}
	w.merchant.next(status(500))
	result := probe("inv-2", failed)
	require.Len(t, result.FollowUps(), 1, "a probe is an attempt, and has its schedule")
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint}}, result.Drain)
	state, opens := w.circuit(t)
	require.Equal(t, "open", state)
	require.Equal(t, 2, opens)
	var wait float64
	require.NoError(t, w.all.QueryRow(t.Context(), "select extract(epoch from probe_at - clock_timestamp()) from delivery.endpoints where id = $1", [16]byte(w.endpoint)).Scan(&wait))
	require.InDelta(t, 75, wait, 16, "a quarter more than the first wait")

	result = probe("inv-3", well)
	require.Equal(t, "succeeded attempts=1", w.state(t, well))
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint}}, result.Drain)
	state, opens = w.circuit(t)
	require.Equal(t, "closed", state)
	require.Equal(t, 2, opens, "until it has been well for a while")
	require.Equal(t, "parked attempts=0", w.state(t, waiting), "that is the drainer's")
	require.Len(t, w.merchant.sent(), 2)
}

// An endpoint that hangs is known by what it does not answer, long before its time-out.
func TestRequestsThatNobodyAnswersOpenTheCircuitWhileTheyAreOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strictWithin(t, 100)
	for range 60 {
		w.merchant.hang(status(200))
	}
	process(t, d, "inv-1", newRefs(circuit.Samples-1)...)
	var last dispatch.Result
	asked := 0
	require.Eventually(t, func() bool {
		asked++
		last = process(t, d, fmt.Sprint("inv-more-", asked), newRef())
		state, _ := w.circuit(t)
		return state == "open"
	}, 10*time.Second, 250*time.Millisecond)
	require.GreaterOrEqual(t, asked, 2, "it takes one more than there were, that has stalled")
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint}}, last.Drain)
	require.Zero(t, w.count(t, "attempts > 0"), "none has ended")
	require.Empty(t, process(t, d, "inv-after", newRef()).Deliveries, "it is planned as parked")
}

// At a bulkhead that is full nothing goes out any more that could be looked at.
func TestAnEndpointWhoseBulkheadIsFullIsFoundToHang(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strictWithin(t, circuit.Samples)
	for range circuit.Samples {
		w.merchant.hang(status(200))
	}
	process(t, d, "inv-1", newRefs(circuit.Samples)...)
	asked := 0
	require.Eventually(t, func() bool {
		asked++
		process(t, d, fmt.Sprint("inv-more-", asked), newRef())
		state, _ := w.circuit(t)
		return state == "open"
	}, 10*time.Second, 250*time.Millisecond)
	require.Zero(t, w.count(t, "attempts > 0"))
	require.Empty(t, w.merchant.sent())
}

// Interleaving: most of an endpoint's requests hang, and a later one is answered.
func TestAnEndpointThatAnswersMeanwhileHasNotStalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strictWithin(t, 100)
	for range circuit.Samples + 5 {
		w.merchant.hang(status(200))
	}
	start := time.Now()
	process(t, d, "inv-1", newRefs(circuit.Samples+5)...)
	for i := 0; time.Since(start) < 3*dispatch.Budget; i++ { // longer than it takes to stall
		process(t, d, fmt.Sprint("inv-more-", i), newRef())
		require.Eventually(t, func() bool { return len(w.merchant.sent()) == i+1 }, 5*time.Second, 5*time.Millisecond)
	}
	state, _ := w.circuit(t)
	require.Equal(t, "closed", state)
}

// Interleaving: a probe outlives its step, and is answered then. Its drainer hears of it from who finished the request.
func TestAProbeThatOutlivesItsStepWakesTheDrainerWhenItEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	woken := make(chan uuid.UUID, 1)
	d := dispatch.New(t.Context(), dispatch.Config{
		Route: "inhouse", Schedule: delivery.Schedule{time.Minute}, OpenAt: 0.5, ProbeAfter: time.Minute,
		DrainFunc: func(_ context.Context, id uuid.UUID) error { woken <- id; return nil },
	}, w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		require.NoError(t, d.Close(context.WithoutCancel(t.Context())))
	})
	ref := newRef()
	w.exec(t, "update delivery.endpoints set circuit = 'open', circuit_opens = 1, circuit_changed_at = clock_timestamp(), probe_at = clock_timestamp()")
	process(t, d, "inv-1", ref)
	require.Equal(t, "parked attempts=0", w.state(t, ref))
	_, let := w.merchant.hang(status(200))
	w.exec(t, "update delivery.endpoints set circuit = 'half_open', circuit_changed_at = clock_timestamp()")
	w.exec(t, "update delivery.deliveries set state = 'retrying', last_cause = 'drained', next_attempt_at = now() where event_id = $1", [16]byte(ref.ID))
	result, err := d.Attempt(t.Context(), "inv-2", delivery.AttemptList{EndpointID: w.endpoint, Number: 1, Probe: true, Tickets: w.tickets(t, ref)})
	require.NoError(t, err)
	require.Empty(t, result.Drain)
	let()
	require.Equal(t, w.endpoint, <-woken)
	state, _ := w.circuit(t)
	require.Equal(t, "closed", state)
}

// Interleaving: the circuit has opened while as many requests are open as the bulkhead lets, and they stay so for long.
func TestAProbeNeedsNoRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strict(t)
	for range maxOpen {
		w.merchant.hang(status(200))
	}
	hanging := newRefs(maxOpen + 1)
	process(t, d, "inv-1", hanging...)
	require.Equal(t, 1, w.count(t, "state = 'parked' and last_cause = 'bulkhead'"))
	var waiting event.Ref
	for _, ref := range hanging {
		if w.state(t, ref) == "parked attempts=0" {
			waiting = ref
		}
	}
	w.exec(t, "update delivery.endpoints set circuit = 'half_open', circuit_opens = 1, circuit_changed_at = clock_timestamp(), probe_at = clock_timestamp() + interval '1 minute'")
	w.exec(t, "update delivery.deliveries set state = 'retrying', last_cause = 'drained', next_attempt_at = now() where event_id = $1", [16]byte(waiting.ID))
	result, err := d.Attempt(t.Context(), "inv-2", delivery.AttemptList{EndpointID: w.endpoint, Number: 1, Probe: true, Tickets: w.tickets(t, waiting)})
	require.NoError(t, err)
	require.Equal(t, "succeeded attempts=1", w.state(t, waiting))
	require.Len(t, w.merchant.sent(), 1)
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint}}, result.Drain)
	state, _ := w.circuit(t)
	require.Equal(t, "closed", state)
}

// Interleaving: the circuit has opened and closed again while requests of before are still open; then those fail. Some do
// before this process has heard of the change, which the ledger knows, and some after.
func TestStragglersOfAnOutageDoNotReopenTheCircuit(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strictWithin(t, 100)
	const early, late = circuit.Samples + 4, 5
	var lets []func()
	for range early + late {
		_, let := w.merchant.hang(status(500))
		lets = append(lets, let)
	}
	process(t, d, "inv-1", newRefs(early+late)...)
	w.exec(t, "update delivery.endpoints set circuit = 'closed', circuit_opens = 1, circuit_changed_at = clock_timestamp()")
	failed := 0
	fail := func(n int) {
		t.Helper()
		for _, let := range lets[failed : failed+n] {
			let()
		}
		failed += n
		require.Eventually(t, func() bool { return w.count(t, "state = 'retrying' and attempts = 1") == failed }, 5*time.Second, 5*time.Millisecond)
	}
	turn := 1
	fresh := func(answer func(deliver.Guard) deliver.Response) {
		t.Helper()
		turn++
		ref := newRef()
		w.merchant.next(answer)
		process(t, d, fmt.Sprintf("inv-%d", turn), ref)
		require.Eventually(t, func() bool { return w.count(t, "attempts = 1 and event_id = '"+ref.ID.String()+"'") == 1 },
			5*time.Second, 5*time.Millisecond, "the endpoint is slow, and nobody waits for it")
		w.exec(t, "update delivery.deliveries set attempts = 10 where event_id = $1", [16]byte(ref.ID)) // it does not count for fail
	}
	closed := func(why string) {
		t.Helper()
		state, opens := w.circuit(t)
		require.Equal(t, "closed", state, why)
		require.Equal(t, 1, opens)
	}
	fail(early)
	fresh(status(204))
	closed("what was judged is another time of the endpoint")
	fail(late - 1)
	fresh(status(500))
	closed("with those it would be most of enough requests")
	fresh(status(500))
	state, opens := w.circuit(t)
	require.Equal(t, "open", state, "two of three that began since are")
	require.Equal(t, 2, opens)
}

// Interleaving: two workers see the same outage, and judge at the same moment.
func TestTwoWorkersOpenACircuitOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	one, other := w.strict(t), w.strict(t)
	w.merchant.next(repeat(2*circuit.Samples, status(500))...)
	var both sync.WaitGroup
	for i, d := range []*dispatch.Dispatcher{one, other} {
		refs := newRefs(circuit.Samples)
		both.Go(func() {
			_, err := d.Process(context.WithoutCancel(t.Context()), "inv-"+string(rune('a'+i)), refs)
			if err != nil {
				t.Error(err)
			}
		})
	}
	both.Wait()
	state, opens := w.circuit(t)
	require.Equal(t, "open", state)
	require.Equal(t, 1, opens)
}

func TestAnEndpointIsWellAWhileAfterItsCircuitClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	d := w.strict(t)
	w.exec(t, "update delivery.endpoints set circuit_opens = 3, circuit_changed_at = clock_timestamp() - interval '1 minute'")
	process(t, d, "inv-1", newRef())
	_, opens := w.circuit(t)
	require.Zero(t, opens)
}

// watched counts the requests to the shop that are under way.
type watched struct {
	*merchant
	now, most atomic.Int64
}

func (p *watched) Post(ctx context.Context, e delivery.Endpoint, m deliver.Message, number int, guard deliver.Guard) deliver.Response {
	if e.MerchantID != shop {
		return p.merchant.Post(ctx, e, m, number, guard)
	}
	now := p.now.Add(1)
	defer p.now.Add(-1)
	for {
		most := p.most.Load()
		if now <= most || p.most.CompareAndSwap(most, now) {
			break
		}
	}
	return p.merchant.Post(ctx, e, m, number, guard)
}

// The bulkhead: of a batch larger than it, all go out where the endpoint answers, and none waits for ever where it hangs.
func TestNoMoreRequestsAreOpenThanTheBulkheadLets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	posts := &watched{merchant: w.merchant}
	d := dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Minute}, MaxOpen: maxOpen},
		w.ledger, w.data, posts, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		require.NoError(t, d.Close(context.WithoutCancel(t.Context())))
	})
	result := process(t, d, "inv-1", newRefs(64)...)
	require.Len(t, w.merchant.sent(), 64)
	require.Empty(t, result.Drain)
	require.LessOrEqual(t, posts.most.Load(), int64(maxOpen))

	var lets []func()
	for range maxOpen {
		_, let := w.merchant.hang(status(200))
		lets = append(lets, let)
	}
	endpointtest.Add(t, w.all, "other-shop", nil)
	healthy := newRef()
	healthy.MerchantID = "other-shop"
	hanging := newRefs(10)
	result = process(t, d, "inv-2", hanging...)
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint, Full: true}}, result.Drain)
	require.Equal(t, maxOpen, w.count(t, "state = 'retrying' and last_cause = 'open'"))
	require.Equal(t, 6, w.count(t, "state = 'parked' and last_cause = 'bulkhead' and attempts = 0 and next_attempt_at is null"))

	// From now on nobody waits for it, in whatever lane, and others are as ever.
	start := time.Now()
	result = process(t, d, "inv-3", newRef(), healthy)
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint, Full: true}}, result.Drain)
	require.Equal(t, "succeeded attempts=1", w.state(t, healthy))
	w.exec(t, "update delivery.deliveries set state = 'retrying', next_attempt_at = now() where event_id = $1", [16]byte(hanging[9].ID))
	retry, err := d.Attempt(t.Context(), "inv-4", delivery.AttemptList{EndpointID: w.endpoint, Number: 1, Tickets: w.tickets(t, hanging[9])})
	require.NoError(t, err)
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint, Full: true}}, retry.Drain)
	require.Less(t, time.Since(start), dispatch.Budget)
	require.EqualValues(t, maxOpen, posts.now.Load())
	require.EqualValues(t, maxOpen, posts.most.Load())
	// It answers: it is in the batch lane again.
	for _, let := range lets {
		let()
	}
	require.Eventually(t, func() bool { return posts.now.Load() == 0 }, 5*time.Second, 5*time.Millisecond)
	back := newRef()
	process(t, d, "inv-5", back)
	require.Eventually(t, func() bool { return w.state(t, back) == "succeeded attempts=1" }, 5*time.Second, 5*time.Millisecond)
	last := newRef()
	process(t, d, "inv-7", last)
	require.Equal(t, "succeeded attempts=1", w.state(t, last))
}

// What was parked leaves half of the room to what comes now, which also goes first.
func TestTheBacklogLeavesRoomForLiveTraffic(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	posts := &watched{merchant: w.merchant}
	d := dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Minute}, MaxOpen: maxOpen},
		w.ledger, w.data, posts, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		w.merchant.release()
		require.NoError(t, d.Close(context.WithoutCancel(t.Context())))
	})
	w.exec(t, "update delivery.endpoints set circuit = 'open', probe_at = now()")
	parked := newRefs(10)
	process(t, d, "inv-1", parked...)
	w.exec(t, "update delivery.endpoints set circuit = 'closed', probe_at = null")
	w.exec(t, "update delivery.deliveries set state = 'retrying', next_attempt_at = now()")
	for range maxOpen / 2 {
		w.merchant.hang(status(200))
	}
	drained := make(chan dispatch.Result, 1)
	backlog := delivery.AttemptList{EndpointID: w.endpoint, Number: 1, Backlog: true, Tickets: w.tickets(t, parked...)}
	go func() {
		result, err := d.Attempt(context.WithoutCancel(t.Context()), "inv-2", backlog)
		if err != nil {
			t.Error(err)
		}
		drained <- result
	}()
	require.Eventually(t, func() bool { return posts.now.Load() == maxOpen/2 }, 5*time.Second, time.Millisecond)
	live := newRef()
	process(t, d, "inv-3", live)
	require.Equal(t, "succeeded attempts=1", w.state(t, live), "with the backlog's half full and eight more waiting")
	require.EqualValues(t, maxOpen/2, posts.now.Load())
	result := <-drained
	require.Equal(t, []dispatch.DrainWake{{EndpointID: w.endpoint, Full: true}}, result.Drain)
	require.Equal(t, 8, w.count(t, "state = 'parked' and last_cause = 'bulkhead'"))
}
