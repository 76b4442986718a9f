// Package commands builds the commands for tests that run them as a user does.
package commands

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience bounds how long a command may take, on a machine that compiles and tests beside it.
const patience = 5 * time.Minute

// Main builds every command into a directory, which it sets bin to, runs the tests of a package and removes what was
// built. Call it from TestMain.
func Main(m *testing.M, bin *string) {
	code, err := run(m, bin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M, bin *string) (code int, err error) {
	if *bin, err = os.MkdirTemp("", "hookline-test-"); err != nil {
		return 1, fmt.Errorf("making a directory for the commands: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*bin)) }()
	if err := Build(context.Background(), *bin, "./cmd/..."); err != nil {
		return 1, err
	}
	return m.Run(), nil
}

// Build builds into a directory what the arguments, which go build's flags may come before, say.
func Build(ctx context.Context, into string, args ...string) error {
	root, err := Root()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-o", into + "/"}, args...)...)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building the commands: %w\n%s", err, out)
	}
	return nil
}

// Root is the module's directory, which a test runs somewhere below.
func Root() (string, error) {
	at, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("looking for the module's root: %w", err)
	}
	for ; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", errors.New("looking for the module's root: there is no go.mod above the test")
		}
	}
}

// LookAtSources tells go test what a test rests on: it repeats a cached result as long as the files that the test looked
// at are the same, and knows nothing of what the compiler reads.
func LookAtSources(t testing.TB) {
	t.Helper()
	root, err := Root()
	require.NoError(t, err)
	for _, name := range []string{"go.mod", "cmd", "internal", "migrations", "deploy"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, name), func(name string, _ fs.DirEntry, err error) error {
			if err == nil {
				_, err = os.Stat(name)
			}
			return err
		}))
	}
}

// settings are the variables that would make a stack another one than the test wants.
var settings = []string{"HOOKLINE_DIR", "HOOKLINE_PORT_OFFSET", "HOOKLINE_KAFKA", "HOOKLINE_WORKERS", "INTAKE", "DATABASE_URL"}

// Hookline runs the command of bin in a directory, with the environment of a developer who has set nothing but environ,
// and returns what it printed. It may be called from a cleanup.
func Hookline(t testing.TB, bin, at string, environ []string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	// Not the test's own context: it has ended when the cleanup runs.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "hookline"), args...)
	cmd.Dir = at
	for _, entry := range os.Environ() {
		if name, _, _ := strings.Cut(entry, "="); !slices.Contains(settings, name) {
			cmd.Env = append(cmd.Env, entry)
		}
	}
	cmd.Env = append(cmd.Env, environ...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}
