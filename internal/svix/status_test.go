package svix_test

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/svixtest"
)

func fateOf(t *testing.T, client *svix.Client, message svix.Message) svix.Fate {
	t.Helper()
	standing, failed, ok := client.Status(t.Context(), shop, message)
	require.True(t, ok, "%+v", failed)
	return standing.Fate
}

func TestStatusTellsWhatHasBecomeOfAMessage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answers   []int // of the merchant
		retries   []time.Duration
		endpoints []models.EndpointIn // beside nothing
		hold      bool
		after     func(w *world)
		fate      svix.Fate
	}{
		"delivered":                         {endpoints: []models.EndpointIn{{}}, fate: svix.Delivered},
		"delivered to two":                  {endpoints: []models.EndpointIn{{}, {}}, fate: svix.Delivered},
		"one of two failed for good":        {endpoints: []models.EndpointIn{{}, {}}, answers: []int{500}, retries: []time.Duration{}, fate: svix.Exhausted},
		"one of two is to be tried again":   {endpoints: []models.EndpointIn{{}, {}}, answers: []int{500}, retries: []time.Duration{time.Hour}, fate: svix.Failing},
		"delivered by the second attempt":   {endpoints: []models.EndpointIn{{}}, answers: []int{500}, retries: []time.Duration{time.Millisecond}, fate: svix.Delivered},
		"still queued":                      {endpoints: []models.EndpointIn{{}}, hold: true, fate: svix.Unanswered},
		"still queued, and later than that": {endpoints: []models.EndpointIn{{}}, hold: true, after: func(w *world) { w.fake.Advance(grace + time.Minute) }, fate: svix.Unanswered},
		"forgotten by the queue":            {endpoints: []models.EndpointIn{{}}, hold: true, after: func(w *world) { w.fake.LoseQueue(); w.fake.Advance(2 * time.Hour) }, fate: svix.Silent},
		"nobody is there":                   {fate: svix.Unanswered},
		"nobody is there for long":          {after: func(w *world) { w.fake.Advance(grace + time.Minute) }, fate: svix.NoEndpoint},
		"who wants it is disabled": {
			endpoints: []models.EndpointIn{{FilterTypes: []string{"another.type"}}, {Disabled: new(true)}},
			after:     func(w *world) { w.fake.Advance(grace + time.Minute) }, fate: svix.NoEndpoint,
		},
		"who is disabled does not want it": {
			endpoints: []models.EndpointIn{{}, {FilterTypes: []string{"another.type"}, Disabled: new(true)}}, fate: svix.Delivered,
		},
		"nobody wants the type": {
			endpoints: []models.EndpointIn{{FilterTypes: []string{"another.type"}}}, after: func(w *world) { w.fake.Advance(grace + time.Minute) }, fate: svix.Unwanted,
		},
		"the next attempt never comes": {
			endpoints: []models.EndpointIn{{}}, answers: []int{500}, retries: []time.Duration{time.Hour}, after: func(w *world) { w.fake.Advance(26 * time.Hour) }, fate: svix.Exhausted,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{Retries: test.retries})
			for _, each := range test.endpoints {
				w.register(t, each)
			}
			w.merchant.answers(test.answers...)
			if test.hold {
				w.fake.Hold()
			}
			client, message := w.client(t, svix.Options{}), newMessage()
			require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
			switch test.fate {
			case svix.Delivered:
				w.settle(t)
			case svix.Failing, svix.Exhausted:
				require.Eventually(t, func() bool {
					messages := w.fake.Messages(shop)
					return len(messages) == 1 && len(messages[0].Attempts) >= len(test.endpoints)
				}, 5*time.Second, time.Millisecond)
			default:
			}
			if test.after != nil {
				test.after(w)
			}
			require.Equal(t, test.fate, fateOf(t, client, message))
		})
	}
}

// An attempt is there to be read only when it has ended: two endpoints do not answer at the same time.
func TestAMessageIsNotDeliveredWhileAnEndpointShowsNoAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	begun, gate := make(chan struct{}), make(chan struct{})
	slow := newMerchant(t)
	w.register(t, models.EndpointIn{Url: slow.url})
	slow.holds(begun, gate)
	client, message := w.client(t, svix.Options{}), newMessage()
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	<-begun
	require.Eventually(t, func() bool { return len(w.fake.Messages(shop)[0].Attempts) == 1 }, 5*time.Second, time.Millisecond)
	require.Equal(t, svix.Unanswered, fateOf(t, client, message))
	close(gate)
	w.settle(t)
	require.Equal(t, svix.Delivered, fateOf(t, client, message))
}

// What counts is the first attempt: a message may have been queued for longer than the grace.
func TestAMessageThatWasQueuedForLongIsNotDeliveredWhileAnEndpointShowsNoAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	begun, gate := make(chan struct{}), make(chan struct{})
	slow := newMerchant(t)
	w.register(t, models.EndpointIn{Url: slow.url})
	slow.holds(begun, gate)
	w.fake.Hold()
	client, message := w.client(t, svix.Options{}), newMessage()
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	w.fake.Advance(2 * grace)
	w.fake.Release()
	<-begun
	require.Eventually(t, func() bool { return len(w.fake.Messages(shop)[0].Attempts) == 1 }, 5*time.Second, time.Millisecond)
	require.Equal(t, svix.Unanswered, fateOf(t, client, message))
	w.fake.Advance(grace + time.Minute)
	require.Equal(t, svix.Delivered, fateOf(t, client, message), "what shows no attempt for that long was disabled when it was its turn")
	close(gate)
	w.settle(t)
}

// Svix says of every page of this list that it is the last.
func TestAFailureBeyondTheFirstPageOfDestinationsIsSeen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{Retries: []time.Duration{}})
	for range 250 {
		w.register(t, models.EndpointIn{})
	}
	failing := newMerchant(t)
	failing.answers(500)
	w.register(t, models.EndpointIn{Url: failing.url})
	client, message := w.client(t, svix.Options{}), newMessage()
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	require.Eventually(t, func() bool { return len(w.fake.Messages(shop)[0].Attempts) == 251 }, 10*time.Second, time.Millisecond)
	require.Equal(t, svix.Exhausted, fateOf(t, client, message))
}

// The statuses of attempts that have not ended are 1 and 3.
func TestAnAttemptThatNeverEndsIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		next string // by Svix's clock
		more string
		fate svix.Fate
	}{
		"under way":                  {next: "null", fate: svix.Failing},
		"soon":                       {next: `"2026-01-02T00:01:00Z"`, fate: svix.Failing},
		"overdue":                    {next: `"2026-01-01T12:00:00Z"`, fate: svix.Failing},
		"overdue at a disabled one":  {next: `"2026-01-01T12:00:00Z"`, more: `,"disabled":true`, fate: svix.Exhausted},
		"overdue for more than long": {next: `"2025-12-31T12:00:00Z"`, fate: svix.Exhausted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, svixtest.Options{})
			client, message := w.client(t, svix.Options{}), newMessage()
			w.fake.Intercept(func(rw http.ResponseWriter, r *http.Request) bool {
				rw.Header().Set("Content-Type", "application/json")
				rw.Header().Set("Date", "Fri, 02 Jan 2026 00:00:00 GMT")
				if !strings.HasSuffix(r.URL.Path, "/endpoint") { // there is no message that stands in for it
					rw.WriteHeader(http.StatusNotFound)
					rw.Write([]byte(`{"code":"not_found","detail":"Entity not found"}`))
					return true
				}
				rw.Write([]byte(`{"data":[{"id":"ep_1","url":"https://joes.example","description":"","version":1,"metadata":{},
					"createdAt":"2025-01-01T00:00:00Z","updatedAt":"2025-01-01T00:00:00Z","status":3,"statusText":"sending","nextAttempt":` +
					test.next + test.more + `}],"done":true,"iterator":"ep_1"}`))
				return true
			})
			standing, failed, ok := client.Status(t.Context(), shop, message)
			require.True(t, ok, "%+v", failed)
			require.Equal(t, test.fate, standing.Fate)
			if name == "soon" {
				require.Equal(t, time.Minute, standing.Next)
			}
		})
	}
}

// A message that stands in for another has no other one stand in for it: none would fare better.
func TestAMessageThatStandsInIsNotSilent(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	w.fake.Hold()
	client, message := w.client(t, svix.Options{}), newMessage()
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	w.fake.Advance(2 * time.Hour)
	require.Equal(t, svix.Silent, fateOf(t, client, message))
	message.Round = 2
	require.Equal(t, 1, client.HandOver(t.Context(), shop, message, yes).Replacement)
	w.fake.Advance(2 * time.Hour)
	require.Equal(t, svix.Unanswered, fateOf(t, client, message))
}

func TestTheEndpointsOfAMerchantAreReadOnceInARound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client := w.client(t, svix.Options{})
	messages := []svix.Message{newMessage(), newMessage(), newMessage()}
	for _, message := range messages {
		require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	}
	w.settle(t)
	var reads atomic.Int32
	w.fake.Intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/api/v1/app/"+shop+"/endpoint" {
			reads.Add(1)
		}
		return false
	})
	for round := range 2 {
		ctx := svix.Remember(t.Context())
		for _, message := range messages {
			standing, _, ok := client.Status(ctx, shop, message)
			require.True(t, ok)
			require.Equal(t, svix.Delivered, standing.Fate)
		}
		require.Equal(t, int32(round+1), reads.Load())
	}
}

func TestADisabledEndpointsNextAttemptIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{Retries: []time.Duration{time.Hour}})
	endpoint := w.register(t, models.EndpointIn{})
	w.merchant.answers(500)
	client, message := w.client(t, svix.Options{}), newMessage()
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	require.Eventually(t, func() bool { return fateOf(t, client, message) == svix.Failing }, 5*time.Second, time.Millisecond)
	_, err := w.admin.Endpoint.Patch(t.Context(), shop, endpoint.Id, models.EndpointPatch{Disabled: new(true)})
	require.NoError(t, err)
	require.Equal(t, svix.Failing, fateOf(t, client, message))
	w.fake.Advance(90 * time.Minute)
	require.Equal(t, svix.Exhausted, fateOf(t, client, message))
}

// What was stored and never queued has a message that stands in for it, whose fate is the event's.
func TestTheNewestOfTheMessagesThatStandInCounts(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{Retries: []time.Duration{}})
	w.register(t, models.EndpointIn{})
	w.fake.Inject(svixtest.Fault{At: svixtest.AfterCommit}, svixtest.Fault{At: svixtest.AfterCommit})
	message := newMessage()
	results := w.settledBy(t, message, func() *svix.Client { return w.client(t, svix.Options{}) })
	require.Equal(t, 2, results[len(results)-1].Replacement)
	w.settle(t)
	require.Equal(t, svix.Delivered, fateOf(t, w.client(t, svix.Options{}), message))
}

// Svix lost its database, or the application: its idempotency keys may be elsewhere, and still there.
func TestWhatSvixDoesNotKnowIsHandedOverAgainDespiteItsIdempotencyKeys(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client, message := w.client(t, svix.Options{}), newMessage()
	message.Round = 1
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	w.settle(t)
	require.NoError(t, w.admin.Application.Delete(t.Context(), shop))
	require.Equal(t, svix.Lost, fateOf(t, client, message))
	w.register(t, models.EndpointIn{})
	require.Equal(t, svix.Lost, fateOf(t, client, message), "the same, where only the message is gone")
	message.Round = 2
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	w.settle(t)
	require.Equal(t, svix.Delivered, fateOf(t, client, message))
	require.Equal(t, 2, w.merchant.times(message.EventID))
}

func TestStatusThatIsNotToldSaysWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.register(t, models.EndpointIn{})
	client, message := w.client(t, svix.Options{}), newMessage()
	require.Equal(t, svix.Accepted, client.HandOver(t.Context(), shop, message, yes).Class)
	w.settle(t)
	_, failed, ok := w.client(t, svix.Options{Token: "wrong"}).Status(t.Context(), shop, message)
	require.False(t, ok)
	require.Equal(t, svix.Unauthorized, failed.Class)
	for status, cause := range map[int]delivery.Cause{
		http.StatusInternalServerError: delivery.CauseSvixServerError, http.StatusNotFound: delivery.CauseSvixAddress, http.StatusOK: delivery.CauseSvixAnswer,
	} {
		w.fake.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Content-Type", "application/json")
			rw.WriteHeader(status)
			rw.Write([]byte("{}"))
			return true
		})
		_, failed, ok = client.Status(t.Context(), shop, message)
		require.False(t, ok, status)
		require.Equal(t, cause, failed.Cause)
	}
	_, failed, ok = client.Status(t.Context(), "a/b", message)
	require.False(t, ok)
	require.Equal(t, svix.Terminal, failed.Class)
}

func TestTheWatcherSaysThatTheTokenIsWrongUntilItIsRight(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.fake.SetTokens()
	registry := prometheus.NewRegistry()
	watcher := svix.NewWatcher(w.client(t, svix.Options{}), slog.New(slog.DiscardHandler), registry)
	require.Error(t, watcher.Ready(), "nobody has asked yet")
	require.NoError(t, watcher.Ask(t.Context()))
	require.ErrorIs(t, watcher.Ready(), svix.ErrRefused)
	require.InDelta(t, 1, gaugeOf(t, registry, "hookline_svix_refused"), 0)
	w.fake.SetTokens(token)
	require.NoError(t, watcher.Ask(t.Context()))
	require.NoError(t, watcher.Ready())
	require.InDelta(t, 0, gaugeOf(t, registry, "hookline_svix_refused"), 0)
	w.fake.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(http.StatusBadGateway); return true })
	require.NoError(t, watcher.Ask(t.Context()))
	require.NoError(t, watcher.Ready(), "an outage is no matter of settings")
	w.fake.Intercept(nil)
	w.fake.SetTokens()
	require.InDelta(t, 1, gaugeOf(t, registry, "hookline_svix_away"), 0)
	require.NoError(t, watcher.Ask(t.Context()))
	require.NoError(t, watcher.Ready(), "whoever was ready delivers in-house as before")
	require.InDelta(t, 1, gaugeOf(t, registry, "hookline_svix_refused"), 0)
	require.InDelta(t, 0, gaugeOf(t, registry, "hookline_svix_away"), 0)
	_, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
}

func TestAWorkerThatStartsWhileSvixIsAwayIsReady(t *testing.T) {
	t.Parallel()
	w := newWorld(t, svixtest.Options{})
	w.fake.Intercept(func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(http.StatusBadGateway); return true })
	watcher := svix.NewWatcher(w.client(t, svix.Options{}), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, watcher.Ask(t.Context()))
	require.NoError(t, watcher.Ready())
	require.NoError(t, svix.NewWatcher(nil, slog.New(slog.DiscardHandler), prometheus.NewRegistry()).Ready(), "nor does one without settings wait for anybody")
}

func gaugeOf(t *testing.T, registry *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := registry.Gather()
	require.NoError(t, err)
	for _, each := range families {
		if each.GetName() == name {
			return each.GetMetric()[0].GetGauge().GetValue()
		}
	}
	require.NoError(t, errors.New("there is no metric "+name))
	return 0
}
