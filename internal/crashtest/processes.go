package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/hookline/hookline/internal/stack/process"
)

// hit sends the signal to the process, to its group, and to the groups of its descendants: PostgreSQL's children lead
// groups of their own.
func hit(leader int, signal syscall.Signal) error {
	groups := groupsOf(leader)
	if signal == syscall.SIGCONT { // children first: a parent that wakes alone takes them for dead
		groups = append(groups[1:], groups[0])
	}
	for i, group := range groups {
		err := syscall.Kill(-group, signal)
		if errors.Is(err, syscall.ESRCH) && i > 0 {
			continue // it ended meanwhile
		}
		if err != nil {
			return fmt.Errorf("sending %s to the process group %d: %w", signal, group, err)
		}
	}
	if signal == syscall.SIGSTOP { // what was forked between the look and the stop
		for _, group := range groupsOf(leader)[1:] {
			if err := syscall.Kill(-group, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("sending %s to the process group %d: %w", signal, group, err)
			}
		}
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
		if fields := statOf(pid); len(fields) > 2 {
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

// statOf returns the fields of /proc/PID/stat behind the program's name: state, parent, group, ...
func statOf(pid int) []string {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
}

// stopped tells whether the process is stopped by a signal.
func stopped(pid int) bool {
	fields := statOf(pid)
	return len(fields) > 0 && fields[0] == "T"
}

// identify names the process beyond its pid, which may be given to another one.
func identify(name string, pid int) (process.Identity, error) {
	if pid == 0 {
		return process.Identity{}, fmt.Errorf("%s does not run", name)
	}
	identity, err := process.Of(pid)
	if err != nil {
		return identity, fmt.Errorf("finding %s: %w", name, err)
	}
	return identity, nil
}
