package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/simulator"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

const providersSecret = "whsec_of_the_provider"

// tracking stands in for the stack between the provider and the merchant, which is the real simulator: its payments are in
// the database, what it has seen and parked in memory.
type tracking struct {
	pipeline

	down    bool // between Kill and Up it takes no callbacks
	broken  func(n int, e callback.Event) bool
	mu      sync.Mutex
	n       int // callbacks so far
	seen    map[string]bool
	parked  map[uuid.UUID][]callback.Event
	history map[uuid.UUID][]callback.Entry
}

func (p *tracking) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case r.URL.Path == "/info":
		io.WriteString(w, `{"intake":"batches","group":"hookline"}`)
	case r.URL.Path == "/payments":
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"id":"`+p.create()+`"}`)
	case strings.HasPrefix(r.URL.Path, "/callbacks/"):
		w.WriteHeader(p.takeCallback(r))
	default:
		w.Write(p.tell(uuid.MustParse(strings.Split(r.URL.Path, "/")[2])))
	}
}

func (p *tracking) create() (id string) {
	require.NoError(p.t, p.pool.QueryRow(context.WithoutCancel(p.t.Context()), `insert into payments (merchant_id, amount, currency, status)
		values ('joes-tshirt-shop', 1000, 'USD', 'pending') returning id`).Scan(&id))
	p.announce(id)
	return id
}

func (p *tracking) tell(id uuid.UUID) []byte {
	s := story{Payment: payment.Payment{ID: id}, Callbacks: p.history[id]}
	require.NoError(p.t, p.pool.QueryRow(context.WithoutCancel(p.t.Context()), `select status, version from payments where id = $1`, id.String()).
		Scan(&s.Payment.Status, &s.Payment.Version))
	text, err := json.Marshal(s)
	require.NoError(p.t, err)
	return text
}

func (p *tracking) takeCallback(r *http.Request) int {
	body, err := io.ReadAll(r.Body)
	require.NoError(p.t, err)
	var providers callback.Providers
	require.NoError(p.t, providers.UnmarshalText([]byte("stripe="+providersSecret)))
	require.NoError(p.t, providers.Verify("stripe", r.Header, body, time.Now()))
	e, err := callback.Parse("stripe", r.Header, body)
	require.NoError(p.t, err)
	if p.down {
		return http.StatusServiceUnavailable
	}
	p.n++
	if !p.seen[e.ID] {
		p.seen[e.ID] = true
		if p.broken == nil || !p.broken(p.n, e) {
			p.decide(e, true)
		}
	}
	return http.StatusAccepted
}

// decide does with a callback what has to be done, and then with those that waited for it.
func (p *tracking) decide(e callback.Event, first bool) {
	ctx := context.WithoutCancel(p.t.Context())
	var current payment.Status
	require.NoError(p.t, p.pool.QueryRow(ctx, `select status from payments where id = $1`, e.PaymentID.String()).Scan(&current))
	outcome := map[callback.Verdict]callback.Outcome{
		callback.Apply: callback.Applied, callback.Early: callback.Parked, callback.Repeated: callback.AlreadyThere, callback.Stale: callback.Overtaken,
		callback.Contradiction: callback.Contradicts,
	}[callback.Decide(current, e.Change)]
	entries := p.history[e.PaymentID]
	if first {
		entries = append(entries, callback.Entry{Provider: e.Provider, EventID: e.ID, Type: e.Type, Status: e.Change.To, OccurredAt: e.OccurredAt, ReceivedAt: time.Now()})
	}
	at := slices.IndexFunc(entries, func(each callback.Entry) bool { return each.EventID == e.ID })
	entries[at].Outcome, entries[at].DecidedAt = outcome, time.Now()
	p.history[e.PaymentID] = entries
	switch outcome {
	case callback.Parked:
		p.parked[e.PaymentID] = append(p.parked[e.PaymentID], e)
	case callback.Applied:
		_, err := p.pool.Exec(ctx, `update payments set status = $2 where id = $1`, e.PaymentID.String(), string(e.Change.To))
		require.NoError(p.t, err)
		p.announce(e.PaymentID.String())
		waiting := p.parked[e.PaymentID]
		p.parked[e.PaymentID] = nil
		for _, each := range waiting {
			p.decide(each, false)
		}
	default:
	}
}

// announce tells the merchant of the payment's last event.
func (p *tracking) announce(id string) {
	var eventID string
	require.NoError(p.t, p.pool.QueryRow(context.WithoutCancel(p.t.Context()),
		`select id from domain_events where object_id = $1 order by object_version desc limit 1`, id).Scan(&eventID))
	for range p.times(p.sent.Add(1)) {
		p.send(eventID)
	}
}

func runCallbacksAgainst(t *testing.T, p *tracking, payments int) (Callbacks, string) {
	t.Helper()
	db := pgtest.New(t)
	merchant, err := simulator.New(t.Context(), simulator.Options{
		Secrets: []string{secret}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	r := chi.NewRouter()
	merchant.Routes(r)
	merchantServer := httptest.NewServer(r)
	t.Cleanup(merchantServer.Close)
	p.t, p.pool, p.merchant, p.secret = t, db.Pool(t, ""), merchantServer.URL, secret
	p.seen, p.parked, p.history = map[string]bool{}, map[uuid.UUID][]callback.Event{}, map[uuid.UUID][]callback.Entry{}
	if p.times == nil {
		p.times = once
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)

	var out bytes.Buffer
	scenario, err := FindScenario("callbacks")
	require.NoError(t, err)
	outcome, err := scenario.Run(t.Context(), Options{
		API: strings.TrimPrefix(server.URL, "http://"), Worker: strings.TrimPrefix(server.URL, "http://"),
		Merchant: strings.TrimPrefix(merchantServer.URL, "http://"), DSN: db.DSN(), Kafka: "kfake", MerchantID: "joes-tshirt-shop",
		Payments: payments, CallbackSecret: providersSecret, RestateAdmin: "127.0.0.1:9070", Out: &out, patience: 500 * time.Millisecond,
		Kill: func(context.Context) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.down = true
			return nil
		},
		Up: func(context.Context) error {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.down = false
			return nil
		},
	})
	require.NoError(t, err)
	outcome.Print(&out)
	result, is := outcome.(Callbacks)
	require.True(t, is)
	return result, out.String()
}

func TestEveryPaymentBecomesWhatItsProviderSays(t *testing.T) {
	t.Parallel()
	r, out := runCallbacksAgainst(t, &tracking{}, 12)
	require.NoError(t, r.Err(), out)
	require.Equal(t, 12, r.PaymentsRight)
	require.Equal(t, 24, r.Callbacks.Distinct)
	require.Equal(t, 72, r.Callbacks.Accepted)
	require.Equal(t, 48, r.Callbacks.Repeated)
	require.Equal(t, r.Callbacks.Sent, r.Callbacks.Accepted+r.Callbacks.Refused)
	require.Equal(t, r.Events, r.Callbacks.Applied+12)
	require.Equal(t, 24, r.Callbacks.Applied+r.Callbacks.AlreadyThere+r.Callbacks.Overtaken)
	require.Equal(t, r.Events, r.Delivered)
	require.Zero(t, r.Lost+r.Duplicates+r.InvalidSignatures)
	require.Contains(t, out, "12 of 12 payments are right")
	require.Contains(t, out, "charge.dispute.created")
	require.Contains(t, out, "the payment is succeeded, version 4")
	require.Contains(t, out, "http://127.0.0.1:9070/ui/state/PaymentTracker")
	text, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(text), `"scenario":"callbacks","callbacks":{"distinct":24,"sent":`)
}

func TestACallbackThatWasAcceptedAndForgottenIsFound(t *testing.T) {
	t.Parallel()
	r, out := runCallbacksAgainst(t, &tracking{broken: func(_ int, e callback.Event) bool { return e.Type == "charge.refunded" }}, 6)
	require.Equal(t, 5, r.PaymentsRight)
	require.ErrorContains(t, r.Err(), "1 of 6 payments are not what their provider says")
	require.Contains(t, out, "is succeeded and should be refunded, by 2 callbacks: payment_intent.succeeded applied")
}

func TestAWebhookThatIsLostOrComesTwiceIsFound(t *testing.T) {
	t.Parallel()
	r, _ := runCallbacksAgainst(t, &tracking{pipeline: pipeline{times: func(n int64) int {
		switch n {
		case 1:
			return 0
		case 2:
			return 2 // the payment's creation, long before the kill
		}
		return 1
	}}}, 40)
	require.Equal(t, 40, r.PaymentsRight)
	require.Equal(t, 1, r.Lost)
	require.Equal(t, 1, r.Duplicates)
	require.ErrorContains(t, r.Err(), "1 of ")
	require.ErrorContains(t, r.Err(), "did not arrive")
	require.ErrorContains(t, r.Err(), "1 webhooks came twice, and the worker was not killed")
}

func TestWebhooksAnsweredShortlyBeforeTheKillMayComeTwice(t *testing.T) {
	t.Parallel()
	c := &callbacks{killed: time.Unix(100, 0), gone: time.Unix(101, 0)}
	for seconds, want := range map[float64]bool{99.7: false, 99.8: true, 100.5: true, 101.2: true, 101.3: false} {
		require.Equal(t, want, c.explains(time.Unix(0, int64(seconds*1e9))), seconds)
	}
}

func TestTheScenarioHasToBeOfASize(t *testing.T) {
	t.Parallel()
	for _, payments := range []int{0, 1001} {
		_, err := runCallbacks(t.Context(), Options{Payments: payments})
		require.ErrorContains(t, err, "the scenario has 1 to 1000 payments")
	}
}
