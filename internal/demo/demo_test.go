package demo

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/simulator"
	svixclient "github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// pipeline stands in for the stack between the API and the merchant, which is the real simulator.
type pipeline struct {
	t        *testing.T
	pool     *pgxpool.Pool
	merchant string // URL
	sent     atomic.Int64
	times    func(n int64) int // how often the n-th event's webhook is sent
	secret   string
	// svix, where there is one, is handed everything over instead, and the ledger knows what came of it.
	svix *svixclient.Client
}

func (p *pipeline) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var id, eventID string
	status := http.StatusCreated
	var err error
	switch {
	case r.URL.Path == "/info":
		io.WriteString(w, `{"intake":"batches","group":"hookline"}`)
		return
	case r.Method == http.MethodPatch:
		status = http.StatusOK
		err = p.pool.QueryRow(r.Context(), `update payments set status = 'refunded' where id = $1 returning id`,
			strings.TrimPrefix(r.URL.Path, "/payments/")).Scan(&id)
	default:
		var in struct {
			MerchantID string `json:"merchant_id"`
		}
		if err = json.NewDecoder(r.Body).Decode(&in); err == nil {
			err = p.pool.QueryRow(r.Context(), `insert into payments (merchant_id, amount, currency, status)
				values ($1, 1000, 'USD', 'succeeded') returning id`, in.MerchantID).Scan(&id)
		}
	}
	if err == nil {
		err = p.pool.QueryRow(r.Context(), `select id from domain_events where object_id = $1 order by object_version desc limit 1`, id).Scan(&eventID)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	for range p.times(p.sent.Add(1)) {
		if p.svix != nil {
			p.handOver(eventID)
		} else {
			p.send(eventID)
		}
	}
	w.WriteHeader(status)
	io.WriteString(w, `{"id":"`+id+`"}`)
}

func (p *pipeline) send(eventID string) {
	signer, err := svix.NewWebhook(p.secret)
	require.NoError(p.t, err)
	now := time.Now()
	signature, err := signer.Sign(eventID, now, []byte("{}"))
	require.NoError(p.t, err)
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, p.merchant+"/webhooks", strings.NewReader("{}"))
	require.NoError(p.t, err)
	req.Header.Set("Webhook-Id", eventID)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	res, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	require.NoError(p.t, err)
	require.NoError(p.t, res.Body.Close())
}

func (p *pipeline) handOver(eventID string) {
	result := p.svix.HandOver(p.t.Context(), "joes-tshirt-shop", svixclient.Message{
		EventID: uuid.MustParse(eventID), EventType: "payment.succeeded", Body: []byte(`{"event_id":"` + eventID + `"}`),
	}, func() error { return nil })
	require.Equal(p.t, svixclient.Accepted, result.Class, "%+v", result)
	_, err := p.pool.Exec(p.t.Context(), `
		with planned as (
			insert into delivery.plans (event_id, txid, event_type, object_type, object_id, object_version, merchant_id, route, planned_by)
			values ($1, 1, 'payment.succeeded', 'payment', 'p', 1, 'joes-tshirt-shop', 'svix', 'i'))
		insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state, ended_at)
		values ($1, $2, 1, 'joes-tshirt-shop', 'succeeded', now())`, eventID, [16]byte(delivery.SvixEndpoint))
	require.NoError(p.t, err)
}

func runAgainst(t *testing.T, p *pipeline, o Options) (Result, string) {
	t.Helper()
	return runOn(t, pgtest.New(t), p, o)
}

func runOn(t *testing.T, db pgtest.Database, p *pipeline, o Options) (Result, string) {
	t.Helper()
	merchant, err := simulator.New(t.Context(), simulator.Options{
		Secrets: []string{secret}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	r := chi.NewRouter()
	merchant.Routes(r)
	merchantServer := httptest.NewServer(r)
	t.Cleanup(merchantServer.Close)
	p.t, p.pool, p.merchant = t, db.Pool(t, ""), merchantServer.URL
	if p.secret == "" {
		p.secret = secret
	}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)

	var out bytes.Buffer
	o.API, o.Merchant = strings.TrimPrefix(server.URL, "http://"), strings.TrimPrefix(merchantServer.URL, "http://")
	o.Worker, o.DSN, o.Kafka, o.MerchantID, o.Out = o.API, db.DSN(), "kfake", "joes-tshirt-shop", &out
	o.patience = 300 * time.Millisecond
	result, err := Run(t.Context(), o)
	require.NoError(t, err)
	result.Print(&out)
	return result, out.String()
}

func once(int64) int { return 1 }

func TestEverythingArrives(t *testing.T) {
	t.Parallel()
	r, out := runAgainst(t, &pipeline{times: once}, Options{Payments: 8, Refunds: 2})
	require.NoError(t, r.Err())
	require.Equal(t, []int{10, 10, 0, 0, 0, 8, 2},
		[]int{r.Created, r.Delivered, r.Lost, r.Duplicates, r.InvalidSignatures, r.Payments, r.Refunds})
	require.Equal(t, []string{"batches", "kfake"}, []string{r.Intake, r.Kafka})
	require.Positive(t, r.CommitToAckMS.P50)
	require.Equal(t, 8, strings.Count(out, "payment.succeeded"))
	require.Equal(t, 2, strings.Count(out, "payment.refunded"))
	require.Contains(t, out, "8 payments and 2 refunds: 10 events created, 10 delivered, 0 lost, 0 duplicates, 0 invalid signatures")
}

func TestManyAreNotListed(t *testing.T) {
	t.Parallel()
	r, out := runAgainst(t, &pipeline{times: once}, Options{Payments: 60})
	require.NoError(t, r.Err())
	require.Equal(t, []int{60, 60}, []int{r.Created, r.Delivered})
	require.NotContains(t, out, "payment.succeeded")
	require.Contains(t, out, "60 of 60 webhooks have arrived")
}

func TestLossIsFoundBehindADuplicate(t *testing.T) {
	t.Parallel()
	r, out := runAgainst(t, &pipeline{times: func(n int64) int {
		switch n {
		case 2:
			return 0
		case 3:
			return 2
		default:
			return 1
		}
	}}, Options{Payments: 5})
	require.EqualError(t, r.Err(), "1 of 5 webhooks did not arrive")
	require.Equal(t, []int{5, 4, 1, 1}, []int{r.Created, r.Delivered, r.Lost, r.Duplicates})
	require.Contains(t, out, "5 events created, 4 delivered, 1 lost, 1 duplicates")
}

func TestBadSignatureIsFound(t *testing.T) {
	t.Parallel()
	r, _ := runAgainst(t, &pipeline{times: once, secret: "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}, Options{Payments: 1})
	require.Equal(t, 1, r.InvalidSignatures)
	require.Equal(t, 1, r.Lost)
	r.Lost = 0
	require.EqualError(t, r.Err(), "1 webhooks were not signed well")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	require.NoError(t, Options{Payments: 20, Refunds: 20}.Validate())
	for _, o := range []Options{{}, {Payments: -1}, {Payments: 20_001}, {Payments: 5, Refunds: 6}, {Payments: 5, Refunds: -1}} {
		require.Error(t, o.Validate())
		_, err := Run(t.Context(), o)
		require.Error(t, err)
	}
}

func TestAPIThatRefuses(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	merchant := chi.NewRouter()
	merchant.Get("/stats", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) })
	merchant.Get("/behaviour", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"behaviours":[{"hang":true}]}`) })
	merchant.Get("/info", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{"intake":"batches","group":"g"}`) })
	merchant.Post("/seen", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, `{}`) })
	merchant.Post("/payments", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "closed today", http.StatusServiceUnavailable)
	})
	server := httptest.NewServer(merchant)
	t.Cleanup(server.Close)
	addr := strings.TrimPrefix(server.URL, "http://")
	var out bytes.Buffer
	_, err := Run(t.Context(), Options{API: addr, Worker: addr, Merchant: addr, DSN: db.DSN(), Payments: 3, Out: &out})
	require.ErrorContains(t, err, "closed today")
	require.Contains(t, out.String(), `told to misbehave: {"hang":true}`)
}

func TestResultAsJSON(t *testing.T) {
	t.Parallel()
	line, err := json.Marshal(Result{
		Created: 200, Delivered: 200, CommitToAckMS: load.Percentiles{P50: 5.1, P95: 8, P99: 12.25, Max: 20}, Payments: 200,
		Intake: "batches", Kafka: "kfake", Addresses: map[string]string{"merchant": "http://127.0.0.1:4001/stats"},
	})
	require.NoError(t, err)
	require.Equal(t, `{"created":200,"delivered":200,"lost":0,"duplicates":0,"invalid_signatures":0,`+
		`"commit_to_ack_ms":{"p50":5.1,"p95":8,"p99":12.25,"max":20},"payments":200,"refunds":0,"intake":"batches","kafka":"kfake",`+
		`"addresses":{"merchant":"http://127.0.0.1:4001/stats"}}`, string(line))
}
