package restate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/drain"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/restatetest"
)

// scripts is a workflow whose every event has a script of its own: Restate knows the dispatcher under one name, so
// the tests share one worker.
type scripts struct {
	mu      sync.Mutex
	process map[uuid.UUID]func(ctx context.Context, owner string, refs []event.Ref) (dispatch.Result, error)
	attempt map[uuid.UUID]func(ctx context.Context, owner string, list delivery.AttemptList) (dispatch.Result, error)
	record  map[uuid.UUID]func(ctx context.Context, owner string, result dispatch.Result) error
	bury    map[string]func(record delivery.DeadRecord) error
	park    map[uuid.UUID]func(tickets []delivery.Ticket) error
	release map[delivery.Sequence]func(owner string) ([]delivery.AttemptList, error)
	turn    map[uuid.UUID]func(owner string, ramp drain.Ramp) drain.Turn
}

func newScripts() *scripts {
	return &scripts{
		process: map[uuid.UUID]func(context.Context, string, []event.Ref) (dispatch.Result, error){},
		attempt: map[uuid.UUID]func(context.Context, string, delivery.AttemptList) (dispatch.Result, error){},
		record:  map[uuid.UUID]func(context.Context, string, dispatch.Result) error{},
		bury:    map[string]func(delivery.DeadRecord) error{},
		park:    map[uuid.UUID]func([]delivery.Ticket) error{},
		release: map[delivery.Sequence]func(string) ([]delivery.AttemptList, error){},
		turn:    map[uuid.UUID]func(string, drain.Ramp) drain.Turn{},
	}
}

var errNoScript = errors.New("no test waits for this")

func (s *scripts) Process(ctx context.Context, owner string, refs []event.Ref) (dispatch.Result, error) {
	s.mu.Lock()
	do := s.process[refs[0].ID]
	s.mu.Unlock()
	if do == nil {
		return dispatch.Result{}, errNoScript
	}
	return do(ctx, owner, refs)
}

func (s *scripts) Attempt(ctx context.Context, owner string, list delivery.AttemptList) (dispatch.Result, error) {
	s.mu.Lock()
	do := s.attempt[list.EndpointID]
	s.mu.Unlock()
	if do == nil {
		return dispatch.Result{}, errNoScript
	}
	return do(ctx, owner, list)
}

func (s *scripts) Record(ctx context.Context, owner string, result dispatch.Result) error {
	s.mu.Lock()
	do := s.record[result.Deliveries[0].EventID]
	s.mu.Unlock()
	if do == nil {
		return errNoScript
	}
	return do(ctx, owner, result)
}

func (s *scripts) Release(_ context.Context, owner string, sequence delivery.Sequence) ([]delivery.AttemptList, error) {
	s.mu.Lock()
	do := s.release[sequence]
	s.mu.Unlock()
	if do == nil {
		return nil, errNoScript
	}
	return do(owner)
}

func (s *scripts) Bury(_ context.Context, record delivery.DeadRecord) error {
	s.mu.Lock()
	do := s.bury[record.Topic]
	s.mu.Unlock()
	if do == nil {
		return errNoScript
	}
	return do(record)
}

func (s *scripts) Park(_ context.Context, endpoint uuid.UUID, tickets []delivery.Ticket) error {
	s.mu.Lock()
	do := s.park[endpoint]
	s.mu.Unlock()
	if do == nil {
		return errNoScript
	}
	return do(tickets)
}

// Turn implements the drainer: one without a script ends.
func (s *scripts) Turn(_ context.Context, owner string, endpointID uuid.UUID, ramp drain.Ramp) drain.Turn {
	s.mu.Lock()
	do := s.turn[endpointID]
	s.mu.Unlock()
	if do == nil {
		return drain.Turn{At: time.Now()}
	}
	return do(owner, ramp)
}

func (s *scripts) onTurn(endpoint uuid.UUID, do func(owner string, ramp drain.Ramp) drain.Turn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn[endpoint] = do
}

func (s *scripts) onProcess(id uuid.UUID, do func(ctx context.Context, owner string, refs []event.Ref) (dispatch.Result, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.process[id] = do
}

func (s *scripts) onAttempt(endpoint uuid.UUID, do func(ctx context.Context, owner string, list delivery.AttemptList) (dispatch.Result, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempt[endpoint] = do
}

func (s *scripts) onRecord(id uuid.UUID, do func(ctx context.Context, owner string, result dispatch.Result) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.record[id] = do
}

func (s *scripts) onBury(topic string, do func(delivery.DeadRecord) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bury[topic] = do
}

func (s *scripts) onRelease(sequence delivery.Sequence, do func(owner string) ([]delivery.AttemptList, error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release[sequence] = do
}

func (s *scripts) onPark(endpoint uuid.UUID, do func(tickets []delivery.Ticket) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.park[endpoint] = do
}

// serve makes a handler reachable as Restate wants it: HTTP/2 without TLS.
func serve(handler http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	return server
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

func handlerOf(t *testing.T, w *scripts) http.Handler {
	t.Helper()
	handler, err := Handler(w, NewCallbacks(callback.Providers{}, nil, nil, nil, nil, silent(), prometheus.NewRegistry()), w, HandlerConfig{Retention: time.Hour}, silent())
	require.NoError(t, err)
	return handler
}

// worker is registered with the test binary's Restate server.
type worker struct {
	once    sync.Once
	scripts *scripts
	server  *httptest.Server
	client  *Client
	admin   string
}

var sharedWorker worker

// theWorker is for parallel tests alone: those that change what is registered run before them.
func theWorker(t *testing.T) *worker {
	t.Helper()
	w := &sharedWorker
	w.once.Do(func() {
		ingress, admin := restatetest.Start(t)
		w.scripts, w.admin = newScripts(), admin
		w.server = serve(handlerOf(t, w.scripts))
		w.client = NewClient(ingress, 16)
		require.NoError(t, w.registrar(Subscription{}).ensure(context.WithoutCancel(t.Context())))
	})
	require.NotNil(t, w.client, "the worker could not be registered")
	return w
}

func (w *worker) registrar(subscription Subscription) *Registrar {
	return NewRegistrar(RegistrarConfig{AdminURL: w.admin, AdvertisedURL: w.server.URL}, subscription, "", silent())
}

func (w *worker) close() {
	if w.server != nil {
		w.client.Close()
		w.server.CloseClientConnections()
		w.server.Close()
	}
}

// ref is a pointer to an event of its own.
func ref() event.Ref {
	return event.Ref{
		ID: uuid.New(), TxID: 42, Type: "payment.succeeded", ObjectType: "payment", ObjectID: uuid.NewString(), ObjectVersion: 2,
		MerchantID: "joes-tshirt-shop", Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
}

// ask speaks JSON with Restate's admin API.
func ask(t *testing.T, method, url string, in, out any) int {
	t.Helper()
	encoded, err := json.Marshal(in)
	require.NoError(t, err)
	request, err := http.NewRequestWithContext(context.WithoutCancel(t.Context()), method, url, bytes.NewReader(encoded))
	require.NoError(t, err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	if out != nil {
		require.Less(t, response.StatusCode, 300, "%s %s: %s", method, url, answer)
		require.NoError(t, json.Unmarshal(answer, out), "%s", answer)
	}
	return response.StatusCode
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case got := <-from:
		return got
	case <-time.After(30 * time.Second):
		require.Fail(t, "nothing came")
		panic("unreachable")
	}
}

func ingressOf(t *testing.T) string {
	t.Helper()
	ingress, _ := restatetest.Start(t)
	return ingress
}
