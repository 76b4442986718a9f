package svix_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	sdk "github.com/svix/svix-webhooks/go"
	"github.com/svix/svix-webhooks/go/models"

	"github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/svixtest"
	"github.com/hookline/hookline/internal/svix/svixtest/contract"
)

const (
	token  = "testsk_fixed"
	shop   = "joes-tshirt-shop"
	secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	grace  = 3 * time.Minute

	createMessage     = "POST /api/v1/app/{app_id}/msg"
	createApplication = "POST /api/v1/app"
)

// document is Svix's OpenAPI document.
var document = sync.OnceValues(func() (*contract.Document, error) { return contract.Read(os.Getenv("SVIX_OPENAPI")) })

// world is a Svix server, a merchant who is registered there, and a client under test.
type world struct {
	fake     *svixtest.Server
	url      string
	admin    *sdk.Svix // as an operator would use it
	merchant *merchant
}

// newWorld starts one. What is said to the server is checked against its OpenAPI document, where SVIX_OPENAPI names it.
func newWorld(t *testing.T, opts svixtest.Options) *world {
	t.Helper()
	opts.Tokens = []string{token}
	opts.LockKept = 10 * time.Millisecond // else a crashed request holds its key for 5 s
	if os.Getenv("SVIX_OPENAPI") == "" {
		t.Log("requests and answers are not validated: SVIX_OPENAPI does not name Svix's OpenAPI document")
	} else {
		document, err := document()
		require.NoError(t, err)
		opts.Around = func(next http.Handler) http.Handler {
			return document.Around(next, func(err error) { t.Error(err) })
		}
	}
	w := &world{fake: svixtest.New(context.Background(), opts), merchant: newMerchant(t)}
	server := httptest.NewServer(w.fake)
	w.url = server.URL
	t.Cleanup(func() {
		server.Close()
		w.fake.Close()
	})
	base, err := url.Parse(server.URL)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{}}
	t.Cleanup(client.CloseIdleConnections)
	w.admin, err = sdk.New(token, &sdk.SvixOptions{ServerUrl: base, HTTPClient: client, RetrySchedule: &[]time.Duration{}})
	require.NoError(t, err)
	return w
}

// client makes one as a worker process has it.
func (w *world) client(t *testing.T, opts svix.Options) *svix.Client {
	t.Helper()
	if opts.Token == "" {
		opts.Token = token
	}
	if opts.BaseURL == "" {
		opts.BaseURL = w.url
	}
	opts.Grace = grace
	client, err := svix.New(opts)
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return client
}

// register makes the merchant's application, with an endpoint.
func (w *world) register(t *testing.T, in models.EndpointIn) *models.EndpointOut {
	t.Helper()
	_, err := w.admin.Application.GetOrCreate(t.Context(), models.ApplicationIn{Name: shop, Uid: new(shop)}, nil)
	require.NoError(t, err)
	if in.Url == "" {
		in.Url = w.merchant.url
	}
	in.Secret = new(secret)
	out, err := w.admin.Endpoint.Create(t.Context(), shop, in, nil)
	require.NoError(t, err)
	return out
}

// settle waits until nothing that is queued waits for its first attempt or for another one.
func (w *world) settle(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool { return w.fake.Pending() == 0 }, 5*time.Second, time.Millisecond)
}

// merchant verifies webhooks and keeps what it got.
type merchant struct {
	url string

	mu     sync.Mutex
	status []int
	got    []received
	begun  chan<- struct{} // closed by the next webhook, which waits for gate
	gate   <-chan struct{}
}

// received is a webhook that verified.
type received struct {
	svixID  string
	eventID string // of the body
	body    string
}

func newMerchant(t *testing.T) *merchant {
	t.Helper()
	webhook, err := sdk.NewWebhook(secret)
	require.NoError(t, err)
	m := &merchant{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			err = webhook.Verify(body, r.Header)
		}
		var said struct {
			EventID string `json:"event_id"`
		}
		if err == nil {
			err = json.Unmarshal(body, &said)
		}
		if err != nil {
			t.Errorf("the merchant cannot use a webhook: %v", err)
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		m.mu.Lock()
		begun, gate := m.begun, m.gate
		m.begun, m.gate = nil, nil
		m.mu.Unlock()
		if begun != nil {
			close(begun)
			<-gate
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		status := http.StatusNoContent
		if len(m.status) > 0 {
			status, m.status = m.status[0], m.status[1:]
		}
		if status < 300 {
			m.got = append(m.got, received{svixID: r.Header.Get("Svix-Id"), eventID: said.EventID, body: string(body)})
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(server.Close)
	m.url = server.URL
	return m
}

// answers has the next webhooks answered with these statuses; then 204.
func (m *merchant) answers(status ...int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.status = status
}

// holds has the next webhook close begun, and wait for gate.
func (m *merchant) holds(begun chan<- struct{}, gate <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.begun, m.gate = begun, gate
}

func (m *merchant) all() []received {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]received(nil), m.got...)
}

// times returns how often the event was received.
func (m *merchant) times(event uuid.UUID) int {
	n := 0
	for _, each := range m.all() {
		if each.eventID == event.String() {
			n++
		}
	}
	return n
}

func newMessage() svix.Message {
	id := uuid.Must(uuid.NewV7())
	return svix.Message{
		EventID: id, EventType: "payment.succeeded",
		Body: fmt.Appendf(nil, `{ "event_id":"%s", "b":12345678901234567890, "a":"<é&>" }`, id),
	}
}

func yes() error { return nil }

// settledBy hands the message over as often as a delivery with its attempts would, until that ends or waits for a person.
// Between two attempts the time passes that the first asks for. restart makes the client of the next attempt.
func (w *world) settledBy(t *testing.T, message svix.Message, client func() *svix.Client) []svix.Result {
	t.Helper()
	var results []svix.Result
	for range 10 {
		result := client().HandOver(t.Context(), shop, message, yes)
		results = append(results, result)
		if result.Class != svix.Retryable {
			return results
		}
		w.settle(t)
		w.fake.Advance(result.RetryIn)
	}
	require.FailNow(t, "it does not end", "%+v", results)
	return nil
}
