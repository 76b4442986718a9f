package restate

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/restatedev/sdk-go"
	"github.com/restatedev/sdk-go/server"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/restatetest"
)

// These tests change what is registered under the dispatcher's one name. They are not parallel, so that they end
// before those begin that share a worker.

// swap serves whatever was stored last.
type swap struct{ current atomic.Pointer[http.Handler] }

func (s *swap) store(h http.Handler) { s.current.Store(&h) }

func (s *swap) ServeHTTP(w http.ResponseWriter, r *http.Request) { (*s.current.Load()).ServeHTTP(w, r) }

// registration is a registrar, and a worker of its own to be registered.
type registration struct {
	*Registrar
	server  *httptest.Server
	handler swap
	scripts *scripts
	ingress string
}

func newRegistration(t *testing.T, token string) *registration {
	t.Helper()
	ingress, admin := restatetest.Start(t)
	r := &registration{scripts: newScripts(), ingress: ingress}
	r.handler.store(handlerOf(t, r.scripts))
	r.server = serve(&r.handler)
	r.Registrar = NewRegistrar(RegistrarConfig{AdminURL: admin, AdvertisedURL: r.server.URL}, Subscription{}, token, silent())
	t.Cleanup(func() {
		for _, id := range r.deployments(t) {
			r.forget(t, id)
		}
		r.server.CloseClientConnections()
		r.server.Close()
	})
	return r
}

// deployments are the ids of those at the worker's URL.
func (r *registration) deployments(t *testing.T) []string {
	t.Helper()
	var known struct {
		Deployments []struct{ ID, URI string }
	}
	ask(t, http.MethodGet, r.cfg.AdminURL+"/deployments", nil, &known)
	var ids []string
	for _, d := range known.Deployments {
		if strings.TrimSuffix(d.URI, "/") == r.server.URL {
			ids = append(ids, d.ID)
		}
	}
	return ids
}

func (r *registration) forget(t *testing.T, id string) {
	t.Helper()
	require.Less(t, ask(t, http.MethodDelete, r.cfg.AdminURL+"/deployments/"+id+"?force=true", nil, nil), 300)
}

func (r *registration) handlers(t *testing.T, name string) []string {
	t.Helper()
	var service struct{ Handlers []struct{ Name string } }
	ask(t, http.MethodGet, r.cfg.AdminURL+"/services/"+name, nil, &service)
	var names []string
	for _, h := range service.Handlers {
		names = append(names, h.Name)
	}
	return names
}

func TestTheWorkerIsRegisteredOnceAndAgainWhenRestateForgotIt(t *testing.T) { //nolint:paralleltest // see above
	r := newRegistration(t, "")
	require.Error(t, r.Ready(), "nothing was checked yet")
	require.NoError(t, r.ensure(t.Context()))
	first := r.deployments(t)
	require.Len(t, first, 1)
	require.NoError(t, r.ensure(t.Context()))
	require.Equal(t, first, r.deployments(t), "a second check registers nothing")
	require.ElementsMatch(t, []string{ProcessHandler, AttemptHandler}, r.handlers(t, DispatcherService))

	r.forget(t, first[0])
	require.Empty(t, r.deployments(t))
	require.NoError(t, r.ensure(t.Context()))
	require.Len(t, r.deployments(t), 1)
	require.ElementsMatch(t, []string{ProcessHandler, AttemptHandler}, r.handlers(t, DispatcherService))
}

func TestTheRegistrarRunsUntilItIsStopped(t *testing.T) { //nolint:paralleltest // see above
	r := newRegistration(t, "")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	require.Eventually(t, func() bool { return r.Ready() == nil }, 20*time.Second, 10*time.Millisecond)
	require.Len(t, r.deployments(t), 1)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}

func TestABuildWithMoreHandlersTakesItsURLOver(t *testing.T) { //nolint:paralleltest // see above
	for name, build := range map[string]sdk.ServiceDefinition{
		"fewer handlers": sdk.NewService(DispatcherService).Handler(ProcessHandler, sdk.NewServiceHandler(func(sdk.Context, []byte) (sdk.Void, error) { return sdk.Void{}, nil })),
		"no callbacks": sdk.NewService(DispatcherService).
			Handler(ProcessHandler, sdk.NewServiceHandler(func(sdk.Context, []byte) (sdk.Void, error) { return sdk.Void{}, nil })).
			Handler(AttemptHandler, sdk.NewServiceHandler(func(sdk.Context, []byte) (sdk.Void, error) { return sdk.Void{}, nil })),
		"another service": sdk.NewService("SomethingElse").Handler("Do", sdk.NewServiceHandler(func(sdk.Context, []byte) (sdk.Void, error) {
			return sdk.Void{}, nil
		})),
	} {
		r := newRegistration(t, "")
		older, err := server.NewRestate().Bind(build).Handler()
		require.NoError(t, err, name)
		r.handler.store(older)
		require.Equal(t, http.StatusCreated, ask(t, http.MethodPost, r.cfg.AdminURL+"/deployments", map[string]string{"uri": r.server.URL}, nil), name)

		r.handler.store(handlerOf(t, r.scripts))
		require.NoError(t, r.ensure(t.Context()), name)
		require.Len(t, r.deployments(t), 1, name)
		for service, handlers := range ourHandlers() {
			require.ElementsMatch(t, handlers, r.handlers(t, service), name)
		}
		for _, id := range r.deployments(t) {
			r.forget(t, id)
		}
	}
}

func TestRestateSendsTheTokenThatTheHandlersWant(t *testing.T) { //nolint:paralleltest // see above
	r := newRegistration(t, "sesame")
	open := handlerOf(t, r.scripts)
	r.handler.store(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if req.Header.Get("Authorization") != "Bearer sesame" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		open.ServeHTTP(w, req)
	}))
	require.NoError(t, r.ensure(t.Context()))

	one := ref()
	r.scripts.onProcess(one.ID, func(context.Context, string, []event.Ref) (dispatch.Result, error) { return dispatch.Result{}, nil })
	client := NewClient(r.ingress, 1)
	defer client.Close()
	require.NoError(t, client.Dispatch(t.Context(), t.Name(), []event.Ref{one}))
}

func TestReadinessSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		handle http.HandlerFunc
		want   string
	}{
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "no leader", http.StatusServiceUnavailable)
		}, "503 Service Unavailable: no leader"},
		"not Restate": {func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("<html>")) }, "decoding Restate's answer to GET /deployments"},
		"nowhere":     {http.NotFound, "GET /deployments: Restate does not know it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			admin := httptest.NewServer(test.handle)
			defer admin.Close()
			r := NewRegistrar(RegistrarConfig{AdminURL: admin.URL + "/", AdvertisedURL: "http://127.0.0.1:1"}, Subscription{}, "", silent())
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- r.Run(ctx) }()
			require.Eventually(t, func() bool {
				err := r.Ready()
				return err != nil && strings.Contains(err.Error(), test.want)
			}, 10*time.Second, 5*time.Millisecond)
			require.ErrorContains(t, r.Ready(), "registering the handlers")
			stop()
			require.ErrorIs(t, <-ended, context.Canceled)
			http.DefaultClient.CloseIdleConnections()
		})
	}
}
