// Package restatetest gives tests a real Restate server: one per test binary, started at the first call.
// It is downloaded from npm into the cache directory (HOOKLINE_CACHE) where it is missing.
package restatetest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack/restateserver"
	"github.com/hookline/hookline/internal/stack/tools"
	"github.com/hookline/hookline/internal/testkit/child"
)

var (
	once    sync.Once
	shared  restateserver.Server
	stop    = func() {}
	errOnce error
)

// Start returns the addresses of the test binary's server. It is shared: a test names its services, or
// their deployments, so that others do not meet them. Call Stop from TestMain to remove its data; without
// it the server dies with the test binary all the same.
func Start(t testing.TB) (ingressURL, adminURL string) {
	t.Helper()
	once.Do(func() { errOnce = start() })
	require.NoError(t, errOnce, "starting Restate for the tests")
	return shared.IngressURL(), shared.AdminURL()
}

// Stop ends the server, where one was started.
func Stop() { stop() }

func start() error {
	ctx := context.Background() // the server outlives the test that came first
	cache, err := tools.DefaultCache()
	if err != nil {
		return err
	}
	binary, err := cache.Restate(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "hookline-restatetest-")
	if err != nil {
		return fmt.Errorf("making Restate's directory: %w", err)
	}
	ports, err := child.FreePorts(3)
	if err != nil {
		return err
	}
	shared = restateserver.Server{
		Binary: binary, DataDir: filepath.Join(dir, "data"), TempDir: dir,
		IngressPort: ports[0], AdminPort: ports[1], FabricPort: ports[2],
		Settings: map[string]string{"RESTATE_LOG_SERVER__ROCKSDB_DISABLE_WAL_FSYNC": "true"},
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return fmt.Errorf("making Restate's log: %w", err)
	}
	defer log.Close()
	cmd := shared.Command(ctx)
	cmd.Stdout, cmd.Stderr = log, log
	exited, err := child.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return fmt.Errorf("starting %s: %w", binary, err)
	}
	stop = func() {
		cmd.Process.Kill()
		<-exited
		os.RemoveAll(dir)
	}
	if err := child.Await(ctx, exited, shared.Ready); err != nil {
		text, _ := os.ReadFile(log.Name())
		stop()
		return fmt.Errorf("waiting for Restate: %w: %s", err, tail(text))
	}
	return nil
}

func tail(text []byte) []byte {
	const limit = 2000
	if len(text) > limit {
		return text[len(text)-limit:]
	}
	return text
}
