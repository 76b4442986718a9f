package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hookline/hookline/internal/stack/process"
)

// target is a process that is about to be hit, with all that belongs to it: its group, and the groups of its descendants,
// as PostgreSQL's children lead groups of their own. It is found beforehand, so that the time of the fault is known.
type target struct {
	process.Identity

	groups []int // the leader's first
}

func aim(name string, pid int) (target, error) {
	if pid == 0 {
		return target{}, fmt.Errorf("%s does not run", name)
	}
	identity, err := process.Of(pid)
	if err != nil {
		return target{}, fmt.Errorf("finding %s: %w", name, err)
	}
	return target{identity, groupsOf(pid)}, nil
}

// hit sends the signal to all of them. The leader goes first, lest it mourns its children, or makes new ones; it wakes
// last.
func (t target) hit(signal syscall.Signal) error {
	groups := t.groups
	if signal == syscall.SIGCONT {
		groups = slices.Concat(groupsOf(t.PID)[1:], []int{t.PID})
	}
	for _, group := range groups {
		if err := send(group, signal); err != nil && (group == t.PID || !errors.Is(err, syscall.ESRCH)) {
			return err
		}
	}
	if signal == syscall.SIGSTOP { // what was made since the look
		for _, group := range groupsOf(t.PID)[1:] {
			if err := send(group, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return err
			}
		}
	}
	return nil
}

func send(group int, signal syscall.Signal) error {
	if err := syscall.Kill(-group, signal); err != nil {
		return fmt.Errorf("sending %s to the process group %d: %w", signal, group, err)
	}
	return nil
}

// groupsOf returns the process groups of the leader and of all its descendants, its own first.
func groupsOf(leader int) []int {
	type relation struct{ parent, group int }
	all := map[int]relation{}
	entries, _ := os.ReadDir("/proc") // without it there are no descendants to find
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if fields := statOf(entry.Name()); len(fields) > 2 {
			parent, errParent := strconv.Atoi(fields[1])
			group, errGroup := strconv.Atoi(fields[2])
			if errParent == nil && errGroup == nil {
				all[pid] = relation{parent, group}
			}
		}
	}
	family := map[int]bool{leader: true}
	groups, seen := []int{leader}, map[int]bool{leader: true}
	for grown := true; grown; {
		grown = false
		for pid, r := range all {
			if family[pid] || !family[r.parent] {
				continue
			}
			family[pid], grown = true, true
			if !seen[r.group] {
				seen[r.group] = true
				groups = append(groups, r.group)
			}
		}
	}
	return groups
}

// statOf returns the fields of /proc/PROCESS/stat behind the program's name: state, parent, group, ...
func statOf(process string) []string {
	content, err := os.ReadFile("/proc/" + process + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
}

// stopped tells whether every thread of the process is stopped by a signal, or has ended: a frozen parent buries no
// child.
func stopped(pid int) bool {
	threads, err := os.ReadDir("/proc/" + strconv.Itoa(pid) + "/task")
	for _, thread := range threads {
		fields := statOf(strconv.Itoa(pid) + "/task/" + thread.Name())
		if len(fields) > 0 && !slices.Contains([]string{"T", "Z", "X"}, fields[0]) {
			return false
		}
	}
	return err == nil && len(threads) > 0
}

// stopped tells whether the leader, and all that leads a group of its own, stand still.
func (t target) stopped() bool {
	return !slices.ContainsFunc(groupsOf(t.PID), func(leader int) bool { return !stopped(leader) })
}
