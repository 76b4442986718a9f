// Package restateserver runs one Restate server from its binary: for the embedded stack and for tests.
package restateserver

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Server is one Restate node with its data on disk. Everything listens on 127.0.0.1.
type Server struct {
	Binary  string
	DataDir string
	// TempDir, where it is set, must exist: each start leaves a directory behind there.
	TempDir string

	IngressPort int
	AdminPort   int
	FabricPort  int

	// Settings override the tunables by the name of their variable (RESTATE_...).
	Settings map[string]string
}

// IngressURL is where invocations are sent.
func (s Server) IngressURL() string { return "http://127.0.0.1:" + strconv.Itoa(s.IngressPort) }

// AdminURL is where deployments and subscriptions are managed, and the UI is.
func (s Server) AdminURL() string { return "http://127.0.0.1:" + strconv.Itoa(s.AdminPort) }

// Environ is the server's whole configuration. Restate ignores keys that it does not know: check a change
// with `restate-server --dump-config`.
func (s Server) Environ() []string {
	settings := map[string]string{
		// Fixed when the data directory is first used. One partition costs the least CPU per invocation;
		// batches need few invocations.
		"RESTATE_DEFAULT_NUM_PARTITIONS": "1",
		// Per partition. Each invocation in flight costs the worker about 0.56 MiB; the default of 1,000
		// was slower and took gigabytes.
		"RESTATE_WORKER__INVOKER__CONCURRENT_INVOCATIONS_LIMIT": "32",
		// It fills what it may have, whatever the load; the default is 2 GiB, and made nothing faster.
		"RESTATE_ROCKSDB_TOTAL_MEMORY_SIZE":         "128MiB",
		"RESTATE_ADMIN__QUERY_ENGINE__MEMORY_SIZE":  "128MiB",
		"RESTATE_BIFROST__RECORD_CACHE_MEMORY_SIZE": "16MiB",
		"RESTATE_WORKER__INVOKER__MEMORY_LIMIT":     "256MiB",
		// The defaults notice a frozen worker after a minute.
		"RESTATE_WORKER__INVOKER__HTTP2_KEEP_ALIVE_INTERVAL": "5s",
		"RESTATE_WORKER__INVOKER__HTTP2_KEEP_ALIVE_TIMEOUT":  "5s",
		// An invocation that ran out of attempts is paused, and stuck until somebody looks. The pauses are
		// short because an invocation keeps its slot while it backs off.
		"RESTATE_DEFAULT_RETRY_POLICY__MAX_ATTEMPTS":     "unlimited",
		"RESTATE_DEFAULT_RETRY_POLICY__INITIAL_INTERVAL": "100ms",
		"RESTATE_DEFAULT_RETRY_POLICY__MAX_INTERVAL":     "2s",
		"RESTATE_SHUTDOWN_TIMEOUT":                       "5s",
		"RESTATE_LOG_FORMAT":                             "json",
	}
	for key, value := range s.Settings {
		settings[key] = value
	}
	for key, value := range map[string]string{
		// Another name, and the node takes its data for somebody else's.
		"RESTATE_NODE_NAME":              "hookline-1",
		"RESTATE_CLUSTER_NAME":           "hookline",
		"RESTATE_BASE_DIR":               s.DataDir,
		"RESTATE_LISTEN_MODE":            "tcp",
		"RESTATE_BIND_IP":                "127.0.0.1",
		"RESTATE_ADVERTISED_HOST":        "127.0.0.1",
		"RESTATE_BIND_PORT":              strconv.Itoa(s.FabricPort),
		"RESTATE_INGRESS__BIND_PORT":     strconv.Itoa(s.IngressPort),
		"RESTATE_ADMIN__BIND_PORT":       strconv.Itoa(s.AdminPort),
		"RESTATE_DISABLE_TELEMETRY":      "true",
		"RESTATE_LOG_DISABLE_ANSI_CODES": "true",
	} {
		settings[key] = value
	}
	environ := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	if s.TempDir != "" {
		environ = append(environ, "TMPDIR="+s.TempDir)
	}
	for key, value := range settings {
		environ = append(environ, key+"="+value)
	}
	slices.Sort(environ)
	return environ
}

// Command is the server in the foreground, in a process group of its own; SIGTERM stops it.
func (s Server) Command(ctx context.Context) *exec.Cmd {
	cmd := exec.CommandContext(ctx, s.Binary, "--no-logo")
	cmd.Env = s.Environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// Ready fails until the server takes invocations and deployments.
func (s Server) Ready(ctx context.Context) error {
	// The ingress answers before the partition has a leader; the query does not.
	for _, check := range []struct{ method, url, body string }{
		{http.MethodGet, s.AdminURL() + "/health", ""},
		{http.MethodGet, s.IngressURL() + "/restate/health", ""},
		{http.MethodPost, s.AdminURL() + "/query", `{"query":"select count(*) from sys_invocation"}`},
	} {
		req, err := http.NewRequestWithContext(ctx, check.method, check.url, strings.NewReader(check.body))
		if err != nil {
			return fmt.Errorf("asking Restate: %w", err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return fmt.Errorf("asking Restate: %w", err)
		}
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("asking Restate: %s answered %s: %s", check.url, resp.Status, strings.Join(strings.Fields(string(body)), " "))
		}
	}
	return nil
}
