package bench

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var fixture = procFS{root: "testdata/proc"}

func TestProcessesOfTheFixture(t *testing.T) {
	t.Parallel()
	all, err := fixture.processes()
	require.NoError(t, err)
	require.Len(t, all, 6)
	require.Empty(t, cmp.Diff(process{
		pid: 101, parent: 100, started: 600, cpu: 3 * time.Second,
	}, all[101], cmp.AllowUnexported(process{})), "the command's parentheses are not fields")
	require.Equal(t, 500*time.Millisecond, all[100].reaped)
}

func TestFamilyIsAllDescendants(t *testing.T) {
	t.Parallel()
	all, err := fixture.processes()
	require.NoError(t, err)
	pids := func(leader int) []int {
		var found []int
		for _, p := range family(all, leader) {
			found = append(found, p.pid)
		}
		slices.Sort(found)
		return found
	}
	require.Equal(t, []int{100, 101, 102, 103}, pids(100))
	require.Equal(t, []int{200}, pids(200))
	require.Empty(t, pids(999))
	require.Equal(t, 5300*time.Millisecond, cpuOf(family(all, 100)))
}

func TestPeakMemoryCountsWhatIsSharedOnce(t *testing.T) {
	t.Parallel()
	all, err := fixture.processes()
	require.NoError(t, err)
	peak, err := fixture.peakMemory(family(all, 100)) // 103 has no status: it ended meanwhile
	require.NoError(t, err)
	// Private: 20480-18432, 30720-26624 and 15360-14336; shared: 26624 at most.
	require.Equal(t, int64(2048+4096+1024+26624)<<10, peak)
	peak, err = fixture.peakMemory(family(all, 200))
	require.NoError(t, err)
	require.Equal(t, int64(204800)<<10, peak)
}

func TestCPUModel(t *testing.T) {
	t.Parallel()
	require.Equal(t, "Fast CPU @ 3.00GHz", fixture.cpuModel())
	require.Empty(t, procFS{root: t.TempDir()}.cpuModel())
}

func TestBadProcFiles(t *testing.T) {
	t.Parallel()
	for _, stat := range []string{"", "1", "1 (a", "1 a) S", "x (a) S 1", "1 (a) S 1 2 3", "(a) S"} {
		_, err := parseStat([]byte(stat))
		require.Error(t, err, "%q", stat)
	}
	_, err := parseStat([]byte("1 (a) S 1 1 1 0 -1 0 0 0 0 0 x 0 0 0 20 0 1 0 5 0 0"))
	require.ErrorContains(t, err, "field 14")
	_, err = parseStatus([]byte("VmHWM:\tmany kB\n"))
	require.ErrorContains(t, err, "VmHWM")
	_, err = procFS{root: filepath.Join(t.TempDir(), "none")}.processes()
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestOwnProcess(t *testing.T) {
	t.Parallel()
	proc := procFS{root: "/proc"}
	self := os.Getpid()
	child := exec.CommandContext(t.Context(), "cat")
	in, err := child.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	before, err := proc.processes()
	require.NoError(t, err)
	require.Equal(t, os.Getppid(), before[self].parent)
	require.Contains(t, family(before, self), before[child.Process.Pid])

	for start := time.Now(); ; { // until the clock of /proc has seen it work
		for x := range 1_000_000 {
			_ = x * x
		}
		now, err := proc.processes()
		require.NoError(t, err)
		if used, _ := spent(before, now, Component{PID: self}, nil); used >= 2*tick {
			break
		}
		require.Less(t, time.Since(start), 20*time.Second)
	}
	require.NoError(t, in.Close())
	require.NoError(t, child.Wait())

	after, err := proc.processes()
	require.NoError(t, err)
	peak, err := proc.peakMemory(family(after, self))
	require.NoError(t, err)
	require.Greater(t, peak, int64(1<<20))
	require.NotContains(t, after, child.Process.Pid)
}

func TestSpent(t *testing.T) {
	t.Parallel()
	s := time.Second
	before := sample{
		1:  {pid: 1, started: 1, cpu: 10 * s},
		10: {pid: 10, parent: 1, started: 5, cpu: 4 * s, reaped: 1 * s},
		11: {pid: 11, parent: 10, started: 6, cpu: 2 * s},
		12: {pid: 12, parent: 10, started: 6, cpu: 3 * s},
	}
	after := sample{
		1:  {pid: 1, started: 1, cpu: 99 * s},
		10: {pid: 10, parent: 1, started: 5, cpu: 5 * s, reaped: 5 * s}, // 12 ended at 4 s
		11: {pid: 11, parent: 10, started: 6, cpu: 7 * s},
		13: {pid: 13, parent: 10, started: 9, cpu: 2 * s},
	}
	names := map[int]string{10: "leader", 11: "api", 12: "api", 13: "worker", 1: "init"}

	total, parts := spent(before, after, Component{PID: 10}, names)
	require.Equal(t, 9*s, total, "1 of its own, 1 of the one that ended, 5 and 2")
	require.Empty(t, cmp.Diff(map[string]time.Duration{"api": 5 * s, "worker": 2 * s, "other": 2 * s}, parts))

	total, parts = spent(before, after, Component{PID: 13}, nil)
	require.Equal(t, 2*s, total, "it started in between")
	require.Nil(t, parts)

	before[11] = process{pid: 11, parent: 10, started: 3, cpu: 100 * s}
	total, _ = spent(before, after, Component{PID: 11}, nil)
	require.Equal(t, 7*s, total, "the same pid, another process")

	total, _ = spent(before, after, Component{PID: 12}, nil)
	require.Zero(t, total, "it is gone")
	total, _ = spent(before, after, Component{}, nil)
	require.Zero(t, total, "it never ran")
}

func TestUsage(t *testing.T) {
	t.Parallel()
	got := usage("postgres", 2*time.Second, 1000, 64<<20, map[string]time.Duration{
		"small": time.Second / 10, "none": 0, "large": 1900 * time.Millisecond,
	})
	require.Empty(t, cmp.Diff(Usage{
		Name: "postgres", CPUSeconds: 2, CPUMSPerEvent: 2, PeakRSSMB: 64, Parts: []Part{
			{Name: "large", CPUSeconds: 1.9, CPUMSPerEvent: 1.9}, {Name: "small", CPUSeconds: 0.1, CPUMSPerEvent: 0.1},
		},
	}, got))
	require.Zero(t, usage("x", time.Second, 0, 0, nil).CPUMSPerEvent, "nothing was delivered")
}
