package restate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/apiclient"
	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/signing"
)

// These tests have a deployment of their own under the callbacks' names: they are not parallel, as those of the registrar.

const stripeSecret = "whsec_of_stripe"

// bank is a payments-api in memory.
type bank struct {
	*httptest.Server
	mu       sync.Mutex
	payments map[uuid.UUID]*payment.Payment
	moves    map[uuid.UUID][]payment.Status // that changed something
	reads    map[uuid.UUID]int
	away     bool
	// moved is called once, behind a change and before its answer; false leaves the answer out.
	moved func() bool
	// moving is called once, before a change, with the lock held.
	moving func()
	// reading is called before a payment is read.
	reading func()
}

func newBank(t *testing.T) *bank {
	t.Helper()
	b := &bank{payments: map[uuid.UUID]*payment.Payment{}, moves: map[uuid.UUID][]payment.Status{}, reads: map[uuid.UUID]int{}}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

func (b *bank) add(status payment.Status) uuid.UUID {
	id := uuid.New()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.payments[id] = &payment.Payment{ID: id, Status: status, Version: 1, Metadata: json.RawMessage(`{}`)}
	return id
}

func (b *bank) set(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
}

func (b *bank) status(id uuid.UUID) payment.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.payments[id].Status
}

func (b *bank) movesOf(id uuid.UUID) []payment.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]payment.Status(nil), b.moves[id]...)
}

func (b *bank) readsOf(id uuid.UUID) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads[id]
}

func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Status  payment.Status `json:"status"`
		Version int64          `json:"if_version"`
	}
	if r.Method == http.MethodPatch {
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			panic(err)
		}
	}
	b.mu.Lock()
	if reading := b.reading; reading != nil && r.Method == http.MethodGet {
		b.mu.Unlock()
		reading()
		b.mu.Lock()
	}
	if moving := b.moving; moving != nil && r.Method == http.MethodPatch {
		b.moving = nil
		moving()
	}
	status, answer, moved := b.handle(r, asked.Status, asked.Version)
	hook := b.moved
	if moved {
		b.moved = nil
	}
	b.mu.Unlock()
	if moved && hook != nil && !hook() {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(status)
	w.Write(answer)
}

func (b *bank) handle(r *http.Request, next payment.Status, version int64) (status int, answer []byte, moved bool) {
	id := uuid.MustParse(strings.TrimPrefix(r.URL.Path, "/payments/"))
	if r.Method == http.MethodGet {
		b.reads[id]++
	}
	p := b.payments[id]
	switch {
	case b.away:
		return http.StatusServiceUnavailable, []byte(`{"detail":"no database"}`), false
	case p == nil:
		return http.StatusNotFound, []byte(`{"detail":"there is no such payment"}`), false
	case next != "" && next != p.Status && (p.Version != version || !p.Status.CanBecome(next)):
		return http.StatusConflict, []byte(`{"detail":"it cannot become that"}`), false
	case next != "" && next != p.Status:
		p.Status, moved = next, true
		p.Version++
		b.moves[id] = append(b.moves[id], next)
	}
	answer, err := json.Marshal(p)
	if err != nil {
		panic(err)
	}
	return http.StatusOK, answer, moved
}

// graves are dead records in memory, by value.
type graves struct {
	mu      sync.Mutex
	records []delivery.Buried
}

func (g *graves) Bury(_ context.Context, record delivery.DeadRecord) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.records {
		if g.records[i].Topic == record.Topic && bytes.Equal(g.records[i].Value, record.Value) {
			g.records[i].Times++
			return nil
		}
	}
	g.records = append(g.records, delivery.Buried{DeadRecord: record, ID: int64(len(g.records) + 1), Times: 1})
	return nil
}

func (g *graves) DeadRecord(_ context.Context, id int64) (delivery.Buried, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if id < 1 || id > int64(len(g.records)) {
		return delivery.Buried{}, fault.New(fault.NotFound, "there is no dead record %d", id)
	}
	return g.records[id-1], nil
}

func (g *graves) all() []delivery.Buried {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]delivery.Buried(nil), g.records...)
}

// callbackWorld is a worker of its own that Restate knows, with a payments-api.
type callbackWorld struct {
	*registration
	bank      *bank
	graves    *graves
	news      *newsBook
	client    *Client
	callbacks *Callbacks // of the process that runs now
}

func newCallbackWorld(t *testing.T) *callbackWorld {
	t.Helper()
	w := &callbackWorld{registration: newRegistration(t, ""), bank: newBank(t), graves: &graves{}, news: &newsBook{}}
	w.restart(t, "stripe="+stripeSecret+",acme="+acmeSecret+",svix="+svixSecret)
	require.NoError(t, w.ensure(t.Context()))
	w.client = NewClient(w.ingress, 16)
	t.Cleanup(w.client.Close)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return w
}

const acmeSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// restart kills the process that answers Restate and begins another at the same address, with these secrets.
func (w *callbackWorld) restart(t *testing.T, secrets string) {
	t.Helper()
	var providers callback.Providers
	if secrets != "" {
		require.NoError(t, providers.UnmarshalText([]byte(secrets)))
	}
	api, err := apiclient.New(w.bank.URL, "")
	require.NoError(t, err)
	t.Cleanup(api.Close)
	w.callbacks = NewCallbacks(providers, api, w.graves, w.graves, w.news, silent(), prometheus.NewRegistry())
	handler, err := Handler(w.scripts, w.callbacks, nil, HandlerConfig{Retention: time.Hour}, silent())
	require.NoError(t, err)
	w.handler.store(handler)
	w.server.CloseClientConnections()
}

// stripeBody is an event of Stripe's; behind a slash of the type may be the status of its object. A charge is refunded as a
// whole. Restate keeps the keys of all tests, so that the payment's id is a part of the event's.
func stripeBody(eventID, eventType string, paymentID uuid.UUID) []byte {
	return stripeBodyAt(time.Now(), eventID, eventType, paymentID)
}

func stripeBodyAt(at time.Time, eventID, eventType string, paymentID uuid.UUID) []byte {
	eventType, status, _ := strings.Cut(eventType, "/")
	return fmt.Appendf(nil, `{"id":"%s_%s","type":%q,"created":%d,"data":{"object":{"status":%q,"refunded":true,"metadata":{"payment_id":%q}}}}`,
		eventID, paymentID, eventType, at.Unix(), status, paymentID)
}

func stripeHeader(secret string, body []byte) http.Header {
	return http.Header{"Stripe-Signature": {callback.StripeSignature(secret, time.Now(), body)}}
}

// send is what the door does.
func (w *callbackWorld) send(t *testing.T, body []byte) error {
	t.Helper()
	header := stripeHeader(stripeSecret, body)
	e, err := callback.Parse(callback.Stripe, header, body)
	require.NoError(t, err)
	return w.client.ForwardCallback(t.Context(), e, header, body)
}

// post is what a provider does that was pointed straight at Restate.
func (w *callbackWorld) post(t *testing.T, path, contentType string, header http.Header, body []byte) (status int, answer string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.ingress+path, bytes.NewReader(body))
	require.NoError(t, err)
	request.Header = header.Clone()
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(text)
}

func (w *callbackWorld) counted(provider, outcome string) float64 {
	return testutil.ToFloat64(w.callbacks.handled.WithLabelValues(provider, outcome))
}

// outcomes waits until the payment's history says so, by event.
func (w *callbackWorld) outcomes(t *testing.T, id uuid.UUID, want map[string]callback.Outcome) []callback.Entry {
	t.Helper()
	var entries []callback.Entry
	require.Eventually(t, func() bool {
		var err error
		entries, err = w.client.PaymentHistory(t.Context(), id)
		if err != nil || len(entries) != len(want) {
			return false
		}
		for _, e := range entries {
			if want[strings.TrimSuffix(e.EventID, "_"+id.String())] != e.Outcome {
				return false
			}
		}
		return true
	}, 30*time.Second, 20*time.Millisecond, "%v", &entries)
	return entries
}

func TestCallbacksInAnyOrderAreAppliedOnceWhileTheWorkerIsKilled(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	ways := [][]string{
		{"payment_intent.processing", "payment_intent.succeeded", "charge.refunded"},
		{"payment_intent.succeeded", "charge.dispute.created", "charge.dispute.closed/won"},
		{"payment_intent.processing", "payment_intent.payment_failed"},
		{"payment_intent.succeeded", "charge.dispute.created", "charge.dispute.closed/lost"},
	}
	ends := []payment.Status{payment.StatusRefunded, payment.StatusSucceeded, payment.StatusFailed, payment.StatusRefunded}
	type sending struct{ body []byte }
	var sendings []sending
	var ids []uuid.UUID
	for _, way := range ways {
		id := w.bank.add(payment.StatusPending)
		ids = append(ids, id)
		for i, name := range way {
			body := stripeBody(fmt.Sprintf("evt_%d", i), name, id)
			for range 3 {
				sendings = append(sendings, sending{body})
			}
		}
	}
	rand.Shuffle(len(sendings), func(i, j int) { sendings[i], sendings[j] = sendings[j], sendings[i] })

	for i, each := range sendings {
		if i%7 == 3 {
			w.restart(t, "stripe="+stripeSecret)
		}
		// Every other one straight at Restate's ingress, where no key drops repetitions.
		if i%2 == 0 {
			require.NoError(t, w.send(t, each.body))
			continue
		}
		status, answer := w.post(t, "/WebhookCallbackRouter/OnStripeEvent", "application/json; charset=utf-8", stripeHeader(stripeSecret, each.body), each.body)
		require.Equal(t, http.StatusOK, status, answer)
	}
	for i, id := range ids {
		require.Eventually(t, func() bool { return w.bank.status(id) == ends[i] && w.quiet(t, id) }, 60*time.Second, 50*time.Millisecond, "%v: %v", ways[i], w.bank.movesOf(id))
		entries, err := w.client.PaymentHistory(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, entries, len(ways[i]))
		applied := 0
		for _, e := range entries {
			require.Contains(t, []callback.Outcome{callback.Applied, callback.Overtaken}, e.Outcome, "%v", entries)
			if e.Outcome == callback.Applied {
				applied++
			}
		}
		require.Len(t, w.bank.movesOf(id), applied, "%v: %v", ways[i], entries)
	}
	require.Empty(t, w.graves.all())
}

// quiet reports whether nothing of the payment is under way in Restate; the timers of what was parked do not count.
func (w *callbackWorld) quiet(t *testing.T, id uuid.UUID) bool {
	t.Helper()
	return len(w.invocations(t, id, "status not in ('completed', 'scheduled')")) == 0
}

func (w *callbackWorld) invocations(t *testing.T, id uuid.UUID, condition string) []string {
	t.Helper()
	var answer struct{ Rows []struct{ Status string } }
	ask(t, http.MethodPost, w.cfg.AdminURL+"/query", map[string]string{
		"query": "select status from sys_invocation where target = 'PaymentTracker/" + id.String() + "/Apply' and " + condition,
	}, &answer)
	var out []string
	for _, row := range answer.Rows {
		out = append(out, row.Status)
	}
	return out
}

// The interleaving: payments-api has moved the payment, and the worker dies before the journal has heard of it.
func TestAWorkerThatIsKilledBehindTheChangeAppliesItOnce(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusDisputed)
	killed := make(chan struct{})
	w.bank.set(func() {
		w.bank.moved = func() bool {
			w.restart(t, "stripe="+stripeSecret)
			close(killed)
			return false
		}
	})
	require.NoError(t, w.send(t, stripeBody("evt_won", "charge.dispute.closed/won", id)))
	receive(t, killed)
	w.outcomes(t, id, map[string]callback.Outcome{"evt_won": callback.Applied})
	require.Equal(t, []payment.Status{payment.StatusSucceeded}, w.bank.movesOf(id))
	// Nothing is left that would end the next dispute.
	require.NoError(t, w.send(t, stripeBody("evt_again", "charge.dispute.created", id)))
	w.outcomes(t, id, map[string]callback.Outcome{"evt_won": callback.Applied, "evt_again": callback.Applied})
	require.Equal(t, payment.StatusDisputed, w.bank.status(id))
}

// The interleaving: the payment has moved, its answer is lost, and the next callback comes before anybody has asked again.
// By its status alone the payment would look as if the end of its dispute were early.
func TestAChangeWhoseAnswerIsLostIsSettledBeforeTheNext(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusDisputed)
	lost := make(chan struct{})
	w.bank.set(func() { w.bank.moved = func() bool { close(lost); return false } })
	require.NoError(t, w.send(t, stripeBody("evt_won", "charge.dispute.closed/won", id)))
	receive(t, lost)
	require.Eventually(t, func() bool { return len(w.invocations(t, id, "status = 'scheduled'")) == 1 }, 10*time.Second, 10*time.Millisecond)
	require.NoError(t, w.send(t, stripeBody("evt_again", "charge.dispute.created", id)))
	w.outcomes(t, id, map[string]callback.Outcome{"evt_won": callback.Applied, "evt_again": callback.Applied})
	require.Eventually(t, func() bool { return len(w.invocations(t, id, "status <> 'completed'")) == 0 }, 20*time.Second, 20*time.Millisecond, "its second coming ends")
	require.Equal(t, []payment.Status{payment.StatusSucceeded, payment.StatusDisputed}, w.bank.movesOf(id))
}

func TestACallbackWaitsForPaymentsAPIAndHoldsNothing(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	w.bank.set(func() { w.bank.away = true })
	require.NoError(t, w.send(t, stripeBody("evt_1", "charge.succeeded", id)))
	require.Eventually(t, func() bool { return w.bank.readsOf(id) == 1 && w.quiet(t, id) }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, []string{"scheduled"}, w.invocations(t, id, "status <> 'completed'"), "a timer, and nothing that backs off")
	require.Eventually(t, func() bool { return w.bank.readsOf(id) == 2 && w.quiet(t, id) }, 20*time.Second, 5*time.Millisecond)
	require.Equal(t, []string{"scheduled"}, w.invocations(t, id, "status <> 'completed'"))
	require.GreaterOrEqual(t, w.counted("stripe", outcomeWaiting), 2.0)
	w.bank.set(func() { w.bank.away = false })
	w.outcomes(t, id, map[string]callback.Outcome{"evt_1": callback.Applied})
	require.Equal(t, payment.StatusSucceeded, w.bank.status(id))
}

func TestAWrongSignatureStraightAtTheIngressChangesNothing(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	body := stripeBody("evt_1", "charge.succeeded", id)
	for name, header := range map[string]http.Header{
		"another's secret": stripeHeader("whsec_of_nobody", body),
		"another's body":   stripeHeader(stripeSecret, append([]byte(" "), body...)),
		"none":             {},
	} {
		status, answer := w.post(t, "/WebhookCallbackRouter/OnStripeEvent", "application/json", header, body)
		require.Equal(t, http.StatusUnauthorized, status, "%s: %s", name, answer)
		require.NotContains(t, answer, stripeSecret)
	}
	require.InDelta(t, 3, w.counted("stripe", outcomeBadSignature), 0)
	for _, provider := range []string{"acme", "nobody", ""} {
		header := http.Header{}
		if provider != "" {
			header.Set(headerProvider, provider)
		}
		status, answer := w.post(t, "/WebhookCallbackRouter/OnEvent", "application/json", header, body)
		require.Equal(t, http.StatusUnauthorized, status, answer)
	}
	require.InDelta(t, 1, w.counted("acme", outcomeBadSignature), 0)
	require.InDelta(t, 2, w.counted("unknown", outcomeBadSignature), 0, "no label is made up by a stranger")
	// Nor is there a way around the router.
	status, answer := w.post(t, "/PaymentTracker/"+id.String()+"/Apply", "application/json", http.Header{},
		fmt.Appendf(nil, `{"event":{"provider":"stripe","id":"evt_1","type":"x","payment_id":%q,"change":{"to":"succeeded","from":["pending"]}}}`, id))
	require.Equal(t, http.StatusBadRequest, status, answer)
	require.Contains(t, answer, "not public")
	// One that is larger than any callback is not looked at.
	huge := slices.Concat(body, bytes.Repeat([]byte(" "), maxCallback))
	status, answer = w.post(t, "/WebhookCallbackRouter/OnStripeEvent", "application/json", stripeHeader(stripeSecret, huge), huge)
	require.Equal(t, http.StatusRequestEntityTooLarge, status, answer)

	entries, err := w.client.PaymentHistory(t.Context(), id)
	require.NoError(t, err)
	require.Empty(t, entries)
	require.NotNil(t, entries)
	require.Zero(t, w.bank.readsOf(id))
	require.Empty(t, w.graves.all())
}

func TestProvidersMayPostStraightAtTheIngressWithAnyType(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	for _, contentType := range []string{"application/json", "application/json; charset=utf-8", "application/octet-stream", "text/plain", "application/x-anything"} {
		id := w.bank.add(payment.StatusPending)
		body := stripeBody("evt_1", "charge.succeeded", id)
		status, answer := w.post(t, "/WebhookCallbackRouter/OnStripeEvent", contentType, stripeHeader(stripeSecret, body), body)
		require.Equal(t, http.StatusOK, status, "%q: %s", contentType, answer)
		w.outcomes(t, id, map[string]callback.Outcome{"evt_1": callback.Applied})
	}
	secret, err := signing.ParseSecret(acmeSecret)
	require.NoError(t, err)
	for _, provider := range []string{"acme", ""} { // who is pointed there does not know its name here
		id := w.bank.add(payment.StatusPending)
		body := fmt.Appendf(nil, `{"type":"payment.succeeded","timestamp":"2026-02-23T12:00:00Z","data":{"payment_id":%q}}`, strings.ToUpper(id.String()))
		at := time.Now().Add(-24 * time.Hour) // an invocation may have waited
		header := http.Header{"Webhook-Id": {"msg_" + id.String()}, "Webhook-Timestamp": {fmt.Sprint(at.Unix())}}
		header.Set("Webhook-Signature", secret.Sign(header.Get("Webhook-Id"), at, body))
		if provider != "" {
			header.Set(headerProvider, provider)
		}
		status, answer := w.post(t, "/WebhookCallbackRouter/OnEvent", "application/json", header, body)
		require.Equal(t, http.StatusOK, status, answer)
		entries := w.outcomes(t, id, map[string]callback.Outcome{"msg": callback.Applied})
		require.Equal(t, "acme", entries[0].Provider)
		require.Equal(t, payment.StatusSucceeded, entries[0].Status)
		require.Equal(t, 2026, entries[0].OccurredAt.Year())
	}
}

func TestAnEventThatIsForwardedTwiceRunsOnce(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	for _, event := range []string{"evt_1", "evt ünusual"} {
		body := stripeBody(event, "charge.succeeded", id)
		for range 3 {
			require.NoError(t, w.send(t, body))
		}
	}
	w.outcomes(t, id, map[string]callback.Outcome{"evt_1": callback.Applied, "evt ünusual": callback.AlreadyThere})
	require.Equal(t, 2, w.bank.readsOf(id))
	require.Empty(t, w.invocations(t, id, "status <> 'completed'"))
}

func TestARefusalDoesNotSwallowTheProvidersNextTry(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	w.restart(t, "stripe=whsec_old") // the door has the new secret already
	id := w.bank.add(payment.StatusPending)
	body := stripeBody("evt", "charge.succeeded", id)
	require.Equal(t, fault.Unavailable, fault.ClassOf(w.send(t, body)))
	require.InDelta(t, 2, w.counted("stripe", outcomeBadSignature), 0)
	w.restart(t, "stripe="+stripeSecret)
	header := http.Header{"Stripe-Signature": {callback.StripeSignature(stripeSecret, time.Now().Add(time.Minute), body)}}
	e, err := callback.Parse(callback.Stripe, header, body)
	require.NoError(t, err)
	require.NoError(t, w.client.ForwardCallback(t.Context(), e, header, body))
	w.outcomes(t, id, map[string]callback.Outcome{"evt": callback.Applied})
}

func TestWithoutRestateACallbackIsNotTaken(t *testing.T) {
	t.Parallel()
	for name, handle := range map[string]http.HandlerFunc{
		"no such service": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusNotFound)
			w.Write([]byte(`{"message":"service not found"}`))
		},
		"no leader": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) },
		"gone":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"gone behind the acceptance": func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet {
				panic(http.ErrAbortHandler)
			}
			w.Write([]byte(`{"invocationId":"inv_1","status":"Accepted"}`))
		},
	} {
		server := httptest.NewServer(handle)
		client := NewClient(server.URL, 1)
		err := client.ForwardCallback(t.Context(), callback.Event{Provider: "stripe", ID: "evt_1"}, http.Header{}, []byte(`{}`))
		require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%s: %v", name, err)
		_, err = client.PaymentHistory(t.Context(), uuid.New())
		require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%s: %v", name, err)
		_, err = client.RedriveCallback(t.Context(), 1)
		require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%s: %v", name, err)
		client.Close()
		server.Close()
	}
}

func TestTheHistoryAnswersWhileACallbackIsApplied(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	require.NoError(t, w.send(t, stripeBody("evt_early", "charge.refunded", id)))
	w.outcomes(t, id, map[string]callback.Outcome{"evt_early": callback.Parked})

	held, release := make(chan struct{}, 1), make(chan struct{})
	w.bank.set(func() {
		w.bank.reading = func() { held <- struct{}{}; <-release }
	})
	require.NoError(t, w.send(t, stripeBody("evt_next", "charge.succeeded", id)), "a handler that takes its time has not refused")
	receive(t, held)
	entries, err := w.client.PaymentHistory(t.Context(), id)
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, callback.Parked, entries[0].Outcome)
	close(release)
	w.outcomes(t, id, map[string]callback.Outcome{"evt_early": callback.Applied, "evt_next": callback.Applied})
	require.Equal(t, []payment.Status{payment.StatusSucceeded, payment.StatusRefunded}, w.bank.movesOf(id))
}

// A payments-api that hangs must not take Restate's slots from the deliveries.
func TestDeliveriesAreServedWhileCallbacksWaitForAPaymentsAPIThatHangs(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	const waiting = 300
	release := make(chan struct{})
	letGo := sync.OnceFunc(func() { close(release) })
	t.Cleanup(letGo)
	w.bank.set(func() { w.bank.reading = func() { <-release } })
	ids := make([]uuid.UUID, waiting)
	todo := make(chan uuid.UUID, waiting)
	for i := range ids {
		ids[i] = w.bank.add(payment.StatusPending)
		todo <- ids[i]
	}
	close(todo)
	var senders sync.WaitGroup
	for range callsAtOnce {
		senders.Go(func() {
			for id := range todo {
				body := stripeBody("evt", "charge.succeeded", id)
				status, answer := w.post(t, "/WebhookCallbackRouter/OnStripeEvent", "application/json", stripeHeader(stripeSecret, body), body)
				if status != http.StatusOK {
					t.Error(status, answer)
				}
			}
		})
	}
	senders.Wait()
	require.Eventually(t, func() bool { return w.counted("stripe", outcomeWaiting) >= waiting }, 60*time.Second, 10*time.Millisecond, "each ends, and comes again")

	for range 20 {
		one := ref()
		served := make(chan struct{}, 1)
		w.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) {
			served <- struct{}{}
			return dispatch.Result{}, nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		require.NoError(t, w.client.Dispatch(ctx, one.ID.String(), []event.Ref{one}))
		cancel()
		receive(t, served)
		require.LessOrEqual(t, w.calling(), callsAtOnce)
	}
	require.Eventually(t, func() bool { return w.calling() <= 1 }, 20*time.Second, time.Millisecond, "once those have ended only one probes")
	for _, id := range ids {
		require.Equal(t, payment.StatusPending, w.bank.status(id))
	}
	letGo()
	require.Eventually(t, func() bool {
		return !slices.ContainsFunc(ids, func(id uuid.UUID) bool { return w.bank.status(id) != payment.StatusSucceeded })
	}, 90*time.Second, 100*time.Millisecond)
}

// calling is how many calls of payments-api are open.
func (w *callbackWorld) calling() int {
	w.callbacks.gate.mu.Lock()
	defer w.callbacks.gate.mu.Unlock()
	return w.callbacks.gate.open
}

// What is there already is not kept for later, where it would end a dispute.
func TestASuccessThatIsToldTwiceEndsNoDispute(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusSucceeded)
	secret, err := signing.ParseSecret(acmeSecret)
	require.NoError(t, err)
	want := map[string]callback.Outcome{}
	for i, each := range []struct {
		eventType string
		outcome   callback.Outcome
	}{
		{"payment.succeeded", callback.AlreadyThere},
		{"payment.disputed", callback.Applied},
		{"payment.disputed", callback.AlreadyThere},
		{"payment.succeeded", callback.Overtaken},
		{"dispute.won", callback.Applied},
	} {
		if each.eventType == "dispute.won" {
			require.Equal(t, payment.StatusDisputed, w.bank.status(id))
		}
		body := fmt.Appendf(nil, `{"type":%q,"timestamp":"2026-02-23T12:00:0%dZ","data":{"payment_id":%q}}`, each.eventType, i, id)
		header := http.Header{headerProvider: {"acme"}, "Webhook-Id": {fmt.Sprintf("msg_%d_%s", i, id)}, "Webhook-Timestamp": {fmt.Sprint(time.Now().Unix())}}
		header.Set("Webhook-Signature", secret.Sign(header.Get("Webhook-Id"), time.Now(), body))
		status, answer := w.post(t, "/WebhookCallbackRouter/OnEvent", "application/json", header, body)
		require.Equal(t, http.StatusOK, status, answer)
		want[fmt.Sprintf("msg_%d", i)] = each.outcome
		w.outcomes(t, id, want)
	}
	require.Equal(t, []payment.Status{payment.StatusDisputed, payment.StatusSucceeded}, w.bank.movesOf(id))
}

func TestTheEndOfADisputeThatWasParkedDoesNotEndTheNext(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	w.callbacks.parkedFor = time.Second
	id := w.bank.add(payment.StatusSucceeded)
	at := time.Now().Truncate(time.Second)
	send := func(seconds int, name, eventType string) {
		require.NoError(t, w.send(t, stripeBodyAt(at.Add(time.Duration(seconds)*time.Second), name, eventType, id)))
	}
	send(2, "evt_won", "charge.dispute.closed/won")
	w.outcomes(t, id, map[string]callback.Outcome{"evt_won": callback.Parked})
	send(3, "evt_next", "charge.dispute.created")
	w.outcomes(t, id, map[string]callback.Outcome{"evt_won": callback.Overtaken, "evt_next": callback.Applied})
	send(1, "evt_first", "charge.dispute.created")
	w.outcomes(t, id, map[string]callback.Outcome{"evt_won": callback.Overtaken, "evt_next": callback.Applied, "evt_first": callback.AlreadyThere})
	require.Eventually(t, func() bool { return len(w.invocations(t, id, "status <> 'completed'")) == 0 }, 20*time.Second, 20*time.Millisecond, "nor when it is overdue")
	require.Equal(t, payment.StatusDisputed, w.bank.status(id))
	require.Empty(t, w.graves.all())
	send(4, "evt_end", "charge.dispute.closed/won")
	w.outcomes(t, id, map[string]callback.Outcome{
		"evt_won": callback.Overtaken, "evt_next": callback.Applied, "evt_first": callback.AlreadyThere, "evt_end": callback.Applied,
	})
}

func TestATypeThatChangesNothingIsNoDeadRecord(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusSucceeded)
	require.NoError(t, w.send(t, stripeBody("evt_1", "payment_intent.created", id)))
	require.NoError(t, w.send(t, stripeBody("evt_2", "charge.dispute.closed/needs_response", id)))
	require.NoError(t, w.send(t, fmt.Appendf(nil, `{"id":"evt_3_%s","type":"charge.refunded","data":{"object":{"refunded":false,"amount_refunded":5}}}`, id)), "of no payment of ours")
	require.InDelta(t, 3, w.counted("stripe", string(callback.NoChange)), 0)
	require.Empty(t, w.graves.all())
	require.Zero(t, w.bank.readsOf(id))
}

// The event was kept by a build that took a part of the amount for the whole, and another that knew the type.
func TestADeadRecordIsDrivenAgainByThePresentCode(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	bury := func(reason string, e callback.Event) int64 {
		value, err := json.Marshal(e)
		require.NoError(t, err)
		require.NoError(t, w.graves.Bury(t.Context(), delivery.DeadRecord{Topic: deadTopic + e.Provider, Partition: -1, Offset: -1, Reason: reason, Value: value}))
		return int64(len(w.graves.all()))
	}
	everywhere := []payment.Status{payment.StatusPending, payment.StatusProcessing, payment.StatusSucceeded, payment.StatusDisputed}
	id := w.bank.add(payment.StatusDisputed)
	stale := callback.Event{
		Provider: "acme", ID: "evt_1_" + id.String(), Type: "payment.succeeded", PaymentID: id,
		Change: callback.Change{To: payment.StatusSucceeded, From: everywhere},
	}
	outcome, err := w.client.RedriveCallback(t.Context(), bury(delivery.ReasonCallbackEarly, stale))
	require.NoError(t, err)
	require.Equal(t, callback.Overtaken, outcome)
	part := callback.Event{
		Provider: callback.Stripe, ID: "evt_2_" + id.String(), Type: "charge.refunded", State: "partially_refunded", PaymentID: id,
		Change: callback.Change{To: payment.StatusRefunded, From: everywhere},
	}
	outcome, err = w.client.RedriveCallback(t.Context(), bury(delivery.ReasonCallbackContradicts, part))
	require.NoError(t, err)
	require.Equal(t, callback.NoChange, outcome)
	require.Empty(t, w.bank.movesOf(id))
}

// Straight at the ingress, where no door has looked at it.
func TestAnEventWhoseIDIsNoTextIsADeadRecord(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	for i, body := range []string{`{"id":"evt\u0000","type":"charge.succeeded"}`, `{"id":"evt","type":"charge\u0000"}`} {
		status, answer := w.post(t, "/WebhookCallbackRouter/OnStripeEvent", "application/json", stripeHeader(stripeSecret, []byte(body)), []byte(body))
		require.Equal(t, http.StatusOK, status, answer)
		require.Len(t, w.graves.all(), i+1)
		require.Equal(t, delivery.ReasonCallbackUndecodable, w.graves.all()[i].Reason)
	}
}

func TestOnlySoManyCallbacksOfAPaymentAreParked(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	for i := range maxParked + 1 {
		body := stripeBody(fmt.Sprintf("evt_%d", i), "charge.refunded", id)
		status, answer := w.post(t, "/WebhookCallbackRouter/OnStripeEvent", "application/json", stripeHeader(stripeSecret, body), body)
		require.Equal(t, http.StatusOK, status, answer)
	}
	require.Eventually(t, func() bool { return len(w.graves.all()) == 1 }, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, delivery.ReasonCallbackEarly, w.graves.all()[0].Reason)
}

func TestAHistoryIsBounded(t *testing.T) {
	t.Parallel()
	k := &tracker{}
	for i := range maxHistory + 5 {
		k.write(tracked{Event: callback.Event{Provider: "stripe", ID: fmt.Sprint(i)}}, callback.Overtaken)
		k.write(tracked{Event: callback.Event{Provider: "stripe", ID: fmt.Sprint(i)}}, callback.Overtaken)
	}
	require.Len(t, k.history, maxHistory)
	require.Equal(t, "5", k.history[0].EventID)
	require.Equal(t, fmt.Sprint(maxHistory+4), k.history[maxHistory-1].EventID)
}

// The interleaving: somebody else moves the payment between the look and the change.
func TestAChangeThatIsRefusedIsDecidedAgain(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	w.bank.set(func() {
		w.bank.moving = func() { w.bank.payments[id].Status = payment.StatusCanceled }
	})
	require.NoError(t, w.send(t, stripeBody("evt", "charge.succeeded", id)))
	w.outcomes(t, id, map[string]callback.Outcome{"evt": callback.Contradicts})
	require.Empty(t, w.bank.movesOf(id))
	require.Equal(t, delivery.ReasonCallbackContradicts, w.graves.all()[0].Reason)
	require.Contains(t, w.graves.all()[0].Detail, "is canceled")
	require.Equal(t, 2, w.bank.readsOf(id))
}

// The interleaving: the payment moves on between the look and the change, to where the change would be another one, the end
// of a dispute.
func TestAChangeIsOfThePaymentThatWasLookedAt(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	id := w.bank.add(payment.StatusPending)
	w.bank.set(func() {
		w.bank.moving = func() {
			p := w.bank.payments[id]
			p.Status, p.Version = payment.StatusDisputed, p.Version+2
		}
	})
	require.NoError(t, w.send(t, stripeBody("evt", "charge.succeeded", id)))
	// Whether the payment went through this change or past it cannot be told, as an answer may have been lost.
	w.outcomes(t, id, map[string]callback.Outcome{"evt": callback.Applied})
	require.Empty(t, w.bank.movesOf(id))
	require.Equal(t, payment.StatusDisputed, w.bank.status(id))
}

func TestACallbackWhosePredecessorNeverComesIsADeadRecord(t *testing.T) { //nolint:paralleltest // see above
	w := newCallbackWorld(t)
	w.callbacks.parkedFor = 100 * time.Millisecond
	id := w.bank.add(payment.StatusPending)
	require.NoError(t, w.send(t, stripeBody("evt", "charge.refunded", id)))
	require.Eventually(t, func() bool { return len(w.graves.all()) == 1 }, 20*time.Second, 20*time.Millisecond)
	require.Equal(t, delivery.ReasonCallbackEarly, w.graves.all()[0].Reason)
	w.bank.set(func() { w.bank.payments[id].Status = payment.StatusSucceeded })
	outcome, err := w.client.RedriveCallback(t.Context(), 1)
	require.NoError(t, err)
	require.Equal(t, callback.Applied, outcome)
	require.Equal(t, payment.StatusRefunded, w.bank.status(id))
}

func TestWhoeverDoesNotSignAsRestateIsRefused(t *testing.T) {
	t.Parallel()
	callbacks := NewCallbacks(callback.Providers{}, nil, nil, nil, nil, silent(), prometheus.NewRegistry())
	const key = "publickeyv1_w7YHemBctH5Ck2nQRQ47iBBqhNHy4FV7t2Usbye2A6f"
	handler, err := Handler(newScripts(), callbacks, nil, HandlerConfig{Retention: time.Hour, IdentityKeys: []string{key}}, silent())
	require.NoError(t, err)
	for _, path := range []string{"/discover", "/invoke/" + RouterService + "/" + StripeEventHandler} {
		request := httptest.NewRequest(http.MethodPost, path, http.NoBody)
		request.ProtoMajor = 2
		answer := httptest.NewRecorder()
		handler.ServeHTTP(answer, request)
		require.Equal(t, http.StatusUnauthorized, answer.Code, path)
	}
	_, err = Handler(newScripts(), NewCallbacks(callback.Providers{}, nil, nil, nil, nil, silent(), prometheus.NewRegistry()), nil, HandlerConfig{IdentityKeys: []string{"no key"}}, silent())
	require.ErrorContains(t, err, "building the Restate handlers")
}
