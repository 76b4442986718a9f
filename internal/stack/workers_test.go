package stack

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack/process"
)

func TestOneWorkerHasThePortThatSeveralShare(t *testing.T) {
	t.Parallel()
	one := &stack{Options: Options{Workers: 1, PortOffset: 100}}
	require.Equal(t, "http://127.0.0.1:9180", one.workerURL())
	require.NotContains(t, one.components(), WorkerProxy)
	require.Equal(t, []int{9180}, one.portsOf(WebhookWorker))

	three := &stack{Options: Options{Workers: 3, PortOffset: 100, BinDir: "/bin"}}
	require.Equal(t, "http://127.0.0.1:9180", three.workerURL())
	require.Equal(t, []int{9180, 9185}, three.portsOf(WorkerProxy))
	require.Empty(t, cmp.Diff([]string{CDCRelay, WorkerProxy, WebhookWorker, "webhook-worker-2", "webhook-worker-3", PaymentsAPI}, three.components()[5:]))
	require.Equal(t, []int{9183}, three.portsOf("webhook-worker-3"))
	cmd, err := three.proxy().command()
	require.NoError(t, err)
	require.Equal(t, []string{
		"/bin/hookline", "balance", "--listen", "127.0.0.1:9180", "--status", "127.0.0.1:9185",
		"--to", "127.0.0.1:9181,127.0.0.1:9182,127.0.0.1:9183",
	}, cmd.Args)
}

// wanted is a stack whose services are scripts that name their settings, and the parts that these options want.
func wanted(t *testing.T, workers int) (*stack, map[string]*part) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"hookline", MerchantSimulator, DataService, CDCRelay, WebhookWorker, PaymentsAPI, Postgres, Restate} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho '  LISTEN_ADDR  text'\n"), 0o700))
	}
	s, err := open(Options{Dir: filepath.Join(dir, "state"), BinDir: dir, Workers: workers, Environ: []string{"PATH=/bin"}}, nil)
	require.NoError(t, err)
	require.NoError(t, s.makeDirs())
	// Not the machine's own binaries: only their names matter here.
	p := programs{restate: filepath.Join(dir, Restate)}
	p.postgres.Dir = dir
	parts, err := s.parts(t.Context(), p)
	require.NoError(t, err)
	return s, parts
}

func TestEachWorkerIsAPartWithItsOwnAddressAndTheSharedURL(t *testing.T) {
	t.Parallel()
	s, parts := wanted(t, 2)
	require.Len(t, parts, 10)
	for i, name := range []string{WebhookWorker, "webhook-worker-2"} {
		cmd, err := parts[name].command()
		require.NoError(t, err)
		require.Equal(t, filepath.Join(s.BinDir, WebhookWorker), cmd.Path)
		require.Equal(t, "127.0.0.1:"+strconv.Itoa(9081+i), lookup(cmd.Env, "LISTEN_ADDR"))
		require.Equal(t, "http://127.0.0.1:9080", lookup(cmd.Env, "ADVERTISED_URL"))
		require.Equal(t, name, lookup(cmd.Env, process.EnvComponent))
	}
	spread := "RESTATE_WORKER__INVOKER__HTTP2_STREAMS_PER_CONNECTION_LIMIT"
	require.Equal(t, "2", s.restate("").Settings[spread])
	s.Environ = append(s.Environ, spread+"=5")
	require.Equal(t, "5", s.restate("").Settings[spread], "who runs up decides")

	single, alone := wanted(t, 1)
	require.NotContains(t, single.restate("").Settings, spread)
	require.Len(t, alone, 8)
	cmd, err := alone[WebhookWorker].command()
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:9080", lookup(cmd.Env, "LISTEN_ADDR"))
}

// run puts a process in the component's place.
func run(t *testing.T, s *stack, name, fingerprint string) process.Identity {
	t.Helper()
	identity, exited, err := process.Start(exec.Command("sleep", "60"), s.logFile(name))
	require.NoError(t, err)
	t.Cleanup(func() {
		p, err := os.FindProcess(identity.PID)
		require.NoError(t, err)
		_ = p.Kill() // it may have ended
		<-exited
	})
	record := process.Record{Identity: identity, Name: name, Fingerprint: fingerprint, Address: s.address(name)}
	require.NoError(t, record.Write(s.recordFile(name)))
	return identity
}

func TestUpStopsTheWorkersThatAreTooManyAndStartsThoseThatAreMissing(t *testing.T) {
	t.Parallel()
	s, parts := wanted(t, 2)
	same := run(t, s, WebhookWorker, parts[WebhookWorker].fingerprint)
	surplus := run(t, s, "webhook-worker-3", "of three")
	toStart, err := s.stopWhatDiffers(t.Context(), parts)
	require.NoError(t, err)
	require.True(t, same.Alive())
	require.False(t, surplus.Alive())
	require.NoFileExists(t, s.recordFile("webhook-worker-3"))
	require.Contains(t, toStart, "webhook-worker-2")
	require.Contains(t, toStart, WorkerProxy)
	require.NotContains(t, toStart, WebhookWorker)
	require.NotContains(t, toStart, "webhook-worker-3")
}

func TestBackToOneWorkerTheProxyGoesAndThePortIsTheWorkers(t *testing.T) {
	t.Parallel()
	s, parts := wanted(t, 1)
	several := map[string]process.Identity{}
	for _, name := range []string{WorkerProxy, WebhookWorker, "webhook-worker-2"} {
		several[name] = run(t, s, name, "of two")
	}
	toStart, err := s.stopWhatDiffers(t.Context(), parts)
	require.NoError(t, err)
	for name, identity := range several {
		require.False(t, identity.Alive(), name)
	}
	require.Contains(t, toStart, WebhookWorker)
	require.False(t, slices.ContainsFunc(toStart, func(name string) bool { return name == WorkerProxy || name == "webhook-worker-2" }), toStart)
}

func TestStatusNamesTheWorkersThatThereAre(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, process.WriteJSON(filepath.Join(dir, "stack.json"), settings{Intake: IntakeBatches, Kafka: KafkaFake, PortOffset: 40, Workers: 2}, 0o600))
	status, err := ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, 2, status.Workers)
	require.Equal(t, []string{WebhookWorker, "webhook-worker-2"}, status.WorkerNames())
	require.Equal(t, "127.0.0.1:9121", status.Address(WebhookWorker))
	require.Equal(t, "127.0.0.1:9122", status.Address("webhook-worker-2"))
	require.Equal(t, "127.0.0.1:9120", status.Address(WorkerProxy))
}

func TestProxyIsReadyByItsOwnWord(t *testing.T) {
	t.Parallel()
	asked := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	t.Cleanup(server.Close)
	address, ok := server.Listener.Addr().(*net.TCPAddr)
	require.True(t, ok)
	s := &stack{Options: Options{Workers: 2, PortOffset: address.Port - 9085}}
	require.Error(t, s.ready(t.Context(), WorkerProxy))
	require.Equal(t, "/readyz", <-asked)
}
