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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/simulator"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

// retrier stands in for the stack between the API and the merchants, which are the real simulator. It writes attempts into
// the ledger at once, as if it had waited before each.
type retrier struct {
	t         *testing.T
	pool      *pgxpool.Pool
	endpoints *endpoint.Manager
	patience  time.Duration                               // with an answer
	impatient bool                                        // does not honour Retry-After
	loses     bool                                        // what an overrun merchant did not take at once
	instead   func(to delivery.Endpoint, event uuid.UUID) // of its own way to deliver, where it is set
	sends     sync.WaitGroup
}

func (r *retrier) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if req.URL.Path == "/info" {
		io.WriteString(w, `{"intake":"batches","group":"hookline"}`)
		return
	}
	var in struct {
		MerchantID string `json:"merchant_id"`
	}
	var id string
	var event uuid.UUID
	err := json.NewDecoder(req.Body).Decode(&in)
	if err == nil {
		err = r.pool.QueryRow(req.Context(), `insert into payments (merchant_id, amount, currency, status)
			values ($1, 1000, 'USD', 'succeeded') returning id`, in.MerchantID).Scan(&id)
	}
	if err == nil {
		err = r.pool.QueryRow(req.Context(), `select id from domain_events where object_id = $1`, id).Scan((*[16]byte)(&event))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	r.sends.Go(func() { r.deliver(in.MerchantID, event) })
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, `{"id":"`+id+`","merchant_id":"`+in.MerchantID+`"}`)
}

// deliver makes attempts until one is accepted.
func (r *retrier) deliver(merchant string, event uuid.UUID) {
	ctx := context.WithoutCancel(r.t.Context())
	listed, err := r.endpoints.List(ctx, merchant)
	require.NoError(r.t, err)
	require.Len(r.t, listed, 1)
	to, err := r.endpoints.Recipient(ctx, listed[0].ID)
	require.NoError(r.t, err)
	if r.instead != nil {
		r.instead(to, event)
		return
	}
	at := time.Now()
	for number := 1; ; number++ {
		cause, retryAfter := r.attempt(ctx, to, event, number)
		_, err := r.pool.Exec(ctx, `insert into delivery.attempts (event_id, endpoint_id, generation, epoch, number, latency_ms, attempted_at, owner, cause)
			values ($1, $2, 0, $3::integer, $3::integer, 10, $4, 'inv', $5)`, event, to.ID, number, at, string(cause))
		require.NoError(r.t, err)
		delay, more := to.Schedule.After(number)
		if cause == delivery.CauseOK || !more || (r.loses && cause == delivery.CauseRateLimited) {
			return
		}
		if !r.impatient {
			delay = max(delay, retryAfter)
		}
		at = at.Add(10*time.Millisecond + delay)
	}
}

func (r *retrier) attempt(ctx context.Context, to delivery.Endpoint, event uuid.UUID, number int) (delivery.Cause, time.Duration) {
	signer, err := svix.NewWebhook(to.Secrets[0].Value)
	require.NoError(r.t, err)
	now := time.Now()
	signature, err := signer.Sign(event.String(), now, []byte("{}"))
	require.NoError(r.t, err)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL, strings.NewReader("{}"))
	require.NoError(r.t, err)
	req.Header.Set("Webhook-Id", event.String())
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	req.Header.Set("Webhook-Attempt", strconv.Itoa(number))
	res, err := (&http.Client{Timeout: r.patience}).Do(req)
	if err != nil {
		return delivery.CauseTimeoutAnswer, 0
	}
	defer res.Body.Close()
	seconds, _ := strconv.Atoi(res.Header.Get("Retry-After"))
	switch res.StatusCode {
	case http.StatusOK:
		return delivery.CauseOK, 0
	case http.StatusTooManyRequests:
		return delivery.CauseRateLimited, time.Duration(seconds) * time.Second
	default:
		return delivery.CauseServerError, 0
	}
}

// flakyRun is what came of the scenario, and what it left behind.
type flakyRun struct {
	Flaky
	out        string
	behaviours []json.RawMessage
	endpoints  []endpoint.Endpoint // but the demo merchant's
}

// onFake makes the stack of which all but the merchants is r, and returns where it is.
func onFake(t *testing.T, r *retrier) Options {
	t.Helper()
	db := pgtest.New(t)
	merchant, err := simulator.New(t.Context(), simulator.Options{
		Secrets: []string{endpointtest.Secret}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	routes := chi.NewRouter()
	merchant.Routes(routes)
	simulated := httptest.NewServer(routes)
	t.Cleanup(simulated.Close)
	t.Cleanup(merchant.Release)
	r.t, r.pool, r.patience = t, db.Pool(t, ""), 2*time.Second
	r.endpoints = endpointtest.NewManager(t, r.pool)
	endpointtest.Add(t, r.pool, "joes-tshirt-shop", nil)
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	t.Cleanup(r.sends.Wait)
	address := strings.TrimPrefix(server.URL, "http://")
	return Options{
		API: address, Worker: address, Merchant: strings.TrimPrefix(simulated.URL, "http://"), DSN: db.DSN(), Kafka: "kfake",
		MerchantID: "joes-tshirt-shop", Endpoints: r.endpoints, patience: 5 * time.Second,
	}
}

// leftBehind is how the simulator was told to behave, and the endpoints beside the demo merchant's.
func leftBehind(t *testing.T, o Options) ([]json.RawMessage, []endpoint.Endpoint) {
	t.Helper()
	behaviours, err := load.NewMerchant(o.Merchant).Behaviours(t.Context())
	require.NoError(t, err)
	all, err := o.Endpoints.List(t.Context(), "")
	require.NoError(t, err)
	return behaviours, slices.DeleteFunc(all, func(e endpoint.Endpoint) bool { return e.MerchantID == o.MerchantID })
}

func runScenario(t *testing.T, r *retrier) flakyRun {
	t.Helper()
	o := onFake(t, r)
	var out bytes.Buffer
	o.Payments, o.Out = 2, &out
	scenario, err := FindScenario("flaky")
	require.NoError(t, err)
	outcome, err := scenario.Run(t.Context(), o)
	require.NoError(t, err)
	outcome.Print(&out)
	got := flakyRun{out: out.String()}
	got.Flaky = outcome.(Flaky)
	got.behaviours, got.endpoints = leftBehind(t, o)
	return got
}

func TestFlakyMerchantsGetAllOfTheirWebhooksInTheEnd(t *testing.T) {
	t.Parallel()
	r := runScenario(t, &retrier{})
	require.NoError(t, r.Err())
	require.Equal(t, []int{8, 8, 0, 0, 0, 16}, []int{r.Created, r.Delivered, r.Lost, r.Duplicates, r.InvalidSignatures, r.Attempts})
	require.Len(t, r.Merchants, 4)
	for i, want := range []struct {
		prefix   string
		attempts int
		causes   map[delivery.Cause]int
		wait     float64
	}{
		{"fails-twice-", 6, map[delivery.Cause]int{delivery.CauseServerError: 4}, 1000},
		{"overrun-", 4, map[delivery.Cause]int{delivery.CauseRateLimited: 2}, 2000},
		{"hangs-once-", 4, map[delivery.Cause]int{delivery.CauseTimeoutAnswer: 2}, 1000},
		{"healthy-", 2, map[delivery.Cause]int{}, 0},
	} {
		m := r.Merchants[i]
		require.True(t, strings.HasPrefix(m.Merchant, want.prefix), m.Merchant)
		require.Equal(t, []int{2, 2, want.attempts}, []int{m.Created, m.Delivered, m.Attempts}, m.Merchant)
		require.Equal(t, want.causes, m.Causes, m.Merchant)
		if want.wait == 0 {
			require.Nil(t, m.LeastWaitMS)
		} else {
			require.InDelta(t, want.wait, *m.LeastWaitMS, 0.01, m.Merchant)
		}
		require.Positive(t, m.CommitToAckMS.Max)
	}
	require.Contains(t, r.out, "server_error 4")
	require.Contains(t, r.out, "rate_limited: the endpoint asked to slow down; ")
	require.Contains(t, r.out, "8 events created, 8 delivered, 0 lost, 0 duplicates, in 16 attempts (intake batches, kafka kfake)")
	require.Contains(t, r.out, "healthy 2/2 in 2\n", "there is no progress")
	require.Empty(t, r.behaviours)
	require.Empty(t, r.endpoints)

	line, err := json.Marshal(r.Flaky)
	require.NoError(t, err)
	require.Contains(t, string(line), `{"scenario":"flaky","created":8,"delivered":8,"lost":0,"duplicates":0,`)
	require.Contains(t, string(line), `"causes":{"rate_limited":2}`)
}

func TestARetryThatDoesNotWaitAsItWasAskedToFailsTheScenario(t *testing.T) {
	t.Parallel()
	r := runScenario(t, &retrier{impatient: true})
	require.Equal(t, r.Created, r.Delivered)
	require.ErrorContains(t, r.Err(), r.Merchants[1].Merchant+": a second attempt came 1000 ms after the first, and was asked to wait for 2s")
}

func TestWhereSomethingIsLostTheEndpointsStayDisabled(t *testing.T) {
	t.Parallel()
	r := runScenario(t, &retrier{loses: true})
	require.Equal(t, []int{8, 6, 2}, []int{r.Created, r.Delivered, r.Lost})
	require.ErrorContains(t, r.Err(), "2 of 8 webhooks did not arrive")
	require.Empty(t, r.behaviours)
	require.Len(t, r.endpoints, 4)
	for _, each := range r.endpoints {
		require.False(t, each.Enabled)
	}
}

func TestAMerchantThatDidNotMisbehaveFailsTheScenario(t *testing.T) {
	t.Parallel()
	f := Flaky{Merchants: []FlakyMerchant{{
		Merchant: "m", Created: 2, Causes: map[delivery.Cause]int{delivery.CauseServerError: 3}, flaw: flaws()[0],
	}}}
	require.EqualError(t, f.Err(), "m: the ledger has 3 attempts that ended with server_error, not 4")
	f.Merchants[0].Causes[delivery.CauseServerError] = 4
	require.NoError(t, f.Err())
	f.InvalidSignatures = 1
	require.EqualError(t, f.Err(), "1 webhooks were not signed well")
}

func TestAWaitIsBetweenTheFirstTwoAttemptsOfOneWebhook(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)
	attempt := func(event byte, number, began, took int) load.Attempt {
		return load.Attempt{
			EventID: uuid.UUID{event}, Number: number, Began: at.Add(time.Duration(began) * time.Millisecond), Took: time.Duration(took) * time.Millisecond,
		}
	}
	require.Nil(t, leastWait([]load.Attempt{attempt(1, 1, 0, 5), attempt(2, 1, 10, 5)}))
	require.InDelta(t, 995, *leastWait([]load.Attempt{
		attempt(1, 1, 0, 500), attempt(1, 2, 2000, 5), attempt(1, 3, 2010, 5), attempt(2, 1, 2020, 5), attempt(2, 2, 3020, 5), attempt(2, 3, 3030, 5),
	}), 0.01)
}

func TestAnUnknownScenarioNamesTheKnownOnes(t *testing.T) {
	t.Parallel()
	_, err := FindScenario("calm")
	require.EqualError(t, err, `there is no scenario "calm"; there are: `+ScenarioNames())
	require.Contains(t, ScenarioNames(), "flaky")
	for name, scenario := range Scenarios() {
		require.NotEmpty(t, scenario.About, name)
		require.NoError(t, Options{Payments: scenario.Payments}.Validate(), name)
	}
	_, err = runFlaky(t.Context(), Options{Payments: 1001})
	require.ErrorContains(t, err, "1 to 1000 payments, not 1001")
}
