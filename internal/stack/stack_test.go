package stack

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/platform/service"
	"github.com/hookline/hookline/internal/stack/process"
)

func TestEveryComponentHasItsPlaceEverywhere(t *testing.T) {
	t.Parallel()
	inTiers := slices.Concat(tiers...)
	slices.Sort(inTiers)
	sorted := slices.Sorted(slices.Values(order))
	require.Equal(t, sorted, inTiers, "down stops what up starts")
	for several := range MaxWorkers {
		o := Options{Kafka: KafkaApache, PortOffset: 10000, Workers: several + 1, Svix: true}
		taken := map[int]string{}
		for _, name := range o.components() {
			for _, port := range o.portsOf(name) {
				require.Empty(t, taken[port], "port %d of %s", port, name)
				taken[port] = name
				// Above it the kernel gives ports to whoever asks for none in particular.
				require.Less(t, port, 32768)
			}
		}
	}
	for name, needed := range needs {
		for _, each := range needed {
			require.True(t, slices.Contains(order, each) || needs[each] != nil, "%s needs %s, which nothing provides", name, each)
		}
	}
}

func TestFingerprintFollowsProgramArgumentsAndSettings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "service")
	require.NoError(t, os.WriteFile(program, []byte("one"), 0o700))
	of := func(environ []string, args ...string) string {
		cmd := exec.Command(program, args...)
		cmd.Env = environ
		print, err := fingerprint(cmd, dir)
		require.NoError(t, err)
		return print
	}
	settings := []string{"LISTEN_ADDR=a", "INTAKE=batches", "PATH=/bin"}
	first := of(settings, "x")
	require.Equal(t, first, of([]string{"INTAKE=batches", "PATH=/elsewhere", "LISTEN_ADDR=a", "TZ=UTC"}, "x"), "order and surroundings make no difference")
	require.NotEqual(t, first, of([]string{"LISTEN_ADDR=a", "INTAKE=subscription"}, "x"))
	require.NotEqual(t, first, of(settings, "y"))
	require.NotEqual(t, of(nil, "ab", "c"), of(nil, "a", "bc"))

	require.NoError(t, os.WriteFile(program, []byte("one"), 0o700))
	require.Equal(t, first, of(settings, "x"), "built anew to the same bytes")
	require.NoError(t, os.WriteFile(program, []byte("two"), 0o700))
	require.NotEqual(t, first, of(settings, "x"))
}

func TestSettingNamesAreThoseOfAServicesHelp(t *testing.T) {
	t.Parallel()
	type settings struct {
		service.Common
		Schedule string `env:"RETRY_SCHEDULE" desc:"A PLACE FOR words"`
		URL      string `env:"DATABASE_URL,required" secret:"true" desc:"where"`
	}
	var help bytes.Buffer
	config.Usage(&help, "webhook-worker", "delivers", settings{})
	require.Equal(t, []string{"LOG_LEVEL", "SHUTDOWN_TIMEOUT", "RETRY_SCHEDULE", "DATABASE_URL"}, parseSettingNames(help.String()))
}

func TestServicesGetWhatTheyDocumentAndTheStackWins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	binary := filepath.Join(dir, "service")
	require.NoError(t, os.WriteFile(binary, []byte("#!/bin/sh\necho '  RETRY_SCHEDULE  text'\necho '  DATABASE_URL  text'\n"), 0o700))
	s := &stack{Options: Options{Environ: []string{"PATH=/bin", "RETRY_SCHEDULE=1s", "DATABASE_URL=theirs", "SECRET=x", "INTAKE=subscription"}}}
	command, err := s.service(t.Context(), binary, map[string]string{"DATABASE_URL": "ours"})
	require.NoError(t, err)
	cmd, err := command()
	require.NoError(t, err)
	require.Equal(t, []string{"DATABASE_URL=ours", "PATH=/bin", "RETRY_SCHEDULE=1s"}, cmd.Env)

	_, err = s.service(t.Context(), filepath.Join(dir, "missing"), nil)
	require.ErrorContains(t, err, "run make build")
}

func TestOptionsAreChecked(t *testing.T) {
	t.Parallel()
	complete, err := Options{}.Complete()
	require.NoError(t, err)
	require.Equal(t, IntakeBatches, complete.Intake)
	require.Equal(t, KafkaFake, complete.Kafka)
	require.Equal(t, 1, complete.Workers)
	require.True(t, filepath.IsAbs(complete.Dir))
	for want, bad := range map[string]Options{
		"INTAKE": {Intake: "both"}, "--kafka": {Kafka: "redpanda"}, "--port-offset": {PortOffset: -1}, "0 to 46000": {PortOffset: 50000},
		"--workers": {Workers: -1}, "1 to 4": {Workers: 5},
	} {
		_, err := bad.Complete()
		require.ErrorContains(t, err, want)
	}
	read, err := OptionsFromEnv([]string{"INTAKE=subscription", "HOOKLINE_DIR=/x", "HOOKLINE_KAFKA=apache", "HOOKLINE_PORT_OFFSET=7", "HOOKLINE_WORKERS=2"})
	require.NoError(t, err)
	require.Equal(t, Options{Intake: "subscription", Dir: "/x", Kafka: "apache", PortOffset: 7, Workers: 2, Environ: read.Environ}, read)
	_, err = OptionsFromEnv([]string{"HOOKLINE_PORT_OFFSET=many"})
	require.ErrorContains(t, err, "HOOKLINE_PORT_OFFSET")
	_, err = OptionsFromEnv([]string{"HOOKLINE_WORKERS=many"})
	require.ErrorContains(t, err, "HOOKLINE_WORKERS")
}

func TestPortsOfAStackThatExistsStay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, process.WriteJSON(filepath.Join(dir, "stack.json"), settings{Intake: IntakeBatches, Kafka: KafkaFake, PortOffset: 100}, 0o600))
	_, err := Up(t.Context(), Options{Dir: dir, BinDir: t.TempDir()}, nil)
	require.ErrorContains(t, err, "was made with --port-offset 100: give that again")
	status, err := ReadStatus(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:3101", status.Address(PaymentsAPI))
}

func listen(t *testing.T) int {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { listener.Close() })
	addr, ok := listener.Addr().(*net.TCPAddr)
	require.True(t, ok)
	return addr.Port
}

func TestPortHeldByAStrangerIsNamed(t *testing.T) {
	t.Parallel()
	port := listen(t)
	require.False(t, free(t.Context(), port))
	here, err := os.Getwd()
	require.NoError(t, err)
	err = conflict(t.TempDir(), Restate, port)
	require.ErrorContains(t, err, "port "+strconv.Itoa(port)+", which restate needs, is held by ")
	require.ErrorContains(t, err, "(pid "+strconv.Itoa(os.Getpid())+") of user "+userName(os.Geteuid())+" in "+here)
	require.ErrorContains(t, err, "--port-offset")
}

func TestPortHeldByAnotherStackComesWithTheCommandThatFreesIt(t *testing.T) {
	t.Parallel()
	registry, port := t.TempDir(), listen(t)
	self, err := process.Of(os.Getpid())
	require.NoError(t, err)
	write := func(identity process.Identity) {
		require.NoError(t, process.WriteJSON(filepath.Join(registry, "x.json"), registration{
			User: "ada", StateDir: "/home/ada/shop/.hookline", WorkDir: "/home/ada/shop", Executable: "/home/ada/shop/bin/hookline",
			Processes: []process.Record{{Identity: identity, Name: Restate, Ports: []int{1, port}}},
		}, 0o644))
	}
	write(self)
	require.ErrorContains(t, conflict(registry, PaymentsAPI, port), "another Hookline stack: restate (pid "+strconv.Itoa(os.Getpid())+
		") of user ada in /home/ada/shop/.hookline; as ada run: cd /home/ada/shop && bin/hookline down")

	self.Started++ // it ended, and somebody else got its pid and its port
	write(self)
	require.NotContains(t, conflict(registry, PaymentsAPI, port).Error(), "another Hookline stack")
	require.NoError(t, os.WriteFile(filepath.Join(registry, "y.json"), []byte("{"), 0o644))
	require.NotContains(t, conflict(registry, PaymentsAPI, port).Error(), "another Hookline stack")
}

func TestDownCommandNamesAStateDirectoryOfItsOwn(t *testing.T) {
	t.Parallel()
	require.Equal(t, "cd /w && /opt/hookline down", registration{StateDir: "/w/.hookline", WorkDir: "/w", Executable: "/opt/hookline"}.downCommand())
	require.Equal(t, "/w/bin/hookline down --dir /tmp/x", registration{StateDir: "/tmp/x", WorkDir: "/w", Executable: "/w/bin/hookline"}.downCommand())
}

func TestLastWordsAreTheErrorOrTheLastLine(t *testing.T) {
	t.Parallel()
	for log, want := range map[string]string{
		"":                         "",
		"starting\nlistening\n":    "listening",
		"FATAL:  no\nLOG:  shut\n": "FATAL:  no",
		`{"level":"ERROR","msg":"failed","error":"no route"}` + "\n" + `{"level":"INFO","msg":"stopped"}` + "\n": "failed: no route",
		"cdc-relay: bad settings: DATABASE_URL: required\n":                                                      "cdc-relay: bad settings: DATABASE_URL: required",
	} {
		require.Equal(t, want, lastWords(log))
	}
}

func TestStaleLockOfPostgresIsRemovedOnlyWhenItsPIDIsAStrangers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lock := filepath.Join(dir, "postmaster.pid")
	require.NoError(t, removeStaleLock(dir))

	sleeper := exec.Command("sleep", "60")
	sleeper.Dir = dir // as a PostgreSQL is in its data directory
	require.NoError(t, sleeper.Start())
	t.Cleanup(func() { sleeper.Process.Kill(); sleeper.Wait() })
	require.NoError(t, os.WriteFile(lock, []byte(strconv.Itoa(sleeper.Process.Pid)+"\n"+dir+"\n"), 0o600))
	require.NoError(t, removeStaleLock(dir))
	require.FileExists(t, lock)

	require.NoError(t, os.WriteFile(lock, []byte(strconv.Itoa(os.Getpid())+"\n"+dir+"\n"), 0o600))
	require.NoError(t, removeStaleLock(dir))
	require.NoFileExists(t, lock)
}

func TestStatusOfNothingIsAllStopped(t *testing.T) {
	t.Parallel()
	status, err := ReadStatus(t.Context(), filepath.Join(t.TempDir(), "none"))
	require.NoError(t, err)
	require.Len(t, status.Components, 8)
	require.False(t, status.Ready())
	for _, c := range status.Components {
		require.Equal(t, StateStopped, c.State)
		require.Zero(t, c.PID)
	}
	require.Empty(t, status.DSN)
	require.Equal(t, "127.0.0.1:3001", status.Address(PaymentsAPI))
	require.Equal(t, IntakeBatches, status.Intake)
}

func TestDownOfNothingIsFineAndPurgeTouchesOnlyItsOwn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, Down(t.Context(), filepath.Join(dir, "none"), nil))
	require.NoDirExists(t, filepath.Join(dir, "none"))
	require.NoError(t, Down(t.Context(), dir, nil))
	mine := filepath.Join(dir, "mine.txt")
	require.NoError(t, os.WriteFile(mine, nil, 0o600))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "data", "restate"), 0o700))
	require.NoError(t, Purge(t.Context(), dir, nil))
	require.FileExists(t, mine)
	require.NoDirExists(t, filepath.Join(dir, "data"))
}

func TestDoctorNamesWhatIsMissingAndHowToGetIt(t *testing.T) {
	t.Parallel()
	checks, err := Doctor(t.Context(), Options{Dir: t.TempDir(), BinDir: t.TempDir(), PortOffset: 12000, Environ: []string{"JAVA_HOME=" + t.TempDir()}, Kafka: KafkaApache})
	require.NoError(t, err)
	byName := map[string]Check{}
	for _, check := range checks {
		byName[check.Name] = check
	}
	require.Equal(t, Check{Name: "java", Required: true, Detail: "missing; --kafka apache needs version 17", Fix: "apt-get install -y openjdk-17-jre-headless"}, byName["java"])
	require.False(t, byName["services"].OK)
	require.Equal(t, "make build", byName["services"].Fix)
	require.Contains(t, byName["services"].Detail, "webhook-worker")
	require.NotEmpty(t, byName["postgres data"].Detail)
	require.True(t, byName["go"].OK)
}

func TestDoctorTellsWhoHoldsAPort(t *testing.T) {
	t.Parallel()
	port := listen(t)
	checks, err := Doctor(t.Context(), Options{Dir: t.TempDir(), PortOffset: port - ports[Kafka][0]})
	require.NoError(t, err)
	for _, check := range checks {
		if check.Name == "ports" {
			require.False(t, check.OK)
			require.Contains(t, check.Detail, strconv.Itoa(port)+", which kafka needs")
			require.NotEmpty(t, check.Fix)
			return
		}
	}
	require.Fail(t, "doctor does not check ports")
}

func TestJavaVersionIsRead(t *testing.T) {
	t.Parallel()
	for version, ok := range map[string]bool{`openjdk version "17.0.15" 2025-04-15`: true, `java version "1.8.0_412"`: false, `openjdk version "21" 2023`: true} {
		home := t.TempDir()
		require.NoError(t, os.Mkdir(filepath.Join(home, "bin"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(home, "bin", "java"), []byte("#!/bin/sh\necho '"+version+"' >&2\n"), 0o700))
		_, _, err := findJava(t.Context(), []string{"JAVA_HOME=" + home})
		if ok {
			require.NoError(t, err, version)
		} else {
			require.ErrorContains(t, err, "needs Java 17", version)
		}
	}
}

func TestAnEmbeddedStackTakesTheCallbacksOfTheCallersProviders(t *testing.T) {
	t.Parallel()
	s := &stack{secrets: secrets{Callback: "whsec_ours"}}
	require.Equal(t, "stripe=whsec_ours", s.callbackSecrets())
	s.Environ = []string{"CALLBACK_SECRETS=acme=whsec_theirs"}
	require.Equal(t, "acme=whsec_theirs,stripe=whsec_ours", s.callbackSecrets())
}
