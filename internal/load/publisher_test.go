package load_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/load"
)

// api is a payments-api that answers what answer says about the n-th request, from 1.
type api struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	count  atomic.Int64
	conns  atomic.Int64
}

func newAPI(t *testing.T, answer func(n int64, w http.ResponseWriter, r *http.Request)) *api {
	t.Helper()
	a := &api{}
	a.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.bodies = append(a.bodies, r.Method+" "+r.URL.Path+" "+string(body))
		a.mu.Unlock()
		answer(a.count.Add(1), w, r)
	}))
	a.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			a.conns.Add(1)
		}
	}
	a.Start()
	t.Cleanup(a.Close)
	return a
}

func created(_ int64, w http.ResponseWriter, _ *http.Request) {
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, `{"id":"p1"}`)
}

func (a *api) publisher(t *testing.T, bodies ...string) *load.Publisher {
	t.Helper()
	raw := make([][]byte, len(bodies))
	for i, body := range bodies {
		raw[i] = []byte(body)
	}
	p := load.NewPublisher(strings.TrimPrefix(a.URL, "http://"), "", raw)
	t.Cleanup(p.Close)
	return p
}

func TestPaymentAndRefund(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			w.WriteHeader(http.StatusOK)
			return
		}
		created(n, w, r)
	})
	p := a.publisher(t, "a")
	var answers []string
	p.Answered = func(answer []byte) { answers = append(answers, string(answer)) }
	require.NoError(t, p.Burst(t.Context(), 1, 1).Err)
	require.NoError(t, p.Refund(t.Context(), "p1"))
	require.Equal(t, []string{`{"id":"p1"}`}, answers)
	require.Equal(t, 1, p.Posted())
	require.Empty(t, cmp.Diff([]string{"POST /payments a", `PATCH /payments/p1 {"status":"refunded"}`}, a.bodies))
}

func TestRefundTellsWhatWasAnswered(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(_ int64, w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no room", http.StatusServiceUnavailable)
	})
	require.ErrorContains(t, a.publisher(t, "a").Refund(t.Context(), "p1"), "503: no room")
}

func TestTokenIsSent(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if r.URL.Path == "/info" {
			io.WriteString(w, `{"intake":"batches","group":"g"}`)
			return
		}
		created(n, w, r)
	})
	addr := strings.TrimPrefix(a.URL, "http://")
	p := load.NewPublisher(addr, "s3cret", [][]byte{[]byte("a")})
	defer p.Close()
	require.Equal(t, 1, p.Burst(t.Context(), 1, 1).Accepted)
	worker, err := load.AskWorker(t.Context(), addr, "s3cret")
	require.NoError(t, err)
	require.Equal(t, load.Worker{Intake: "batches", Group: "g"}, worker)
	_, err = load.AskWorker(t.Context(), addr, "")
	require.ErrorContains(t, err, "401")
}

func TestBurstPostsEachOnceOverConnectionsThatAreKept(t *testing.T) {
	t.Parallel()
	a := newAPI(t, created)
	got := a.publisher(t, "a", "b", "c").Burst(t.Context(), 300, 8)
	require.Equal(t, []int{300, 0, 0}, []int{got.Accepted, got.Errors, got.Late})
	require.NoError(t, got.Err)
	require.Len(t, got.Latencies, 300)
	require.True(t, got.Last.After(got.First))
	slices.Sort(a.bodies)
	require.Equal(t, []string{"POST /payments a", "POST /payments b", "POST /payments c"}, slices.Compact(slices.Clone(a.bodies)))
	require.Len(t, a.bodies, 300)
	require.LessOrEqual(t, a.conns.Load(), int64(16))
}

func TestBurstCountsErrorsAndGoesOn(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		if n%4 == 0 {
			http.Error(w, "busy", http.StatusServiceUnavailable)
			return
		}
		created(n, w, r)
	})
	got := a.publisher(t, "a").Burst(t.Context(), 100, 4)
	require.Equal(t, []int{75, 25}, []int{got.Accepted, got.Errors})
	require.ErrorContains(t, got.Err, "busy")
	require.Len(t, got.Latencies, 75)
}

func TestBurstEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	a := newAPI(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		if n == 10 {
			cancel()
		}
		created(n, w, r)
	})
	got := a.publisher(t, "a").Burst(ctx, 1_000_000, 4)
	require.Less(t, got.Accepted, 100)
}

func TestRateDoesNotWaitForAnswers(t *testing.T) {
	t.Parallel()
	const n = 50
	all := make(chan struct{})
	a := newAPI(t, func(n int64, w http.ResponseWriter, r *http.Request) {
		if n == 50 {
			close(all)
		}
		select { // a closed loop would never get to the last
		case <-all:
			created(n, w, r)
		case <-r.Context().Done():
		case <-time.After(20 * time.Second):
		}
	})
	got := a.publisher(t, "a").Rate(t.Context(), n, 500)
	require.NoError(t, got.Err)
	require.Equal(t, n, got.Accepted)
	require.GreaterOrEqual(t, got.Last.Sub(got.First), 98*time.Millisecond, "the 50th is due after 98 ms")
}

func TestRateSaysWhyItEndedEarly(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	a := newAPI(t, func(n int64, w http.ResponseWriter, r *http.Request) { cancel(); created(n, w, r) })
	got := a.publisher(t, "a").Rate(ctx, 10, 0.1)
	require.Error(t, got.Err)
	require.LessOrEqual(t, got.Accepted, 1)
}
