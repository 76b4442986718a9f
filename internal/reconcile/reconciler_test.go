package reconcile_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/reconcile"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	interval = time.Second
	grace    = 3 * time.Second
	overAge  = 20 * time.Second
)

// world is a business database, a ledger and a Restate that hold what a test says, in a synctest bubble's time.
type world struct {
	mu       sync.Mutex
	events   []event.Ref // visible, in feed order
	xmin     int64
	system   string
	timeline string
	start    int64    // where the feed begins for those who ask since
	asked    []string // cursors and starts that the feed was asked for
	feedErr  error
	planned  map[uuid.UUID]time.Time
	mark     delivery.Watermark
	overdue  []delivery.Overdue
	states   map[delivery.State]int
	ended    map[string]bool
	askErr   error
	driven   []uuid.UUID
	attempts []string
	taken    int
	loses    bool        // what is driven is lost once more
	parked   []uuid.UUID // endpoints that nobody drains
	woken    []uuid.UUID
	drainErr error
	asleep   map[delivery.Sequence]time.Time // since when they are in turn
	places   []delivery.Key                  // that the ledger was asked to go on from
	wakeErr  error
	waiting  []event.Operational
	refuses  map[uuid.UUID]error // what payments-api says about an operational event
	said     []uuid.UUID
	refusals map[uuid.UUID]string // as marked
	handed   []delivery.HandedOverDelivery
	verdicts []delivery.SvixVerdict
	registry *prometheus.Registry
	*reconcile.Reconciler
}

func newWorld() *world {
	w := &world{
		xmin: 1 << 40, system: "s1", timeline: "00000001", planned: map[uuid.UUID]time.Time{}, ended: map[string]bool{}, registry: prometheus.NewRegistry(),
	}
	cfg := reconcile.Config{Interval: interval, Grace: grace, OverAge: overAge, Rate: 100, Retention: 7 * 24 * time.Hour}
	w.Reconciler = reconcile.New(cfg, w, w, w, w, w, slog.New(slog.DiscardHandler), w.registry)
	return w
}

// Drainable implements the ledger.
func (w *world) Drainable(_ context.Context, limit int) ([]uuid.UUID, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.parked[:min(limit, len(w.parked))]), nil
}

// WakeDrainer implements the driver.
func (w *world) WakeDrainer(_ context.Context, endpointID uuid.UUID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.woken = append(w.woken, endpointID)
	return w.drainErr
}

// CountCircuits implements the ledger.
func (w *world) CountCircuits(context.Context) (map[delivery.Circuit]int, error) {
	return map[delivery.Circuit]int{delivery.CircuitClosed: 2, delivery.CircuitOpen: 1}, nil
}

// Overslept implements the ledger.
func (w *world) Overslept(_ context.Context, after delivery.Key, grace time.Duration, limit int) ([]delivery.Sequence, delivery.Key, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.places = append(w.places, after)
	var out []delivery.Sequence
	for s, since := range w.asleep {
		if time.Since(since) >= grace && len(out) < limit {
			out = append(out, s)
		}
	}
	return out, delivery.Key{EventID: uuid.UUID{byte(len(w.places))}}, nil
}

// WaitingFor implements the ledger.
func (w *world) WaitingFor(context.Context) (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	longest := time.Duration(0)
	for _, since := range w.asleep {
		longest = max(longest, time.Since(since))
	}
	return longest, nil
}

// Wake implements Restate.
func (w *world) Wake(_ context.Context, s delivery.Sequence) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wakeErr == nil {
		delete(w.asleep, s)
	}
	return w.wakeErr
}

// HandedOver implements the ledger.
func (w *world) HandedOver(_ context.Context, limit int) ([]delivery.HandedOverDelivery, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var due []delivery.HandedOverDelivery
	for _, each := range w.handed {
		if !each.Due.After(time.Now()) && len(due) < limit {
			due = append(due, each)
		}
	}
	return due, nil
}

// SettleHandedOver implements the ledger.
func (w *world) SettleHandedOver(_ context.Context, verdicts []delivery.SvixVerdict) ([]delivery.Overdue, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lost []delivery.Overdue
	for _, v := range verdicts {
		w.verdicts = append(w.verdicts, v)
		i := slices.IndexFunc(w.handed, func(each delivery.HandedOverDelivery) bool { return each.Key == v.Of.Key })
		if v.State == delivery.HandedOver {
			w.handed[i].Due, w.handed[i].Held = time.Now().Add(v.LookIn), w.handed[i].Held+v.LookIn
			continue
		}
		w.handed = slices.Delete(w.handed, i, i+1)
		if v.State == delivery.Retrying {
			lost = append(lost, delivery.Overdue{Key: v.Of.Key, Epoch: v.Of.Epoch + 1, Number: 2})
		}
	}
	return lost, nil
}

// OldestUnanswered implements the ledger.
func (w *world) OldestUnanswered(context.Context) (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(len(w.handed)) * time.Minute, nil
}

// Unpublished implements the ledger.
func (w *world) Unpublished(_ context.Context, limit int) ([]event.Operational, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.waiting[:min(limit, len(w.waiting))]), nil
}

// MarkPublished implements the ledger.
func (w *world) MarkPublished(_ context.Context, id uuid.UUID, refusal string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refusals == nil {
		w.refusals = map[uuid.UUID]string{}
	}
	w.refusals[id] = refusal
	w.waiting = slices.DeleteFunc(w.waiting, func(e event.Operational) bool { return e.ID == id })
	return nil
}

// Publish implements payments-api.
func (w *world) Publish(_ context.Context, e event.Operational) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, e.ID)
	return w.refuses[e.ID]
}

// commit adds an event of the merchant, as old as the bubble's clock says now.
func (w *world) commit(merchant string) event.Ref {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := int64(len(w.events) + 1)
	id := uuid.UUID{6: 0x70, 8: 0x80, 15: byte(n), 14: byte(n >> 8), 13: byte(n >> 16)}
	ms := uint64(time.Now().UnixMilli())
	for i := range 6 {
		id[i] = byte(ms >> (40 - 8*i))
	}
	ref := event.Ref{ID: id, TxID: n, Type: "payment.succeeded", ObjectType: "payment", ObjectID: id.String(), ObjectVersion: 1, MerchantID: merchant}
	w.events = append(w.events, ref)
	return ref
}

func (w *world) plan(refs ...event.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ref := range refs {
		w.planned[ref.ID] = time.Now()
	}
}

func (w *world) page(from int64, limit int) event.FeedPage {
	page := event.FeedPage{
		Xmin: w.xmin, System: w.system, Timeline: w.timeline, From: cursorOf(from), Next: cursorOf(from), Last: cursorOf(from),
	}
	first, _ := slices.BinarySearchFunc(w.events, from+1, func(ref event.Ref, txid int64) int { return cmp.Compare(ref.TxID, txid) })
	for _, ref := range w.events[first:] {
		if len(page.Events) == limit {
			page.More = true
			break
		}
		page.Events = append(page.Events, ref)
		page.Last = cursorOf(ref.TxID)
		if ref.TxID < w.xmin {
			page.Next = page.Last
		}
	}
	return page
}

func cursorOf(txid int64) string {
	if txid == 0 {
		return ""
	}
	return fmt.Sprintf("%d.1", txid)
}

func (w *world) Events(_ context.Context, after string, limit int, _ bool) (event.FeedPage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, "after "+after)
	if w.feedErr != nil {
		return event.FeedPage{}, w.feedErr
	}
	var from int64
	if after != "" {
		if _, err := fmt.Sscanf(after, "%d.", &from); err != nil {
			return event.FeedPage{}, err
		}
	}
	return w.page(from, limit), nil
}

func (w *world) EventsSince(_ context.Context, since time.Time, limit int, _ bool) (event.FeedPage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, "since "+time.Since(since).String())
	return w.page(w.start, limit), nil
}

func (*world) Lead(ctx context.Context, do func(context.Context) error) (bool, error) {
	return true, do(ctx)
}

func (w *world) Watermark(context.Context) (delivery.Watermark, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.mark, nil
}

func (w *world) SetWatermark(_ context.Context, mark delivery.Watermark) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mark = mark
	return nil
}

func (w *world) Planned(_ context.Context, ids []uuid.UUID) (map[uuid.UUID]time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[uuid.UUID]time.Duration{}
	for _, id := range ids {
		if at, found := w.planned[id]; found {
			out[id] = time.Since(at)
		}
	}
	return out, nil
}

func (w *world) Overdue(context.Context, time.Duration, int) ([]delivery.Overdue, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.overdue), nil
}

func (w *world) TakeOver(_ context.Context, overdue []delivery.Overdue) ([]delivery.Overdue, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := slices.Clone(overdue)
	for i := range out {
		out[i].Epoch++
		out[i].Owner = ""
		w.overdue = slices.DeleteFunc(w.overdue, func(o delivery.Overdue) bool { return o.Key == out[i].Key })
	}
	w.taken += len(out)
	return out, nil
}

func (*world) OpenSince(context.Context) (map[string]time.Time, error) { return nil, nil }

func (w *world) CountDeliveries(context.Context) (map[delivery.State]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.states), nil
}

func (*world) CountEndpoints(context.Context) (int, int, error) { return 3, 1, nil }

func (w *world) Ended(_ context.Context, owners []string) (map[string]bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.askErr != nil {
		return nil, w.askErr
	}
	out := map[string]bool{}
	for _, owner := range owners {
		out[owner] = w.ended[owner]
	}
	return out, nil
}

func (w *world) Dispatch(_ context.Context, _ string, batch []event.Ref) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ref := range batch {
		w.driven = append(w.driven, ref.ID)
		if !w.loses {
			w.planned[ref.ID] = time.Now()
		}
	}
	return nil
}

func (w *world) SendAttempt(_ context.Context, list delivery.AttemptList) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, ticket := range list.Tickets {
		w.attempts = append(w.attempts, fmt.Sprintf("attempt %d epoch %d", list.Number, ticket.Epoch))
	}
	return nil
}

func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *world) seen() []uuid.UUID {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.driven)
}

// in runs the reconciler in a bubble while the test acts. A pause moves the bubble's clock, not the machine's.
func in(t *testing.T, act func(t *testing.T, w *world, pause func(time.Duration))) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		begin := sync.OnceFunc(func() { // with the first pause, so that the first look sees all that a test sets up
			running.Go(func() {
				if err := w.Run(ctx); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
		act(t, w, func(d time.Duration) {
			begin()
			<-time.After(d)
			synctest.Wait()
		})
		stop()
		running.Wait()
	})
}

// Interleaving: the record of one event is lost on its way, those after it arrive.
func TestEventOvertakenByALaterOneOfItsMerchantIsDriven(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		lost := w.commit("m")
		w.plan(w.commit("m"))
		pause(grace - interval)
		require.Empty(t, w.seen(), "not before it has looked lost for a grace")
		pause(2*grace + interval)
		require.Equal(t, []uuid.UUID{lost.ID}, w.seen())
		pause(10 * grace)
		require.Len(t, w.seen(), 1, "once")
		require.InDelta(t, 1, counter(t, w, "hookline_reconciler_redriven_total", "overtaken"), 0)
	})
}

// A backlog is not a loss: nothing later was planned, so everything is still on its way, however slow that is.
func TestBacklogIsNotDrivenUntilItIsOverAge(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.plan(w.commit("other"))
		for range 5 {
			w.commit("m")
		}
		w.plan(w.commit("another"))
		pause(overAge - interval)
		require.Empty(t, w.seen())
		require.Equal(t, 5, w.Report().Unplanned)
		require.Zero(t, w.Report().Unaccounted)
		pause(2 * interval)
		require.Len(t, w.seen(), 5)
		pause(2 * interval)
		require.Zero(t, w.Report().Unplanned)
	})
}

// Interleaving: what is driven is lost again. It is driven again after another grace, and counted as unaccounted all along.
func TestUnaccountedStaysUntilThePlanIsThere(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() { w.loses = true })
		w.commit("m")
		pause(overAge + 2*interval)
		require.Len(t, w.seen(), 1)
		require.Equal(t, 1, w.Report().Unaccounted)
		require.InDelta(t, 1, gauge(t, w, "hookline_events_unaccounted"), 0)
		w.set(func() { w.loses = false })
		pause(grace + 2*interval)
		require.Len(t, w.seen(), 2)
		pause(2 * interval)
		require.InDelta(t, 0, gauge(t, w, "hookline_events_unaccounted"), 0)
	})
}

func TestDrivingIsBoundedByTheRate(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		for range 350 {
			w.commit("m")
		}
		pause(overAge + interval/2)
		most := 0
		for range 6 {
			before := len(w.seen())
			pause(interval)
			most = max(most, len(w.seen())-before)
		}
		require.Equal(t, 100, most)
		require.Len(t, w.seen(), 350)
	})
}

// Interleaving: a long transaction somewhere in the server holds xmin back. What is visible above it is driven all the
// same; the watermark does not pass xmin, because an event below can still appear.
func TestLongTransactionDoesNotBlindIt(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		first := w.commit("m")
		w.plan(first)
		w.set(func() { w.xmin = 2 })
		lost := w.commit("m")
		w.plan(w.commit("m"))
		pause(3 * grace)
		require.Equal(t, []uuid.UUID{lost.ID}, w.seen())
		require.Equal(t, "1.1", w.Report().Planned.Cursor)
		require.Greater(t, gauge(t, w, "hookline_feed_xmin_age_seconds"), grace.Seconds())
		w.set(func() { w.xmin = 1 << 40 })
		pause(2 * interval)
		require.Equal(t, "3.1", w.Report().Planned.Cursor)
		require.InDelta(t, 0, gauge(t, w, "hookline_feed_xmin_age_seconds"), 1)
	})
}

// The watermark stops at the first page with a hole, and the walk goes on beyond it.
func TestWatermarkAdvancesOnlyOverWhatIsPlanned(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		for i := range 1200 {
			ref := w.commit("m")
			if i != 700 {
				w.plan(ref)
			}
		}
		pause(interval / 2)
		require.Equal(t, "500.1", w.Report().Planned.Cursor)
		require.Equal(t, 1, w.Report().Unplanned)
		pause(3 * grace)
		require.Equal(t, "1200.1", w.Report().Planned.Cursor)
	})
}

// After a failover transaction ids go back, and a cursor of the old timeline would skip what the new one writes.
func TestAnotherTimelineStartsTheWalkAgainFromTheRetentionAgo(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		for range 10 {
			w.plan(w.commit("m"))
		}
		pause(2 * interval)
		require.Equal(t, delivery.Watermark{Cursor: "10.1", System: "s1", Timeline: "00000001"}, w.Report().Planned)
		w.set(func() {
			w.timeline, w.events, w.asked = "00000002", nil, nil
		})
		lost := w.commit("m") // transaction 1 of the new history
		pause(overAge + 2*interval)
		require.Contains(t, w.seen(), lost.ID)
		w.mu.Lock()
		defer w.mu.Unlock()
		require.True(t, slices.ContainsFunc(w.asked, func(s string) bool { return strings.HasPrefix(s, "since 168h") }), "%v", w.asked)
		require.Equal(t, "00000002", w.mark.Timeline)
	})
}

// Rows that were restored into another server carry its predecessor's transaction ids, above all that it counts itself.
func TestAnotherServerStartsTheWalkFromTheBeginning(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.plan(w.commit("m"))
		pause(2 * interval)
		w.set(func() {
			w.system, w.start, w.asked = "s2", 1<<30, nil // by time it would begin above what is new
		})
		lost := w.commit("m")
		pause(overAge + 2*interval)
		require.Equal(t, []uuid.UUID{lost.ID}, w.seen())
		require.Equal(t, "s2", w.Report().Planned.System)
	})
}

// A look is bounded by what is unplanned, not by what is there: it keeps up with any rate, and catches up after a failover.
func TestLookPassesWhateverIsPlannedAtOnce(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		for range 30_000 {
			w.plan(w.commit("m"))
		}
		lost := w.commit("m")
		w.plan(w.commit("m"))
		pause(interval / 2)
		require.Equal(t, 1, w.Report().Unplanned, "it is seen in the first look, behind 60 pages")
		require.False(t, w.Report().Behind)
		pause(3 * grace)
		require.Equal(t, []uuid.UUID{lost.ID}, w.seen())
	})
}

// Interleaving: a transaction is held open for long under load. More events than one look takes are planned above it, and
// then one is lost.
func TestLongTransactionUnderLoadDoesNotBlindItEither(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() { w.xmin = 1 })
		for range 30_000 {
			w.plan(w.commit("m"))
		}
		pause(interval / 2)
		lost := w.commit("m")
		w.plan(w.commit("m"))
		before := w.pages()
		pause(interval)
		require.Less(t, w.pages()-before, 5, "it goes on where it was")
		require.Equal(t, 1, w.Report().Unplanned)
		require.Empty(t, w.Report().Planned.Cursor, "and passes nothing")
		pause(3 * grace)
		require.Equal(t, []uuid.UUID{lost.ID}, w.seen())
	})
}

// Behind a large backlog of unplanned events a look ends before the feed does, and says so.
func TestLookSaysThatItDidNotSeeEverything(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		for range 21_000 {
			w.commit("m")
		}
		pause(interval / 2)
		require.True(t, w.Report().Behind)
		require.InDelta(t, 1, gauge(t, w, "hookline_reconciler_behind"), 0)
	})
}

func (w *world) pages() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.asked)
}

// The walk of a new history begins at the retention ago also when what is there is not planned yet.
func TestAnotherHistoryIsNotWalkedFromItsBeginning(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		for range 20 {
			w.commit("m") // older than the retention: nobody looks for their plans
		}
		w.set(func() { w.start = 20 })
		young := w.commit("m")
		pause(overAge + 2*interval)
		require.Equal(t, []uuid.UUID{young.ID}, w.seen())
	})
}

func overdueOf(owner string, n byte) delivery.Overdue {
	return delivery.Overdue{Key: delivery.Key{EventID: uuid.UUID{15: n}, EndpointID: uuid.UUID{15: 1}}, Epoch: 4, Number: 2, Owner: owner}
}

// Interleaving: Restate's volume is lost with the timers of retries. Their rows are overdue, without an owner. While
// Restate is away its timers are late, and not lost: taken over, they would be void when they come.
func TestTimerThatNeverCameIsMadeUpForWhenRestateIsThere(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() {
			w.overdue = []delivery.Overdue{overdueOf("", 1)}
			w.askErr = errors.New("Restate is away")
		})
		pause(3 * grace)
		require.Zero(t, w.takenOver())
		w.set(func() { w.askErr = nil })
		pause(2 * interval)
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Equal(t, []string{"attempt 2 epoch 5"}, w.attempts, "it carries the epoch that the takeover raised")
	})
}

func TestOwnerIsTakenFromOnlyWhenItHasLookedEndedForAGrace(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() {
			w.overdue = []delivery.Overdue{overdueOf("inv_running", 1), overdueOf("inv_ended", 2)}
			w.ended["inv_ended"] = true
		})
		pause(grace - interval/2)
		require.Zero(t, w.takenOver())
		w.set(func() { w.askErr = errors.New("Restate is away") })
		pause(3 * grace)
		require.Zero(t, w.takenOver(), "unreachable says nothing about any owner")
		w.set(func() { w.askErr = nil })
		pause(grace + 2*interval)
		require.Equal(t, 1, w.takenOver())
		w.mu.Lock()
		defer w.mu.Unlock()
		require.Equal(t, "inv_running", w.overdue[0].Owner)
	})
}

// Interleaving: the invocation looks ended, as Restate restarts, and then runs again.
func TestOwnerThatRunsAgainKeepsItsDeliveries(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() {
			w.overdue = []delivery.Overdue{overdueOf("inv_1", 1)}
			w.ended["inv_1"] = true
		})
		pause(grace - interval/2)
		w.set(func() { w.ended["inv_1"] = false })
		pause(interval)
		w.set(func() { w.ended["inv_1"] = true })
		pause(grace - interval)
		require.Zero(t, w.takenOver(), "the grace starts again")
	})
}

// Data-service is down: deliveries are taken over all the same, and events are found when it is back.
func TestPartsFailByThemselves(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() {
			w.feedErr = errors.New("data-service is away")
			w.overdue = []delivery.Overdue{overdueOf("", 1)}
		})
		lost := w.commit("m")
		pause(2 * overAge)
		require.Equal(t, 1, w.takenOver())
		require.Empty(t, w.seen())
		w.set(func() { w.feedErr = nil })
		pause(grace + 2*interval)
		require.Equal(t, []uuid.UUID{lost.ID}, w.seen())
	})
}

func (w *world) takenOver() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.taken
}

func gauge(t *testing.T, w *world, name string) float64 { return counter(t, w, name, "") }

func counter(t *testing.T, w *world, name, label string) float64 {
	t.Helper()
	families, err := w.registry.Gather()
	require.NoError(t, err)
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, metric := range family.GetMetric() {
			if label == "" || metric.GetLabel()[0].GetValue() == label {
				return metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			}
		}
	}
	require.Fail(t, "no such metric", name)
	return 0
}

// The metrics are there before anything happened, so that an alarm on them can be written.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld()
	problems, err := testutil.GatherAndLint(w.registry)
	require.NoError(t, err)
	require.Empty(t, problems)
	n, err := testutil.GatherAndCount(w.registry, "hookline_reconciler_redriven_total", "hookline_events_unaccounted", "hookline_feed_xmin_age_seconds",
		"hookline_reconciler_failures_total", "hookline_deliveries", "hookline_deliveries_overdue", "hookline_endpoints", "hookline_circuits")
	require.NoError(t, err)
	require.Equal(t, 28, n)
}

func TestADrainerThatIsGoneIsWoken(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		one := uuid.New()
		w.set(func() { w.parked, w.drainErr = []uuid.UUID{one}, errors.New("Restate is away") })
		pause(interval / 2)
		require.InDelta(t, 1, counter(t, w, "hookline_reconciler_failures_total", "parked"), 0)
		w.set(func() { w.drainErr = nil })
		pause(interval)
		w.set(func() {
			require.Equal(t, []uuid.UUID{one, one}, w.woken, "until it is awake, and once each look")
			w.parked = nil
		})
		require.InDelta(t, 1, counter(t, w, "hookline_reconciler_redriven_total", "parked"), 0)
		pause(3 * interval)
		w.set(func() { require.Len(t, w.woken, 2) })
	})
}

func TestWhatIsInTurnAndAsleepIsWokenWithinTheRate(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() {
			w.asleep = map[delivery.Sequence]time.Time{}
			for range 250 { // 100 each look
				w.asleep[delivery.Sequence{EndpointID: uuid.New()}] = time.Now()
			}
		})
		pause(grace - interval/2)
		w.set(func() {
			require.Len(t, w.asleep, 250, "its own wake may be under way")
			require.Equal(t, []delivery.Key{{}, {EventID: uuid.UUID{1}}, {EventID: uuid.UUID{2}}}, w.places, "each look goes on behind the one before")
			w.wakeErr = errors.New("Restate is away")
		})
		pause(interval)
		require.InDelta(t, 1, counter(t, w, "hookline_reconciler_failures_total", "waiting"), 0)
		w.set(func() { w.wakeErr = nil })
		pause(interval)
		w.set(func() {
			require.Len(t, w.asleep, 150)
			require.Equal(t, w.places[3], w.places[4], "a look that did not come to its end is made again")
		})
		pause(2 * interval)
		w.set(func() { require.Empty(t, w.asleep) })
		require.Zero(t, gauge(t, w, "hookline_deliveries_waiting_age_seconds"))
	})
}

func TestOperationalEventsArePublishedUntilTheyAreTaken(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		bad, good := event.Operational{ID: uuid.New()}, event.Operational{ID: uuid.New()}
		w.set(func() {
			w.waiting = []event.Operational{bad, good}
			w.refuses = map[uuid.UUID]error{bad.ID: fault.New(fault.Invalid, "no such field"), good.ID: fault.New(fault.Unavailable, "payments-api is away")}
		})
		pause(interval / 2)
		w.set(func() {
			require.Equal(t, []event.Operational{good}, w.waiting, "what is refused for what it says is closed, the rest waits")
		})
		require.InDelta(t, 1, counter(t, w, "hookline_reconciler_failures_total", "operational"), 0)
		require.InDelta(t, 1, gauge(t, w, "hookline_operational_events_refused_total"), 0)
		w.set(func() { require.Contains(t, w.refusals[bad.ID], "no such field") })
		w.set(func() { delete(w.refuses, good.ID) })
		pause(interval)
		w.set(func() {
			require.Empty(t, w.waiting)
			require.Equal(t, []uuid.UUID{bad.ID, good.ID, good.ID}, w.said)
		})
	})
}

func TestWhatHasNotSucceededIsCounted(t *testing.T) {
	t.Parallel()
	in(t, func(t *testing.T, w *world, pause func(time.Duration)) {
		w.set(func() {
			w.states = map[delivery.State]int{delivery.Pending: 1, delivery.Retrying: 2, delivery.Parked: 3, delivery.Dead: 4, delivery.Waiting: 5}
			w.overdue, w.askErr = []delivery.Overdue{overdueOf("", 1)}, errors.New("Restate is away")
		})
		pause(2 * interval)
		require.InDelta(t, 1, counter(t, w, "hookline_deliveries", "pending"), 0)
		require.InDelta(t, 2, counter(t, w, "hookline_deliveries", "retrying"), 0)
		require.InDelta(t, 3, counter(t, w, "hookline_deliveries", "parked"), 0)
		require.InDelta(t, 4, counter(t, w, "hookline_deliveries", "dead"), 0)
		require.InDelta(t, 5, counter(t, w, "hookline_deliveries", "waiting"), 0)
		require.InDelta(t, 1, gauge(t, w, "hookline_deliveries_overdue"), 0, "it waits for Restate")
		require.InDelta(t, 3, counter(t, w, "hookline_endpoints", "true"), 0)
		require.InDelta(t, 1, counter(t, w, "hookline_endpoints", "false"), 0)
		require.InDelta(t, 2, counter(t, w, "hookline_circuits", "closed"), 0)
		require.InDelta(t, 1, counter(t, w, "hookline_circuits", "open"), 0)
		require.InDelta(t, 0, counter(t, w, "hookline_circuits", "half_open"), 0)

		w.set(func() { w.states, w.askErr = map[delivery.State]int{delivery.Pending: 1}, nil })
		pause(2 * interval)
		require.InDelta(t, 0, counter(t, w, "hookline_deliveries", "retrying"), 0)
		require.InDelta(t, 0, gauge(t, w, "hookline_deliveries_overdue"), 0, "it was taken over")
	})
}
