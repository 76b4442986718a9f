package demo

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/simulator"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

// line stands in for the stack between the API and the merchants: it delivers what is committed, one after the other.
type line struct {
	t    *testing.T
	pool *pgxpool.Pool
	to   map[string]delivery.Endpoint
}

func (l *line) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/info" {
		io.WriteString(w, `{"intake":"batches","group":"hookline"}`)
		return
	}
	var in struct {
		MerchantID string `json:"merchant_id"`
	}
	err := json.NewDecoder(r.Body).Decode(&in)
	if err == nil {
		_, err = l.pool.Exec(r.Context(), `insert into payments (merchant_id, amount, currency, status) values ($1, 1000, 'USD', 'succeeded')`, in.MerchantID)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusCreated)
}

// run delivers until quit is closed, all but what loses says.
func (l *line) run(quit <-chan struct{}, loses string) {
	sender := retrier{t: l.t, patience: 5 * time.Second}
	endpoints := endpointtest.NewManager(l.t, l.pool)
	ctx := l.t.Context()
	done := map[uuid.UUID]bool{}
	for {
		rows, err := l.pool.Query(ctx, "select id, merchant_id from domain_events order by sequence")
		require.NoError(l.t, err)
		type row struct {
			ID       uuid.UUID
			Merchant string
		}
		events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[row])
		require.NoError(l.t, err)
		for _, e := range events {
			if done[e.ID] || (loses != "" && strings.HasPrefix(e.Merchant, loses)) {
				continue
			}
			done[e.ID] = true
			to, known := l.to[e.Merchant]
			if !known {
				listed, err := endpoints.List(ctx, e.Merchant)
				require.NoError(l.t, err)
				require.Len(l.t, listed, 1)
				to, err = endpoints.Recipient(ctx, listed[0].ID)
				require.NoError(l.t, err)
				l.to[e.Merchant] = to
			}
			cause, _ := sender.attempt(ctx, to, e.ID, 1)
			require.Equal(l.t, delivery.CauseOK, cause)
		}
		select {
		case <-quit:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func runLine(t *testing.T, loses string) (FloodResult, string, int) {
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
	l := &line{t: t, pool: db.Pool(t, ""), to: map[string]delivery.Endpoint{}}
	endpoints := endpointtest.NewManager(t, l.pool)
	demoEndpoint := endpointtest.Add(t, l.pool, "joes-tshirt-shop", nil)
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); l.run(quit, loses) }()
	defer func() { close(quit); <-ended }()

	var out bytes.Buffer
	address := strings.TrimPrefix(server.URL, "http://")
	outcome, err := floodOf(t.Context(), Options{
		API: address, Worker: address, Merchant: strings.TrimPrefix(simulated.URL, "http://"), DSN: db.DSN(), Kafka: "kfake",
		MerchantID: "joes-tshirt-shop", Payments: 200, Endpoints: endpoints, Out: &out, patience: 2 * time.Second,
	}, 1, 1)
	require.NoError(t, err)
	outcome.Print(&out)
	all, err := endpoints.List(t.Context(), "")
	require.NoError(t, err)
	left := 0
	for _, each := range all {
		if each.ID != demoEndpoint {
			left++
		}
	}
	return outcome.(FloodResult), out.String(), left
}

func TestAFloodIsMeasuredBesideTheQuiet(t *testing.T) {
	t.Parallel()
	r, out, left := runLine(t, "")
	require.Zero(t, left, "its endpoints are gone")
	require.Len(t, r.Runs, 1)
	for _, phase := range []FloodPhase{r.Runs[0].Flooded, r.Transaction} {
		require.Equal(t, []int{200, 200, 0, 0}, []int{phase.Created, phase.Delivered, phase.Lost, phase.Duplicates})
		require.Positive(t, phase.Seconds)
	}
	require.Positive(t, r.Runs[0].Flooded.Quiet.Events)
	require.Positive(t, r.Runs[0].Flooded.CommittedS)
	require.Zero(t, r.Transaction.CommittedS, "one transaction commits at once")
	require.Equal(t, quietRate, r.Runs[0].Alone.Events)
	require.Equal(t, []int{0, 0, r.Created}, []int{r.Lost, r.Duplicates, r.Delivered})
	require.GreaterOrEqual(t, r.Created, 2*200+4*quietRate, "all that was created counts")
	require.InDelta(t, r.Runs[0].Flooded.Quiet.CommitToAckMS.P99/r.Runs[0].Alone.CommitToAckMS.P99, r.Ratio, 0.01)
	require.Contains(t, out, "one transaction")
	require.Contains(t, out, "(intake batches, kafka kfake)")
}

func TestAFloodThatIsLostFailsTheScenario(t *testing.T) {
	t.Parallel()
	r, _, _ := runLine(t, "flooding-")
	require.Equal(t, 400, r.Lost)
	require.ErrorContains(t, r.Err(), "400 of ")
}

func TestTheOthersMayWaitTwiceAsLongBesideAFlood(t *testing.T) {
	t.Parallel()
	run := func(alone, flooded float64) FloodRun {
		return FloodRun{
			Alone:   QuietLoad{CommitToAckMS: load.Percentiles{P99: alone}},
			Flooded: FloodPhase{Quiet: QuietLoad{CommitToAckMS: load.Percentiles{P99: flooded}}},
		}
	}
	r := FloodResult{Allowed: floodAllowed, Runs: []FloodRun{run(10, 90), run(12, 20), run(500, 24)}}
	r.judge()
	require.Equal(t, []float64{12, 24, 2}, []float64{r.AloneP99MS, r.FloodedP99MS, r.Ratio}, "the medians decide")
	require.NoError(t, r.Err())
	r.Runs[2] = run(500, 25)
	r.judge()
	require.ErrorContains(t, r.Err(), "beside a flood the 99th percentile of the other merchants is 25.0 ms, 2.08 times the 12.0 ms alone, and not at most 2 times")

	none := FloodResult{Allowed: floodAllowed}
	none.judge()
	require.Error(t, none.Err(), "nothing was measured")
}
