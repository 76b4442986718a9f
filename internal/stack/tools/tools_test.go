package tools

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnInterruptedInstallLeavesNothingThatLooksInstalled(t *testing.T) {
	t.Parallel()
	cache := Cache{Dir: filepath.Join(t.TempDir(), "cache")}
	_, err := cache.install(t.Context(), "kafka", "lib", func(_ context.Context, dir string) error {
		require.NoError(t, os.Mkdir(filepath.Join(dir, "lib"), 0o755))
		return context.Canceled
	})
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, cache.KafkaInstalled())

	_, err = cache.install(t.Context(), "kafka", "lib", func(context.Context, string) error { return nil })
	require.ErrorContains(t, err, "there is no lib")

	calls := 0
	for range 2 {
		lib, err := cache.install(t.Context(), "kafka", "lib", func(_ context.Context, dir string) error {
			calls++
			require.FileExists(t, filepath.Join(dir, "pom.xml"))
			return os.Mkdir(filepath.Join(dir, "lib"), 0o755)
		})
		require.NoError(t, err)
		require.Equal(t, lib, cache.KafkaInstalled())
	}
	require.Equal(t, 1, calls)
	left, err := filepath.Glob(filepath.Join(cache.Dir, "*-part-*"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestJarsMustBeThePinnedOnes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	lib := filepath.Join(dir, "lib")
	require.NoError(t, os.Mkdir(lib, 0o755))
	write := func(name, content string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	write("SHA256SUMS", fmt.Sprintf("%x  a.jar\n", sha256.Sum256([]byte("a"))))
	require.ErrorContains(t, checkSums(dir), "a.jar is missing")
	write("lib/a.jar", "b")
	require.ErrorContains(t, checkSums(dir), "a.jar is not the file that was pinned")
	write("lib/a.jar", "a")
	require.NoError(t, checkSums(dir))
	write("lib/b.jar", "b")
	require.ErrorContains(t, checkSums(dir), "b.jar is not the file that was pinned")
}

func TestGistIsOneShortLine(t *testing.T) {
	t.Parallel()
	require.Equal(t, "npm error code ENOTFOUND; npm error network down",
		gist("npm warn old\nnpm error code ENOTFOUND\nnpm error network down\nnpm error A complete log of this run is in x\n"))
	require.Equal(t, "cannot do that", gist("cannot\n  do that\n"))
	require.Less(t, len(gist(string(make([]byte, 10000)))), 500)
}

func TestOnlyOneHoldsALock(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), name)
	require.NoError(t, err)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = Lock(short, name)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	unlock()
	unlock, err = Lock(t.Context(), name)
	require.NoError(t, err)
	unlock()
}

func TestPostgresFromNPMRuns(t *testing.T) {
	t.Parallel()
	cache, err := DefaultCache()
	require.NoError(t, err)
	dir, err := cache.Postgres(t.Context())
	require.NoError(t, err)
	for _, program := range []string{"postgres", "initdb"} { // initdb needs the libraries that are links
		out, err := exec.CommandContext(t.Context(), filepath.Join(dir, program), "--version").CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "17.")
	}
}
