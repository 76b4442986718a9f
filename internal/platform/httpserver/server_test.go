package httpserver_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

// running is a server under test: stop cancels its context, done is what Run returned.
type running struct {
	url  string
	stop context.CancelFunc
	done chan error
	log  *lines
}

// lines is a log that can be read while it is written.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func serve(t *testing.T, opts httpserver.Options) running {
	t.Helper()
	log := &lines{}
	opts.Log = slog.New(slog.NewJSONHandler(log, nil))
	opts.Registry = prometheus.NewRegistry()
	if opts.Config.ListenAddr == "" {
		opts.Config.ListenAddr = "127.0.0.1:0"
	}
	server, err := httpserver.Listen(t.Context(), opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	r := running{url: "http://" + server.Addr(), stop: cancel, done: make(chan error, 1), log: log}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.done <- server.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-stopped
	})
	return r
}

// get answers status, body and header, over a connection of its own.
func get(t *testing.T, method, url string, header http.Header) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	require.NoError(t, err)
	if header != nil {
		req.Header = header
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body), resp.Header
}

func TestValidateRefusesANetworkWithoutCredentials(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		cfg  httpserver.Config
		want string
	}{
		"loopback":         {httpserver.Config{ListenAddr: "127.0.0.1:1"}, ""},
		"IPv6 loopback":    {httpserver.Config{ListenAddr: "[::1]:1"}, ""},
		"localhost":        {httpserver.Config{ListenAddr: "localhost:1"}, ""},
		"everywhere":       {httpserver.Config{ListenAddr: ":1"}, "ALLOW_UNAUTHENTICATED"},
		"all of IPv4":      {httpserver.Config{ListenAddr: "0.0.0.0:1"}, "API_TOKEN"},
		"a name":           {httpserver.Config{ListenAddr: "example.com:1"}, "API_TOKEN"},
		"with a token":     {httpserver.Config{ListenAddr: ":1", APIToken: "t"}, ""},
		"told to":          {httpserver.Config{ListenAddr: ":1", AllowUnauthenticated: true}, ""},
		"no port":          {httpserver.Config{ListenAddr: "127.0.0.1"}, "LISTEN_ADDR"},
		"nothing":          {httpserver.Config{}, "LISTEN_ADDR"},
		"like a loopback":  {httpserver.Config{ListenAddr: "127.0.0.1.example.com:1"}, "API_TOKEN"},
		"mapped loopback":  {httpserver.Config{ListenAddr: "[::ffff:127.0.0.1]:1"}, ""},
		"another loopback": {httpserver.Config{ListenAddr: "127.9.9.9:1"}, ""},
	} {
		err := test.cfg.Validate()
		if test.want == "" {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorContains(t, err, test.want, name)
	}
}

func TestATakenPortIsNamedWithTheVariableThatChangesIt(t *testing.T) {
	t.Parallel()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, err = httpserver.Listen(t.Context(), httpserver.Options{Config: httpserver.Config{ListenAddr: l.Addr().String()}})
	require.EqualError(t, err, l.Addr().String()+" is taken by another process: set LISTEN_ADDR to a free address")

	_, err = httpserver.Listen(t.Context(), httpserver.Options{Config: httpserver.Config{ListenAddr: "127.0.0.1:99999"}})
	require.ErrorContains(t, err, "LISTEN_ADDR=127.0.0.1:99999")
}

func TestHealthReadinessAndMetrics(t *testing.T) {
	t.Parallel()
	ready := make(chan error, 1)
	r := serve(t, httpserver.Options{
		Config: httpserver.Config{APIToken: "secret"}, // they need none
		Ready: func(ctx context.Context) error {
			_, bounded := ctx.Deadline()
			if !bounded {
				return errors.New("no deadline")
			}
			return <-ready
		},
	})
	status, body, _ := get(t, "GET", r.url+"/healthz", nil)
	require.Equal(t, 200, status)
	require.Equal(t, "ok\n", body)
	ready <- nil
	status, body, _ = get(t, "GET", r.url+"/readyz", nil)
	require.Equal(t, 200, status)
	require.Equal(t, "ready\n", body)
	ready <- errors.New("no database")
	status, body, _ = get(t, "GET", r.url+"/readyz", nil)
	require.Equal(t, 503, status)
	require.Equal(t, "no database\n", body)
	ready <- nil
	status, body, _ = get(t, "GET", r.url+"/metrics", nil)
	require.Equal(t, 200, status)
	require.Contains(t, body, "\nhookline_ready 1\n")
	ready <- errors.New("no database")
	status, body, _ = get(t, "GET", r.url+"/metrics", nil)
	require.Equal(t, 200, status, "what is not ready is measured all the same")
	require.Contains(t, body, "\nhookline_ready 0\n")
}

func TestUnknownPathsAndMethodsAreProblems(t *testing.T) {
	t.Parallel()
	r := serve(t, httpserver.Options{Routes: func(r chi.Router) {
		r.Get("/things/{id}", func(http.ResponseWriter, *http.Request) {})
		r.Patch("/things/{id}", func(http.ResponseWriter, *http.Request) {})
	}})
	status, body, header := get(t, "GET", r.url+"/nothing", nil)
	require.Equal(t, 404, status)
	require.Equal(t, "application/problem+json", header.Get("Content-Type"))
	require.JSONEq(t, `{"title":"Not Found","status":404,"detail":"there is nothing at /nothing"}`, body)

	status, body, header = get(t, "DELETE", r.url+"/things/1", nil)
	require.Equal(t, 405, status)
	require.Equal(t, []string{"GET", "PATCH"}, header.Values("Allow"))
	require.JSONEq(t, `{"title":"Method Not Allowed","status":405,"detail":"DELETE is not offered at /things/1"}`, body)
}

func TestAPITokenGuardsTheRoutes(t *testing.T) {
	t.Parallel()
	r := serve(t, httpserver.Options{
		Config: httpserver.Config{APIToken: "secret"},
		Routes: func(r chi.Router) {
			r.Get("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "in") })
		},
	})
	for authorization, want := range map[string]int{
		"": 401, "secret": 401, "Bearer": 401, "Bearer wrong": 401, "Bearer secrets": 401, "Basic secret": 401, "Bearer secret": 200,
	} {
		status, body, header := get(t, "GET", r.url+"/", http.Header{"Authorization": {authorization}})
		require.Equal(t, want, status, authorization)
		require.NotContains(t, body, "secret")
		if want == 401 {
			require.Contains(t, header.Get("WWW-Authenticate"), "Bearer")
			require.Equal(t, "application/problem+json", header.Get("Content-Type"))
		}
	}
}

func TestOpenRoutesAskForNoToken(t *testing.T) {
	t.Parallel()
	say := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, text) }
	}
	r := serve(t, httpserver.Options{
		Config: httpserver.Config{APIToken: "secret"},
		Routes: func(r chi.Router) { r.Get("/guarded", say("in")) },
		OpenRoutes: func(r chi.Router) {
			r.Get("/open/{id}", say("open"))
			r.Get("/open", func(http.ResponseWriter, *http.Request) { panic("the sky falls") })
		},
	})
	for path, want := range map[string]int{
		"/open/1": 200, "/open": 500, "/guarded": 401, "/open/1/guarded": 404, "/open/../guarded": 404, "//guarded": 404,
	} {
		status, _, _ := get(t, "GET", r.url+path, nil)
		require.Equal(t, want, status, path)
	}
}

func TestAPanicIsAProblemAndALogLine(t *testing.T) {
	t.Parallel()
	r := serve(t, httpserver.Options{Routes: func(r chi.Router) {
		r.Get("/", func(http.ResponseWriter, *http.Request) { panic("the sky falls") })
	}})
	status, body, _ := get(t, "GET", r.url+"/", nil)
	require.Equal(t, 500, status)
	require.JSONEq(t, `{"title":"Internal Server Error","status":500}`, body)
	require.Contains(t, r.log.String(), "the sky falls")
	require.Contains(t, r.log.String(), "server_test.go", "the stack")
	status, _, _ = get(t, "GET", r.url+"/healthz", nil)
	require.Equal(t, 200, status, "the server lives on")
}

func TestClearTextHTTP2(t *testing.T) {
	t.Parallel()
	r := serve(t, httpserver.Options{})
	transport := &http.Transport{Protocols: &http.Protocols{}}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/healthz", nil)
	require.NoError(t, err)
	resp, err := transport.RoundTrip(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, 2, resp.ProtoMajor)
}

func TestAStopLetsOpenRequestsFinish(t *testing.T) {
	t.Parallel()
	entered, release := make(chan struct{}), make(chan struct{})
	r := serve(t, httpserver.Options{Routes: func(r chi.Router) {
		r.Get("/", func(w http.ResponseWriter, _ *http.Request) {
			close(entered)
			<-release
			io.WriteString(w, "done")
		})
	}})
	answered := make(chan string, 1)
	go func() {
		resp, err := http.Get(r.url + "/")
		if err != nil {
			answered <- err.Error()
			return
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		answered <- string(body)
	}()
	<-entered
	r.stop()
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(r.url, "http://"), time.Second)
		if err == nil {
			conn.Close()
		}
		return err != nil
	}, 10*time.Second, time.Millisecond, "no new connection is taken")
	select {
	case err := <-r.done:
		require.Fail(t, "stopped with a request open", "%v", err)
	default:
	}
	close(release)
	require.Equal(t, "done", <-answered)
	require.NoError(t, <-r.done)
}

func TestAStopCutsWhatOutlivesTheDrain(t *testing.T) {
	t.Parallel()
	entered, cut := make(chan struct{}), make(chan struct{})
	r := serve(t, httpserver.Options{DrainTimeout: 10 * time.Millisecond, Routes: func(r chi.Router) {
		r.Get("/", func(_ http.ResponseWriter, req *http.Request) {
			close(entered)
			<-req.Context().Done()
			close(cut)
		})
	}})
	failed := make(chan error, 1)
	go func() {
		resp, err := http.Get(r.url + "/")
		if err == nil {
			resp.Body.Close()
		}
		failed <- err
	}()
	<-entered
	r.stop()
	require.ErrorContains(t, <-r.done, "requests were still open after 10ms")
	require.Error(t, <-failed)
	<-cut
}

func TestAContextThatIsOverAlreadyIsAStop(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	server, err := httpserver.Listen(t.Context(), httpserver.Options{
		Config: httpserver.Config{ListenAddr: "127.0.0.1:0"}, Log: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	cancel()
	require.NoError(t, server.Run(ctx))
}

// firstRead is a body of nothing that remembers how much it was asked for.
type firstRead struct{ asked int }

func (f *firstRead) Read(p []byte) (int, error) {
	f.asked = len(p)
	return 0, io.EOF
}

func (*firstRead) Close() error { return nil }

func TestABodyTakesNoMemoryForItsSayingSo(t *testing.T) {
	t.Parallel()
	body := &firstRead{}
	req := httptest.NewRequest(http.MethodPost, "/", nil)
	req.Body, req.ContentLength = body, 1<<30
	read, err := httpserver.ReadBytes(httptest.NewRecorder(), req, 1<<30)
	require.NoError(t, err)
	require.Empty(t, read)
	require.LessOrEqual(t, body.asked, 20<<10)
}

func TestReadBody(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		contentType, body string
		unsized           bool
		want              fault.Class
		ok                bool
	}{
		"plain":             {contentType: "application/json", body: `{"a":1}`, ok: true},
		"with a charset":    {contentType: "application/json; charset=utf-8", body: `{}`, ok: true},
		"at the limit":      {contentType: "application/json", body: `"12345678"`, ok: true},
		"chunked":           {contentType: "application/json", body: `"12345678"`, unsized: true, ok: true},
		"empty":             {contentType: "application/json", ok: true},
		"no type":           {body: `{}`, want: fault.Unsupported},
		"a form":            {contentType: "application/x-www-form-urlencoded", body: `a=1`, want: fault.Unsupported},
		"a bad type":        {contentType: "application/json; charset", body: `{}`, want: fault.Unsupported},
		"too large":         {contentType: "application/json", body: `"123456789"`, want: fault.TooLarge},
		"too large chunked": {contentType: "application/json", body: `"123456789"`, unsized: true, want: fault.TooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, class := make(chan string, 1), make(chan fault.Class, 1)
			r := serve(t, httpserver.Options{Routes: func(r chi.Router) {
				r.Post("/", func(w http.ResponseWriter, req *http.Request) {
					body, err := httpserver.ReadBody(w, req, 10)
					got <- string(body)
					class <- fault.ClassOf(err)
					if err != nil {
						httpserver.WriteError(w, req, slog.New(slog.DiscardHandler), err)
					}
				})
			}})
			var reader io.Reader = strings.NewReader(test.body)
			if test.unsized {
				reader = io.MultiReader(reader)
			}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.url+"/", reader)
			require.NoError(t, err)
			req.Header.Set("Content-Type", test.contentType)
			resp, err := http.DefaultTransport.RoundTrip(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			require.Equal(t, test.want, <-class)
			if test.ok {
				require.Equal(t, 200, resp.StatusCode)
				require.Equal(t, test.body, <-got)
			}
		})
	}
}

func TestDecodeStrict(t *testing.T) {
	t.Parallel()
	type thing struct {
		A int `json:"a"`
	}
	for body, want := range map[string]string{
		`{"a":1}`:     "",
		` {"a":1} `:   "",
		``:            "it is empty",
		`{"a":`:       "it ends in the middle",
		`{"a":"x"}`:   "a cannot be a string",
		`{"b":1}`:     `unknown field "b"`,
		`{"a":1}{}`:   "something after its JSON value",
		`{"a":1} x`:   "something after its JSON value",
		`not JSON`:    "invalid character",
		`{"a":1e999}`: "a cannot be a number 1e999",
	} {
		var v thing
		err := httpserver.DecodeStrict(strings.NewReader(body), &v)
		if want == "" {
			require.NoError(t, err, body)
			require.Equal(t, 1, v.A)
			continue
		}
		require.ErrorContains(t, err, want, body)
		require.Equal(t, fault.Malformed, fault.ClassOf(err), body)
	}
}

func TestWriteErrorTellsTheCallerOnlyWhatIsTheirs(t *testing.T) {
	t.Parallel()
	cause := errors.New("password authentication failed for db-7")
	for name, test := range map[string]struct {
		err        error
		status     int
		detail     string
		fields     map[string]string
		logged     bool
		retryAfter string
	}{
		"malformed":   {err: fault.New(fault.Malformed, "not JSON"), status: 400, detail: "not JSON"},
		"invalid":     {err: fault.InvalidFields(map[string]string{"a": "is missing"}), status: 422, detail: "the request has invalid fields", fields: map[string]string{"a": "is missing"}},
		"not found":   {err: fault.New(fault.NotFound, "no x"), status: 404, detail: "no x"},
		"conflict":    {err: fault.New(fault.Conflict, "was y"), status: 409, detail: "was y"},
		"too large":   {err: fault.New(fault.TooLarge, "z"), status: 413, detail: "z"},
		"unsupported": {err: fault.New(fault.Unsupported, "t"), status: 415, detail: "t"},
		"unavailable": {err: fault.Wrap(cause, fault.Unavailable, "try again"), status: 503, detail: "try again", logged: true, retryAfter: "1"},
		"internal":    {err: cause, status: 500, logged: true},
		"canceled":    {err: fmt.Errorf("asking db-7: %w", context.Canceled), status: 500},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			written := &lines{}
			log := slog.New(slog.NewJSONHandler(written, nil))
			r := serve(t, httpserver.Options{Routes: func(r chi.Router) {
				r.Get("/", func(w http.ResponseWriter, req *http.Request) { httpserver.WriteError(w, req, log, test.err) })
			}})
			status, body, header := get(t, "GET", r.url+"/", nil)
			require.Equal(t, test.status, status)
			require.Equal(t, "application/problem+json", header.Get("Content-Type"))
			require.Equal(t, test.retryAfter, header.Get("Retry-After"))
			var problem httpserver.Problem
			require.NoError(t, json.Unmarshal([]byte(body), &problem))
			require.Equal(t, httpserver.Problem{Title: http.StatusText(test.status), Status: test.status, Detail: test.detail, Errors: test.fields}, problem)
			require.NotContains(t, body, "db-7")
			require.Equal(t, test.logged, strings.Contains(written.String(), "db-7"), written.String())
		})
	}
}

func TestWriteJSON(t *testing.T) {
	t.Parallel()
	r := serve(t, httpserver.Options{Routes: func(r chi.Router) {
		r.Get("/", func(w http.ResponseWriter, _ *http.Request) { httpserver.WriteJSON(w, 202, map[string]int{"a": 1}) })
		r.Get("/bad", func(w http.ResponseWriter, _ *http.Request) { httpserver.WriteJSON(w, 200, make(chan int)) })
	}})
	status, body, header := get(t, "GET", r.url+"/", nil)
	require.Equal(t, 202, status)
	require.Equal(t, "{\"a\":1}\n", body)
	require.Equal(t, "application/json", header.Get("Content-Type"))
	status, _, _ = get(t, "GET", r.url+"/bad", nil)
	require.Equal(t, 500, status)
}
