// Package balance spreads TCP connections over a few backends that can be asked for their health. It stands where a
// Service stands in Kubernetes: in front of several workers that share one address, so that what calls them need not
// know how many there are. Unlike a Service it also cuts the connections of a backend that has stopped to answer, so that
// the caller tries again elsewhere at once instead of after its own pings.
package balance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/platform/logging"
)

// Options say what is spread over what. The zero value of a duration means its default.
type Options struct {
	// Listen is the host:port that is balanced.
	Listen string
	// Status is the host:port of the balancer's own /healthz and /readyz: behind Listen there are only the backends'.
	Status string
	// Backends are the host:ports that connections go to. Each answers GET /healthz with 200 while it is healthy.
	Backends []string
	Log      *slog.Logger

	// Interval is the time between two questions to a backend: 500 ms.
	Interval time.Duration
	// Timeout is how long a backend may take to answer one, or to take a connection: 1 s.
	Timeout time.Duration
	// Drain is how long a stop waits for open connections to end: 2 s. Those of HTTP/2 never do by themselves.
	Drain time.Duration
}

// Balancer is the listener in front of the backends.
type Balancer struct {
	o        Options
	balanced net.Listener
	status   net.Listener
	asking   *http.Client

	mu       sync.Mutex
	backends []*backend
	stopping bool
	serving  sync.WaitGroup // one for each connection
}

// backend is guarded by its Balancer's mutex, but for the address.
type backend struct {
	address string
	healthy bool
	open    map[*link]struct{}
}

// link is a connection that was taken and the one that it continues as; the latter is nil until there is one.
type link struct{ client, server net.Conn }

func (l *link) close() {
	_ = l.client.Close() // it ends; how does not matter
	if l.server != nil {
		_ = l.server.Close()
	}
}

// Listen opens both listeners. Nothing is taken from them until Run.
func Listen(ctx context.Context, o Options) (*Balancer, error) {
	if len(o.Backends) == 0 {
		return nil, errors.New("there is no backend to balance over")
	}
	for _, setting := range []struct {
		value    *time.Duration
		standard time.Duration
	}{{&o.Interval, 500 * time.Millisecond}, {&o.Timeout, time.Second}, {&o.Drain, 2 * time.Second}} {
		if *setting.value == 0 {
			*setting.value = setting.standard
		}
	}
	b := &Balancer{
		o: o,
		// A connection of its own for each question: what is asked is also whether new ones are taken.
		asking: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: o.Timeout},
	}
	for _, address := range o.Backends {
		b.backends = append(b.backends, &backend{address: address, open: map[*link]struct{}{}})
	}
	var err error
	if b.balanced, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.Listen); err != nil {
		return nil, fmt.Errorf("listening for what is balanced: %w", err)
	}
	if b.status, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.Status); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for questions about the health: %w", err), b.balanced.Close())
	}
	return b, nil
}

// Addr is where it listens for what is balanced.
func (b *Balancer) Addr() net.Addr { return b.balanced.Addr() }

// StatusAddr is where it tells of its own health.
func (b *Balancer) StatusAddr() net.Addr { return b.status.Addr() }

// Run balances until ctx ends. Then no connection is taken any more, and the open ones get the time to end.
func (b *Balancer) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	defer parts.Wait()
	defer cancel()
	for _, each := range b.backends {
		parts.Go(func() { b.watch(ctx, each) })
	}
	server := &http.Server{Handler: b.routes(), ReadHeaderTimeout: 5 * time.Second}
	failure := make(chan error, 1)
	parts.Go(func() {
		if err := server.Serve(b.status); !errors.Is(err, http.ErrServerClosed) {
			failure <- fmt.Errorf("telling of the health: %w", err)
		}
	})
	parts.Go(func() { b.accept(ctx) })
	var err error
	select {
	case <-ctx.Done():
	case err = <-failure:
	}
	err = errors.Join(err, b.balanced.Close())
	b.drain()
	return errors.Join(err, server.Close())
}

// accept takes connections until the listener is closed.
func (b *Balancer) accept(ctx context.Context) {
	for {
		conn, err := b.balanced.Accept()
		switch {
		case err == nil:
			if !b.begin(ctx, conn) {
				return
			}
		case errors.Is(err, net.ErrClosed):
			return
		default:
			// One that was given up before it was taken, or no file descriptor left: the next may succeed.
			b.o.Log.LogAttrs(ctx, slog.LevelWarn, "a connection could not be taken", logging.Error(err))
			if !pause(ctx, 50*time.Millisecond) {
				return
			}
		}
	}
}

// begin serves the connection in the background, unless the balancer stops.
func (b *Balancer) begin(ctx context.Context, conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopping {
		_ = conn.Close() // refused
		return false
	}
	ctx = context.WithoutCancel(ctx) // what was taken before the stop is still served
	b.serving.Go(func() { b.serve(ctx, conn) })
	return true
}

// serve hands the connection to a backend. One that does not take it is passed over: nothing was sent to it yet.
func (b *Balancer) serve(ctx context.Context, client net.Conn) {
	defer client.Close()
	l := &link{client: client}
	dialer := net.Dialer{Timeout: b.o.Timeout}
	var passed []*backend
	for {
		chosen := b.choose(l, passed)
		if chosen == nil {
			return
		}
		server, err := dialer.DialContext(ctx, "tcp", chosen.address)
		if err == nil && b.join(chosen, l, server) {
			exchange(client, server)
			b.leave(chosen, l)
			return
		}
		b.leave(chosen, l)
		if err == nil {
			return // the backend became unhealthy meanwhile, and the client's connection is closed
		}
		passed = append(passed, chosen)
	}
}

// choose enters the connection at the healthy backend that has the fewest; nil where there is none.
func (b *Balancer) choose(l *link, passed []*backend) *backend {
	b.mu.Lock()
	defer b.mu.Unlock()
	var best *backend
	for _, each := range b.backends {
		if each.healthy && !slices.Contains(passed, each) && (best == nil || len(each.open) < len(best.open)) {
			best = each
		}
	}
	if best != nil {
		best.open[l] = struct{}{}
	}
	return best
}

// join completes the link, unless it was cut while the backend was dialled.
func (b *Balancer) join(chosen *backend, l *link, server net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, open := chosen.open[l]; !open {
		_ = server.Close() // nothing was sent
		return false
	}
	l.server = server
	return true
}

func (b *Balancer) leave(chosen *backend, l *link) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(chosen.open, l)
}

// exchange copies both ways until both have ended, or one has failed, and closes both.
func exchange(client, server net.Conn) {
	var both sync.WaitGroup
	direction := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		half, can := to.(interface{ CloseWrite() error })
		if err == nil && can && half.CloseWrite() == nil {
			return // the other direction may go on
		}
		_ = to.Close() // ends the other direction
		_ = from.Close()
	}
	both.Go(func() { direction(server, client) })
	both.Go(func() { direction(client, server) })
	both.Wait()
	_ = client.Close() // both ways have ended
	_ = server.Close()
}

// watch asks the backend for its health until ctx ends.
func (b *Balancer) watch(ctx context.Context, each *backend) {
	tick := time.NewTicker(b.o.Interval)
	defer tick.Stop()
	for {
		err := b.ask(ctx, each.address)
		if ctx.Err() != nil {
			return
		}
		b.note(ctx, each, err)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *Balancer) ask(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", nil)
	if err != nil {
		return fmt.Errorf("asking for the health: %w", err)
	}
	res, err := b.asking.Do(req)
	if err != nil {
		return fmt.Errorf("asking for the health: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("asking for the health: %s", res.Status)
	}
	return nil
}

// note keeps what was found out of the backend, and cuts the connections of one that has become unhealthy.
func (b *Balancer) note(ctx context.Context, each *backend, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if each.healthy == (err == nil) {
		return
	}
	each.healthy = err == nil
	if each.healthy {
		b.o.Log.LogAttrs(ctx, slog.LevelInfo, "a backend is healthy", slog.String("backend", each.address))
		return
	}
	b.o.Log.LogAttrs(ctx, slog.LevelWarn, "a backend is not healthy: its connections are cut",
		slog.String("backend", each.address), slog.Int("connections", len(each.open)), logging.Error(err))
	each.cut()
}

func (b *backend) cut() {
	for l := range b.open {
		l.close()
	}
	clear(b.open)
}

// drain waits for the open connections to end, and cuts those that do not.
func (b *Balancer) drain() {
	b.mu.Lock()
	b.stopping = true
	b.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		b.serving.Wait()
		close(ended)
	}()
	patience := time.NewTimer(b.o.Drain)
	defer patience.Stop()
	select {
	case <-ended:
		return
	case <-patience.C:
	}
	b.mu.Lock()
	for _, each := range b.backends {
		each.cut()
	}
	b.backends = nil // what was being dialled finds no other one
	b.mu.Unlock()
	<-ended
}

// routes are the balancer's own. It is ready while there is somebody to hand a connection to.
func (b *Balancer) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !b.ready() {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "none of %s is healthy\n", strings.Join(b.o.Backends, ", "))
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return mux
}

func (b *Balancer) ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.backends, func(each *backend) bool { return each.healthy })
}

func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
