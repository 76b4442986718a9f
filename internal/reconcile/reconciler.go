package reconcile

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/logging"
)

// feed is every committed event, in an order in which nothing can appear behind a cursor below xmin.
type feed interface {
	Events(ctx context.Context, after string, limit int, visible bool) (event.FeedPage, error)
	EventsSince(ctx context.Context, since time.Time, limit int, visible bool) (event.FeedPage, error)
}

// ledger is what was planned and what is open.
type ledger interface {
	Lead(ctx context.Context, do func(context.Context) error) (bool, error)
	Watermark(ctx context.Context) (delivery.Watermark, error)
	SetWatermark(ctx context.Context, w delivery.Watermark) error
	Planned(ctx context.Context, ids []uuid.UUID) (map[uuid.UUID]time.Duration, error)
	Overdue(ctx context.Context, grace time.Duration, limit int) ([]delivery.Overdue, error)
	TakeOver(ctx context.Context, overdue []delivery.Overdue) ([]delivery.Overdue, error)
	Overslept(ctx context.Context, after delivery.Key, grace time.Duration, limit int) ([]delivery.Sequence, delivery.Key, error)
	WaitingFor(ctx context.Context) (time.Duration, error)
	Drainable(ctx context.Context, limit int) ([]uuid.UUID, error)
	Unpublished(ctx context.Context, limit int) ([]event.Operational, error)
	MarkPublished(ctx context.Context, id uuid.UUID, refusal string) error
	HandedOver(ctx context.Context, limit int) ([]delivery.HandedOverDelivery, error)
	SettleHandedOver(ctx context.Context, verdicts []delivery.SvixVerdict) ([]delivery.Overdue, error)
	OldestUnanswered(ctx context.Context) (time.Duration, error)
	OpenSince(ctx context.Context) (map[string]time.Time, error)
	CountDeliveries(ctx context.Context) (map[delivery.State]int, error)
	CountEndpoints(ctx context.Context) (enabled, disabled int, err error)
	CountCircuits(ctx context.Context) (map[delivery.Circuit]int, error)
}

// invocations tells which owners will never run again, and errs while Restate is away, also when it is asked about none:
// that says nothing about any of them.
type invocations interface {
	Ended(ctx context.Context, owners []string) (map[string]bool, error)
}

// driver hands over what was found.
type driver interface {
	Dispatch(ctx context.Context, key string, batch []event.Ref) error
	SendAttempt(ctx context.Context, list delivery.AttemptList) error
	Wake(ctx context.Context, s delivery.Sequence) error
	WakeDrainer(ctx context.Context, endpointID uuid.UUID) error
}

// publisher makes events of what happened to endpoints.
type publisher interface {
	Publish(ctx context.Context, e event.Operational) error
}

// Bounds of one look.
const (
	publishAtOnce = 100
	drainAtOnce   = 100
	pageEvents    = 500
	pagesAtOnce   = 40   // with something unplanned before them; what is beyond is looked at when that is planned
	batchEvents   = 64   // as intake's
	openAtOnce    = 5000 // overdue deliveries read in one look
	waitingAtOnce = 2000 // likewise those that wait for their turn; the next look goes on behind them
)

// Config says how patient the reconciler is. The defaults are for production; the crash tests are less so.
type Config struct {
	Interval  time.Duration `env:"RECONCILE_INTERVAL" envDefault:"10s" desc:"between two looks of the reconciler"`
	Grace     time.Duration `env:"RECONCILE_GRACE" envDefault:"30s" desc:"how long something must look lost before the reconciler drives it"`
	OverAge   time.Duration `env:"RECONCILE_OVER_AGE" envDefault:"10m" desc:"age from which an unplanned event counts as unaccounted, and is driven even if no later one of its merchant was planned: a backlog is younger"`
	Rate      int           `env:"RECONCILE_RATE" envDefault:"200" unit:"events/s" desc:"how fast the reconciler drives at most"`
	Retention time.Duration `env:"TOPIC_RETENTION" envDefault:"168h" desc:"how long the topic keeps its records: after a failover the reconciler looks again from that long ago"`
}

// Reconciler is one of the workers' loops; the one that holds the ledger's lock does the work. Run it once.
type Reconciler struct {
	cfg         Config
	feed        feed
	ledger      ledger
	invocations invocations
	driver      driver
	publisher   publisher
	svix        svixStatus // nil: nobody sweeps
	log         *slog.Logger
	metrics     *reconcileMetrics

	// Of the one goroutine that leads:
	suspects map[uuid.UUID]*suspect
	ended    map[string]time.Time // owners, and since when they look ended
	xmin     int64
	xminAt   time.Time    // when xmin last rose
	ahead    place        // up to where everything visible above xmin was planned; never stored
	waiting  delivery.Key // up to where the last look went along what waits for its turn
	budget   int          // how many may still be driven in this look

	mu     sync.Mutex
	report Report
}

// place is a cursor above xmin, which means nothing any more when xmin has moved.
type place struct {
	xmin   int64
	cursor string
}

// suspect is an event that was seen and had no plan.
type suspect struct {
	ref       event.Ref
	firstSeen time.Time // also when it was last driven: it gets another grace then
	seen      uint64    // the look that saw it last
	overtaken bool      // a later event of its merchant was planned longer ago than the grace
}

// Report is what the reconciler knows, for people.
type Report struct {
	Leading     bool               `json:"leading"` // in this process
	LookedAt    time.Time          `json:"looked_at"`
	Planned     delivery.Watermark `json:"planned_watermark"`
	Unplanned   int                `json:"unplanned"`   // events seen without a plan, most of them on their way
	Unaccounted int                `json:"unaccounted"` // of those, over-age: 0 is the promise
	// Behind says that the look ended before the feed did, behind a backlog of unplanned events.
	Behind bool `json:"behind"`
	// SettledBefore is when the oldest event that still has a delivery under way was planned; zero where none has.
	SettledBefore time.Time            `json:"settled_before"`
	Merchants     map[string]time.Time `json:"merchants_settled_before"`
}

// New makes a Reconciler. Its metrics are added to the registry.
func New(cfg Config, f feed, l ledger, i invocations, d driver, p publisher, log *slog.Logger, registry prometheus.Registerer) *Reconciler {
	return &Reconciler{cfg: cfg, feed: f, ledger: l, invocations: i, driver: d, publisher: p, log: log, metrics: newMetrics(registry)}
}

// Report returns what the last look found; in a process that does not lead, the zero value.
func (r *Reconciler) Report() Report {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.report
}

// Run leads when it can, until ctx ends. It has no other error than ctx's: whatever fails is tried again at the next look.
func (r *Reconciler) Run(ctx context.Context) error {
	for {
		led, err := r.ledger.Lead(ctx, r.lead)
		r.mu.Lock()
		r.report = Report{}
		r.mu.Unlock()
		r.metrics.stopLeading()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.log.LogAttrs(ctx, slog.LevelWarn, "not reconciling", slog.Bool("led", led), logging.Error(err))
		}
		select {
		case <-time.After(r.cfg.Interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// lead looks again and again. What an earlier leader had seen is forgotten: two looks are two looks of one process.
func (r *Reconciler) lead(ctx context.Context) error {
	r.ahead, r.waiting = place{}, delivery.Key{}
	r.suspects, r.ended, r.xmin, r.budget = map[uuid.UUID]*suspect{}, map[string]time.Time{}, 0, 0
	r.metrics.leading.Set(1)
	var sweeping sync.WaitGroup
	defer sweeping.Wait() // this returns when ctx has ended, and so does the sweep
	if r.svix != nil {
		sweeping.Go(func() { r.sweep(ctx) })
	}
	for look := uint64(1); ; look++ {
		r.budget = max(1, int(float64(r.cfg.Rate)*r.cfg.Interval.Seconds()))
		report := Report{Leading: true, LookedAt: time.Now()}
		// Each part by itself: data-service may be down while deliveries wait to be taken over.
		for _, part := range []struct {
			name string
			look func(context.Context, uint64, *Report) error
		}{
			{"events", r.lookAtEvents}, {"deliveries", r.lookAtDeliveries}, {"parked", r.lookAtParked}, {"waiting", r.lookAtWaiting}, {"operational", r.publish}, {"settled", r.lookAtSettled},
		} {
			if err := part.look(ctx, look, &report); err != nil && ctx.Err() == nil {
				r.metrics.failures.WithLabelValues(part.name).Inc()
				r.log.LogAttrs(ctx, slog.LevelWarn, "a look of the reconciler failed", slog.String("part", part.name), logging.Error(err))
			}
		}
		r.mu.Lock()
		r.report = report
		r.mu.Unlock()
		r.metrics.looks.Inc()
		select {
		case <-time.After(r.cfg.Interval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// lookAtEvents walks the feed from the watermark on, past the oldest running transaction, and drives what is lost.
func (r *Reconciler) lookAtEvents(ctx context.Context, look uint64, report *Report) error {
	mark, err := r.ledger.Watermark(ctx)
	if err != nil {
		return err
	}
	var (
		stored  = mark
		pages   [][]event.Ref // from the first one with something unplanned on
		planned = map[uuid.UUID]time.Duration{}
		whole   = true // all that was visible so far is planned or explained
		jumped  = false
		beyond  = false // an event can still appear behind what was seen last: it is seen, and driven, but not passed
		page    = event.FeedPage{Last: mark.Cursor}
	)
	for walked := 0; len(pages) < pagesAtOnce; walked++ {
		page, err = r.next(ctx, page.Last, &mark)
		if err != nil {
			return err
		}
		ids := make([]uuid.UUID, len(page.Events))
		for i, ref := range page.Events {
			ids[i] = ref.ID
		}
		found, err := r.ledger.Planned(ctx, ids)
		if err != nil {
			return err
		}
		if whole = whole && len(found) == len(ids); !whole {
			pages = append(pages, page.Events)
			maps.Copy(planned, found)
		}
		if whole && !beyond && page.Next != "" {
			mark.Cursor = page.Next
		}
		if above(page) {
			beyond = true
			switch {
			case !whole:
			case !jumped && r.ahead.xmin == page.Xmin:
				// While a long transaction holds xmin each look would see the same first events, and nothing
				// after them. It goes on where an earlier look had seen everything planned; what has appeared
				// behind is below the next xmin, which the watermark has not passed.
				page.Last, jumped = r.ahead.cursor, true
			default:
				r.ahead = place{page.Xmin, page.Last}
			}
		}
		if !page.More {
			break
		}
		if walked%pagesAtOnce == pagesAtOnce-1 && mark != stored { // after a failover the walk is long
			if err := r.ledger.SetWatermark(ctx, mark); err != nil {
				return err
			}
			stored = mark
		}
	}
	if mark != stored {
		if err := r.ledger.SetWatermark(ctx, mark); err != nil {
			return err
		}
	}
	report.Planned, report.Behind = mark, page.More
	r.suspect(pages, planned, look)
	r.count(report)
	return r.driveEvents(ctx)
}

// next reads the page after the cursor, or the first one of another history.
func (r *Reconciler) next(ctx context.Context, after string, mark *delivery.Watermark) (event.FeedPage, error) {
	page, err := r.feed.Events(ctx, after, pageEvents, true)
	if err != nil {
		return page, err
	}
	if mark.System != page.System || mark.Timeline != page.Timeline {
		level := slog.LevelWarn
		if mark.System == "" {
			level = slog.LevelInfo // the first look ever
		}
		r.log.LogAttrs(ctx, level, "the business database has another history: looking again",
			slog.String("system", page.System), slog.String("timeline", page.Timeline))
		if mark.System != "" && mark.System != page.System {
			// Rows that were restored into another server carry transaction ids of the old one, above all that
			// the new one counts: no time tells where to begin.
			page, err = r.feed.Events(ctx, "", pageEvents, true)
		} else {
			page, err = r.feed.EventsSince(ctx, time.Now().Add(-r.cfg.Retention), pageEvents, true)
		}
		if err != nil {
			return page, err
		}
		*mark = delivery.Watermark{Cursor: page.From, System: page.System, Timeline: page.Timeline}
	}
	r.followXmin(page)
	return page, nil
}

// above reports whether the page reaches above the oldest running transaction.
func above(page event.FeedPage) bool {
	return len(page.Events) > 0 && page.Events[len(page.Events)-1].TxID >= page.Xmin
}

// followXmin notes how long the oldest transaction has held back what is visible above it.
func (r *Reconciler) followXmin(page event.FeedPage) {
	above := len(page.Events) > 0 && page.Events[len(page.Events)-1].TxID >= page.Xmin
	if page.Xmin != r.xmin || !above {
		r.xmin, r.xminAt = page.Xmin, time.Now()
	}
	r.metrics.xminAge.Set(time.Since(r.xminAt).Seconds())
}

// suspect remembers what has no plan, forgets what has one now, and notes who was overtaken.
func (r *Reconciler) suspect(pages [][]event.Ref, planned map[uuid.UUID]time.Duration, look uint64) {
	now := time.Now()
	later := map[string]bool{} // merchants of which a later event was planned longer ago than the grace
	for _, page := range slices.Backward(pages) {
		for _, ref := range slices.Backward(page) {
			if ago, found := planned[ref.ID]; found {
				if ago > r.cfg.Grace {
					later[ref.MerchantID] = true
				}
				continue
			}
			s := r.suspects[ref.ID]
			if s == nil {
				s = &suspect{ref: ref, firstSeen: now}
				r.suspects[ref.ID] = s
			}
			s.seen, s.overtaken = look, later[ref.MerchantID]
		}
	}
	for id, s := range r.suspects {
		if s.seen != look {
			delete(r.suspects, id)
		}
	}
}

// count is the promise, measured: what is visible, unplanned, unexplained and over-age.
func (r *Reconciler) count(report *Report) {
	for _, s := range r.suspects {
		report.Unplanned++
		if r.overAge(s) {
			report.Unaccounted++
		}
	}
	r.metrics.unplanned.Set(float64(report.Unplanned))
	r.metrics.unaccounted.Set(float64(report.Unaccounted))
	r.metrics.behind.Set(0)
	if report.Behind {
		r.metrics.behind.Set(1)
	}
}

// overAge reads the age out of the id, a UUIDv7.
func (r *Reconciler) overAge(s *suspect) bool {
	seconds, nanos := s.ref.ID.Time().UnixTime()
	return time.Since(time.Unix(seconds, nanos)) > r.cfg.OverAge
}

func (r *Reconciler) driveEvents(ctx context.Context) error {
	var lost []*suspect
	overtaken := 0
	for _, s := range r.suspects {
		if time.Since(s.firstSeen) < r.cfg.Grace || (!s.overtaken && !r.overAge(s)) {
			continue // on its way, as far as anybody can tell
		}
		lost = append(lost, s)
	}
	slices.SortFunc(lost, func(a, b *suspect) int { return slices.Compare(a.ref.ID[:], b.ref.ID[:]) }) // the oldest first
	lost = lost[:min(len(lost), r.budget)]
	if len(lost) == 0 {
		return nil
	}
	r.budget -= len(lost)
	for _, s := range lost {
		if s.overtaken {
			overtaken++
		}
	}
	r.log.LogAttrs(ctx, slog.LevelError, "committed events were never planned: driving them",
		slog.Int("events", len(lost)), slog.Int("overtaken", overtaken), slog.String("first_event_id", lost[0].ref.ID.String()))
	for batch := range slices.Chunk(lost, batchEvents) {
		refs := make([]event.Ref, len(batch))
		for i, s := range batch {
			refs[i] = s.ref
		}
		if err := r.driver.Dispatch(ctx, rand.Text(), refs); err != nil {
			return fmt.Errorf("driving unplanned events: %w", err)
		}
		for _, s := range batch {
			s.firstSeen = time.Now()
			r.metrics.redriven.WithLabelValues(reasonOf(s)).Inc()
		}
	}
	return nil
}

func reasonOf(s *suspect) string {
	if s.overtaken {
		return "overtaken"
	}
	return "over_age"
}

// lookAtDeliveries takes over what is overdue: rows whose timer never came, and rows whose owner has ended.
func (r *Reconciler) lookAtDeliveries(ctx context.Context, _ uint64, _ *Report) error {
	overdue, err := r.ledger.Overdue(ctx, r.cfg.Grace, openAtOnce)
	if err != nil {
		return err
	}
	r.metrics.overdue.Set(float64(len(overdue)))
	var lost []delivery.Overdue
	var owners []string
	for _, o := range overdue {
		if o.Owner == "" {
			lost = append(lost, o)
		} else if !slices.Contains(owners, o.Owner) {
			owners = append(owners, o.Owner)
		}
	}
	without := len(lost)
	if len(overdue) == 0 {
		clear(r.ended)
		return nil
	}
	// Asked even where no row has an owner: while Restate is away its timers are late, and not lost. Taking their
	// deliveries over would void them just before they come.
	ended, err := r.endedFor(ctx, owners)
	if err != nil {
		return err
	}
	for _, o := range overdue {
		if o.Owner != "" && ended[o.Owner] {
			lost = append(lost, o)
		}
	}
	lost = lost[:min(len(lost), r.budget)]
	if len(lost) == 0 {
		return nil
	}
	r.budget -= len(lost)
	r.log.LogAttrs(ctx, slog.LevelWarn, "deliveries that nobody attempts are taken over", slog.Int("deliveries", len(lost)))
	r.metrics.redriven.WithLabelValues("overdue").Add(float64(min(without, len(lost))))
	r.metrics.redriven.WithLabelValues("owner_ended").Add(float64(max(0, len(lost)-without)))
	taken, err := r.ledger.TakeOver(ctx, lost)
	if err != nil {
		return err
	}
	return r.sendAttempts(ctx, taken)
}

// endedFor returns the owners that have looked ended for a grace, in two looks at least.
func (r *Reconciler) endedFor(ctx context.Context, owners []string) (map[string]bool, error) {
	out := map[string]bool{}
	ended, err := r.invocations.Ended(ctx, owners)
	if err != nil {
		return out, err
	}
	now := time.Now()
	for owner := range r.ended {
		if !ended[owner] {
			delete(r.ended, owner) // gone from the ledger, or running again
		}
	}
	for owner, is := range ended {
		if !is {
			continue
		}
		since, before := r.ended[owner]
		if !before {
			r.ended[owner] = now
			continue
		}
		out[owner] = now.Sub(since) >= r.cfg.Grace
	}
	return out, nil
}

func (r *Reconciler) sendAttempts(ctx context.Context, taken []delivery.Overdue) error {
	for _, list := range delivery.AttemptLists(taken) {
		if err := r.driver.SendAttempt(ctx, list); err != nil {
			return fmt.Errorf("sending attempts of deliveries taken over: %w", err)
		}
	}
	return nil
}

// lookAtParked wakes the drainers of endpoints that would take what is parked there, or are gone, and that nobody drains: they
// were enabled again, or their drainer was lost.
func (r *Reconciler) lookAtParked(ctx context.Context, _ uint64, _ *Report) error {
	endpoints, err := r.ledger.Drainable(ctx, drainAtOnce)
	if err != nil || len(endpoints) == 0 {
		return err
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "drainers are woken", slog.Int("endpoints", len(endpoints)))
	for _, id := range endpoints {
		if err := r.driver.WakeDrainer(ctx, id); err != nil {
			return fmt.Errorf("waking drainers: %w", err)
		}
		r.metrics.redriven.WithLabelValues("parked").Inc()
	}
	return nil
}

// lookAtWaiting wakes the sequences in which something has been in turn for longer than the grace: whoever was to wake them
// is gone.
func (r *Reconciler) lookAtWaiting(ctx context.Context, _ uint64, _ *Report) error {
	if r.budget == 0 {
		return nil
	}
	asleep, next, err := r.ledger.Overslept(ctx, r.waiting, r.cfg.Grace, waitingAtOnce)
	if err != nil {
		return err
	}
	if len(asleep) > r.budget {
		asleep, next = asleep[:r.budget], r.waiting // the same ones once more: those that are woken now are gone then
	}
	if len(asleep) > 0 {
		r.budget -= len(asleep)
		r.log.LogAttrs(ctx, slog.LevelWarn, "deliveries that are in turn are woken", slog.Int("sequences", len(asleep)), slog.String("first", asleep[0].Key()))
		r.metrics.redriven.WithLabelValues("overslept").Add(float64(len(asleep)))
	}
	for _, s := range asleep {
		if err := r.driver.Wake(ctx, s); err != nil {
			return fmt.Errorf("waking what is in turn: %w", err)
		}
	}
	r.waiting = next
	return nil
}

// publish makes events of what happened to endpoints. One that payments-api refuses for what it says is closed with the
// refusal, counted and logged: it would be refused for ever, and hold up the others.
func (r *Reconciler) publish(ctx context.Context, _ uint64, _ *Report) error {
	waiting, err := r.ledger.Unpublished(ctx, publishAtOnce)
	if err != nil {
		return err
	}
	for _, each := range waiting {
		refusal := ""
		if err := r.publisher.Publish(ctx, each); err != nil {
			if class := fault.ClassOf(err); class != fault.Invalid && class != fault.Conflict {
				return fmt.Errorf("publishing an operational event: %w", err)
			}
			r.log.LogAttrs(ctx, slog.LevelError, "an operational event was refused", slog.String("operational_event_id", each.ID.String()), logging.Error(err))
			r.metrics.refused.Inc()
			refusal = err.Error()
		}
		if err := r.ledger.MarkPublished(ctx, each.ID, refusal); err != nil {
			return err
		}
	}
	return nil
}

func (r *Reconciler) lookAtSettled(ctx context.Context, _ uint64, report *Report) error {
	merchants, err := r.ledger.OpenSince(ctx)
	if err != nil {
		return err
	}
	deliveries, err := r.ledger.CountDeliveries(ctx)
	if err != nil {
		return err
	}
	enabled, disabled, err := r.ledger.CountEndpoints(ctx)
	if err != nil {
		return err
	}
	waiting, err := r.ledger.WaitingFor(ctx)
	if err != nil {
		return err
	}
	r.metrics.waitingAge.Set(waiting.Seconds())
	unanswered, err := r.ledger.OldestUnanswered(ctx)
	if err != nil {
		return err
	}
	r.metrics.unanswered.Set(unanswered.Seconds())
	circuits, err := r.ledger.CountCircuits(ctx)
	if err != nil {
		return err
	}
	r.metrics.countDeliveries(deliveries)
	r.metrics.countEndpoints(enabled, disabled)
	r.metrics.countCircuits(circuits)
	report.Merchants = merchants
	for _, since := range merchants {
		if report.SettledBefore.IsZero() || since.Before(report.SettledBefore) {
			report.SettledBefore = since
		}
	}
	age := 0.0
	if !report.SettledBefore.IsZero() {
		age = time.Since(report.SettledBefore).Seconds()
	}
	r.metrics.settledAge.Set(age)
	return nil
}
