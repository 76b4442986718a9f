package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	ledger "github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	burst := Options{Burst: 10, Publishers: 32, Merchants: 10, BodyBytes: 1024}
	rate := Options{Rate: 100, Duration: 30 * time.Second, Merchants: 10, BodyBytes: 1024}
	require.NoError(t, burst.Validate())
	require.NoError(t, rate.Validate())
	require.Equal(t, 3000, rate.payments())
	for name, change := range map[string]func(o *Options){
		"neither":             func(o *Options) { o.Burst = 0 },
		"both":                func(o *Options) { o.Rate, o.Duration = 1, time.Second },
		"a negative burst":    func(o *Options) { o.Burst = -1 },
		"no publisher":        func(o *Options) { o.Publishers = 0 },
		"no merchant":         func(o *Options) { o.Merchants = 0 },
		"no body":             func(o *Options) { o.BodyBytes = 0 },
		"too large a body":    func(o *Options) { o.BodyBytes = MaxBodyBytes + 1 },
		"a rate for no time":  func(o *Options) { o.Burst, o.Rate = 0, 10 },
		"less than a payment": func(o *Options) { o.Burst, o.Rate, o.Duration = 0, 0.1, time.Second },
		"more than all":       func(o *Options) { o.Hanging, o.Failing = 0.5, 0.5 },
		"none healthy":        func(o *Options) { o.Merchants, o.Hanging = 1, 0.2 },
		"a negative rate":     func(o *Options) { o.Burst, o.Rate, o.Duration = 0, -1, time.Second },
	} {
		o := burst
		change(&o)
		require.Error(t, o.Validate(), name)
	}
}

func TestPaymentBodies(t *testing.T) {
	t.Parallel()
	ids := newMerchantIDs(3)
	require.NotEqual(t, ids, newMerchantIDs(3), "every run has its own")
	for _, size := range []int{1, 1024, MaxBodyBytes} {
		for i, body := range paymentBodies(ids, size) {
			var p struct {
				MerchantID string `json:"merchant_id"`
				Amount     int
				Currency   string
				Metadata   struct{ Padding string }
			}
			require.NoError(t, json.Unmarshal(body, &p))
			require.Equal(t, ids[i], p.MerchantID)
			require.Len(t, p.Metadata.Padding, max(0, (size-envelope)/2))
			require.Less(t, len(p.Metadata.Padding), 16<<10-100, "what payments-api takes")
		}
	}
}

// pipeline stands in for the whole stack: it commits each payment and delivers its webhook at once.
type pipeline struct {
	t         *testing.T
	pool      *pgxpool.Pool
	seen      atomic.Int64
	deliver   func(n int64) int // how often the n-th payment's webhook is sent
	forget    func(n int64) bool
	park      func(n int64) bool // whether the ledger knows of the n-th payment's webhook where it was not accepted
	endpoints sync.Map           // merchant to endpoint
}

type endpoint struct{ id, url, secret string }

func (p *pipeline) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/info" {
		io.WriteString(w, `{"intake":"batches","group":"hookline"}`)
		return
	}
	var in struct {
		MerchantID string          `json:"merchant_id"`
		Metadata   json.RawMessage `json:"metadata"`
	}
	if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var id, eventID, document string
	err := p.pool.QueryRow(r.Context(), `insert into payments (merchant_id, amount, currency, status, metadata)
		values ($1, 1000, 'USD', 'succeeded', $2) returning id`, in.MerchantID, in.Metadata).Scan(&id)
	if err == nil {
		err = p.pool.QueryRow(r.Context(), `select id, payload from domain_events where object_id = $1`, id).Scan(&eventID, &document)
	}
	to, ok := p.endpoints.Load(in.MerchantID)
	if err == nil && !ok {
		var e endpoint
		var sealed string
		sealer := ledger.Sealer{Keys: endpointtest.Keys(p.t)}
		err = p.pool.QueryRow(r.Context(), `select e.id, e.url, s.sealed from delivery.endpoints e
			join delivery.endpoint_secrets s on s.endpoint_id = e.id where e.merchant_id = $1`, in.MerchantID).Scan((*[16]byte)(&sealer.ID), &e.url, &sealed)
		e.id = sealer.ID.String()
		if err == nil {
			e.secret, err = sealer.OpenSecret(sealed)
		}
		p.endpoints.Store(in.MerchantID, e)
		to = e
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	n := p.seen.Add(1)
	body := fmt.Sprintf(`{"event_id":%q,"event_type":"payment.succeeded","object_version":1,"occurred_at":"2026-02-23T12:00:00.100000Z","payment":%s,"snapshot":%s}`,
		eventID, document, document)
	for range p.deliver(n) {
		status := webhook(p.t, to.(endpoint).url, eventID, to.(endpoint).secret, strings.NewReader(body), body)
		if status != http.StatusOK && p.park(n) {
			_, err := p.pool.Exec(r.Context(), `insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state)
				values ($1, $2, 1, $3, 'parked')`, eventID, to.(endpoint).id, in.MerchantID)
			if err != nil {
				p.t.Error(err)
			}
		}
	}
	if p.forget != nil && p.forget(n) {
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusCreated)
}

func once(int64) int { return 1 }

func runAgainst(t *testing.T, p *pipeline, o Options) (Report, *pgxpool.Pool) {
	t.Helper()
	return runWith(t.Context(), t, p, o)
}

func runWith(ctx context.Context, t *testing.T, p *pipeline, o Options) (Report, *pgxpool.Pool) {
	t.Helper()
	db := pgtest.New(t)
	p.t, p.pool = t, db.Pool(t, "")
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	o.API = strings.TrimPrefix(server.URL, "http://")
	o.Worker, o.DSN, o.Keys, o.Kafka = o.API, db.DSN(), endpointtest.Keys(t), "kfake"
	o.Components = []Component{{Name: "stack", PID: os.Getpid()}}
	o.Merchants, o.BodyBytes, o.Endpoints = 3, 1024, endpointtest.NewManager(t, p.pool)
	o.patience = 200 * time.Millisecond
	r, err := Run(ctx, o)
	if ctx.Err() != nil {
		require.ErrorIs(t, err, context.Canceled)
	} else {
		require.NoError(t, err)
	}
	return r, p.pool
}

func TestInterruptedRunLeavesNoEndpoint(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	_, pool := runWith(ctx, t, &pipeline{deliver: func(n int64) int {
		if n == 10 {
			cancel()
		}
		return 1
	}}, Options{Rate: 50, Duration: time.Hour})
	requireNoEndpoint(t, pool)
}

func requireNoEndpoint(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	var endpoints int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from delivery.endpoints").Scan(&endpoints))
	require.Zero(t, endpoints, "it leaves none behind")
}

func TestBurst(t *testing.T) {
	t.Parallel()
	r, pool := runAgainst(t, &pipeline{deliver: once}, Options{Burst: 60, Publishers: 4})
	require.NoError(t, r.Err())
	require.Equal(t, []int{60, 60, 0, 0, 0, 0}, []int{r.Created, r.Delivered, r.Lost, r.Duplicates, r.Errors, r.Unexpected})
	require.Equal(t, []string{"burst", "batches", "kfake"}, []string{r.Mode, r.Intake, r.Kafka})
	require.Positive(t, r.DeliveredPerS)
	require.Positive(t, r.PublishedPerS)
	require.Positive(t, r.CommitToAckMS.P50)
	require.GreaterOrEqual(t, r.CommitToAckMS.Max, r.CommitToAckMS.P50)
	require.InDelta(t, 1024, r.BodyBytes, 100, "webhooks have about the size asked for")
	require.Len(t, r.Processes, 1)
	require.Positive(t, r.Processes[0].PeakRSSMB)
	requireNoEndpoint(t, pool)
}

func TestRate(t *testing.T) {
	t.Parallel()
	var lines atomic.Int64
	r, _ := runAgainst(t, &pipeline{deliver: once}, Options{
		Rate: 50, Duration: 1200 * time.Millisecond, Progress: func(string) { lines.Add(1) },
	})
	require.NoError(t, r.Err())
	require.Equal(t, []int{60, 60}, []int{r.Created, r.Delivered})
	require.Equal(t, "rate", r.Mode)
	require.InDelta(t, 50, r.OfferedPerS, 0)
	require.GreaterOrEqual(t, r.Seconds, 1.1, "the last is due 1.18 s after the first, whose commit may take a moment")
	require.Positive(t, lines.Load())
}

func TestLossIsFoundBehindADuplicate(t *testing.T) {
	t.Parallel()
	r, _ := runAgainst(t, &pipeline{deliver: func(n int64) int {
		switch n {
		case 3:
			return 0
		case 4:
			return 2
		default:
			return 1
		}
	}}, Options{Burst: 10, Publishers: 1})
	require.EqualError(t, r.Err(), "1 of 10 events were not delivered")
	require.Equal(t, []int{10, 9, 1, 1}, []int{r.Created, r.Delivered, r.Lost, r.Duplicates})
	require.Len(t, r.LostIDs, 1)
}

func TestWhatWasCommittedCountsAlsoWhereTheAnswerWasLost(t *testing.T) {
	t.Parallel()
	r, _ := runAgainst(t, &pipeline{
		deliver: func(n int64) int {
			if n == 5 {
				return 0
			}
			return 1
		},
		forget: func(n int64) bool { return n == 5 },
	}, Options{Burst: 10, Publishers: 1})
	require.Equal(t, 1, r.Errors)
	require.Equal(t, []int{10, 9, 1}, []int{r.Created, r.Delivered, r.Lost})
}

func TestRunSaysWhatIsNotThere(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(server.Close)
	_, err := Run(t.Context(), Options{
		Worker: strings.TrimPrefix(server.URL, "http://"), Burst: 1, Publishers: 1, Merchants: 1, BodyBytes: 1,
	})
	require.ErrorContains(t, err, "webhook-worker")
}

func TestWhatAnEndpointDoesNotTakeHasToBeInTheLedger(t *testing.T) {
	t.Parallel()
	always := func(int64) bool { return true }
	r, pool := runAgainst(t, &pipeline{deliver: once, park: always}, Options{Burst: 30, Publishers: 3, Failing: 0.3})
	require.NoError(t, r.Err())
	require.Equal(t, []int{20, 20, 0}, []int{r.Created, r.Delivered, r.Lost}, "of the healthy ones")
	require.Len(t, r.Troubled, 1)
	got := r.Troubled[0]
	require.Equal(t, []int{1, 10, 0, 10, 10}, []int{got.Endpoints, got.Created, got.Unaccounted, got.Attempts, got.MostOfOne})
	require.Equal(t, map[delivery.State]int{delivery.Parked: 10}, got.States)
	require.Equal(t, map[delivery.Circuit]int{delivery.CircuitClosed: 1}, got.Circuits)
	requireNoEndpoint(t, pool)
	var open int
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*) from delivery.deliveries where ended_at is null").Scan(&open))
	require.Zero(t, open, "nothing waits for an endpoint that is gone")

	r, _ = runAgainst(t, &pipeline{deliver: once, park: func(n int64) bool { return n > 15 }}, Options{Burst: 30, Publishers: 1, Failing: 0.3})
	require.EqualError(t, r.Err(), "5 events of endpoints that hang or fail are not in the ledger")
}
