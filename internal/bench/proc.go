package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of /proc's CPU times: USER_HZ, which is 100 on every architecture that Go runs on but Alpha.
const tick = 10 * time.Millisecond

// procFS reads the processes of a Linux machine. Root is /proc.
type procFS struct{ root string }

// process is one process at one moment.
type process struct {
	pid, parent int
	started     int64         // tells a pid from the same one used again
	cpu         time.Duration // user and system, of all its threads
	reaped      time.Duration // the same of its children that ended and were waited for
}

// processes returns all processes by pid. Those that end while it reads are left out.
func (p procFS) processes() (map[int]process, error) {
	entries, err := os.ReadDir(p.root)
	if err != nil {
		return nil, fmt.Errorf("reading the processes: %w", err)
	}
	all := map[int]process{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(p.root, entry.Name(), "stat"))
		if err != nil {
			continue // it has ended: ENOENT or ESRCH
		}
		one, err := parseStat(stat)
		if err != nil {
			return nil, fmt.Errorf("reading process %d: %w", pid, err)
		}
		all[pid] = one
	}
	return all, nil
}

// parseStat reads /proc/PID/stat. Its second field is the command in parentheses, which may hold spaces and
// parentheses itself: fields count from the last one.
func parseStat(stat []byte) (process, error) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return process{}, errors.New("stat has no command in parentheses")
	}
	pid, err := strconv.Atoi(string(bytes.TrimSpace(stat[:open])))
	if err != nil {
		return process{}, fmt.Errorf("reading the pid of stat: %w", err)
	}
	fields := strings.Fields(string(stat[end+1:]))
	const state, parent, utime, stime, cutime, cstime, starttime = 3, 4, 14, 15, 16, 17, 22
	if len(fields) <= starttime-state {
		return process{}, errors.New("stat ends early")
	}
	number := func(field int) int64 {
		n, parseErr := strconv.ParseInt(fields[field-state], 10, 64)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("reading field %d of stat: %w", field, parseErr)
		}
		return n
	}
	ticks := func(n int64) time.Duration { return time.Duration(n) * tick }
	one := process{
		pid: pid, parent: int(number(parent)), started: number(starttime),
		cpu: ticks(number(utime) + number(stime)), reaped: ticks(number(cutime) + number(cstime)),
	}
	return one, err
}

// family returns leader and all its descendants. A process group would not do: every backend of PostgreSQL is in a
// session of its own.
func family(all map[int]process, leader int) []process {
	children := map[int][]int{}
	for pid, p := range all {
		children[p.parent] = append(children[p.parent], pid)
	}
	var found []process
	queue := []int{leader}
	for len(queue) > 0 {
		pid := queue[0]
		queue = queue[1:]
		if p, ok := all[pid]; ok {
			found = append(found, p)
			queue = append(queue, children[pid]...)
		}
	}
	return found
}

// cpuOf is what a family has spent so far. It does not shrink when a member ends, as its parent then has it.
func cpuOf(members []process) time.Duration {
	var sum time.Duration
	for _, p := range members {
		sum += p.cpu + p.reaped
	}
	return sum
}

// peakMemory is the most memory that each of the processes ever held, summed, in bytes.
func (p procFS) peakMemory(members []process) (int64, error) { return p.memory(members, "VmHWM") }

// heldMemory is the memory that the processes hold now, summed, in bytes.
func (p procFS) heldMemory(members []process) (int64, error) { return p.memory(members, "VmRSS") }

// memory sums a size of the processes. What they share, such as PostgreSQL's buffers and the pages of the binary, counts
// once.
func (p procFS) memory(members []process, size string) (int64, error) {
	var sum, shared int64
	for _, member := range members {
		status, err := os.ReadFile(filepath.Join(p.root, strconv.Itoa(member.pid), "status"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("reading the memory of process %d: %w", member.pid, err)
		}
		sizes, err := parseStatus(status)
		if err != nil {
			return 0, fmt.Errorf("reading the memory of process %d: %w", member.pid, err)
		}
		common := sizes["RssFile"] + sizes["RssShmem"]
		sum += max(0, sizes[size]-common)
		shared = max(shared, common)
	}
	return sum + shared, nil
}

// parseStatus reads the sizes in /proc/PID/status, in bytes.
func parseStatus(status []byte) (map[string]int64, error) {
	sizes := map[string]int64{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		kilobytes, found := strings.CutSuffix(strings.TrimSpace(value), " kB")
		if !found {
			continue
		}
		n, err := strconv.ParseInt(kilobytes, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("reading %s of status: %w", name, err)
		}
		sizes[name] = n << 10
	}
	return sizes, nil
}

// cpuModel is the processor's name; empty where the machine does not tell.
func (p procFS) cpuModel() string {
	info, err := os.ReadFile(filepath.Join(p.root, "cpuinfo"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(info)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
