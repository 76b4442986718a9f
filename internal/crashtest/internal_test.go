package crashtest

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/stack"
)

var begin = time.Date(2026, 2, 23, 12, 0, 0, 0, time.UTC)

func after(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }

func TestFaultsAreReadAndWritten(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"kill:webhook-worker", "kill:all", "freeze:postgres", "term:payments-api", "down:kafka", "restart:all", "crashloop:webhook-worker",
		"slot-dropped", "restate-volume", "kill-waiting:webhook-worker", "group-reset:earliest", "group-reset:latest", "long-transaction", "none",
	} {
		f, err := ParseFault(text)
		require.NoError(t, err)
		require.Equal(t, text, f.String())
	}
	for text, want := range map[string]string{
		"":                 "there is no fault",
		"burn:postgres":    "there is no fault",
		"kill":             "hits all, webhook-worker",
		"kill:nobody":      "hits all, webhook-worker",
		"slot-dropped:x":   "takes no target",
		"group-reset":      "hits earliest, latest",
		"crashloop:kafka":  "hits webhook-worker",
		"freeze:all":       "not \"all\"",
		"restart:postgres": "hits all",
	} {
		_, err := ParseFault(text)
		require.ErrorContains(t, err, want, text)
	}
	require.Contains(t, Names(), "kill:COMPONENT|all")
	require.Contains(t, Names(), "freeze:COMPONENT")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	good := Options{Payments: 100, Rate: 10, Merchants: 2, Refunds: 0.1, Freeze: time.Second, Hold: time.Minute}
	require.NoError(t, good.Validate())
	for name, change := range map[string]func(o *Options){
		"payments": func(o *Options) { o.Payments = 0 }, "rate": func(o *Options) { o.Rate = 0 },
		"merchants": func(o *Options) { o.Merchants = 0 }, "refunds": func(o *Options) { o.Refunds = 2 },
		"hang one of one": func(o *Options) { o.Merchants, o.HangOne = 1, true }, "freeze": func(o *Options) { o.Freeze = 0 },
		"hold": func(o *Options) { o.Hold = 0 }, "duration": func(o *Options) { o.Random = true },
	} {
		o := good
		change(&o)
		require.Error(t, o.Validate(), name)
	}
}

func TestTheEnvironmentsOwnSettingsStay(t *testing.T) {
	t.Parallel()
	got := impatient([]string{"RECONCILE_GRACE=7s", "PATH=/bin"})
	require.Contains(t, got, "RECONCILE_GRACE=7s")
	require.NotContains(t, got, "RECONCILE_GRACE=1s")
	require.Contains(t, got, "RECONCILE_INTERVAL=500ms")
	text, found := strings.CutPrefix(got[len(got)-1], "RETRY_SCHEDULE=")
	require.True(t, found)
	var schedule delivery.Schedule
	require.NoError(t, schedule.UnmarshalText([]byte(text)), "a worker takes it")
}

func TestRefundsAreSpreadEvenly(t *testing.T) {
	t.Parallel()
	for share, want := range map[float64]int{0: 0, 0.1: 10, 0.25: 25, 1: 100} {
		n := 0
		for i := range 100 {
			if refunded(i, share) {
				n++
			}
		}
		require.Equal(t, want, n, share)
	}
}

func TestTheSameSeedDrawsTheSameFaults(t *testing.T) {
	t.Parallel()
	draw := func(seed uint64) []string {
		r := newRun(Options{Seed: seed})
		var drawn []string
		for range 20 {
			f := r.draw()
			drawn = append(drawn, f.String()+r.o.Freeze.String())
		}
		return drawn
	}
	first, again := draw(7), draw(7)
	require.Equal(t, first, again)
	require.NotEqual(t, first, draw(8))
}

// The interleaving: a seed is run twice on one stack. With the same Idempotency-Keys the API would answer with the first
// run's payments, and the second one would prove nothing.
func TestTwoRunsWithOneSeedShareNoKey(t *testing.T) {
	t.Parallel()
	first, second := newRun(Options{Seed: 42}), newRun(Options{Seed: 42})
	require.Contains(t, first.name, "crash-2a-")
	require.NotEqual(t, first.name, second.name)
}

func TestRecoveryIsFromTheFaultToTheFirst2xxOfALaterEvent(t *testing.T) {
	t.Parallel()
	var s Sets
	add := func(n byte, committed int, received ...int) {
		e := Event{ID: uuid.UUID{n}, Committed: after(committed)}
		s.Committed = append(s.Committed, e)
		for _, ms := range received {
			s.Received = append(s.Received, Receipt{ID: e.ID.String(), At: after(ms)})
		}
	}
	add(1, 900, 5000) // before the fault: its late delivery is no recovery
	add(2, 1100, 9000, 4000)
	add(3, 1200, 3500)
	add(4, 1300) // never
	add(5, 6000, 6500)
	s.Faults = []Window{
		{Fault: "kill", From: after(1000), To: after(2000)},
		{Fault: "again", From: after(5900), To: after(5950)},
		{Fault: "again", From: after(100), To: after(200)},
		{Fault: "last", From: after(7000), To: after(7500)},
	}
	require.Empty(t, cmp.Diff(map[string]float64{"kill": 2.5, "again": 3.4}, recoveries(s)), "of faults with one name the slowest counts")
	require.Equal(t, 4100*time.Millisecond, worstDelay(s), "until the first 2xx of the first event")
}

func TestGapsEndWithTheLoad(t *testing.T) {
	t.Parallel()
	require.Equal(t, time.Duration(0), longestGap(nil, after(1000)))
	moments := []time.Time{after(0), after(300), after(1300), after(9000)}
	require.Equal(t, time.Second, longestGap(moments, after(1500)))
	require.Equal(t, 2700*time.Millisecond, longestGap(moments, after(4000)))
	require.Equal(t, 7700*time.Millisecond, longestGap(moments, after(9500)))
}

// api answers from a list, one after the other, and then 201.
type api struct {
	mu      sync.Mutex
	answers []func(w http.ResponseWriter)
	keys    []string
	url     string
}

func newAPI(t *testing.T, answers ...func(w http.ResponseWriter)) *api {
	t.Helper()
	a := &api{answers: answers}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	a.url = server.URL
	return a
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	a.mu.Lock()
	a.keys = append(a.keys, r.Method+" "+r.Header.Get("Idempotency-Key"))
	var answer func(w http.ResponseWriter)
	if len(a.answers) > 0 {
		answer, a.answers = a.answers[0], a.answers[1:]
	}
	a.mu.Unlock()
	switch {
	case answer != nil:
		answer(w)
	case r.Method == http.MethodPatch:
		fmt.Fprint(w, `{"id":"p1","version":2}`)
	default:
		w.WriteHeader(http.StatusCreated)
		fmt.Fprint(w, `{"id":"p1","version":1}`)
	}
}

// The interleaving: the first answer is lost with its connection, the second is half of one, the third says to ask again.
func TestAnUnknownOutcomeIsAskedForAgainWithTheSameKey(t *testing.T) {
	t.Parallel()
	a := newAPI(t,
		func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
		func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"id":"p1","ver`)
		},
		func(w http.ResponseWriter) { w.WriteHeader(http.StatusServiceUnavailable) },
		nil,
		func(http.ResponseWriter) { panic(http.ErrAbortHandler) },
	)
	c := newClients(strings.TrimPrefix(a.url, "http://"), "", "run")
	t.Cleanup(c.close)
	require.NoError(t, c.pay(t.Context(), 3, "m", true))
	require.Equal(t, []Object{{"p1", 1}, {"p1", 2}}, c.acknowledged, "what was not answered is not acknowledged")
	require.Equal(t, []string{"POST run-3", "POST run-3", "POST run-3", "POST run-3", "PATCH ", "PATCH "}, a.keys)
	var statuses []int
	for _, f := range c.failures {
		statuses = append(statuses, f.status)
	}
	require.Equal(t, []int{0, 0, http.StatusServiceUnavailable, 0}, statuses)
}

func TestAWrongRequestIsNotRepeated(t *testing.T) {
	t.Parallel()
	a := newAPI(t, func(w http.ResponseWriter) { http.Error(w, "no such merchant", http.StatusUnprocessableEntity) })
	c := newClients(strings.TrimPrefix(a.url, "http://"), "", "run")
	t.Cleanup(c.close)
	require.ErrorContains(t, c.pay(t.Context(), 1, "m", false), "no such merchant")
	require.Zero(t, c.count())
}

func TestReceiptsAreReadWholeAndOnlyThoseOfTheRun(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "receipts.jsonl")
	r := newReceipts(file, "crash-1-")
	require.NoError(t, r.read(), "there is no file before the first webhook")

	write := func(text string) {
		f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		require.NoError(t, err)
		_, err = f.WriteString(text)
		require.NoError(t, errors.Join(err, f.Close()))
	}
	line := func(id, outcome, path string) string {
		return fmt.Sprintf(`{"id":%q,"outcome":%q,"path":%q,"received_at":"2026-02-23T12:00:00Z","body_sha256":"h","event_type":"t","object_id":"p","object_version":3}`, id, outcome, path)
	}
	first := line("a", "accepted", "/webhooks/crash-1-0")
	write(first + "\n" + line("b", "accepted", "/webhooks/crash-11-0") + "\n" + line("c", "failed_on_purpose", "/webhooks/crash-1-0") + "\n" +
		line("d", "invalid_signature", "/webhooks/crash-1-0") + "\nnonsense\n" + first[:20])
	require.NoError(t, r.read())
	require.Equal(t, 1, r.count())
	write(first[20:] + "\n")
	require.NoError(t, r.read())
	all, invalid := r.all()
	want := Receipt{Object: Object{"p", 3}, ID: "a", MerchantID: "crash-1-0", Type: "t", BodySHA256: "h", At: begin}
	require.Empty(t, cmp.Diff([]Receipt{want, want}, all))
	require.Equal(t, 1, invalid)
	require.Equal(t, 1, r.count())

	require.NoError(t, os.Truncate(file, 0))
	require.ErrorContains(t, r.read(), "shorter")
}

// A process that waits, with a child in a group of its own, as PostgreSQL's are.
func family(t *testing.T) (leader, child int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", "-c", "setsid sleep 600 & echo $!; wait")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line := make([]byte, 20)
	n, err := out.Read(line)
	require.NoError(t, err)
	child, err = strconv.Atoi(strings.TrimSpace(string(line[:n])))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = syscall.Kill(child, syscall.SIGKILL)
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
	})
	return cmd.Process.Pid, child
}

func TestAFaultHitsTheWholeFamily(t *testing.T) {
	t.Parallel()
	leader, child := family(t)
	// Until setsid has made the child's group.
	require.Eventually(t, func() bool { return slices.Contains(groupsOf(leader), child) }, 10*time.Second, time.Millisecond)
	victim, err := aim("it", leader)
	require.NoError(t, err)

	require.NoError(t, victim.hit(syscall.SIGSTOP))
	require.Eventually(t, func() bool { return stopped(leader) && stopped(child) }, 10*time.Second, time.Millisecond)
	require.NoError(t, victim.hit(syscall.SIGCONT))
	require.Eventually(t, func() bool { return !stopped(leader) && !stopped(child) }, 10*time.Second, time.Millisecond)
	require.NoError(t, victim.hit(syscall.SIGKILL))
	require.Eventually(t, func() bool {
		fields := statOf(strconv.Itoa(child))
		return !victim.Alive() && (len(fields) == 0 || fields[0] == "Z")
	}, 10*time.Second, time.Millisecond)
}

func TestWhatDoesNotRunCannotBeHit(t *testing.T) {
	t.Parallel()
	_, err := aim("kafka", 0)
	require.ErrorContains(t, err, "kafka does not run")
}

// The interleaving: the connection is taken, as the kernel does for a frozen process, and no answer comes.
func TestATakenConnectionIsNoAnswer(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	address := strings.TrimPrefix(server.URL, "http://")
	status := stack.Status{Components: []stack.Component{{Name: stack.DataService, Address: address}, {Name: stack.Postgres, Address: address}}}
	require.Error(t, probe(ctx, status, stack.DataService))
	require.Error(t, probe(ctx, status, stack.Postgres))
}

func example() Result {
	r := Result{
		Fault: "kill:<it>", Seed: 5, Acknowledged: 3, Committed: 3, Received: 2, Lost: 1, Duplicates: 12, LateDuplicates: 1, Settled: true,
		RecoveryS: map[string]float64{"kill:<it>": 2.5}, APIFailures: map[string]int{"503": 4}, Findings: []string{"something else"},
		EndedByThemselves: []string{"cdc-relay"}, Began: begin, Faults: []Window{{Fault: "kill:<it>", From: after(1000), To: after(2500)}},
		Commits: []time.Time{after(100), after(200), after(1100)}, Deliveries: []time.Time{after(110), after(2600)},
		Verdict: Verdict{Lost: []string{"event 3"}},
	}
	for range 12 {
		r.Verdict.Duplicates = append(r.Verdict.Duplicates, Duplicate{First: begin, Again: after(500), Late: true})
	}
	return r
}

func TestAResultIsAFailureForEachOfItsNumbers(t *testing.T) {
	t.Parallel()
	require.NoError(t, Result{Acknowledged: 1, Duplicates: 3}.Err(), "a duplicate that the fault excuses is none")
	for want, r := range map[string]Result{
		"1 lost":            {Acknowledged: 1, Lost: 1},
		"1 phantoms":        {Acknowledged: 1, Phantoms: 1},
		"1 mismatches":      {Acknowledged: 1, Mismatches: 1},
		"1 late duplicates": {Acknowledged: 1, LateDuplicates: 1},
		"1 unaccounted":     {Acknowledged: 1, Unaccounted: 1},
		"it answered":       {Acknowledged: 1, Findings: []string{"it answered"}},
		"nothing was":       {},
	} {
		require.ErrorContains(t, r.Err(), want)
	}
}

func TestAResultIsShown(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	example().Print(&out)
	for _, want := range []string{
		"acknowledged 3 ⊆ committed 3 ⊆ received 2", "lost: event 3", "found: something else", "and 2 more", "recovered from kill:<it> in 2.5 s",
		"requests repeated because of 503: 4", "ended though no fault hit them: cdc-relay", "LATE",
		"commits    |█▄ |", "deliveries |▄ ▄|", "fault      | ██|",
	} {
		require.Contains(t, out.String(), want)
	}
}

func TestThePlotIsXML(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	require.NoError(t, example().Plot(&out))
	decoder, shapes := xml.NewDecoder(&out), map[string]int{}
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		if start, ok := token.(xml.StartElement); ok {
			shapes[start.Name.Local]++
		}
	}
	require.Equal(t, 2, shapes["path"], "commits and deliveries")
	require.Equal(t, 1, shapes["title"], "the fault")
}

func TestTheMatrixHasARowForEachFault(t *testing.T) {
	t.Parallel()
	ok := Result{Acknowledged: 5, Committed: 5, Received: 5, RecoveryS: map[string]float64{"kill:kafka": 2}}
	slow := ok
	slow.RecoveryS = map[string]float64{"kill:kafka": 11}
	m := Matrix{Began: begin, Seed: 5, Machine: "a machine", Versions: []string{"one", "two"}, Rows: []Row{
		{Flags: "--fault kill:kafka", Result: ok, within: recoverWithin},
		{Flags: "--fault kill:restate", Result: slow, within: recoverWithin},
		{Flags: "--fault kill:it", Result: example()},
		{Flags: "--fault none", Err: errors.New("no\nstack")},
	}}
	require.ErrorContains(t, m.Err(), "2 of 4 faults failed")
	var out bytes.Buffer
	require.NoError(t, m.Write(&out))
	for _, want := range []string{
		"| ok | `--fault kill:kafka` |", "2.0 (< 10)", "| slow | `--fault kill:restate` |", "| FAILED | `--fault kill:it` |", "| FAILED | `--fault none` | - |",
		"a machine", "one, two", "`--fault kill:it --seed 5`: 1 late duplicates; 1 lost; something else", "the run could not be made: no stack",
	} {
		require.Contains(t, out.String(), want)
	}
	require.NoError(t, Matrix{Rows: m.Rows[:2]}.Err(), "slow is said, and is no loss")
}

func TestEveryEntryOfTheMatrixIsARunThatCanBeMade(t *testing.T) {
	t.Parallel()
	faults := map[string]bool{}
	for _, e := range entries() {
		o := Options{Payments: 1000, Rate: 100, Merchants: 10, Refunds: 0.1, Freeze: 20 * time.Second, Hold: 2 * time.Minute}
		e.change(&o)
		require.NoError(t, o.Validate(), e.flags)
		require.False(t, faults[e.flags], "%s is there twice", e.flags)
		faults[e.flags] = true
		if !o.Random {
			parsed, err := ParseFault(o.Fault.String())
			require.NoError(t, err)
			require.Equal(t, o.Fault, parsed)
			require.Contains(t, e.flags, "--fault "+o.Fault.String())
		}
	}
}

func TestWhatOneRunAloneKnowsIsRemembered(t *testing.T) {
	t.Parallel()
	o := stack.Options{Dir: t.TempDir()}
	r := newRun(Options{Stack: o, Seed: 9, Fault: Fault{Kind: kindKill, Target: stack.Kafka}})
	r.clients = &clients{acknowledged: []Object{{"p", 1}}}
	require.NoError(t, r.remember())
	content, err := os.ReadFile(memoryFile(o, 9))
	require.NoError(t, err)
	var m memory
	require.NoError(t, json.Unmarshal(content, &m))
	require.Equal(t, r.o.Fault, m.Fault)
	require.Equal(t, r.name, m.Name)
	require.Equal(t, r.clients.acknowledged, m.Acknowledged)

	_, err = CheckAgain(t.Context(), o, "", 10)
	require.ErrorContains(t, err, "there was no run with seed 10")
}
