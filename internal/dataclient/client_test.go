package dataclient_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/dataclient"
	"github.com/hookline/hookline/internal/dataservice"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const token = "let-me-in"

// service is the real data-service upon a database of its own.
type service struct {
	base  string
	admin *pgxpool.Pool
	asked *atomic.Int64       // payload statements so far
	after func(statement int) // called behind each of them
}

// watched counts what reaches the database.
type watched struct {
	*postgres.EventStore
	service *service
}

func (w watched) Payloads(ctx context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	answers, err := w.EventStore.Payloads(ctx, asked)
	if n := w.service.asked.Add(1); w.service.after != nil {
		w.service.after(int(n))
	}
	return answers, err
}

func start(t testing.TB) *service {
	t.Helper()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleReader), postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	s := &service{admin: db.Pool(t, ""), asked: &atomic.Int64{}}
	registry := prometheus.NewRegistry()
	data := dataservice.New(t.Context(), dataservice.Options{
		Store: watched{postgres.NewEventStore(pool), s}, Log: slog.New(slog.DiscardHandler), Registry: registry,
		WaitForVisible: time.Minute, // the test ends it
	})
	server, err := httpserver.Listen(t.Context(), httpserver.Options{
		Config: httpserver.Config{ListenAddr: "127.0.0.1:0", APIToken: token}, Log: slog.New(slog.DiscardHandler),
		Registry: registry, Routes: data.Routes,
	})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	s.base = "http://" + server.Addr()
	return s
}

func newClient(t testing.TB, base, token string) *dataclient.Client {
	t.Helper()
	client, err := dataclient.New(base, token, dataclient.Options{Timeout: 20 * time.Second})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

func exec(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), statement, args...)
	require.NoError(t, err)
}

// requests asks for every event there is, oldest first.
func requests(t testing.TB, pool *pgxpool.Pool) []event.PayloadRequest {
	t.Helper()
	rows, err := pool.Query(t.Context(), "select id, txid, object_version from domain_events order by sequence")
	require.NoError(t, err)
	defer rows.Close()
	var asked []event.PayloadRequest
	for rows.Next() {
		var each event.PayloadRequest
		require.NoError(t, rows.Scan(&each.EventID, &each.TxID, &each.MinVersion))
		asked = append(asked, each)
	}
	require.NoError(t, rows.Err())
	return asked
}

const insertPayment = "insert into payments (merchant_id, amount, currency, status) values ('m', 5, 'EUR', 'succeeded')"

func TestPayloadsOverTheWire(t *testing.T) {
	t.Parallel()
	s := start(t)
	exec(t, s.admin, insertPayment)
	exec(t, s.admin, "update payments set status = 'refunded'")
	exec(t, s.admin, `select append_event('invoice.sent', 'm', '{"n": 1.10}', null)`)
	client := newClient(t, s.base, token)

	got, err := client.Payloads(t.Context(), requests(t, s.admin))
	require.NoError(t, err)
	require.Len(t, got, 3)
	for i, want := range []struct{ kind, snapshot, payment string }{
		{"payment.succeeded", "succeeded", "refunded"},
		{"payment.refunded", "refunded", "refunded"},
		{"invoice.sent", "", ""},
	} {
		require.Equal(t, event.Visible, got[i].Visibility)
		require.Equal(t, want.kind, got[i].Type)
		require.Equal(t, want.snapshot, status(t, got[i].Snapshot))
		require.Equal(t, want.payment, status(t, got[i].Payment))
		_, err := time.Parse("2006-01-02T15:04:05.000000Z", got[i].OccurredAt)
		require.NoError(t, err)
	}
	require.Equal(t, `{"n": 1.10}`, string(got[2].Snapshot), "as stored")
	require.Nil(t, got[2].Payment)

	got, err = client.Payloads(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, got)
}

func status(t *testing.T, document json.RawMessage) string {
	t.Helper()
	if document == nil {
		return ""
	}
	var read struct{ Status string }
	require.NoError(t, json.Unmarshal(document, &read))
	return read.Status
}

// A record that outran its row: the row appears between the first statement and the second.
func TestPayloadsWaitForARowThatItsRecordOutran(t *testing.T) {
	t.Parallel()
	s := start(t)
	tx, err := s.admin.Begin(t.Context())
	require.NoError(t, err)
	var asked event.PayloadRequest
	_, err = tx.Exec(t.Context(), insertPayment)
	require.NoError(t, err)
	require.NoError(t, tx.QueryRow(t.Context(), "select id, txid, 1 from domain_events").Scan(&asked.EventID, &asked.TxID, &asked.MinVersion))
	committed := make(chan error, 1)
	s.after = func(statement int) {
		if statement == 1 {
			committed <- tx.Commit(context.WithoutCancel(t.Context()))
		}
	}
	got, err := newClient(t, s.base, token).Payloads(t.Context(), []event.PayloadRequest{asked})
	require.NoError(t, err)
	require.NoError(t, <-committed)
	require.Equal(t, event.Visible, got[0].Visibility)
	require.EqualValues(t, 2, s.asked.Load())
}

func TestPaymentOverTheWire(t *testing.T) {
	t.Parallel()
	s := start(t)
	var id uuid.UUID
	require.NoError(t, s.admin.QueryRow(t.Context(), insertPayment+" returning id").Scan(&id))
	client := newClient(t, s.base+"/", token)
	document, err := client.Payment(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, "succeeded", status(t, document))
	_, err = client.Payment(t.Context(), uuid.New())
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
	require.ErrorContains(t, err, "there is no payment")
}

func TestEventsOverTheWire(t *testing.T) {
	t.Parallel()
	s := start(t)
	for range 3 {
		exec(t, s.admin, insertPayment)
	}
	open, err := s.admin.Begin(t.Context())
	require.NoError(t, err)
	_, err = open.Exec(t.Context(), insertPayment)
	require.NoError(t, err)
	exec(t, s.admin, insertPayment)

	client := newClient(t, s.base, token)
	var seen []event.Ref
	cursor := ""
	for len(seen) < 3 { // a transaction of another test holds the feed back for a moment
		page, err := client.Events(t.Context(), cursor, 2, false)
		require.NoError(t, err)
		require.Equal(t, page.Next, page.Last)
		seen, cursor = append(seen, page.Events...), page.Next
	}
	require.Len(t, seen, 3, "not what is above the open transaction")

	page, err := client.Events(t.Context(), cursor, 0, true)
	require.NoError(t, err)
	require.Len(t, page.Events, 1)
	require.Equal(t, cursor, page.Next)
	require.NotEqual(t, cursor, page.Last)
	require.Greater(t, page.Events[0].TxID, page.Xmin)
	require.Len(t, page.Timeline, 8)
	require.NotEmpty(t, page.System)
	require.NoError(t, open.Rollback(t.Context()))

	_, err = client.Events(t.Context(), "yesterday", 1, false)
	require.Equal(t, fault.Invalid, fault.ClassOf(err))
	require.ErrorContains(t, err, "is not a cursor of this feed")
}

func TestWhatDataServiceRefusesIsPermanent(t *testing.T) {
	t.Parallel()
	s := start(t)
	client := newClient(t, s.base, token)
	for name, asked := range map[string][]event.PayloadRequest{
		"too many": make([]event.PayloadRequest, dataservice.MaxPayloads+1),
		"no id":    {{TxID: 1}},
	} {
		_, err := client.Payloads(t.Context(), asked)
		require.Equal(t, fault.Invalid, fault.ClassOf(err), name)
		require.ErrorContains(t, err, "422", name)
	}
	require.Zero(t, s.asked.Load())
}

func TestWhatSaysNothingAboutAnEventIsAnOutage(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	for name, answer := range map[string]http.HandlerFunc{
		"500": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) },
		"503 as a problem": func(w http.ResponseWriter, _ *http.Request) {
			httpserver.WriteProblem(w, httpserver.Problem{Status: 503, Detail: "down"})
		},
		"401": func(w http.ResponseWriter, _ *http.Request) {
			httpserver.WriteProblem(w, httpserver.Problem{Status: 401, Detail: "token"})
		},
		"429": func(w http.ResponseWriter, _ *http.Request) {
			httpserver.WriteProblem(w, httpserver.Problem{Status: 429, Detail: "later"})
		},
		"another service": http.NotFound,
		"404 as a problem": func(w http.ResponseWriter, _ *http.Request) {
			httpserver.WriteProblem(w, httpserver.Problem{Status: 404, Detail: "nothing"})
		},
		"422 of a proxy": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnprocessableEntity) },
		"a redirect":     func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
		"no JSON":        func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") },
		"empty":          func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) },
		"too few":        func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"events":[]}`) },
		"another event": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"events":[{"event_id":"%s"}]}`, uuid.New())
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, `{"events":[`)
		},
		"hung up": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		server := httptest.NewServer(answer)
		t.Cleanup(server.Close)
		client := newClient(t, server.URL, "")
		_, err := client.Payloads(t.Context(), []event.PayloadRequest{{EventID: id, TxID: 1}})
		require.Error(t, err, name)
		require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%s: %v", name, err)
		_, err = client.Events(t.Context(), "", 1, false)
		if name != "422 of a proxy" {
			require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%s: %v", name, err)
		}
	}
	client := newClient(t, "http://127.0.0.1:1", "")
	_, err := client.Payment(t.Context(), id)
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	require.NotContains(t, err.Error(), "failed to")
}

func TestAWrongTokenIsAnOutage(t *testing.T) {
	t.Parallel()
	s := start(t)
	_, err := newClient(t, s.base, "guess").Payment(t.Context(), uuid.New())
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	require.ErrorContains(t, err, "bearer token")
	require.NotContains(t, err.Error(), "guess")
}

func TestARequestEndsWithItsContext(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	_, err := newClient(t, server.URL, "").Payment(ctx, uuid.New())
	require.ErrorIs(t, err, context.Canceled)
}

// A POST on a kept connection that the server has just closed is repeated, not reported.
func TestAClosedConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var connections atomic.Int64
	server := &http.Server{
		ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				connections.Add(1)
			}
		},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if connections.Load() == 1 && r.Method == http.MethodPost {
				panic(http.ErrAbortHandler) // the request was read, and no answer began
			}
			if r.Header["Idempotency-Key"] != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			fmt.Fprintf(w, `{"xmin":1,"events":[{"event_id":"%s","visibility":"missing"}]}`, id)
		}),
	}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	client := newClient(t, "http://"+listener.Addr().String(), "")
	_, err = client.Events(t.Context(), "", 1, false) // leaves a connection behind
	require.NoError(t, err)
	got, err := client.Payloads(t.Context(), []event.PayloadRequest{{EventID: id, TxID: 1}})
	require.NoError(t, err)
	require.Equal(t, event.Missing, got[0].Visibility)
	require.EqualValues(t, 2, connections.Load())
}

func TestABadAddressIsRefused(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"", "127.0.0.1:3002", "ftp://127.0.0.1", "http://", "://"} {
		_, err := dataclient.New(base, "", dataclient.Options{})
		require.Error(t, err, base)
	}
	_, err := dataclient.New("ftp://user:s3cret@host", "", dataclient.Options{})
	require.NotContains(t, err.Error(), "s3cret")
}

func BenchmarkPayloads(b *testing.B) {
	s := start(b)
	exec(b, s.admin, `insert into payments (merchant_id, amount, currency, status, metadata)
		select 'm', 5, 'EUR', 'succeeded', jsonb_build_object('x', $1::text) from generate_series(1, 64)`, strings.Repeat("y", 300))
	asked := requests(b, s.admin)
	client := newClient(b, s.base, token)
	for b.Loop() {
		_, err := client.Payloads(b.Context(), asked)
		require.NoError(b, err)
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(asked)), "us/event")
}
