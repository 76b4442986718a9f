package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/payment"
	platformconfig "github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

func TestMain(m *testing.M) { pgtest.Main(m) }

// api is the whole service on a database of its own.
type api struct {
	url string
	all *pgxpool.Pool // a superuser's eyes
}

// addrWriter finds the address in the line that the server logs when it listens.
type addrWriter chan string

func (w addrWriter) Write(line []byte) (int, error) {
	var entry struct{ Msg, Addr string }
	if json.Unmarshal(line, &entry) == nil && entry.Msg == "listening" {
		w <- entry.Addr
	}
	return len(line), nil
}

func startAPI(t *testing.T, settings ...string) api {
	t.Helper()
	db := pgtest.New(t)
	cfg, err := platformconfig.Load(defaults(), append([]string{
		"DATABASE_URL=" + db.RoleDSN(migrations.RoleAPI), "LISTEN_ADDR=127.0.0.1:0", "DB_POOL_SIZE=8",
	}, settings...))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	addr, done := make(addrWriter, 1), make(chan error, 1)
	go func() { done <- run(ctx, cfg, slog.New(slog.NewJSONHandler(addr, nil))) }()
	a := api{all: db.Pool(t, "")}
	select {
	case a.url = <-addr:
	case err := <-done:
		require.NoError(t, err, "starting")
	}
	a.url = "http://" + a.url
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	return a
}

// reply is an answer that was read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

func (a api) call(t *testing.T, method, path, body string, header ...string) reply {
	t.Helper()
	r, err := a.try(t.Context(), method, path, body, header...)
	require.NoError(t, err)
	return r
}

func (a api) try(ctx context.Context, method, path, body string, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(content)}, err
}

func (a api) count(t *testing.T, query string, args ...any) int {
	t.Helper()
	var n int
	require.NoError(t, a.all.QueryRow(t.Context(), "select count(*) from "+query, args...).Scan(&n))
	return n
}

func TestAPaymentAndItsLife(t *testing.T) {
	t.Parallel()
	a := startAPI(t)
	created := a.call(t, "POST", "/payments", `{"amount":1000,"currency":"USD"}`, "traceparent", trace)
	require.Equal(t, 201, created.status, created.body)
	var p payment.Payment
	require.NoError(t, json.Unmarshal([]byte(created.body), &p))
	require.Equal(t, "/payments/"+p.ID.String(), created.header.Get("Location"))
	require.Equal(t, payment.DefaultMerchantID, p.MerchantID)
	require.Equal(t, payment.StatusSucceeded, p.Status)
	require.JSONEq(t, `{}`, string(p.Metadata))

	got := a.call(t, "GET", created.header.Get("Location"), "")
	require.Equal(t, 200, got.status)
	require.Equal(t, created.body, got.body)

	refunded := a.call(t, "PATCH", created.header.Get("Location"), `{"status":"refunded"}`)
	require.Equal(t, 200, refunded.status, refunded.body)
	require.Contains(t, refunded.body, `"version": 2`)
	require.Equal(t, refunded.body, a.call(t, "PATCH", created.header.Get("Location"), `{"status":"refunded"}`).body)
	require.Equal(t, refunded.body, a.call(t, "PATCH", created.header.Get("Location"), `{"status":"refunded","if_version":1}`).body)
	require.Equal(t, 409, a.call(t, "PATCH", created.header.Get("Location"), `{"status":"pending"}`).status)
	require.Contains(t, a.call(t, "PATCH", created.header.Get("Location"), `{"status":"pending","if_version":1}`).body, "at version 2, not 1")
	require.Equal(t, 404, a.call(t, "GET", "/payments/01890a5d-ac96-774b-bcce-b302099a8057", "").status)
	require.Equal(t, 404, a.call(t, "PATCH", "/payments/01890a5d-ac96-774b-bcce-b302099a8057", `{"status":"failed"}`).status)

	require.Equal(t, 2, a.count(t, "domain_events where object_id = $1", p.ID.String()))
	require.Equal(t, 1, a.count(t, "domain_events where traceparent = $1 and event_type = 'payment.succeeded'", trace))
}

func TestAnEventThatIsNotAboutAPayment(t *testing.T) {
	t.Parallel()
	a := startAPI(t)
	accepted := a.call(t, "POST", "/events", `{"event_type":"order.shipped","data":{"number":7}}`, "traceparent", trace)
	require.Equal(t, 202, accepted.status, accepted.body)
	var body struct{ Status, EventID string }
	require.NoError(t, json.Unmarshal(bytes.ReplaceAll([]byte(accepted.body), []byte("event_id"), []byte("EventID")), &body))
	require.Equal(t, "accepted", body.Status)
	require.Equal(t, 1, a.count(t, `domain_events where id = $1::text::uuid and traceparent = $2 and payload = '{"number": 7}'`, body.EventID, trace))

	const key = "event-key"
	first := a.call(t, "POST", "/events", `{"event_type":"order.shipped","data":{"number":8}}`, "Idempotency-Key", key)
	again := a.call(t, "POST", "/events", `{"data":{"number":8},"event_type":"order.shipped"}`, "Idempotency-Key", key)
	require.Equal(t, 202, first.status, first.body)
	require.Equal(t, 202, again.status, again.body)
	require.Equal(t, first.body, again.body)
	require.Equal(t, "true", again.header.Get("Idempotent-Replayed"))
	require.Equal(t, 409, a.call(t, "POST", "/payments", `{"amount":1,"currency":"USD"}`, "Idempotency-Key", key).status)
	require.Equal(t, 2, a.count(t, "domain_events"))
}

func TestOneKeyIsOnePayment(t *testing.T) {
	t.Parallel()
	a := startAPI(t)
	const body, key = `{"amount":1000,"currency":"USD","metadata":{"a":1,"b":"é"}}`, "k-1"
	const requests = 6
	var replies [requests]reply
	var errs [requests]error
	var wg sync.WaitGroup
	for i := range requests {
		wg.Go(func() { replies[i], errs[i] = a.try(t.Context(), "POST", "/payments", body, "Idempotency-Key", key) })
	}
	wg.Wait()
	replayed := 0
	for i, r := range replies {
		require.NoError(t, errs[i])
		require.Equal(t, 201, r.status, r.body)
		require.Equal(t, replies[0].body, r.body)
		require.Equal(t, replies[0].header.Get("Location"), r.header.Get("Location"))
		if r.header.Get("Idempotent-Replayed") == "true" {
			replayed++
		}
	}
	require.Equal(t, requests-1, replayed)

	require.Equal(t, 200, a.call(t, "PATCH", replies[0].header.Get("Location"), `{"status":"refunded"}`).status)
	late := a.call(t, "POST", "/payments", `{ "metadata": {"b":"\u00e9", "a":1}, "currency":"USD", "amount":1000, "status":"succeeded"}`, "Idempotency-Key", key)
	require.Equal(t, replies[0].body, late.body, "the answer of then, not the payment of now")
	other := a.call(t, "POST", "/payments", `{"amount":1001,"currency":"USD"}`, "Idempotency-Key", key)
	require.Equal(t, 409, other.status)
	require.Equal(t, "application/problem+json", other.header.Get("Content-Type"))

	require.Equal(t, 1, a.count(t, "payments"))
	require.Equal(t, 2, a.count(t, "domain_events"))
}

func TestBadInputWritesNothing(t *testing.T) {
	t.Parallel()
	a := startAPI(t)
	for request, status := range map[string]int{
		"POST /payments {": 400,
		`POST /payments {"amount":10.5,"currency":"USD"}`:                               422,
		`POST /payments {"amount":1,"currency":"USD","metadata":{"a":"\u0000"}}`:        422,
		`POST /payments {"amount":1,"currency":"USD","metadata":{"a":"\udead"}}`:        422,
		`POST /payments {"amount":1,"currency":"USD","metadata":{"a":1e-400}}`:          422,
		`POST /events {"event_type":"payment.succeeded","data":{}}`:                     422,
		`POST /events {"event_type":"a.b","data":{"\u0000":1}}`:                         422,
		`PATCH /payments/7 {"status":"failed"}`:                                         400,
		`PATCH /payments/01890a5d-ac96-774b-bcce-b302099a8057 {"status":"gone"}`:        422,
		`POST /payments {"amount":1,"currency":"` + strings.Repeat("D", 128<<10) + `"}`: 413,
	} {
		method, rest, _ := strings.Cut(request, " ")
		path, body, _ := strings.Cut(rest, " ")
		got := a.call(t, method, path, body, "Idempotency-Key", "k")
		require.Equal(t, status, got.status, "%.90s: %s", request, got.body)
		require.Equal(t, "application/problem+json", got.header.Get("Content-Type"))
	}
	require.Zero(t, a.count(t, "payments")+a.count(t, "domain_events")+a.count(t, "idempotency_keys"))
}

func TestWhatTheAPITakesTheDatabaseTakes(t *testing.T) {
	t.Parallel()
	a := startAPI(t)
	deep := strings.Repeat(`{"a":`, 31) + `[1e307,1e-300,-0.0,"\ud83d\ude00\u001f\u007f\"\\/"]` + strings.Repeat(`}`, 31)
	for _, metadata := range []string{deep, `{"":{}}`, `{"a":1,"a":2}`, `{"long":"` + strings.Repeat("é", 8000) + `"}`} {
		got := a.call(t, "POST", "/payments", `{"amount":9007199254740991,"currency":"KWD","metadata":`+metadata+`}`, "Idempotency-Key", metadata[:min(9, len(metadata))])
		require.Equal(t, 201, got.status, got.body)
	}
	for _, status := range payment.Statuses() {
		got := a.call(t, "POST", "/payments", `{"amount":1,"currency":"EUR","status":"`+string(status)+`"}`)
		require.Equal(t, 201, got.status, got.body)
	}
}

func TestReadinessWaitsForASlot(t *testing.T) {
	t.Parallel()
	a := startAPI(t)
	got := a.call(t, "GET", "/readyz", "")
	require.Equal(t, 503, got.status)
	require.Contains(t, got.body, "no logical replication slot")
	require.Equal(t, 200, a.call(t, "GET", "/healthz", "").status)

	_, err := a.all.Exec(t.Context(), "select pg_create_logical_replication_slot(current_database()::name, 'pgoutput')")
	require.NoError(t, err)
	t.Cleanup(func() { // a slot keeps its database from being dropped
		_, err := a.all.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot(current_database()::name)")
		require.NoError(t, err)
	})
	require.Equal(t, 200, a.call(t, "GET", "/readyz", "").status)

	without := startAPI(t, "REQUIRE_SLOT=false")
	require.Equal(t, 200, without.call(t, "GET", "/readyz", "").status)
}

func TestAnOutageIsA503AndPasses(t *testing.T) {
	t.Parallel()
	a := startAPI(t, "REQUIRE_SLOT=false")
	const body = `{"amount":1000,"currency":"USD"}`
	require.Equal(t, 201, a.call(t, "POST", "/payments", body).status)
	database := func(statement string) {
		_, err := a.all.Exec(t.Context(), `do $$ begin execute format('`+statement+`', current_database()); end $$`)
		require.NoError(t, err)
	}
	database("alter database %I connection limit 0") // superusers are exempt
	_, err := a.all.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and usename = $1", migrations.RoleAPI)
	require.NoError(t, err)
	for _, r := range []reply{
		a.call(t, "POST", "/payments", body, "Idempotency-Key", "k"),
		a.call(t, "POST", "/events", `{"event_type":"a.b","data":{}}`),
		a.call(t, "GET", "/payments/01890a5d-ac96-774b-bcce-b302099a8057", ""),
		a.call(t, "PATCH", "/payments/01890a5d-ac96-774b-bcce-b302099a8057", `{"status":"failed"}`),
	} {
		require.Equal(t, 503, r.status, r.body)
		require.Equal(t, "application/problem+json", r.header.Get("Content-Type"))
		require.NotEmpty(t, r.header.Get("Retry-After"))
	}
	require.Equal(t, 503, a.call(t, "GET", "/readyz", "").status)
	require.Equal(t, 1, a.count(t, "payments"))

	database("alter database %I connection limit -1")
	require.Equal(t, 201, a.call(t, "POST", "/payments", body, "Idempotency-Key", "k").status)
	require.Equal(t, 2, a.count(t, "payments"))
	require.Equal(t, 200, a.call(t, "GET", "/readyz", "").status)
}

func TestCallbacksNeedASignatureAndNoToken(t *testing.T) {
	t.Parallel()
	restate := httptest.NewServer(http.NotFoundHandler())
	restate.Close() // there is none
	a := startAPI(t, "REQUIRE_SLOT=false", "API_TOKEN=t0ken", "CALLBACK_SECRETS=stripe=whsec_old,stripe=whsec_new", "RESTATE_INGRESS_URL="+restate.URL)
	const body = `{"id":"evt_1","type":"charge.refunded","created":1770000000}`
	signature := callback.StripeSignature("whsec_new", time.Now(), []byte(body))

	got := a.call(t, "POST", "/callbacks/stripe", body, "Stripe-Signature", signature)
	require.Equal(t, 503, got.status, got.body)
	require.Equal(t, "5", got.header.Get("Retry-After"))
	require.Equal(t, "application/problem+json", got.header.Get("Content-Type"))
	require.Equal(t, 401, a.call(t, "POST", "/callbacks/stripe", body+" ", "Stripe-Signature", signature).status)
	require.Equal(t, 404, a.call(t, "POST", "/callbacks/acme", body, "Stripe-Signature", signature).status)
	counts := a.call(t, "GET", "/metrics", "").body
	require.Contains(t, counts, `hookline_callbacks_received_total{outcome="unavailable",provider="stripe"} 1`)
	require.Contains(t, counts, `hookline_callbacks_received_total{outcome="bad_signature",provider="stripe"} 1`)

	const history = "/payments/01890a5d-ac96-774b-bcce-b302099a8057/history"
	require.Equal(t, 401, a.call(t, "GET", history, "").status, "it is not the providers' to read")
	require.Equal(t, 503, a.call(t, "GET", history, "", "Authorization", "Bearer t0ken").status)
}

func TestATableThatIsLockedIsA503InTime(t *testing.T) {
	t.Parallel()
	a := startAPI(t, "DB_TIMEOUT=50ms")
	tx, err := a.all.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(t.Context())) })
	_, err = tx.Exec(t.Context(), "lock table payments in access exclusive mode")
	require.NoError(t, err)
	start := time.Now()
	got := a.call(t, "POST", "/payments", `{"amount":1000,"currency":"USD"}`)
	require.Equal(t, 503, got.status, got.body)
	require.Less(t, time.Since(start), 10*time.Second)
}

func TestATakenPortIsNamed(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	cfg := defaults()
	cfg.ListenAddr, cfg.DatabaseURL = l.Addr().String(), "postgres://u@127.0.0.1:1/none"
	err = run(t.Context(), cfg, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "LISTEN_ADDR")
}

func TestSettings(t *testing.T) {
	t.Parallel()
	const dsn = "DATABASE_URL=postgres://u:s3cret@127.0.0.1/db"
	for name, test := range map[string]struct {
		environ []string
		want    string
	}{
		"the least":            {[]string{dsn}, ""},
		"no database":          {nil, "DATABASE_URL"},
		"not a database":       {[]string{"DATABASE_URL=http://u:s3cret@h"}, "DATABASE_URL: want postgres://"},
		"no connections":       {[]string{dsn, "DB_POOL_SIZE=0"}, "DB_POOL_SIZE"},
		"no time":              {[]string{dsn, "DB_TIMEOUT=0s"}, "DB_TIMEOUT"},
		"beyond the request":   {[]string{dsn, "DB_TIMEOUT=1m"}, "DB_TIMEOUT"},
		"no time to connect":   {[]string{dsn, "DB_CONNECT_TIMEOUT=-1s"}, "DB_CONNECT_TIMEOUT"},
		"bad callbacks":        {[]string{dsn, "CALLBACK_SECRETS=acme=s3cret"}, "CALLBACK_SECRETS"},
		"no URL of Restate":    {[]string{dsn, "RESTATE_INGRESS_URL=restate:8080"}, "RESTATE_INGRESS_URL"},
		"a network unguarded":  {[]string{dsn, "LISTEN_ADDR=0.0.0.0:3001"}, "LISTEN_ADDR"},
		"a network, with care": {[]string{dsn, "LISTEN_ADDR=0.0.0.0:3001", "ALLOW_UNAUTHENTICATED=true"}, ""},
	} {
		cfg, err := platformconfig.Load(defaults(), test.environ)
		if test.want != "" {
			require.ErrorContains(t, err, test.want, name)
			require.NotContains(t, err.Error(), "s3cret", name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, 32, cfg.DBPoolSize)
		require.Equal(t, 5*time.Second, cfg.DBTimeout)
		require.True(t, cfg.RequireSlot)
		require.Empty(t, cfg.CallbackSecrets.Names())
		require.NotContains(t, platformconfig.Attrs(cfg)["DATABASE_URL"], "s3cret")
	}
	require.Equal(t, "127.0.0.1:3001", defaults().ListenAddr)
}
