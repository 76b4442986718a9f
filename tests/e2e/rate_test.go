package e2e_test

import (
	"bufio"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/stack"
)

// receipts is a merchant that notes when each webhook came.
type receipts struct {
	url string

	mu     sync.Mutex
	at     []time.Time
	unique map[string]bool
}

func newReceipts(t *testing.T) *receipts {
	t.Helper()
	r := &receipts{unique: map[string]bool{}}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.at = append(r.at, time.Now())
		r.unique[req.Header.Get("webhook-id")] = true
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *receipts) count() (all, unique int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.at), len(r.unique)
}

// worst is how many came in one second at most, wherever it begins.
func (r *receipts) worst() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	slices.SortFunc(r.at, time.Time.Compare)
	most, first := 0, 0
	for i, at := range r.at {
		for at.Sub(r.at[first]) >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// accepted is how many requests of the worker's were answered with 2xx.
func (s *running) accepted(t *testing.T, worker string) (n int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.status.Address(worker)+"/metrics", http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
		if count, found := strings.CutPrefix(lines.Text(), `hookline_attempts_total{cause="ok"`); found {
			n, err = strconv.Atoi(count[strings.LastIndexByte(count, ' ')+1:])
			require.NoError(t, err)
		}
	}
	return n
}

func TestNoSecondHasMoreThanTheRateLimitWithTwoWorkers(t *testing.T) {
	const limit = 50
	s := start(t, "HOOKLINE_WORKERS=2")
	merchant := newReceipts(t)
	_, stderr, err := hookline(t, s.dir, nil, "endpoints", "add", "--merchant", "slow-and-steady", "--url", merchant.url, "--rate-limit", "50")
	require.NoError(t, err, stderr)
	burst := func(n int) {
		var posts errgroup.Group
		posts.SetLimit(8)
		for range n {
			posts.Go(func() error {
				var made struct{ ID string }
				call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments", `{"amount":1,"currency":"USD","merchant_id":"slow-and-steady"}`, &made)
				return nil
			})
		}
		require.NoError(t, posts.Wait())
	}
	arrived := func(unique int, within time.Duration) {
		require.Eventually(t, func() bool { _, got := merchant.count(); return got >= unique }, within, 20*time.Millisecond)
	}

	burst(400)
	arrived(400, time.Minute)
	all, unique := merchant.count()
	took := merchant.at[all-1].Sub(merchant.at[0])
	t.Logf("400 webhooks: %.1f a second, %d in the worst second, %d twice", float64(all-1)/took.Seconds(), merchant.worst(), all-unique)
	require.Equal(t, all, unique, "nothing came twice")
	require.Greater(t, float64(all-1)/took.Seconds(), 0.8*limit, "the limit is made use of")
	require.LessOrEqual(t, merchant.worst(), limit+delivery.Burst(limit))
	for _, worker := range []string{stack.WebhookWorker, stack.WebhookWorker + "-2"} {
		require.Positive(t, s.accepted(t, worker), "%s has sent some", worker)
	}

	// More than can be booked, and a worker that is killed meanwhile.
	burst(300)
	require.NoError(t, syscall.Kill(-s.pids()[stack.WebhookWorker], syscall.SIGKILL))
	burst(400)
	s.up(t, "HOOKLINE_WORKERS=2")
	arrived(1100, 2*time.Minute)
	all, unique = merchant.count()
	t.Logf("1,100 webhooks and a kill: %d in the worst second, %d twice", merchant.worst(), all-unique)
	require.LessOrEqual(t, merchant.worst(), limit+delivery.Burst(limit))
}
