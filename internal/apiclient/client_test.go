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
	"github.com/hookline/hookline/internal/payment"
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

func TestAPaymentIsReadAndMoved(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	var lines []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		lines = append(lines, r.Method+" "+r.URL.Path+" "+string(body))
		w.Write([]byte(`{"id":"` + id.String() + `","status":"refunded","version":3,"metadata":{},"amount":1}`))
	}))
	t.Cleanup(server.Close)
	client, err := apiclient.New(server.URL, "")
	require.NoError(t, err)
	t.Cleanup(client.Close)
	read, err := client.Payment(t.Context(), id)
	require.NoError(t, err)
	moved, err := client.ChangeStatus(t.Context(), id, 2, payment.StatusRefunded)
	require.NoError(t, err)
	require.Equal(t, read, moved)
	require.Equal(t, id, read.ID)
	require.Equal(t, payment.StatusRefunded, read.Status)
	require.EqualValues(t, 3, read.Version)
	require.Equal(t, []string{
		"GET /payments/" + id.String() + " ",
		"PATCH /payments/" + id.String() + ` {"status":"refunded","if_version":2}`,
	}, lines)
}

// What is not known must not be taken for an answer: the payment may be there, and may have moved.
func TestOnlyPaymentsAPIItselfSaysThatThereIsNoPayment(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		body   string
		class  fault.Class
	}{
		{404, `{"detail":"there is no payment"}`, fault.NotFound},
		{404, `404 page not found`, fault.Unavailable},
		{409, `{"detail":"a payment that is failed cannot become refunded"}`, fault.Conflict},
		{503, `{"detail":"no database"}`, fault.Unavailable},
		{401, `{"detail":"no token"}`, fault.Unavailable},
		{200, `{"id":`, fault.Unavailable},
		{200, ``, fault.Unavailable},
		{200, `<html>`, fault.Unavailable},
		{200, `{}`, fault.Unavailable},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(test.status)
			w.Write([]byte(test.body))
		}))
		client, err := apiclient.New(server.URL, "")
		require.NoError(t, err)
		_, err = client.Payment(t.Context(), uuid.New())
		require.Equal(t, test.class, fault.ClassOf(err), "%d %s: %v", test.status, test.body, err)
		_, err = client.ChangeStatus(t.Context(), uuid.New(), 1, payment.StatusRefunded)
		require.Equal(t, test.class, fault.ClassOf(err), "%d %s: %v", test.status, test.body, err)
		client.Close()
		server.Close()
	}
}

func TestAnAddressThatIsNoneIsRefused(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "payments-api:3001", "ftp://payments-api", "http://"} {
		_, err := apiclient.New(address, "")
		require.ErrorContains(t, err, "http://host:port", address)
	}
}
