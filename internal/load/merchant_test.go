package load_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/simulator"
)

// Against the real simulator, so that the two stay of one mind.
func TestMerchant(t *testing.T) {
	t.Parallel()
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	s, err := simulator.New(t.Context(), simulator.Options{
		Secrets: []string{secret}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	r := chi.NewRouter()
	s.Routes(r)
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	send := func(method, path, body string, header http.Header) {
		req, err := http.NewRequestWithContext(t.Context(), method, server.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		req.Header = header
		req.Header.Set("Content-Type", "application/json")
		res, err := server.Client().Do(req)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
	}
	webhook := func(id uuid.UUID) {
		signer, err := svix.NewWebhook(secret)
		require.NoError(t, err)
		now := time.Now()
		signature, err := signer.Sign(id.String(), now, []byte("{}"))
		require.NoError(t, err)
		send(http.MethodPost, "/webhooks", "{}", http.Header{
			"Webhook-Id": {id.String()}, "Webhook-Timestamp": {strconv.FormatInt(now.Unix(), 10)}, "Webhook-Signature": {signature},
		})
	}
	m := load.NewMerchant(strings.TrimPrefix(server.URL, "http://"))
	behaviours, err := m.Behaviours(t.Context())
	require.NoError(t, err)
	require.Empty(t, behaviours)

	once, twice, never := uuid.New(), uuid.New(), uuid.New()
	start := time.Now().Truncate(time.Microsecond)
	webhook(once)
	webhook(twice)
	webhook(twice)
	send(http.MethodPost, "/webhooks", "{}", http.Header{})
	require.NoError(t, m.Behave(t.Context(), simulator.Behaviour{Status: 503}))
	webhook(never)

	acks, err := m.Acks(t.Context(), []uuid.UUID{once, twice, never})
	require.NoError(t, err)
	require.Len(t, acks, 2)
	require.Equal(t, 1, acks[once].Times)
	require.Equal(t, 2, acks[twice].Times)
	require.WithinRange(t, acks[once].First, start, acks[twice].First)
	many := make([]uuid.UUID, 12_000)
	for i := range many {
		many[i] = uuid.New()
	}
	many[11_999] = once
	acks, err = m.Acks(t.Context(), many)
	require.NoError(t, err)
	require.Len(t, acks, 1)

	invalid, err := m.InvalidSignatures(t.Context())
	require.NoError(t, err)
	require.Equal(t, 1, invalid)
	behaviours, err = m.Behaviours(t.Context())
	require.NoError(t, err)
	require.Len(t, behaviours, 1)
	require.JSONEq(t, `{"status":503}`, string(behaviours[0]))
	require.ErrorContains(t, m.Behave(t.Context(), simulator.Behaviour{Merchant: "joes", Status: 99}), "merchant joes")
	require.NoError(t, m.Behave(t.Context(), simulator.Behaviour{}))
	behaviours, err = m.Behaviours(t.Context())
	require.NoError(t, err)
	require.Empty(t, behaviours)
}
