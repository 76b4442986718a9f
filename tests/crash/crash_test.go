package crash_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/crashtest"
	"github.com/hookline/hookline/internal/testkit/commands"
)

// bin holds the commands, built once.
var bin string

func TestMain(m *testing.M) { commands.Main(m, &bin) }

// hookline runs the command with the environment of a developer who has set nothing.
func hookline(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	return commands.Hookline(t, bin, t.TempDir(), nil, args...)
}

// start brings a stack up at the first offset whose ports are all free, and returns the flags that choose it.
func start(t *testing.T) (dir string, flags []string) {
	t.Helper()
	commands.LookAtSources(t)
	dir = filepath.Join(t.TempDir(), "stack")
	t.Cleanup(func() {
		_, stderr, err := hookline(t, "down", "--purge", "--dir", dir)
		require.NoError(t, err, stderr)
	})
	for offset := 5000; offset < 6500; offset += 20 {
		flags = []string{"--dir", dir, "--port-offset", fmt.Sprint(offset)}
		_, stderr, err := hookline(t, append([]string{"up"}, flags...)...)
		if err != nil && strings.Contains(stderr, "is held by") {
			continue
		}
		require.NoError(t, err, stderr)
		return dir, flags
	}
	require.Fail(t, "there is no offset at which all ports are free")
	return "", nil
}

func result(t *testing.T, stdout string) crashtest.Result {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	var r crashtest.Result
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &r), stdout)
	return r
}

// The interleaving: each component is killed with all that belongs to it while payments go on, and is started again;
// the next is killed a second after everything runs.
func TestEverythingIsKilledOnceAndNothingIsLost(t *testing.T) {
	dir, flags := start(t)
	args := func(more ...string) []string {
		return append(append([]string{"crash-test", "--json"}, flags...), more...)
	}

	stdout, stderr, err := hookline(t, args("--fault", "kill:all", "--seed", "1", "--payments", "300", "--rate", "40", "--merchants", "4")...)
	require.NoError(t, err, stderr)
	r := result(t, stdout)
	require.True(t, r.Settled, stderr)
	require.Zero(t, r.Lost+r.Phantoms+r.Mismatches+r.LateDuplicates+r.Unaccounted, stdout)
	require.GreaterOrEqual(t, r.Acknowledged, 300)
	require.Equal(t, r.Committed, r.Received)
	require.Len(t, r.RecoveryS, 8, stdout)

	// What is compared is on disk, and each id counts: one receipt that is taken away is one event that was lost.
	stdout, stderr, err = hookline(t, args("--check-again", "--seed", "1")...)
	require.NoError(t, err, stderr)
	require.Equal(t, r.Received, result(t, stdout).Received)

	receipts := filepath.Join(dir, "data", "receipts.jsonl")
	removeReceipt(t, receipts)
	stdout, stderr, err = hookline(t, args("--check-again", "--seed", "1")...)
	var failed *exec.ExitError
	require.ErrorAs(t, err, &failed, stdout)
	require.Equal(t, 1, failed.ExitCode())
	require.Contains(t, stderr, "1 lost")
	again := result(t, stdout)
	require.Equal(t, 1, again.Lost)
	require.Equal(t, r.Received-1, again.Received)
}

// removeReceipt takes the last accepted webhook away that came once, and puts another one there twice: the count stays.
func removeReceipt(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	lines := strings.SplitAfter(strings.TrimSpace(string(content))+"\n", "\n")
	lines = lines[:len(lines)-1]
	id := func(line string) string {
		var receipt struct{ ID, Outcome string }
		require.NoError(t, json.Unmarshal([]byte(line), &receipt))
		if receipt.Outcome != "accepted" {
			return ""
		}
		return receipt.ID
	}
	for i := len(lines) - 1; i > 0; i-- {
		mine, other := id(lines[i]), id(lines[i-1])
		if mine != "" && other != "" && mine != other && strings.Count(string(content), mine) == 1 {
			lines[i] = lines[i-1]
			require.NoError(t, os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600))
			return
		}
	}
	require.Fail(t, "no receipt can be taken away")
}
