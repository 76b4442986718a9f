package apiclient_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/apiclient"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

func TestPublishPostsTheEventUnderItsKey(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	var body []byte
	var header http.Header
	var line string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ = io.ReadAll(r.Body)
		header = r.Header
		line = r.Method + " " + r.URL.Path
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(server.Close)
	client, err := apiclient.New(server.URL, "token")
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, client.Publish(t.Context(), event.Operational{ID: id, MerchantID: "m", Type: "endpoint.disabled", Data: json.RawMessage(`{"reason":"gone"}`)}))
	require.Equal(t, "POST /events", line)
	require.JSONEq(t, `{"event_type":"endpoint.disabled","merchant_id":"m","data":{"reason":"gone"}}`, string(body))
	require.Equal(t, id.String(), header.Get("Idempotency-Key"))
	require.Equal(t, "Bearer token", header.Get("Authorization"))
}

func TestOnlyARefusalOfTheRequestIsFinal(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		body   string
		class  fault.Class
	}{
		{422, `{"detail":"the request has invalid fields","errors":{"data":"is missing"}}`, fault.Invalid},
		{400, `{"detail":"no JSON"}`, fault.Invalid},
		{409, `{"detail":"the key was used before"}`, fault.Conflict},
		{401, `{"detail":"no token"}`, fault.Unavailable},
		{503, `{"detail":"no database"}`, fault.Unavailable},
		{404, `404 page not found`, fault.Unavailable},
		{422, `another service's page`, fault.Unavailable},
		{302, ``, fault.Unavailable},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere.test/")
			w.WriteHeader(test.status)
			w.Write([]byte(test.body))
		}))
		client, err := apiclient.New(server.URL, "")
		require.NoError(t, err)
		require.Equal(t, test.class, fault.ClassOf(client.Publish(t.Context(), event.Operational{})), test.status)
		client.Close()
		server.Close()
		require.Equal(t, fault.Unavailable, fault.ClassOf(client.Publish(t.Context(), event.Operational{})), "the server is gone")
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "payments-api:3001", "ftp://payments-api", "http://"} {
		_, err := apiclient.New(address, "")
		require.ErrorContains(t, err, "http://host:port", address)
	}
}
