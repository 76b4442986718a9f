// Package httpserver is the HTTP frame of every service: health, metrics, problem documents, strict
// bodies, and a stop that drains.
package httpserver

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Config are the settings of a server. Embed it, and set ListenAddr in the service's defaults.
type Config struct {
	ListenAddr           string `env:"LISTEN_ADDR" unit:"host:port" desc:"where the service listens"`
	APIToken             string `env:"API_TOKEN" secret:"true" desc:"bearer token that every request but the health and metrics ones must carry; empty means none"`
	AllowUnauthenticated bool   `env:"ALLOW_UNAUTHENTICATED" envDefault:"false" desc:"listen beyond loopback without API_TOKEN"`
}

// Validate refuses to serve a network without credentials.
func (c Config) Validate() error {
	host, _, err := net.SplitHostPort(c.ListenAddr)
	if err != nil {
		return fmt.Errorf("LISTEN_ADDR: want host:port: %w", err)
	}
	loopback := host == "localhost"
	if addr, err := netip.ParseAddr(host); err == nil {
		loopback = addr.IsLoopback()
	}
	if !loopback && c.APIToken == "" && !c.AllowUnauthenticated {
		return fmt.Errorf("LISTEN_ADDR: %s is not a loopback address: set API_TOKEN, or ALLOW_UNAUTHENTICATED=true", c.ListenAddr)
	}
	return nil
}

// Options say what a server serves.
type Options struct {
	Config   Config
	Log      *slog.Logger
	Registry *prometheus.Registry
	// Ready returns nil when the service can do its job, and otherwise what is missing. It is asked at
	// every /readyz and must be quick.
	Ready func(ctx context.Context) error
	// Routes adds the service's own routes. They are behind API_TOKEN, where one is set.
	Routes func(r chi.Router)
	// OpenRoutes adds routes that API_TOKEN does not guard, as their requests carry a credential of their own. It may be nil.
	OpenRoutes func(r chi.Router)
	// RequestTimeout bounds reading a request and writing its answer; 0 means 15 s, negative none.
	RequestTimeout time.Duration
	// DrainTimeout bounds how long a stop waits for open requests; 0 means 10 s.
	DrainTimeout time.Duration
}

// Server is an HTTP/1.1 and clear-text HTTP/2 server. Its health routes are /healthz, /readyz and /metrics.
type Server struct {
	opts     Options
	http     *http.Server
	listener net.Listener
	stopping atomic.Bool
}

// Listen binds the address, so that a taken port is known before anything else starts.
func Listen(ctx context.Context, opts Options) (*Server, error) {
	if opts.RequestTimeout == 0 {
		opts.RequestTimeout = 15 * time.Second
	}
	if opts.DrainTimeout == 0 {
		opts.DrainTimeout = 10 * time.Second
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", opts.Config.ListenAddr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another process: set LISTEN_ADDR to a free address", opts.Config.ListenAddr)
	}
	if err != nil {
		return nil, fmt.Errorf("listening at LISTEN_ADDR=%s: %w", opts.Config.ListenAddr, err)
	}
	s := &Server{opts: opts, listener: listener}
	if opts.Registry != nil {
		if err := opts.Registry.Register(s.readiness(ctx)); err != nil {
			listener.Close()
			return nil, fmt.Errorf("registering the readiness: %w", err)
		}
	}
	protocols := &http.Protocols{}
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	s.http = &http.Server{
		Handler:           s.routes(),
		Protocols:         protocols,
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(opts.Log.Handler(), slog.LevelDebug),
	}
	if opts.RequestTimeout > 0 {
		s.http.ReadTimeout = opts.RequestTimeout
		s.http.WriteTimeout = opts.RequestTimeout
	}
	return s, nil
}

// Addr is the address bound, which tells the port where port 0 was asked for.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Run serves until ctx is cancelled. Then /readyz fails, no new connection is taken, and open requests get
// DrainTimeout to finish before they are cut.
func (s *Server) Run(ctx context.Context) error {
	s.opts.Log.LogAttrs(ctx, slog.LevelInfo, "listening", slog.String("addr", s.Addr()))
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		s.stopping.Store(true)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.DrainTimeout)
		defer cancel()
		err := s.http.Shutdown(drain)
		if err != nil {
			s.http.Close()
			err = fmt.Errorf("requests were still open after %s: %w", s.opts.DrainTimeout, err)
		}
		stopped <- err
	})
	err := s.http.Serve(s.listener)
	if stop() { // ctx still lives: serving failed by itself
		return fmt.Errorf("serving: %w", err)
	}
	return <-stopped
}

// ready returns nil when the service can do its job.
func (s *Server) ready(ctx context.Context) error {
	if s.stopping.Load() {
		return errors.New("stopping")
	}
	if s.opts.Ready == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return s.opts.Ready(ctx)
}

// readiness is what /readyz says, as a metric. A scrape carries no context: it has ready's own deadline.
func (s *Server) readiness(ctx context.Context) prometheus.Collector {
	ctx = context.WithoutCancel(ctx)
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hookline_ready", Help: "1 when the service can do its job; /readyz says what it lacks.",
	}, func() float64 {
		if s.ready(ctx) != nil {
			return 0
		}
		return 1
	})
}

func (s *Server) routes() http.Handler {
	r := chi.NewRouter()
	r.Get("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte("ok\n"))
	})
	r.Get("/readyz", func(w http.ResponseWriter, req *http.Request) {
		if err := s.ready(req.Context()); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ready\n"))
	})
	r.Handle("/metrics", promhttp.HandlerFor(s.opts.Registry, promhttp.HandlerOpts{}))
	r.NotFound(func(w http.ResponseWriter, req *http.Request) {
		WriteProblem(w, Problem{Status: http.StatusNotFound, Detail: "there is nothing at " + req.URL.Path})
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete} {
			if r.Match(chi.NewRouteContext(), method, req.URL.Path) {
				w.Header().Add("Allow", method)
			}
		}
		WriteProblem(w, Problem{Status: http.StatusMethodNotAllowed, Detail: req.Method + " is not offered at " + req.URL.Path})
	})
	if s.opts.OpenRoutes != nil {
		r.Group(func(r chi.Router) {
			r.Use(s.recoverPanic)
			s.opts.OpenRoutes(r)
		})
	}
	if s.opts.Routes != nil {
		r.Group(func(r chi.Router) {
			r.Use(s.authenticate, s.recoverPanic)
			s.opts.Routes(r)
		})
	}
	return r
}

func (s *Server) authenticate(next http.Handler) http.Handler {
	if s.opts.Config.APIToken == "" {
		return next
	}
	want := []byte("Bearer " + s.opts.Config.APIToken)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			w.Header().Set("WWW-Authenticate", `Bearer realm="hookline"`)
			WriteProblem(w, Problem{Status: http.StatusUnauthorized, Detail: "this service wants the bearer token of API_TOKEN"})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// recoverPanic keeps the promise of a problem document even for a defect of ours.
func (s *Server) recoverPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if v := recover(); v != nil {
				if v == http.ErrAbortHandler { //nolint:errorlint // net/http documents this very value
					panic(v)
				}
				WriteError(w, r, s.opts.Log, fmt.Errorf("panic: %v\n%s", v, debug.Stack()))
			}
		}()
		next.ServeHTTP(w, r)
	})
}
