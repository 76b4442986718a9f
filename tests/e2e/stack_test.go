package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/testkit/commands"
)

// bin holds the commands, built once.
var bin string

func TestMain(m *testing.M) { commands.Main(m, &bin) }

// running is a stack of the built commands in a directory of its own.
type running struct {
	bin     string // where the commands are
	dir     string
	offset  int
	environ []string // of every up
	status  stack.Status
}

// hookline runs the command in dir and returns what it printed.
func hookline(t *testing.T, dir string, environ []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return commands.Hookline(t, bin, dir, environ, args...)
}

// start brings a stack up at the first offset whose ports are all free.
func start(t *testing.T, environ ...string) *running {
	t.Helper()
	return startFrom(t, bin, environ...)
}

func startFrom(t *testing.T, bin string, environ ...string) *running {
	t.Helper()
	commands.LookAtSources(t)
	s := &running{bin: bin, dir: t.TempDir(), environ: environ}
	t.Cleanup(func() {
		_, stderr, err := commands.Hookline(t, s.bin, s.dir, nil, "down", "--purge")
		require.NoError(t, err, stderr)
	})
	for s.offset = 10000; s.offset < 13000; s.offset += 20 {
		stdout, stderr, err := commands.Hookline(t, s.bin, s.dir, environ, "up", "--json", "--port-offset", fmt.Sprint(s.offset))
		if err != nil && strings.Contains(stderr, "is held by") {
			continue
		}
		require.NoError(t, err, stderr)
		s.read(t, stdout)
		return s
	}
	require.Fail(t, "there is no offset at which all ports are free")
	return nil
}

func (s *running) up(t *testing.T, environ ...string) {
	t.Helper()
	environ = slices.Concat(s.environ, environ, []string{fmt.Sprintf("HOOKLINE_PORT_OFFSET=%d", s.offset)})
	stdout, stderr, err := commands.Hookline(t, s.bin, s.dir, environ, "up", "--json")
	require.NoError(t, err, stderr)
	s.read(t, stdout)
}

func (s *running) read(t *testing.T, stdout string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	s.status = stack.Status{}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &s.status), stdout)
	require.True(t, s.status.Ready(), stdout)
}

func (s *running) pids() map[string]int {
	out := map[string]int{}
	for _, c := range s.status.Components {
		out[c.Name] = c.PID
	}
	return out
}

// call sends a request and decodes the answer.
func call(t require.TestingT, ctx context.Context, method, address, path, body string, answer any) { //nolint:revive // T first, as everywhere
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 2, resp.StatusCode/100, "%s %s: %s: %s", method, path, resp.Status, content)
	require.NoError(t, json.Unmarshal(content, answer), string(content))
}

func (s *running) pay(t *testing.T) string {
	t.Helper()
	var payment struct{ ID string }
	call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments", `{"amount":1000,"currency":"USD"}`, &payment)
	return payment.ID
}

type stats struct {
	Total, Unique, Duplicates int
	InvalidSignatures         int `json:"invalid_signatures"`
}

// arrived waits until the simulator has that many different webhooks.
func (s *running) arrived(t *testing.T, unique int) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var got stats
		call(c, t.Context(), http.MethodGet, s.status.Address(stack.MerchantSimulator), "/stats", "", &got)
		require.Equal(c, unique, got.Unique)
		require.Zero(c, got.InvalidSignatures)
	}, time.Minute, 20*time.Millisecond)
}

func TestAPaymentReachesTheMerchantWhateverIsKilledOrChanged(t *testing.T) {
	s := start(t)
	s.pay(t)
	s.arrived(t, 1)

	before := s.pids()
	s.up(t)
	require.Equal(t, before, s.pids(), "a second up left nothing alone")

	killed := []string{stack.Postgres, stack.Kafka, stack.Restate, stack.WebhookWorker, stack.CDCRelay}
	for _, name := range killed {
		require.NoError(t, syscall.Kill(before[name], syscall.SIGKILL))
	}
	s.up(t)
	after := s.pids()
	for name, pid := range before {
		if slices.Contains(killed, name) {
			require.NotEqual(t, pid, after[name], "%s was not started again", name)
		} else {
			require.Equal(t, pid, after[name], "%s was not dead", name)
		}
	}
	s.pay(t)
	s.arrived(t, 2)

	s.up(t, "INTAKE=subscription")
	require.Equal(t, stack.IntakeSubscription, s.status.Intake)
	s.pay(t)
	s.arrived(t, 3)
	s.up(t)
	require.Equal(t, stack.IntakeBatches, s.status.Intake)
	var listed struct{ Subscriptions []any }
	call(t, t.Context(), http.MethodGet, s.status.RestateAdmin(), "/subscriptions", "", &listed)
	require.Empty(t, listed.Subscriptions, "two ways in at once")
	s.pay(t)
	s.arrived(t, 4)

	last := s.pids()
	_, stderr, err := hookline(t, s.dir, nil, "down")
	require.NoError(t, err, stderr)
	for name, pid := range last {
		identity, err := process.Of(pid)
		require.False(t, err == nil && identity.Alive(), "%s outlived down", name)
	}
	_, stderr, err = hookline(t, s.dir, nil, "down")
	require.NoError(t, err, stderr)
	require.Empty(t, stderr)

	// What was committed is still there, and so are the ids that the merchant knows.
	s.up(t)
	s.pay(t)
	s.arrived(t, 5)
}

func TestEachEventOfAPaymentHasItsOwnIDAndSnapshot(t *testing.T) {
	s := start(t)
	hooks := newRecorder(t)
	stdout, stderr, err := hookline(t, s.dir, nil, "endpoints", "add", "--merchant", stack.DemoMerchant, "--url", hooks.url, "--json")
	require.NoError(t, err, stderr)
	require.Contains(t, stdout, `"secret":"whsec_`)

	id := s.pay(t)
	first := hooks.next(t)
	require.Equal(t, id, first.Payment.ID)
	require.Equal(t, "payment.succeeded", first.EventType)
	require.Equal(t, "succeeded", first.Snapshot.Status)

	var changed struct{ Version int64 }
	call(t, t.Context(), http.MethodPatch, s.status.Address(stack.PaymentsAPI), "/payments/"+id, `{"status":"refunded"}`, &changed)
	second := hooks.next(t)
	require.NotEqual(t, first.EventID, second.EventID)
	require.Equal(t, first.ObjectVersion+1, second.ObjectVersion)
	require.Equal(t, "refunded", second.Snapshot.Status)
	require.Equal(t, "refunded", second.Payment.Status)
	require.GreaterOrEqual(t, second.Payment.Version, second.ObjectVersion)
}

func TestASecondStackIsToldWhoseThePortsAre(t *testing.T) {
	s := start(t)
	other := t.TempDir()
	_, stderr, err := hookline(t, other, nil, "up", "--port-offset", fmt.Sprint(s.offset))
	require.Error(t, err)
	require.Contains(t, stderr, "is held by another Hookline stack")
	require.Contains(t, stderr, "run: cd "+s.dir+" && "+s.bin+"/hookline down")
	_, stderr, err = hookline(t, other, nil, "down", "--purge")
	require.NoError(t, err, stderr)
}

// webhook is what the tests look at of a webhook's body.
type webhook struct {
	EventID       string `json:"event_id"`
	EventType     string `json:"event_type"`
	ObjectVersion int64  `json:"object_version"`
	Payment       object `json:"payment"`
	Snapshot      object `json:"snapshot"`
}

type object struct {
	ID      string `json:"id"`
	Status  string `json:"status"`
	Version int64  `json:"version"`
}

// recorder is a merchant that keeps what it gets, each webhook once.
type recorder struct {
	url  string
	got  chan webhook
	seen sync.Map
}

func newRecorder(t *testing.T) *recorder {
	t.Helper()
	r := &recorder{got: make(chan webhook, 100)}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		var hook webhook
		if json.NewDecoder(req.Body).Decode(&hook) != nil || hook.EventID != req.Header.Get("webhook-id") {
			hook = webhook{EventType: "not a webhook with its own id"}
		}
		if _, again := r.seen.LoadOrStore(hook.EventID, true); !again {
			r.got <- hook
		}
	}))
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *recorder) next(t *testing.T) webhook {
	t.Helper()
	select {
	case hook := <-r.got:
		return hook
	case <-time.After(time.Minute):
		require.Fail(t, "no webhook came")
		return webhook{}
	}
}
