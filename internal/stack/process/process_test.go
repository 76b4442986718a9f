package process_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack/process"
)

func start(t *testing.T, script string, environ ...string) (process.Identity, <-chan struct{}, string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, environ...)
	identity, exited, err := process.Start(cmd, log)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Kill(-identity.PID, syscall.SIGKILL) })
	return identity, exited, log
}

func eventually(t *testing.T, what func() bool, why string) {
	t.Helper()
	require.Eventually(t, what, 10*time.Second, 5*time.Millisecond, why)
}

func TestStartedProcessLeadsASessionAndLogs(t *testing.T) {
	t.Parallel()
	identity, exited, log := start(t, "echo out; echo err >&2")
	<-exited
	content, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "out\nerr\n", string(content))
	require.False(t, identity.Alive())
}

func TestAnotherProcessWithTheSamePIDIsNotOurs(t *testing.T) {
	t.Parallel()
	identity, _, _ := start(t, "sleep 60")
	require.True(t, identity.Alive())

	reused := identity
	reused.Started++ // the same pid, started at another time
	require.False(t, reused.Alive())
	killed, err := reused.Stop(t.Context(), syscall.SIGKILL, time.Second)
	require.NoError(t, err)
	require.False(t, killed)
	require.True(t, identity.Alive(), "a stranger was signalled")

	rebooted := identity
	rebooted.Boot = "another boot"
	require.False(t, rebooted.Alive())
	require.False(t, process.Identity{}.Alive())
}

func TestStopKillsTheGroupOfAProcessThatIgnoresTheSignal(t *testing.T) {
	t.Parallel()
	identity, _, log := start(t, `trap "" TERM; sleep 60 & echo $!; wait; wait; while :; do sleep 1; done`)
	var child process.Identity
	eventually(t, func() bool {
		content, _ := os.ReadFile(log)
		pid := 0
		for _, c := range content {
			if c >= '0' && c <= '9' {
				pid = pid*10 + int(c-'0')
			}
		}
		var err error
		child, err = process.Of(pid)
		return err == nil && pid > 1
	}, "the child's pid in the log")

	killed, err := identity.Stop(t.Context(), syscall.SIGTERM, 50*time.Millisecond)
	require.NoError(t, err)
	require.True(t, killed)
	require.False(t, identity.Alive())
	eventually(t, func() bool { return !child.Alive() }, "the child outlived its group")
}

func TestStopIsPoliteFirst(t *testing.T) {
	t.Parallel()
	identity, _, log := start(t, `trap "echo bye; exit 0" TERM; echo ready; while :; do sleep 0.01; done`)
	eventually(t, func() bool { content, _ := os.ReadFile(log); return len(content) > 0 }, "the trap is set")
	killed, err := identity.Stop(t.Context(), syscall.SIGTERM, 10*time.Second)
	require.NoError(t, err)
	require.False(t, killed)
	content, err := os.ReadFile(log)
	require.NoError(t, err)
	require.Equal(t, "ready\nbye\n", string(content))
}

func TestAProcessWithoutARecordIsFound(t *testing.T) {
	t.Parallel()
	state := t.TempDir()
	identity, _, _ := start(t, "sleep 60", process.EnvState+"="+state, process.EnvComponent+"=kafka")
	eventually(t, func() bool { return len(process.Orphans(state, nil)) == 1 }, "the orphan")
	orphans := process.Orphans(state, nil)
	require.Equal(t, "kafka", orphans[0].Name)
	require.Equal(t, identity, orphans[0].Identity)
	require.Empty(t, process.Orphans(state, []process.Identity{identity}), "it has a record")
	require.Empty(t, process.Orphans(state+"x", nil), "it is another stack's")
}

func TestRecordIsWrittenWholeAndReadBack(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "kafka.json")
	none, err := process.Read(name)
	require.NoError(t, err)
	require.Zero(t, none)
	want := process.Record{Identity: process.Identity{PID: 1, Started: 2, Boot: "b"}, Name: "kafka", Ports: []int{3}, Fingerprint: "f"}
	require.NoError(t, want.Write(name))
	got, err := process.Read(name)
	require.NoError(t, err)
	require.Equal(t, want, got)
	entries, err := os.ReadDir(filepath.Dir(name))
	require.NoError(t, err)
	require.Len(t, entries, 1, "a temporary file stayed behind")
}
