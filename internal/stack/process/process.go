// Package process starts programs that outlive their starter, and finds and stops them again later without
// ever mistaking a stranger that got the same pid for them. It reads /proc, so it is for Linux.
package process

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Identity is a process that cannot be confused with another one: pids come round again, a pid with its
// start time and boot do not.
type Identity struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"` // clock ticks since boot, as the kernel counts them
	Boot    string `json:"boot"`
}

// Of returns the identity of the process that has the pid now.
func Of(pid int) (Identity, error) {
	stat, err := readStat(pid)
	if err != nil {
		return Identity{}, err
	}
	return Identity{PID: pid, Started: stat.started, Boot: bootID()}, nil
}

// Alive tells whether the process still runs. One that has ended and whose parent has not noticed does not.
func (i Identity) Alive() bool {
	if i.PID <= 0 || i.Boot != bootID() {
		return false
	}
	stat, err := readStat(i.PID)
	return err == nil && stat.started == i.Started && !stat.ended()
}

// Stop asks the process to end with the signal, waits, and after the deadline kills its whole group. It
// reports whether it had to. A process that has ended already is fine.
func (i Identity) Stop(ctx context.Context, signal syscall.Signal, deadline time.Duration) (killed bool, err error) {
	if !i.Alive() {
		return false, nil
	}
	if err := syscall.Kill(i.PID, signal); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return false, nil
		}
		return false, fmt.Errorf("signalling pid %d: %w", i.PID, err)
	}
	if i.gone(ctx, deadline) {
		return false, nil
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	// The processes that we start lead groups of their own: see Start.
	if err := syscall.Kill(-i.PID, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		return false, fmt.Errorf("killing the group of pid %d: %w", i.PID, err)
	}
	if !i.gone(ctx, 10*time.Second) {
		return true, fmt.Errorf("pid %d does not end, not even killed", i.PID)
	}
	return true, nil
}

func (i Identity) gone(ctx context.Context, within time.Duration) bool {
	timer := time.NewTimer(within)
	defer timer.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		if !i.Alive() {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return !i.Alive()
		case <-tick.C:
		}
	}
}

// Record is what is kept on disk about a process that was started.
type Record struct {
	Identity

	Name        string `json:"name"`
	Address     string `json:"address"` // host:port of its main port
	Ports       []int  `json:"ports"`
	Fingerprint string `json:"fingerprint"` // of its binary, arguments and settings
}

// Read returns the record in the file; a zero record where there is none.
func Read(name string) (Record, error) {
	var r Record
	content, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("reading the record of a process: %w", err)
	}
	if err := json.Unmarshal(content, &r); err != nil {
		return r, fmt.Errorf("reading %s: %w", name, err)
	}
	return r, nil
}

// Write replaces the record in the file, whole or not at all.
func (r Record) Write(name string) error { return WriteJSON(name, r, 0o644) }

// WriteJSON replaces the file by v as JSON, whole or not at all.
func WriteJSON(name string, v any, mode fs.FileMode) error {
	content, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", filepath.Base(name), err)
	}
	// A name of its own: another process may be writing the same file.
	file, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	defer os.Remove(file.Name())
	_, err = file.Write(append(content, '\n'))
	err = errors.Join(err, file.Chmod(mode), file.Sync(), file.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// Start runs cmd in a session, and so in a process group, of its own, with its output appended to the log
// file. The process lives on when we end. The channel is closed when it ends while we live.
func Start(cmd *exec.Cmd, logFile string) (Identity, <-chan struct{}, error) {
	if err := rotate(logFile); err != nil {
		return Identity{}, nil, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return Identity{}, nil, fmt.Errorf("opening the log: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A session, not just a group: closing the terminal must not end it.
	cmd.SysProcAttr.Setpgid = false
	cmd.SysProcAttr.Setsid = true
	if err := cmd.Start(); err != nil {
		return Identity{}, nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	// Nobody waits for it yet, so that the pid cannot be another's, even if it has ended.
	identity, err := Of(cmd.Process.Pid)
	if err != nil {
		return Identity{}, nil, errors.Join(err, cmd.Process.Kill())
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait() // why it ended is in its log
		close(exited)
	}()
	return identity, exited, nil
}

// rotate keeps one older log beside one that has grown large.
func rotate(logFile string) error {
	const limit = 64 << 20
	info, err := os.Stat(logFile)
	if err != nil || info.Size() < limit {
		return nil //nolint:nilerr // a log that is not there needs no rotation
	}
	if err := os.Rename(logFile, logFile+".1"); err != nil {
		return fmt.Errorf("rotating the log: %w", err)
	}
	return nil
}

// Variables that every process of a stack carries in its environment, so that one whose record is lost can
// still be found.
const (
	EnvState     = "HOOKLINE_STATE"
	EnvComponent = "HOOKLINE_COMPONENT"
)

// Orphan is a process of a stack that no record tells of.
type Orphan struct {
	Identity

	Name string
}

// Orphans returns the group leaders of the stack in the state directory that none of the known is. Only our
// own user's are found, and as root those of everybody.
func Orphans(stateDir string, known []Identity) []Orphan {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	// A container may have a state directory of the same name.
	world, _ := os.Readlink("/proc/self/ns/mnt")
	isKnown := map[int]bool{}
	for _, each := range known {
		isKnown[each.PID] = true
	}
	var found []Orphan
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || isKnown[pid] || pid == os.Getpid() {
			continue
		}
		environ := environOf(pid)
		if !marked(environ, stateDir) {
			continue
		}
		if theirs, err := os.Readlink("/proc/" + entry.Name() + "/ns/mnt"); err != nil || theirs != world {
			continue
		}
		stat, err := readStat(pid)
		if err != nil || stat.group != pid || stat.ended() {
			continue
		}
		// PostgreSQL's children lead groups of their own: while their parent lives they are its to stop.
		if isKnown[stat.parent] || marked(environOf(stat.parent), stateDir) {
			continue
		}
		for variable := range bytes.SplitSeq(environ, []byte{0}) {
			if name, ok := bytes.CutPrefix(variable, []byte(EnvComponent+"=")); ok {
				found = append(found, Orphan{Identity: Identity{PID: pid, Started: stat.started, Boot: bootID()}, Name: string(name)})
			}
		}
	}
	return found
}

func environOf(pid int) []byte {
	environ, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ") // gone, or not ours to read
	return environ
}

func marked(environ []byte, stateDir string) bool {
	return bytes.Contains(environ, []byte(EnvState+"="+stateDir+"\x00"))
}

type stat struct {
	state   byte
	parent  int
	group   int
	started uint64
}

func (s stat) ended() bool { return s.state == 'Z' || s.state == 'X' }

func readStat(pid int) (stat, error) {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, fmt.Errorf("looking at pid %d: %w", pid, err)
	}
	// The second field is the program's name in brackets, and may hold blanks and brackets itself.
	_, after, found := strings.Cut(string(content[max(0, bytes.LastIndexByte(content, ')')):]), ") ")
	fields := strings.Fields(after)
	if !found || len(fields) < 20 {
		return stat{}, fmt.Errorf("looking at pid %d: cannot read its stat", pid)
	}
	parent, errParent := strconv.Atoi(fields[1])
	group, errGroup := strconv.Atoi(fields[2])
	started, errStarted := strconv.ParseUint(fields[19], 10, 64)
	if err := errors.Join(errParent, errGroup, errStarted); err != nil {
		return stat{}, fmt.Errorf("looking at pid %d: %w", pid, err)
	}
	return stat{state: fields[0][0], parent: parent, group: group, started: started}, nil
}

func bootID() string {
	content, _ := os.ReadFile("/proc/sys/kernel/random/boot_id") // without one, two boots look alike
	return strings.TrimSpace(string(content))
}
