package baseline_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/baseline"
	"github.com/hookline/hookline/internal/simulator"
)

const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

// before is the service behind its routes, with a merchant that calls answer for each webhook.
func before(t *testing.T, merchant http.Handler) (*baseline.Service, http.Handler) {
	t.Helper()
	server := httptest.NewServer(merchant)
	t.Cleanup(server.Close)
	s, err := baseline.New(baseline.Options{MerchantURL: server.URL + "/webhooks", Secret: secret, Log: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	r := chi.NewRouter()
	s.Routes(r)
	return s, r
}

func pay(t *testing.T, h http.Handler, body string) *httptest.ResponseRecorder {
	t.Helper()
	req := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/payments", strings.NewReader(body))
	req.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	h.ServeHTTP(answer, req)
	return answer
}

func TestAPaymentsWebhookIsSignedAndArrives(t *testing.T) {
	t.Parallel()
	merchant, err := simulator.New(t.Context(), simulator.Options{
		Secrets: []string{secret}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	ids := make(chan string, 1)
	routes := chi.NewRouter()
	merchant.Routes(routes)
	s, h := before(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		routes.ServeHTTP(answer, r)
		w.WriteHeader(answer.Code)
		if answer.Code == http.StatusOK {
			ids <- r.Header.Get("Webhook-Id")
		}
	}))
	go func() { _ = s.Run(t.Context()) }()

	answer := pay(t, h, `{"amount":1000,"currency":"USD"}`)
	require.Equal(t, http.StatusCreated, answer.Code, answer.Body.String())
	var made struct {
		ID     uuid.UUID
		Status string
	}
	require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &made))
	require.Equal(t, "succeeded", made.Status)
	require.Equal(t, made.ID.String(), <-ids)
}

// The interleaving: the payment is answered 201, and the process ends before anything was posted.
func TestWhatWaitsIsLostWithTheProcess(t *testing.T) {
	t.Parallel()
	arrived := make(chan string, 1)
	s, h := before(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Header.Get("Webhook-Id") }))
	require.Equal(t, http.StatusCreated, pay(t, h, `{"amount":1000,"currency":"USD"}`).Code)
	require.Equal(t, baseline.Stats{Accepted: 1, Waiting: 1}, s.Stats())

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, s.Run(ctx))
	again, _ := before(t, http.NotFoundHandler())
	require.Equal(t, baseline.Stats{}, again.Stats(), "the next process knows nothing of it")
}

func TestAFailureIsTriedAgainAFewTimes(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 10)
	s, h := before(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		if len(asked) < 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	require.Equal(t, http.StatusCreated, pay(t, h, `{"amount":1000,"currency":"USD"}`).Code)
	go func() { _ = s.Run(t.Context()) }()
	require.Eventually(t, func() bool { return s.Stats() == baseline.Stats{Accepted: 1, Delivered: 1} }, 10*time.Second, 10*time.Millisecond)
	require.Len(t, asked, 2)
}

func TestARequestThatIsNoPaymentIsRefused(t *testing.T) {
	t.Parallel()
	s, h := before(t, http.NotFoundHandler())
	for body, want := range map[string]int{
		`{`:                                http.StatusBadRequest,
		`{"amount":0,"currency":"USD"}`:    http.StatusUnprocessableEntity,
		`{"amount":1,"currency":"dollar"}`: http.StatusUnprocessableEntity,
		`{"amount":1,"currency":"USD","status":"what"}`:   http.StatusUnprocessableEntity,
		`{"amount":1,"currency":"USD","merchant_id":"%"}`: http.StatusUnprocessableEntity,
	} {
		require.Equal(t, want, pay(t, h, body).Code, body)
	}
	require.Zero(t, s.Stats())
}

func TestASecretThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	_, err := baseline.New(baseline.Options{Secret: "whsec_%%%"})
	require.ErrorContains(t, err, "whsec_")
}
