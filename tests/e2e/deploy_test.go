package e2e_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/testkit/commands"
)

// nextVersion is what the worker that is deployed calls itself.
const nextVersion = "the-next-one"

// buildNextWorker builds a worker of another version: the same source, but for what says which version it is.
func buildNextWorker(t *testing.T) string {
	t.Helper()
	root, err := commands.Root()
	require.NoError(t, err)
	file := filepath.Join(root, "internal", "platform", "metrics", "metrics.go")
	source, err := os.ReadFile(file)
	require.NoError(t, err)
	const version = "func Version() string {\n"
	require.Contains(t, string(source), version)
	dir := t.TempDir()
	next, overlay := filepath.Join(dir, "metrics.go"), filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(next, []byte(strings.Replace(string(source), version, version+"\treturn \""+nextVersion+"\"\n", 1)), 0o600))
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{file: next}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(overlay, replace, 0o600))
	require.NoError(t, commands.Build(t.Context(), dir, "-overlay", overlay, "./cmd/"+stack.WebhookWorker))
	return filepath.Join(dir, stack.WebhookWorker)
}

// endpointsOf manages the stack's endpoints, as `hookline endpoints` does. The pool is a superuser's.
func (s *running) endpointsOf(t *testing.T) (*endpoint.Manager, *pgxpool.Pool) {
	t.Helper()
	status, err := stack.ReadStatus(t.Context(), s.state()) // it has the keys, which are not printed
	require.NoError(t, err)
	pool, err := postgres.NewPool(t.Context(), status.DSN, postgres.Options{ApplicationName: "e2e"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	guard, err := stack.EmbeddedGuard()
	require.NoError(t, err)
	return stack.Endpoints(pool, status.Keys, guard), pool
}

// state is the stack's state directory.
func (s *running) state() string { return filepath.Join(s.dir, ".hookline") }

// versioned is a merchant that keeps the user agent of each request, by webhook-id.
type versioned struct {
	url string

	mu     sync.Mutex
	sick   bool
	agents map[string][]string
}

func newVersioned(t *testing.T) *versioned {
	t.Helper()
	v := &versioned{sick: true, agents: map[string][]string{}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v.mu.Lock()
		defer v.mu.Unlock()
		id := r.Header.Get("Webhook-Id")
		v.agents[id] = append(v.agents[id], r.UserAgent())
		if v.sick {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	v.url = server.URL
	return v
}

func (v *versioned) heal() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.sick = false
}

// counted returns how many webhooks there are, and how many had that many requests.
func (v *versioned) counted(requests int) (all, with int) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, agents := range v.agents {
		if len(agents) == requests {
			with++
		}
	}
	return len(v.agents), with
}

// A deploy while retries wait: the old worker is asked to end, the new one is another binary. No timer is lost, none goes
// off twice, and whatever waited for the old worker is sent by the new one.
func TestADeployLosesNoTimerAndEachAttemptAfterItIsMadeByTheNewestCode(t *testing.T) {
	next := buildNextWorker(t)
	own := t.TempDir() // the commands, of which one is replaced
	for _, name := range []string{
		"hookline", stack.MerchantSimulator, stack.DataService, stack.CDCRelay, stack.WebhookWorker, stack.PaymentsAPI,
	} {
		content, err := os.ReadFile(filepath.Join(bin, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(own, name), content, 0o700))
	}
	s := startFrom(t, own, "CIRCUIT_OPEN_AT=0") // an endpoint that is spared would park what is to wait for its timer
	manager, pool := s.endpointsOf(t)
	merchant := newVersioned(t)
	const payments, merchantID = 100, "deployed-to"
	added, _, err := manager.Add(t.Context(), endpoint.Spec{
		MerchantID: merchantID, URL: merchant.url, Schedule: delivery.Schedule{25 * time.Second, time.Second, time.Second},
	})
	require.NoError(t, err)
	pay := func() {
		var payment struct{ ID string }
		call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments",
			`{"merchant_id":"`+merchantID+`","amount":1000,"currency":"USD"}`, &payment)
	}
	for range payments {
		pay()
	}
	count := func(c require.TestingT, condition string) int {
		var n int
		require.NoError(c, pool.QueryRow(t.Context(), "select count(*) from delivery.deliveries where endpoint_id = $1 and "+condition, [16]byte(added.ID)).Scan(&n))
		return n
	}
	const waiting = "state = 'retrying' and owner is null and attempts = 1 and next_attempt_at > clock_timestamp()"
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.Equal(c, payments, count(c, waiting))
	}, 15*time.Second, 20*time.Millisecond)

	before := s.pids()
	require.NoError(t, os.Rename(next, filepath.Join(own, stack.WebhookWorker)))
	s.up(t)
	for name, pid := range s.pids() {
		require.Equal(t, name == stack.WebhookWorker, pid != before[name], name)
	}
	require.Equal(t, payments, count(t, waiting), "a timer went off during the deploy, which is then proof of nothing")
	merchant.heal()

	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.Equal(c, payments, count(c, "state = 'succeeded'"))
	}, time.Minute, 50*time.Millisecond)
	all, twice := merchant.counted(2)
	require.Equal(t, []int{payments, payments}, []int{all, twice}, "one failure and one success each")
	var byTimer int
	require.NoError(t, pool.QueryRow(t.Context(), `select count(*) from delivery.attempts
		where endpoint_id = $1 and number = 2 and cause = 'ok' and epoch = 2`, [16]byte(added.ID)).Scan(&byTimer))
	require.Equal(t, payments, byTimer, "the reconciler made up for a timer")
	for id, agents := range merchant.agents {
		require.NotEqual(t, "Hookline/"+nextVersion, agents[0], id)
		require.Equal(t, "Hookline/"+nextVersion, agents[1], id)
	}

	pay()
	require.Eventually(t, func() bool {
		_, once := merchant.counted(1)
		return once == 1
	}, 20*time.Second, 20*time.Millisecond)
}
