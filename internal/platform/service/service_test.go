package service

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

type testConfig struct {
	Common

	Token string `env:"TOKEN" secret:"true" desc:"a secret"`
	Size  int    `env:"SIZE" envDefault:"8" unit:"connections" desc:"how many"`
}

type runFunc func(ctx context.Context, cfg testConfig, log *slog.Logger) error

func start(ctx context.Context, run runFunc, args, environ []string) (code int, stdout, stderr string) { //nolint:nonamedreturns // two of them are easily confused
	var out, errs strings.Builder
	s := Service[testConfig]{Name: "thing", Purpose: "does things", Run: run}
	code = s.run(ctx, args, environ, &out, &errs)
	return code, out.String(), errs.String()
}

// TestSIGTERMStops is not parallel: the signal goes to every service that runs in this process.
func TestSIGTERMStops(t *testing.T) { //nolint:paralleltest // see above
	code, _, stderr := start(t.Context(), func(ctx context.Context, _ testConfig, _ *slog.Logger) error {
		if err := syscall.Kill(syscall.Getpid(), syscall.SIGTERM); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}, nil, nil)
	require.Equal(t, ExitOK, code, stderr)
	require.Equal(t, []string{"starting", "stopping", "stopped"}, messages(t, stderr))
}

// TestWhatLibrariesLogIsDropped is not parallel: there is one standard logger.
func TestWhatLibrariesLogIsDropped(t *testing.T) { //nolint:paralleltest // see above
	var leaked strings.Builder
	before := log.Writer()
	log.SetOutput(&leaked)
	defer log.SetOutput(before)
	code, _, stderr := start(t.Context(), func(context.Context, testConfig, *slog.Logger) error {
		log.Print("Unsolicited response received on idle HTTP channel")
		return nil
	}, nil, nil)
	require.Equal(t, ExitOK, code)
	require.Empty(t, leaked.String())
	require.NotContains(t, stderr, "Unsolicited")
}

func TestFlags(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		args, environ  []string
		code           int
		stdout, stderr string
	}{
		"help":               {[]string{"--help"}, nil, ExitOK, "SIZE              connections", ""},
		"short help":         {[]string{"-h"}, nil, ExitOK, "Usage: thing", ""},
		"help in bad times":  {[]string{"--help"}, []string{"SIZE=x"}, ExitOK, "Usage: thing", ""},
		"version":            {[]string{"--version"}, nil, ExitOK, "thing ", ""},
		"check":              {[]string{"--check"}, nil, ExitOK, "settings are valid", ""},
		"check of bad ones":  {[]string{"--check"}, []string{"SIZE=x"}, ExitConfig, "", "thing: bad settings: SIZE (connections)"},
		"bad setting":        {nil, []string{"SIZE=x"}, ExitConfig, "", "thing: bad settings: SIZE (connections)"},
		"bad common setting": {nil, []string{"LOG_LEVEL=loud"}, ExitConfig, "", "LOG_LEVEL"},
		"unknown flag":       {[]string{"--verbose"}, nil, ExitConfig, "", `unknown argument "--verbose"`},
		"two flags":          {[]string{"--check", "--help"}, nil, ExitConfig, "", "one flag at most"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			code, stdout, stderr := start(t.Context(), func(context.Context, testConfig, *slog.Logger) error {
				return errors.New("it must not run")
			}, test.args, test.environ)
			require.Equal(t, test.code, code, stderr)
			require.Contains(t, stdout, test.stdout)
			require.Contains(t, stderr, test.stderr)
			require.NotContains(t, stderr, "it must not run")
		})
	}
}

func TestRunGetsSettingsAndItsLogHidesSecrets(t *testing.T) {
	t.Parallel()
	var got testConfig
	code, _, stderr := start(t.Context(), func(_ context.Context, cfg testConfig, _ *slog.Logger) error {
		got = cfg
		return nil
	}, nil, []string{"TOKEN=hush", "SIZE=3", "LOG_LEVEL=WARN", "SHUTDOWN_TIMEOUT=7s"})
	require.Equal(t, ExitOK, code)
	require.Equal(t, testConfig{Common: Common{LogLevel: slog.LevelWarn, ShutdownTimeout: 7 * time.Second}, Token: "hush", Size: 3}, got)
	require.Empty(t, stderr, "LOG_LEVEL is honoured")

	_, _, stderr = start(t.Context(), func(context.Context, testConfig, *slog.Logger) error { return nil }, nil, []string{"TOKEN=hush"})
	require.Contains(t, stderr, `"TOKEN":"set=true"`)
	require.NotContains(t, stderr, "hush")
}

func TestAFailureIsLoggedOnce(t *testing.T) {
	t.Parallel()
	code, _, stderr := start(t.Context(), func(context.Context, testConfig, *slog.Logger) error { return errors.New("no luck") }, nil, nil)
	require.Equal(t, ExitFailed, code)
	require.Equal(t, []string{"starting", "failed"}, messages(t, stderr))
	require.Equal(t, 1, strings.Count(stderr, "no luck"))
}

func TestAHangingStopIsCut(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	forever := make(chan struct{})
	t.Cleanup(func() { close(forever) })
	code, _, stderr := start(ctx, func(context.Context, testConfig, *slog.Logger) error {
		cancel()
		<-forever
		return nil
	}, nil, []string{"SHUTDOWN_TIMEOUT=1ms"})
	require.Equal(t, ExitFailed, code)
	require.Contains(t, stderr, "SHUTDOWN_TIMEOUT")
}

func messages(t *testing.T, log string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(log) {
		var entry struct{ Msg, Service string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry))
		require.Equal(t, "thing", entry.Service)
		out = append(out, entry.Msg)
	}
	return out
}
