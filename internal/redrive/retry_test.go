package redrive_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
)

func (w *world) operator() *postgres.Ledger {
	return postgres.NewLedger(w.all, postgres.LedgerOptions{})
}

// retry carries out an order for the selection.
func (w *world) retry(t *testing.T, s redrive.Selection) redrive.Progress {
	t.Helper()
	p, err := redrive.NewRetrier(w.operator(), w).Retry(t.Context(), order(s), func([]redrive.Judgement, redrive.Progress) {})
	require.NoError(t, err)
	return p
}

func order(s redrive.Selection) redrive.Order {
	return redrive.Order{Replay: redrive.Replay{RequestedBy: "joe", Selection: s}, Rate: redrive.MaxRate}
}

// died are events whose deliveries used up their schedule at an endpoint that is down.
func (w *world) died(t *testing.T, n int) []event.Ref {
	t.Helper()
	w.posts.is(true)
	var out []event.Ref
	for range n {
		ref := newRef()
		w.process(t, ref)
		w.again(t, ref)
		require.Equal(t, "1 dead", w.fate(t, ref))
		out = append(out, ref)
	}
	return out
}

// again makes the attempt that an event's open delivery waits for.
func (w *world) again(t *testing.T, ref event.Ref) {
	t.Helper()
	var o delivery.Overdue
	err := w.all.QueryRow(t.Context(), `select event_id, endpoint_id, generation, epoch, attempts + 1 from delivery.deliveries
		where event_id = $1 and state = 'retrying'`, [16]byte(ref.ID)).
		Scan((*[16]byte)(&o.EventID), (*[16]byte)(&o.EndpointID), &o.Generation, &o.Epoch, &o.Number)
	require.NoError(t, err)
	for _, list := range delivery.AttemptLists([]delivery.Overdue{o}) {
		require.NoError(t, w.run(t.Context(), list))
	}
}

func TestADeadDeliveryIsSentOnceMoreWithItsWholeSchedule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := w.died(t, 1)[0]
	require.Equal(t, 2, w.posts.count())
	p := w.retry(t, redrive.Selection{EventID: ref.ID})
	require.Equal(t, 1, p.Handed)
	require.Equal(t, "1 dead, 1 retrying", w.fate(t, ref), "the first attempt of the new schedule has failed")
	w.posts.is(false)
	w.again(t, ref)
	require.Equal(t, "1 dead, 1 succeeded", w.fate(t, ref))
	require.Equal(t, 4, w.posts.count())

	p = w.retry(t, redrive.Selection{EventID: ref.ID})
	require.Equal(t, map[redrive.Verdict]int{redrive.HasSucceeded: 1}, p.Verdicts)
	require.Equal(t, 4, w.posts.count())
	p = w.retry(t, redrive.Selection{EventID: ref.ID, EvenSucceeded: true})
	require.Equal(t, map[redrive.Verdict]int{redrive.Send: 1}, p.Verdicts)
	require.Equal(t, 5, w.posts.count())
}

// The interleaving: the endpoint is removed between the retry and its attempt.
func TestARetryWhoseEndpointIsRemovedMeanwhileEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := w.died(t, 1)[0]
	w.hold = true
	w.retry(t, redrive.Selection{EventID: ref.ID})
	_, err := w.all.Exec(t.Context(), "delete from delivery.endpoints")
	require.NoError(t, err)
	require.NoError(t, w.run(t.Context(), w.held[0]))
	require.Equal(t, "2 dead", w.fate(t, ref))
	h, err := w.ledger.History(t.Context(), ref.ID, uuid.Nil)
	require.NoError(t, err)
	require.Equal(t, delivery.CauseServerError, h.Deliveries[0].Cause)
	require.Equal(t, delivery.CauseNoEndpoint, h.Deliveries[1].Cause)
	require.Equal(t, 2, w.posts.count())

	p := w.retry(t, redrive.Selection{EventID: ref.ID})
	require.Equal(t, map[redrive.Verdict]int{redrive.EndpointGone: 1}, p.Verdicts)
	_, err = redrive.NewRetrier(w.operator(), w).Retry(t.Context(), order(redrive.Selection{EndpointID: h.Deliveries[0].EndpointID}), nil)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
	require.ErrorContains(t, err, "it was removed")
}

// The interleaving: the ingress is down. All generations are made, and the reconciler sends them.
func TestARetryWithoutAnIngressIsLeftToTheReconciler(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refs := w.died(t, 3)
	w.posts.is(false)
	w.fail = fault.New(fault.Unavailable, "no Restate")
	o := order(redrive.Selection{MerchantID: shop})
	o.Rate = 2
	p, err := redrive.NewRetrier(w.operator(), w).Retry(t.Context(), o, func([]redrive.Judgement, redrive.Progress) {})
	require.NoError(t, err)
	require.ErrorContains(t, p.HandOver, "no Restate")
	require.Zero(t, p.Handed)
	require.Equal(t, 3, p.Made())

	w.fail = nil
	overdue, err := w.ledger.Overdue(t.Context(), 0, 10)
	require.NoError(t, err)
	taken, err := w.ledger.TakeOver(t.Context(), overdue)
	require.NoError(t, err)
	require.Len(t, taken, 3)
	for _, list := range delivery.AttemptLists(taken) {
		require.NoError(t, w.run(t.Context(), list))
	}
	for _, ref := range refs {
		require.Equal(t, "1 dead, 1 succeeded", w.fate(t, ref))
	}
}

// The interleaving: whoever retries is stopped in the middle, and takes the replay up later.
func TestARetryThatIsCutShortIsTakenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refs := w.died(t, 12)
	w.posts.is(false)
	ctx, stop := context.WithCancel(t.Context())
	o := order(redrive.Selection{MerchantID: shop})
	o.Rate = 1 // chunks of ten
	p, err := redrive.NewRetrier(w.operator(), sending(func(ctx context.Context, list delivery.AttemptList) error {
		stop()
		return w.SendAttempt(context.WithoutCancel(ctx), list)
	})).Retry(ctx, o, nil)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 10, p.Made(), "the reconciler sends what is made")
	require.Equal(t, 1, p.Handed)
	late := w.died(t, 1)[0]
	w.posts.is(false)

	taken, err := redrive.NewRetrier(w.operator(), w).Retry(t.Context(),
		redrive.Order{Replay: redrive.Replay{ID: p.Replay.ID}, Rate: redrive.MaxRate}, func([]redrive.Judgement, redrive.Progress) {})
	require.NoError(t, err)
	require.Equal(t, p.Replay.ID, taken.Replay.ID)
	require.Equal(t, map[redrive.Verdict]int{redrive.Taken: 10, redrive.Send: 2}, taken.Verdicts)
	require.Equal(t, 12, taken.Replay.Deliveries)
	require.Equal(t, "1 dead, 1 succeeded", w.fate(t, refs[11]))
	require.Equal(t, "1 dead", w.fate(t, late), "what died after the replay was asked for is not its")

	_, err = redrive.NewRetrier(w.operator(), w).Retry(t.Context(), redrive.Order{Replay: redrive.Replay{ID: 99}, Rate: 1}, nil)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
}

func TestADryRunMakesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := w.died(t, 1)[0]
	o := order(redrive.Selection{MerchantID: shop, Cause: delivery.CauseServerError})
	o.DryRun = true
	p, err := redrive.NewRetrier(w.operator(), nil).Retry(t.Context(), o, func([]redrive.Judgement, redrive.Progress) {})
	require.NoError(t, err)
	require.Equal(t, 1, p.Made())
	require.Zero(t, p.Replay.ID)
	require.Equal(t, "1 dead", w.fate(t, ref))
}

func TestAnOrderThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	retrier := redrive.NewRetrier(nil, nil)
	for _, o := range []redrive.Order{
		{Rate: 1},
		{Rate: 0, Replay: redrive.Replay{Selection: redrive.Selection{MerchantID: "m"}}},
		{Rate: redrive.MaxRate + 1, Replay: redrive.Replay{Selection: redrive.Selection{MerchantID: "m"}}},
	} {
		_, err := retrier.Retry(t.Context(), o, nil)
		require.Equal(t, fault.Invalid, fault.ClassOf(err))
	}
}

// sending hands over as the function does.
type sending func(ctx context.Context, list delivery.AttemptList) error

func (s sending) SendAttempt(ctx context.Context, list delivery.AttemptList) error {
	return s(ctx, list)
}

// graves are dead deliveries of one endpoint.
type graves struct {
	dead   []uuid.UUID
	chunks []int
}

func (*graves) HasEndpoint(context.Context, uuid.UUID) (bool, error) { return true, nil }

func (*graves) DeadEndpoints(context.Context, string) ([]uuid.UUID, error) { return nil, nil }

func (*graves) Replay(_ context.Context, id int64) (redrive.Replay, error) {
	return redrive.Replay{ID: id}, nil
}

func (*graves) Judge(context.Context, redrive.Replay, redrive.Chunk) ([]redrive.Judgement, error) {
	return nil, nil
}

func (g *graves) Retry(_ context.Context, r redrive.Replay, c redrive.Chunk) (redrive.Replay, []redrive.Judgement, error) {
	n := min(len(g.dead), c.Limit)
	var out []redrive.Judgement
	for _, id := range g.dead[:n] {
		out = append(out, redrive.Judgement{Key: delivery.Key{EventID: id, EndpointID: c.EndpointID, Generation: 1}, Verdict: redrive.Send})
	}
	g.dead = g.dead[n:]
	if n > 0 {
		g.chunks = append(g.chunks, n)
	}
	r.ID = 1
	return r, out, nil
}

// What is made is handed over before the reconciler's grace is up, however low the rate.
func TestTheRateBoundsWhatIsHandedOverAndHowMuchIsMadeAhead(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		rate, deliveries int
		chunks           []int
		takes            time.Duration
		largest          int
	}{
		{rate: 5, deliveries: 120, chunks: []int{50, 50, 20}, takes: 23 * time.Second, largest: 5},
		{rate: 200, deliveries: 1100, chunks: []int{1000, 100}, takes: 5320 * time.Millisecond, largest: delivery.MaxTickets},
	} {
		synctest.Test(t, func(t *testing.T) {
			g := &graves{}
			for range c.deliveries {
				g.dead = append(g.dead, uuid.New())
			}
			began, sent, largest := time.Now(), 0, 0
			var last time.Duration
			o := order(redrive.Selection{EndpointID: uuid.New()})
			o.Rate = c.rate
			p, err := redrive.NewRetrier(g, sending(func(_ context.Context, list delivery.AttemptList) error {
				// What went before this list took its time.
				last = time.Since(began)
				require.GreaterOrEqual(t, last, time.Duration(sent)*time.Second/time.Duration(c.rate))
				require.Equal(t, 1, list.Number)
				require.True(t, list.Backlog, "what comes now goes before them")
				sent += len(list.Tickets)
				largest = max(largest, len(list.Tickets))
				return nil
			})).Retry(t.Context(), o, func([]redrive.Judgement, redrive.Progress) {})
			require.NoError(t, err)
			require.Equal(t, c.deliveries, p.Handed)
			require.Equal(t, c.chunks, g.chunks)
			require.Equal(t, c.largest, largest)
			require.Equal(t, c.takes, last)
		})
	}
}
