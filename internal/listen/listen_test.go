package listen_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/listen"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/stack/process"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

// world is a ledger, and what listens.
type world struct {
	*endpoint.Manager
	pool *pgxpool.Pool

	mu    sync.Mutex
	notes []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	guard, err := stack.EmbeddedGuard()
	require.NoError(t, err)
	pool := pgtest.New(t).Pool(t, "")
	return &world{Manager: stack.Endpoints(pool, endpointtest.Keys(t), guard), pool: pool}
}

// run is one Run under way.
type run struct {
	listen.Started
	lines chan string
	stop  context.CancelFunc
	ended chan error
}

// lines is a writer that hands over whole lines.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

// start runs until stop, and returns once the endpoint is there.
func (w *world) start(t *testing.T, change func(*listen.Options)) *run {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &run{lines: make(chan string, 100), stop: cancel, ended: make(chan error, 1)}
	o := listen.Options{
		MerchantID: "shop", Address: listen.Loopback(), Printer: listen.NewPrinter(lines(r.lines)),
		Note: func(line string) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.notes = append(w.notes, line)
		},
	}
	o.Printer.JSON = true
	if change != nil {
		change(&o)
	}
	go func() { r.ended <- listen.Run(ctx, w, o) }()
	t.Cleanup(cancel)
	select {
	case line := <-r.lines:
		require.NoError(t, json.Unmarshal([]byte(line), &r.Started), line)
	case err := <-r.ended:
		require.NoError(t, err)
		require.Fail(t, "it did not listen")
	}
	return r
}

// end interrupts it, and returns how many deliveries were open.
func (r *run) end(t *testing.T) int {
	t.Helper()
	r.stop()
	require.NoError(t, <-r.ended)
	var last struct {
		Kind string
		Open int
	}
	require.NoError(t, json.Unmarshal([]byte(<-r.lines), &last))
	require.Equal(t, "ended", last.Kind)
	return last.Open
}

func (r *run) post(t *testing.T, by string) int {
	t.Helper()
	made := signed(t, by, body)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL, strings.NewReader(body))
	require.NoError(t, err)
	req.Header = made.Header
	response, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	return response.StatusCode
}

func TestListeningIsAnEndpointForAsLongAsItLasts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(t, func(o *listen.Options) { o.EventTypes = []string{"payment.*"} })
	added, err := w.Get(t.Context(), r.EndpointID)
	require.NoError(t, err)
	require.Equal(t, "shop", added.MerchantID)
	require.Equal(t, []string{"payment.*"}, added.EventTypes)
	require.Equal(t, delivery.Schedule{time.Second, 5 * time.Second, 30 * time.Second}, added.Schedule)
	require.Greater(t, time.Duration(added.TimeoutMS)*time.Millisecond, listen.ForwardTimeout)
	require.Contains(t, added.Description, "hookline listen")
	require.Contains(t, added.Description, strconv.Itoa(os.Getpid()))
	require.Regexp(t, `^http://127\.0\.0\.1:\d+/$`, added.URL)
	recipient, err := w.Recipient(t.Context(), r.EndpointID)
	require.NoError(t, err)
	require.Equal(t, r.Secret, recipient.Secrets[0].Value)

	require.Equal(t, http.StatusOK, r.post(t, r.Secret))
	require.Contains(t, <-r.lines, `"kind":"webhook"`)
	require.Equal(t, http.StatusUnauthorized, r.post(t, stranger))
	require.Contains(t, <-r.lines, `"status":401`)

	require.Zero(t, r.end(t))
	_, err = w.Get(t.Context(), r.EndpointID)
	require.Equal(t, fault.NotFound, fault.ClassOf(err))
	require.Empty(t, w.notes)
}

func TestTheEndSaysHowManyDeliveriesWereOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(t, nil)
	for _, state := range []string{"pending", "retrying", "parked", "parked", "succeeded", "dead"} {
		_, err := w.pool.Exec(t.Context(), `
			insert into delivery.deliveries (event_id, endpoint_id, epoch, merchant_id, state, ended_at)
			values ($1, $2, 1, 'shop', $3, case when $3 in ('succeeded', 'dead') then now() end)`, [16]byte(uuid.New()), [16]byte(r.EndpointID), state)
		require.NoError(t, err)
	}
	require.Equal(t, 4, r.end(t))
}

func TestAnEndpointThatSomebodyElseRemovedIsNoError(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.start(t, nil)
	_, err := w.Remove(t.Context(), r.EndpointID)
	require.NoError(t, err)
	require.Zero(t, r.end(t))
}

// writes is called by whatever is printed.
type writes func()

func (f writes) Write(p []byte) (int, error) {
	f()
	return len(p), nil
}

// stuck is a ledger that cannot remove.
type stuck struct{ *world }

func (stuck) Remove(context.Context, uuid.UUID) (int64, error) {
	return 0, errors.New("the ledger is away")
}

func TestAnEndpointThatCannotBeRemovedIsNamed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	interrupted := writes(cancel)
	err := listen.Run(ctx, stuck{w}, listen.Options{MerchantID: "shop", Address: listen.Loopback(), Printer: listen.NewPrinter(interrupted)})
	require.ErrorContains(t, err, "the ledger is away")
	all, listErr := w.List(t.Context(), "shop")
	require.NoError(t, listErr)
	require.Len(t, all, 1)
	require.ErrorContains(t, err, all[0].ID.String())
}

func TestSideBySideEachHasAnEndpointAndASecretOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.start(t, nil), w.start(t, nil)
	require.NotEqual(t, first.Secret, second.Secret)
	require.Equal(t, http.StatusOK, first.post(t, first.Secret))
	require.Equal(t, http.StatusUnauthorized, first.post(t, second.Secret))
	require.Contains(t, <-first.lines+<-first.lines, `"status":401`)
	require.Zero(t, first.end(t))
	require.Equal(t, http.StatusOK, second.post(t, second.Secret))
	require.Contains(t, <-second.lines, `"status":200`)
	require.Zero(t, second.end(t))
	require.Empty(t, w.notes)
}

func TestOnlyWhatTheKilledOnThisMachineLeftIsRemoved(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	here, err := os.Hostname()
	require.NoError(t, err)
	self, err := process.Of(os.Getpid())
	require.NoError(t, err)
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, closed.Close())
	open, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer open.Close()

	add := func(host string, of process.Identity, address string) uuid.UUID {
		description := fmt.Sprintf(`temporary, of hookline listen: {"host":%q,"pid":%d,"started":%d,"boot":%q}`, host, of.PID, of.Started, of.Boot)
		return endpointtest.Add(t, w.pool, "another-shop", func(s *endpoint.Spec) { s.URL, s.Description = "http://"+address+"/", description })
	}
	// The pid is somebody else's by now, or of before a restart of the machine.
	pidReused, rebooted := self, self
	pidReused.Started++
	rebooted.Boot = "another"
	_, port, err := net.SplitHostPort(closed.Addr().String())
	require.NoError(t, err)
	removed := []uuid.UUID{
		add(here, pidReused, closed.Addr().String()), add(here, rebooted, closed.Addr().String()),
		add(here, rebooted, "dev.example:"+port), add(here, rebooted, "localhost:"+port), // listening everywhere, or by name
	}
	kept := []uuid.UUID{
		add(here, self, closed.Addr().String()),       // it lives, and may be about to listen
		add(here, rebooted, open.Addr().String()),     // somebody answers: another container's, with pids of its own
		add("elsewhere", rebooted, "127.0.0.1:"+port), // that is for elsewhere to find out
		endpointtest.Add(t, w.pool, "shop", func(s *endpoint.Spec) {
			s.URL, s.Description = "http://"+closed.Addr().String()+"/", "a test of hookline listen"
		}),
		endpointtest.Add(t, w.pool, "shop", func(s *endpoint.Spec) {
			s.URL, s.Description = "http://"+closed.Addr().String()+"/", "temporary, of hookline listen: x"
		}),
	}
	require.Zero(t, w.start(t, nil).end(t))
	all, err := w.List(t.Context(), "")
	require.NoError(t, err)
	left := make([]uuid.UUID, len(all))
	for i, each := range all {
		left[i] = each.ID
	}
	require.ElementsMatch(t, kept, left)
	require.Len(t, w.notes, len(removed))
	for _, id := range removed {
		require.Contains(t, strings.Join(w.notes, "\n"), id.String())
	}
}

func TestWhatTheGuardRefusesAndWhatIsWrongIsSaidAndLeavesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var out bytes.Buffer
	options := listen.Options{MerchantID: "shop", Address: listen.Address{Host: "192.168.7.7"}, Printer: listen.NewPrinter(&out)}
	err := listen.Run(t.Context(), w, options)
	refused, ok := errors.AsType[*listen.Refused](err)
	require.True(t, ok, err)
	require.Regexp(t, `^http://192\.168\.7\.7:\d+/$`, refused.URL)
	require.Contains(t, refused.Reason, "private")

	options.Address, options.EventTypes = listen.Loopback(), []string{"payment.suceeded"}
	err = listen.Run(t.Context(), w, options)
	invalid, ok := errors.AsType[*fault.Error](err)
	require.True(t, ok, err)
	require.Contains(t, invalid.Fields["event_types"], `did you mean "payment.succeeded"?`)

	taken, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	options.Address, err = listen.ParseAddress(taken.Addr().String())
	require.NoError(t, err)
	require.ErrorContains(t, listen.Run(t.Context(), w, options), "address already in use")

	all, err := w.List(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, all)
	require.Empty(t, out.String())
}

func TestAnInterruptDoesNotWaitForALocalServerThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	arrived := make(chan struct{})
	server := newLocal(t, func(_ http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-r.Context().Done() // given up by us
	})
	r := w.start(t, func(o *listen.Options) {
		var err error
		o.ForwardTo, err = listen.ParseForwardTo(server.URL)
		require.NoError(t, err)
	})
	require.Equal(t, server.URL, r.ForwardTo)
	posted := make(chan error, 1)
	made := signed(t, r.Secret, body)
	go func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, r.URL, strings.NewReader(body))
		if err == nil {
			req.Header = made.Header
			var response *http.Response
			if response, err = http.DefaultClient.Do(req); err == nil {
				response.Body.Close()
			}
		}
		posted <- err
	}()
	<-arrived
	start := time.Now()
	r.stop()
	require.NoError(t, <-r.ended)
	require.Less(t, time.Since(start), listen.ForwardTimeout)
	require.Error(t, <-posted, "without an answer it is tried again, and finds the endpoint gone")
}
