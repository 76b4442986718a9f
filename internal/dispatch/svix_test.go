package dispatch_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	sdk "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/reconcile"
	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/svixtest"
	"github.com/hookline/hookline/internal/svix/svixtest/contract"
)

// svixWorld is a world whose merchants are Svix's, where a server with the merchant's endpoint is.
type svixWorld struct {
	*world
	fake    *svixtest.Server
	url     string
	shop    *shopAtSvix
	timeout time.Duration // of hand-overs
}

const svixToken = "testsk_fixed"

// document is Svix's OpenAPI document.
var document = sync.OnceValues(func() (*contract.Document, error) { return contract.Read(os.Getenv("SVIX_OPENAPI")) })

// newSvixWorld starts one. What is said to Svix is checked against its OpenAPI document, where SVIX_OPENAPI names it.
func newSvixWorld(t *testing.T, retries ...time.Duration) *svixWorld {
	t.Helper()
	opts := svixtest.Options{
		Tokens: []string{svixToken}, Retries: append([]time.Duration{}, retries...),
		LockKept: 10 * time.Millisecond, // else a crashed request holds its key for 5 s
	}
	if os.Getenv("SVIX_OPENAPI") != "" {
		document, err := document()
		require.NoError(t, err)
		opts.Around = func(next http.Handler) http.Handler { return document.Around(next, func(err error) { t.Error(err) }) }
	}
	w := &svixWorld{world: newWorld(t), fake: svixtest.New(context.Background(), opts), shop: newShopAtSvix(t)}
	server := httptest.NewServer(w.fake)
	w.url = server.URL
	t.Cleanup(func() {
		server.Close()
		w.fake.Close()
	})
	base, err := url.Parse(server.URL)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	admin, err := sdk.New(svixToken, &sdk.SvixOptions{ServerUrl: base, HTTPClient: client, RetrySchedule: &[]time.Duration{}})
	require.NoError(t, err)
	_, err = admin.Application.GetOrCreate(t.Context(), models.ApplicationIn{Name: shop, Uid: new(shop)}, nil)
	require.NoError(t, err)
	_, err = admin.Endpoint.Create(t.Context(), shop, models.EndpointIn{Url: w.shop.url}, nil)
	require.NoError(t, err)
	return w
}

func (w *svixWorld) client(t *testing.T, token string) *svix.Client {
	t.Helper()
	client, err := svix.New(svix.Options{Token: token, BaseURL: w.url, Timeout: w.timeout})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// worker is another process, with its token for Svix; an empty one has no settings for it.
func (w *svixWorld) worker(t *testing.T, token string) *dispatch.Dispatcher {
	t.Helper()
	cfg := dispatch.Config{Route: delivery.RouteSvix, Schedule: delivery.Schedule{time.Minute, time.Hour}, Jitter: 0.2}
	if token != "" {
		cfg.Svix = w.client(t, token)
	}
	d := dispatch.New(t.Context(), cfg, w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		require.NoError(t, d.Close(ctx))
	})
	return d
}

// queued waits until nothing that is queued at Svix waits for an attempt.
func (w *svixWorld) queued(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return w.fake.Pending() == 0 }, 10*time.Second, time.Millisecond)
}

// follow makes the attempts that follow, each by another process when it is due, by Svix's clock, until there are none. A step
// that lets go of a hand-over has its process end first: that finishes it.
func (w *svixWorld) follow(t *testing.T, d *dispatch.Dispatcher, token string, result dispatch.Result) {
	t.Helper()
	for range 30 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		require.NoError(t, d.Close(ctx))
		cancel()
		if len(result.FollowUps()) == 0 {
			return
		}
		w.queued(t)
		d = w.worker(t, token)
		result = w.attempt(t, d, result)
	}
	require.FailNow(t, "it does not end")
}

// attempt makes the attempts that follow when all of them are due, by Svix's clock, and returns what came of them together.
func (w *svixWorld) attempt(t *testing.T, d *dispatch.Dispatcher, result dispatch.Result) dispatch.Result {
	t.Helper()
	var delay time.Duration
	for _, next := range result.FollowUps() {
		delay = max(delay, next.Delay)
	}
	w.fake.Advance(delay)
	var out dispatch.Result
	for _, next := range result.FollowUps() {
		made, err := d.Attempt(t.Context(), "inv-"+uuid.NewString(), next.List)
		require.NoError(t, err)
		out.Deliveries = append(out.Deliveries, made.Deliveries...)
	}
	return out
}

// handOver processes the events, and returns when Svix has all of them: on a slow machine a step may let go of some.
func (w *svixWorld) handOver(t *testing.T, d *dispatch.Dispatcher, refs ...event.Ref) {
	t.Helper()
	result, err := d.Process(t.Context(), "inv-"+uuid.NewString(), refs)
	require.NoError(t, err)
	for range 30 {
		if len(result.FollowUps()) == 0 {
			return
		}
		result = w.attempt(t, d, result) // joins what is open
	}
	require.FailNow(t, "it does not end")
}

// isLetGo reports whether the machine was too slow for the step.
func isLetGo(line dispatch.Line) bool {
	return line.Cause == delivery.CauseOpen || line.Cause == delivery.CauseNotStarted || line.Cause == delivery.CauseRecorded
}

// causes are those of the attempts that were made, in their order.
func (w *svixWorld) causes(t *testing.T, ref event.Ref) []string {
	t.Helper()
	var causes []string
	require.NoError(t, w.all.QueryRow(t.Context(), "select array_agg(cause order by number, epoch) from delivery.attempts where event_id = $1", [16]byte(ref.ID)).Scan(&causes))
	return causes
}

// reaches waits until the delivery is in the state.
func (w *svixWorld) reaches(t *testing.T, ref event.Ref, want string) {
	t.Helper()
	require.Eventually(t, func() bool { return w.state(t, ref) == want }, 20*time.Second, 5*time.Millisecond, want)
}

// sweep has all that is handed over looked at until done, each look right after the other.
func (w *svixWorld) sweep(t *testing.T, d *dispatch.Dispatcher, token string, done func() bool) {
	t.Helper()
	rest := &rest{d: d}
	r := reconcile.New(reconcile.Config{Interval: 10 * time.Second, Grace: time.Minute, OverAge: time.Hour, Rate: 100}, rest, w.ledger.Ledger, rest, rest, rest,
		slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	r.AskSvix(w.client(t, token))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = r.Run(ctx) })
	defer func() { stop(); running.Wait() }()
	require.Eventually(t, func() bool {
		_, err := w.all.Exec(context.Background(), "update delivery.deliveries set next_attempt_at = clock_timestamp() where state = 'handed_over'")
		return err == nil && done()
	}, time.Minute, 100*time.Millisecond)
}

// swept sweeps until the event is in the state.
func (w *svixWorld) swept(t *testing.T, ref event.Ref, want string) {
	t.Helper()
	w.queued(t)
	w.sweep(t, w.worker(t, svixToken), svixToken, func() bool { return w.state(t, ref) == want })
}

func (w *svixWorld) count(t *testing.T, state delivery.State) int {
	t.Helper()
	var n int
	require.NoError(t, w.all.QueryRow(context.Background(), "select count(*) from delivery.deliveries where state = $1", string(state)).Scan(&n))
	return n
}

// rest is all that the reconciler knows beside the ledger and Svix: nothing is lost there.
type rest struct{ d *dispatch.Dispatcher }

func (*rest) Events(context.Context, string, int, bool) (event.FeedPage, error) {
	return event.FeedPage{Xmin: 1, System: "s", Timeline: "1"}, nil
}

func (*rest) EventsSince(context.Context, time.Time, int, bool) (event.FeedPage, error) {
	return event.FeedPage{Xmin: 1, System: "s", Timeline: "1"}, nil
}

func (*rest) Ended(context.Context, []string) (map[string]bool, error) { return nil, nil }
func (*rest) Dispatch(context.Context, string, []event.Ref) error      { return nil }
func (*rest) Publish(context.Context, event.Operational) error         { return nil }
func (*rest) Wake(context.Context, delivery.Sequence) error            { return nil }
func (*rest) WakeDrainer(context.Context, uuid.UUID) error             { return nil }

func (r *rest) SendAttempt(ctx context.Context, list delivery.AttemptList) error {
	_, err := r.d.Attempt(ctx, "inv-"+uuid.NewString(), list)
	return err
}

// shopAtSvix is the merchant's endpoint.
type shopAtSvix struct {
	url    string
	mu     sync.Mutex
	status []int
	got    map[string]int // by event id
	ids    map[string]int // by svix-id
}

func newShopAtSvix(t *testing.T) *shopAtSvix {
	t.Helper()
	s := &shopAtSvix{got: map[string]int{}, ids: map[string]int{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var said struct {
			EventID string `json:"event_id"`
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &said) != nil {
			t.Errorf("the merchant cannot use a webhook: %v", err)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		status := http.StatusNoContent
		if len(s.status) > 0 {
			status, s.status = s.status[0], s.status[1:]
		}
		if status < 300 {
			s.got[said.EventID]++
			s.ids[r.Header.Get("Svix-Id")]++
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

func (s *shopAtSvix) answers(status ...int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

func (s *shopAtSvix) times(ref event.Ref) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got[ref.ID.String()]
}

// The rows of the table of docs/svix.md: the server dies or fails at each of its steps, and so does our process.
func TestWhereverAHandOverIsCutTheMerchantGetsTheEventOnce(t *testing.T) {
	t.Parallel()
	const crash = 0
	for name, test := range map[string]struct {
		faults []svixtest.Fault
		// dies says that our process dies when Svix has answered, before that is written down anywhere; then happens between
		// comes to pass, and another execution of the invocation, with the token.
		dies     bool
		between  func(w *svixWorld)
		token    string
		causes   []string // of the attempts that count
		messages int
	}{
		"nothing happens":                      {causes: []string{"svix_accepted"}, messages: 1},
		"the server crashes before it commits": {faults: []svixtest.Fault{{At: svixtest.BeforeCommit, Status: crash}}, causes: []string{"svix_unreachable", "svix_accepted"}, messages: 1},
		"the server crashes between commit and queue": {
			faults: []svixtest.Fault{{At: svixtest.AfterCommit, Status: crash}}, causes: []string{"svix_unreachable", "svix_accepted"}, messages: 2,
		},
		"the queue fails": {
			faults: []svixtest.Fault{{At: svixtest.AfterCommit, Status: 500}}, causes: []string{"svix_error", "svix_accepted"}, messages: 2,
		},
		"the server crashes between queue and answer": {
			faults: []svixtest.Fault{{At: svixtest.AfterQueueing, Status: crash}}, causes: []string{"svix_unreachable", "svix_accepted"}, messages: 1,
		},
		"the server crashes between the kept answer and ours": {
			faults: []svixtest.Fault{{At: svixtest.AfterCaching, Status: crash}}, causes: []string{"svix_unreachable", "svix_accepted"}, messages: 1,
		},
		"we crash before the answer is written down": {dies: true, causes: []string{"svix_accepted"}, messages: 1},
		"we crash, and are back after twelve hours": {
			dies: true, between: func(w *svixWorld) { w.fake.Advance(12*time.Hour + time.Second) }, causes: []string{"svix_accepted"}, messages: 1,
		},
		"we crash, and the server loses its cache": {dies: true, between: func(w *svixWorld) { w.fake.LoseCache() }, causes: []string{"svix_accepted"}, messages: 1},
		"we crash, and come back with another token": {
			dies: true, between: func(w *svixWorld) { w.fake.SetTokens(svixToken, "another") }, token: "another", causes: []string{"svix_accepted"}, messages: 1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSvixWorld(t)
			ref := newRef()
			w.fake.Inject(test.faults...)
			token := svixToken
			if test.dies {
				w.ledger.refuse(1 << 20)
				_, err := w.worker(t, token).Process(t.Context(), "inv-1", []event.Ref{ref})
				require.NoError(t, err) // and its result is lost
				require.Eventually(t, func() bool { return w.shop.times(ref) == 1 }, 20*time.Second, time.Millisecond)
				require.Equal(t, "pending attempts=0 owner=inv-1", w.state(t, ref))
				w.ledger.refuse(0)
				w.queued(t)
				if test.between != nil {
					test.between(w)
				}
				if test.token != "" {
					token = test.token
				}
			}
			d := w.worker(t, token)
			result, err := d.Process(t.Context(), "inv-1", []event.Ref{ref})
			require.NoError(t, err)
			w.follow(t, d, token, result)
			require.Contains(t, w.state(t, ref), "handed_over attempts=")
			require.Equal(t, test.causes, w.causes(t, ref))
			w.queued(t)
			w.sweep(t, w.worker(t, token), token, func() bool { return w.count(t, delivery.Succeeded) == 1 })
			require.Equal(t, 1, w.shop.times(ref))
			require.Len(t, w.fake.Messages(shop), test.messages)
			require.Empty(t, w.merchant.sent(), "nothing goes the other way")
		})
	}
}

// What the table allows: Svix takes longer to attempt a message than the grace, whose acceptance it never answered. The
// duplicate is counted, and both carry the event's id.
func TestAMessageWhoseAcceptanceWasLostIsDuplicatedByAQueueThatIsSlowerThanTheGrace(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	ref := newRef()
	w.fake.Hold()
	w.fake.Inject(svixtest.Fault{At: svixtest.AfterQueueing, Status: 500})
	w.handOver(t, w.worker(t, svixToken), ref)
	require.Equal(t, "handed_over attempts=2", w.state(t, ref))
	w.fake.Release()
	w.swept(t, ref, "succeeded attempts=2")
	require.Equal(t, 2, w.shop.times(ref))
	require.Len(t, w.fake.Messages(shop), 2)
}

// Svix answers 202, and its queue stands still for hours. What it has accepted it still has.
func TestAQueueThatStandsStillDuplicatesNothingThatItAccepted(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	refs := []event.Ref{newRef(), newRef(), newRef()}
	const destinations = "GET /api/v1/app/{app_id}/msg/{msg_id}/endpoint"
	w.fake.Hold()
	w.handOver(t, w.worker(t, svixToken), refs...)
	for range 6 {
		w.fake.Advance(2 * time.Hour)
		before := w.fake.Requests(destinations)
		w.sweep(t, w.worker(t, svixToken), svixToken, func() bool { return w.fake.Requests(destinations) > before+2 })
	}
	require.Equal(t, 3, w.count(t, delivery.HandedOver))
	w.fake.Release()
	w.queued(t)
	w.sweep(t, w.worker(t, svixToken), svixToken, func() bool { return w.count(t, delivery.Succeeded) == 3 })
	require.Len(t, w.fake.Messages(shop), 3)
	for _, ref := range refs {
		require.Equal(t, 1, w.shop.times(ref))
	}
}

func TestAPaymentWithThreeStatusChangesIsThreeMessages(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	refs := []event.Ref{newRef(), newRef(), newRef()}
	for i := range refs {
		refs[i].ObjectID, refs[i].ObjectVersion = refs[0].ObjectID, int64(i+1)
		refs[i].Type = []string{"payment.created", "payment.pending", "payment.succeeded"}[i]
		w.handOver(t, w.worker(t, svixToken), refs[i])
	}
	w.queued(t)
	messages := w.fake.Messages(shop)
	require.Len(t, messages, 3)
	for i, ref := range refs {
		require.Equal(t, ref.ID.String(), messages[i].EventID)
		require.Equal(t, ref.Type, messages[i].EventType)
		require.Equal(t, 1, w.shop.times(ref))
		require.Equal(t, "handed_over attempts=1", w.state(t, ref), "the merchant's answer is not known yet")
	}
	w.sweep(t, w.worker(t, svixToken), svixToken, func() bool { return w.count(t, delivery.Succeeded) == 3 })
}

// The plan freezes the route of an event: whoever meets its record later, under whatever route, sends it by that one or not
// at all.
func TestARouteSwitchAmongAThousandEventsSendsEachByOneRoute(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	workers := []*dispatch.Dispatcher{w.worker(t, svixToken), w.worker(t, svixToken)}
	refs := make([]event.Ref, 1000)
	for i := range refs {
		refs[i] = newRef()
	}
	route := func(to string) {
		_, err := w.all.Exec(t.Context(), `insert into delivery.routes (merchant_id, route) values ($1, $2)
			on conflict (merchant_id) do update set route = $2, updated_at = clock_timestamp()`, shop, to)
		require.NoError(t, err)
	}
	route(delivery.RouteInhouse)
	// Both workers get every record, in batches that do not match, and the route changes while they run.
	var follow sync.Map
	var running sync.WaitGroup
	half := make(chan struct{})
	for i, d := range workers {
		running.Go(func() {
			for from := 0; from < len(refs); {
				to := min(from+40+7*i, len(refs))
				result, err := d.Process(context.Background(), "inv-"+uuid.NewString(), append([]event.Ref(nil), refs[from:to]...))
				if err != nil {
					t.Error(err)
					return
				}
				follow.Store(uuid.New(), result.Deliveries)
				if from = to; i == 0 && from >= 400 && from < 440 {
					close(half)
				}
			}
		})
	}
	<-half
	route(delivery.RouteSvix)
	running.Wait()
	follow.Range(func(_, lines any) bool { // what had no time left in its batch
		left := dispatch.Result{Deliveries: lines.([]dispatch.Line)}
		for range 30 {
			if len(left.FollowUps()) == 0 {
				break
			}
			left = w.attempt(t, workers[0], left)
		}
		return true
	})
	w.sweep(t, workers[0], svixToken, func() bool { return w.count(t, delivery.Succeeded) == len(refs) })

	inhouse := map[uuid.UUID]int{}
	for _, post := range w.merchant.sent() {
		inhouse[post.event]++
	}
	byRoute := map[string]int{}
	for _, ref := range refs {
		var planned string
		require.NoError(t, w.all.QueryRow(t.Context(), "select route from delivery.plans where event_id = $1", [16]byte(ref.ID)).Scan(&planned))
		byRoute[planned]++
		want := map[string][2]int{delivery.RouteInhouse: {1, 0}, delivery.RouteSvix: {0, 1}}[planned]
		require.Equal(t, want, [2]int{inhouse[ref.ID], w.shop.times(ref)}, "%s", planned)
	}
	require.Greater(t, byRoute[delivery.RouteInhouse], 100, "the switch came in the middle: %v", byRoute)
	require.Greater(t, byRoute[delivery.RouteSvix], 100, "the switch came in the middle: %v", byRoute)
}

// Nothing dies of a wrong token, or of a worker that has none, however long that takes: with the right one all arrive.
func TestWhatSvixRefusesForTheTokenWaitsAndArrivesWithTheRightOne(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ token, cause string }{"wrong": {"wrong", "svix_unauthorized"}, "none": {"", "svix_off"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newSvixWorld(t)
			refs := []event.Ref{newRef(), newRef(), newRef(), newRef()}
			d := w.worker(t, test.token)
			result, err := d.Process(t.Context(), "inv-1", refs)
			require.NoError(t, err)
			refused := 0
			for range 20 { // above the schedule's attempts
				require.NotEmpty(t, result.FollowUps())
				for _, line := range result.Deliveries {
					require.Equal(t, 1, line.Next, "no attempt is used up")
					if !isLetGo(line) {
						refused++
						require.Equal(t, test.cause, string(line.Cause))
						require.InDelta(t, 30_000, line.RetryInMS, 6100)
					}
				}
				result = w.attempt(t, d, result)
			}
			require.Greater(t, refused, len(refs))
			for _, ref := range refs {
				require.Equal(t, "retrying attempts=0", w.state(t, ref))
				require.Zero(t, w.attempts(t, ref))
			}
			right := w.worker(t, svixToken)
			w.follow(t, d, svixToken, result)
			w.queued(t)
			w.sweep(t, right, svixToken, func() bool { return w.count(t, delivery.Succeeded) == len(refs) })
			for _, ref := range refs {
				require.Equal(t, 1, w.shop.times(ref))
			}
		})
	}
}

// Interleaving: Svix takes longer than the step; the process finishes, and the watchdog finds nothing to do.
func TestASlowHandOverIsRecordedByItsProcess(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	ref := newRef()
	w.fake.Inject(svixtest.Fault{Delay: 1500 * time.Millisecond})
	d := w.worker(t, svixToken)
	result, err := d.Process(t.Context(), "inv-1", []event.Ref{ref})
	require.NoError(t, err)
	watchdog := result.FollowUps()
	require.Len(t, watchdog, 1)
	require.Equal(t, svix.DefaultTimeout+2*time.Second-dispatch.Budget, watchdog[0].Delay)
	require.Equal(t, "retrying attempts=0", w.state(t, ref))

	// Nobody waits for the others that are handed over meanwhile.
	other := newRef()
	start := time.Now()
	_, err = d.Process(t.Context(), "inv-2", []event.Ref{other})
	require.NoError(t, err)
	require.Less(t, time.Since(start), dispatch.Budget)

	w.reaches(t, ref, "handed_over attempts=1")
	w.reaches(t, other, "handed_over attempts=1")
	result, err = d.Attempt(t.Context(), "watchdog", watchdog[0].List)
	require.NoError(t, err)
	require.Empty(t, result.Deliveries)
	require.Equal(t, "handed_over attempts=1", w.state(t, ref))
	w.queued(t)
	require.Len(t, w.fake.Messages(shop), 2)
	require.Equal(t, 1, w.shop.times(ref))
}

// Interleaving: a second execution comes while the first one's hand-over is under way.
func TestASecondExecutionJoinsTheHandOver(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	ref := newRef()
	w.fake.Inject(svixtest.Fault{Delay: 500 * time.Millisecond})
	d := w.worker(t, svixToken)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if _, err := d.Process(context.Background(), "inv-1", []event.Ref{ref}); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	w.reaches(t, ref, "handed_over attempts=1")
	require.Equal(t, 1, w.fake.Requests("POST /api/v1/app/{app_id}/msg"))
}

// Interleaving: the process freezes with its hand-over on the wire; another one takes over, hands over, and the merchant's
// answer is written down. Then Svix answers the first.
func TestAHandOverOfAPassedEpochMovesNothing(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	w.timeout = time.Minute
	ref := newRef()
	thaw := make(chan struct{})
	var held atomic.Bool
	w.fake.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/msg") && held.CompareAndSwap(false, true) {
			<-thaw
		}
		return false
	})
	frozen, other := w.worker(t, svixToken), w.worker(t, svixToken)
	_, err := frozen.Process(t.Context(), "inv-1", []event.Ref{ref})
	require.NoError(t, err)
	taken, err := w.ledger.TakeOver(t.Context(), []delivery.Overdue{{Key: delivery.Key{EventID: ref.ID, EndpointID: delivery.SvixEndpoint}, Epoch: 1}})
	require.NoError(t, err)
	require.Len(t, taken, 1)
	_, err = other.Attempt(t.Context(), "inv-2", delivery.AttemptLists(taken)[0])
	require.NoError(t, err)
	w.reaches(t, ref, "handed_over attempts=1")
	w.swept(t, ref, "succeeded attempts=1")
	close(thaw)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.NoError(t, frozen.Close(ctx), "it has written down what it knows")
	require.Equal(t, 2, w.attempts(t, ref), "both are kept")
	require.Equal(t, "succeeded attempts=1", w.state(t, ref))
	require.Equal(t, 1, w.shop.times(ref))
	require.Len(t, w.fake.Messages(shop), 1)
}

// A merchant who fails for good leaves a dead delivery, which is retried as a message of its own.
func TestWhatSvixHasGivenUpIsDeadAndCanBeRetried(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t, time.Millisecond)
	ref := newRef()
	w.shop.answers(500, 500)
	d := w.worker(t, svixToken)
	w.handOver(t, d, ref)
	w.swept(t, ref, "dead attempts=1")
	_, err := w.all.Exec(t.Context(), `insert into delivery.deliveries (event_id, endpoint_id, generation, epoch, merchant_id, state, next_attempt_at)
		select event_id, endpoint_id, 7, 1, merchant_id, 'retrying', clock_timestamp() from delivery.deliveries where event_id = $1`, [16]byte(ref.ID))
	require.NoError(t, err)
	_, err = d.Attempt(t.Context(), "inv-2", delivery.AttemptList{
		EndpointID: delivery.SvixEndpoint, Number: 1, Tickets: []delivery.Ticket{{EventID: ref.ID, Generation: 7, Epoch: 1}},
	})
	require.NoError(t, err)
	w.sweep(t, d, svixToken, func() bool { return w.count(t, delivery.Succeeded) == 1 })
	require.Equal(t, 1, w.shop.times(ref))
	require.Len(t, w.fake.Messages(shop), 2)
}

// Svix's queue loses what it has, and its idempotency keys survive: what is taken for lost then is handed over again.
func TestWhatSvixLostIsHandedOverAgain(t *testing.T) {
	t.Parallel()
	w := newSvixWorld(t)
	ref := newRef()
	w.fake.Hold()
	w.handOver(t, w.worker(t, svixToken), ref)
	w.fake.LoseQueue()
	w.fake.Release()
	w.fake.Advance(2 * time.Hour)
	_, err := w.all.Exec(t.Context(), "update delivery.deliveries set next_attempt_at = clock_timestamp() where state = 'handed_over'")
	require.NoError(t, err)
	due, err := w.ledger.HandedOver(t.Context(), 10)
	require.NoError(t, err)
	require.Len(t, due, 1)
	lost, err := w.ledger.SettleHandedOver(t.Context(), []delivery.SvixVerdict{{Of: due[0], State: delivery.Retrying, Cause: delivery.CauseSvixLost}})
	require.NoError(t, err)
	d := w.worker(t, svixToken)
	for _, list := range delivery.AttemptLists(lost) {
		result, err := d.Attempt(t.Context(), "inv-2", list)
		require.NoError(t, err)
		w.follow(t, d, svixToken, result)
	}
	w.swept(t, ref, "succeeded attempts=2")
	require.Equal(t, 1, w.shop.times(ref))
	require.Len(t, w.fake.Messages(shop), 2, "the second stands in for the first")
}

// hanging is a Svix that answers when it is released.
type hanging struct {
	released  chan struct{}
	now, most atomic.Int64 // most is of any moment
}

func (h *hanging) HandOver(_ context.Context, _ string, _ svix.Message, guard func() error) svix.Result {
	if guard() != nil {
		return svix.Result{Class: svix.NotStarted, Cause: delivery.CauseNotStarted}
	}
	now := h.now.Add(1)
	defer h.now.Add(-1)
	for most := h.most.Load(); now > most; most = h.most.Load() {
		if h.most.CompareAndSwap(most, now) {
			break
		}
	}
	<-h.released
	return svix.Result{Class: svix.Accepted, Cause: delivery.CauseSvixAccepted, MessageID: "msg_1", StatusCode: 202, Sent: true}
}

func (*hanging) Timeout() time.Duration { return 10 * time.Second }

// Svix has no drainer, and is many merchants': what finds no room there comes again within seconds.
func TestWhatFindsNoRoomAtSvixIsNotParked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	h := &hanging{released: make(chan struct{})}
	d := dispatch.New(t.Context(), dispatch.Config{Route: delivery.RouteSvix, Schedule: delivery.Schedule{time.Minute}, MaxOpen: maxOpen, Svix: h},
		w.ledger, w.data, w.merchant, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	comesAgain := func(result dispatch.Result, n int) []dispatch.FollowUp {
		require.Empty(t, result.Drain)
		require.Zero(t, w.count(t, "state = 'parked'"))
		require.Equal(t, n, w.count(t, "state = 'retrying' and last_cause = 'bulkhead' and attempts = 0 and owner is null"))
		var out []dispatch.FollowUp
		for _, line := range result.Deliveries {
			if line.Cause == delivery.CauseBulkhead {
				require.Equal(t, 1, line.Next)
				require.GreaterOrEqual(t, line.RetryInMS, int64(1000))
				require.LessOrEqual(t, line.RetryInMS, int64(5000))
			}
		}
		for _, each := range result.FollowUps() {
			if each.Delay <= 5*time.Second {
				out = append(out, each)
			}
		}
		return out
	}
	again := comesAgain(process(t, d, "inv-1", newRefs(svix.DefaultMaxConns+16)...), 16)
	require.LessOrEqual(t, len(again), 5)
	start := time.Now()
	comesAgain(process(t, d, "inv-2", newRefs(4)...), 20)
	retry, err := d.Attempt(t.Context(), "inv-3", again[0].List)
	require.NoError(t, err)
	comesAgain(retry, 20)
	require.Less(t, time.Since(start), dispatch.Budget, "nobody waits for it")
	require.EqualValues(t, svix.DefaultMaxConns, h.most.Load())
	close(h.released)
	require.NoError(t, d.Close(context.WithoutCancel(t.Context())))
	require.Equal(t, svix.DefaultMaxConns, w.count(t, "state = 'handed_over'"))
}
