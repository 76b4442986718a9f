package balance

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fake is a backend that can freeze: then it takes connections and answers nothing.
type fake struct {
	name   string
	server *httptest.Server
	frozen atomic.Bool
	opened chan struct{} // one for each stream that it has begun
}

func newFake(t *testing.T, name string) *fake {
	t.Helper()
	f := &fake{name: name, opened: make(chan struct{}, 100)}
	f.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.frozen.Load() {
			<-r.Context().Done()
			return
		}
		if r.URL.Path == "/stream" { // as an invocation: it stays open
			fmt.Fprintln(w, f.name)
			_ = http.NewResponseController(w).Flush()
			f.opened <- struct{}{}
			<-r.Context().Done()
			return
		}
		fmt.Fprintln(w, f.name)
	}))
	t.Cleanup(f.server.Close)
	return f
}

func (f *fake) address() string { return strings.TrimPrefix(f.server.URL, "http://") }

// start runs a balancer until the test ends; what it returns ends it before, and waits.
func start(t *testing.T, o Options) (b *Balancer, stop func() error) {
	t.Helper()
	o.Listen, o.Status = "127.0.0.1:0", "127.0.0.1:0"
	if o.Interval == 0 {
		o.Interval = 5 * time.Millisecond
	}
	o.Log = slog.New(slog.DiscardHandler)
	if o.Timeout == 0 {
		o.Timeout = 500 * time.Millisecond // the machine may be busy
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	b, err := Listen(ctx, o)
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		err = b.Run(ctx)
		close(ended)
	}()
	stop = func() error {
		cancel()
		<-ended
		return err
	}
	t.Cleanup(func() { require.NoError(t, stop()) })
	return b, stop
}

// healthy waits until the balancer holds that many backends for healthy.
func healthy(t *testing.T, b *Balancer, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		n := 0
		for _, each := range b.backends {
			if each.healthy {
				n++
			}
		}
		return n == want
	}, 20*time.Second, time.Millisecond)
}

// stream opens one on a connection of its own, and returns who serves it and the connection, positioned behind the name.
func stream(t *testing.T, b *Balancer) (string, net.Conn, *bufio.Reader) {
	t.Helper()
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", b.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = io.WriteString(conn, "GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
	require.NoError(t, err)
	reader := bufio.NewReader(conn)
	for {
		line, err := reader.ReadString('\n')
		require.NoError(t, err)
		if line = strings.TrimSpace(line); line == "a" || line == "b" {
			return line, conn, reader
		}
	}
}

// cut waits until nothing comes any more.
func cut(t *testing.T, conn net.Conn, reader *bufio.Reader) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	_, err := io.Copy(io.Discard, reader)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection is still open")
}

func TestConnectionsGoWhereThereAreTheFewest(t *testing.T) {
	t.Parallel()
	a, b := newFake(t, "a"), newFake(t, "b")
	balancer, _ := start(t, Options{Backends: []string{a.address(), b.address()}})
	healthy(t, balancer, 2)
	got := map[string]int{}
	for range 6 {
		name, _, _ := stream(t, balancer)
		got[name]++
	}
	require.Equal(t, map[string]int{"a": 3, "b": 3}, got)
}

func TestAConnectionThatEndedCountsNoMore(t *testing.T) {
	t.Parallel()
	a, b := newFake(t, "a"), newFake(t, "b")
	balancer, _ := start(t, Options{Backends: []string{a.address(), b.address()}})
	healthy(t, balancer, 2)
	first, conn, _ := stream(t, balancer)
	second, _, _ := stream(t, balancer)
	require.NotEqual(t, first, second)
	require.NoError(t, conn.Close())
	require.Eventually(t, func() bool {
		balancer.mu.Lock()
		defer balancer.mu.Unlock()
		return len(balancer.backends[0].open)+len(balancer.backends[1].open) == 1
	}, 20*time.Second, time.Millisecond)
	third, _, _ := stream(t, balancer)
	require.Equal(t, first, third)
}

func TestAFrozenBackendsConnectionsAreCutAndNoneGoThereUntilItWakes(t *testing.T) {
	t.Parallel()
	fakes := map[string]*fake{"a": newFake(t, "a"), "b": newFake(t, "b")}
	balancer, _ := start(t, Options{Backends: []string{fakes["a"].address(), fakes["b"].address()}})
	healthy(t, balancer, 2)
	name, conn, reader := stream(t, balancer)
	other, otherConn, _ := stream(t, balancer)
	require.NotEqual(t, name, other)

	fakes[name].frozen.Store(true)
	cut(t, conn, reader)
	for range 3 {
		served, _, _ := stream(t, balancer)
		require.Equal(t, other, served)
	}
	// The healthy one's connection is as it was: nothing comes, and it is open.
	require.NoError(t, otherConn.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	_, err := otherConn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	fakes[name].frozen.Store(false)
	healthy(t, balancer, 2)
	served, _, _ := stream(t, balancer)
	require.Equal(t, name, served, "it has the fewest")
}

func TestADeadBackendIsPassedOverBeforeItsHealthIsKnown(t *testing.T) {
	t.Parallel()
	a, b := newFake(t, "a"), newFake(t, "b")
	balancer, _ := start(t, Options{Backends: []string{a.address(), b.address()}, Interval: time.Hour}) // each is asked once
	healthy(t, balancer, 2)
	a.server.Close()
	for range 2 {
		served, _, _ := stream(t, balancer)
		require.Equal(t, "b", served)
	}
}

func get(t *testing.T, address net.Addr, path string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+address.String()+path, nil)
	require.NoError(t, err)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

func TestWithoutAHealthyBackendConnectionsAreClosedAndItIsNotReady(t *testing.T) {
	t.Parallel()
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // the kernel takes connections, nobody answers
	require.NoError(t, err)
	t.Cleanup(func() { silent.Close() })
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }))
	t.Cleanup(broken.Close)
	balancer, _ := start(t, Options{Backends: []string{silent.Addr().String(), strings.TrimPrefix(broken.URL, "http://")}})

	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", balancer.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	cut(t, conn, bufio.NewReader(conn))
	status, body := get(t, balancer.StatusAddr(), "/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, silent.Addr().String())
	status, _ = get(t, balancer.StatusAddr(), "/healthz")
	require.Equal(t, http.StatusOK, status)
}

func TestItIsReadyWithOneHealthyBackend(t *testing.T) {
	t.Parallel()
	a := newFake(t, "a")
	balancer, _ := start(t, Options{Backends: []string{"127.0.0.1:1", a.address()}})
	healthy(t, balancer, 1)
	status, _ := get(t, balancer.StatusAddr(), "/readyz")
	require.Equal(t, http.StatusOK, status)
	_, body := get(t, balancer.Addr(), "/")
	require.Equal(t, "a\n", body)
}

func TestBothWaysEndByThemselves(t *testing.T) {
	t.Parallel()
	// Asked for its health it says that it is well; anything else it sends back as it comes.
	echo, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { echo.Close() })
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			reader := bufio.NewReader(conn)
			if begin, _ := reader.Peek(4); string(begin) == "GET " {
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
			} else {
				_, _ = io.Copy(conn, reader)
			}
			conn.Close()
		}
	}()
	balancer, _ := start(t, Options{Backends: []string{echo.Addr().String()}})
	healthy(t, balancer, 1)
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", balancer.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	sent := strings.Repeat("events ", 100_000)
	go io.WriteString(conn, sent)
	got := make([]byte, len(sent))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	require.True(t, sent == string(got), "it came back otherwise") //nolint:testifylint // Equal would print it all
	half, can := conn.(*net.TCPConn)
	require.True(t, can)
	require.NoError(t, half.CloseWrite())
	rest, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Empty(t, rest)
}

func TestAStopLetsConnectionsEndAndCutsThoseThatDoNot(t *testing.T) {
	t.Parallel()
	a := newFake(t, "a")
	patient, stopPatient := start(t, Options{Backends: []string{a.address()}, Drain: time.Hour})
	healthy(t, patient, 1)
	_, conn, _ := stream(t, patient)
	stopped := make(chan error, 1)
	go func() { stopped <- stopPatient() }()
	require.Eventually(t, func() bool {
		patient.mu.Lock()
		defer patient.mu.Unlock()
		return patient.stopping
	}, 20*time.Second, time.Millisecond)
	_, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", patient.Addr().String())
	require.Error(t, err, "a connection was taken after the stop")
	require.Empty(t, stopped)
	require.NoError(t, conn.Close())
	require.NoError(t, <-stopped)

	hasty, stopHasty := start(t, Options{Backends: []string{a.address()}, Drain: time.Millisecond})
	healthy(t, hasty, 1)
	_, conn, reader := stream(t, hasty)
	require.NoError(t, stopHasty())
	cut(t, conn, reader)
}

func TestListenSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	_, err := Listen(t.Context(), Options{})
	require.ErrorContains(t, err, "no backend")
	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { taken.Close() })
	_, err = Listen(t.Context(), Options{Backends: []string{"127.0.0.1:1"}, Listen: taken.Addr().String(), Status: "127.0.0.1:0"})
	require.ErrorContains(t, err, "listening for what is balanced")
	_, err = Listen(t.Context(), Options{Backends: []string{"127.0.0.1:1"}, Listen: "127.0.0.1:0", Status: taken.Addr().String()})
	require.ErrorContains(t, err, "listening for questions about the health")
}
