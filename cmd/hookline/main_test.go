package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/kafka"
)

type result struct {
	code           int
	stdout, stderr string
}

func hookline(t *testing.T, args ...string) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), args, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

func TestMistakesAreOneLineAndExitTwo(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, args := range [][]string{
		{"upp"},
		{"up", "--what"},
		{"up", "extra"},
		{"up", "--dir", dir, "--intake", "both"},
		{"up", "--dir", dir, "--kafka", "redpanda"},
		{"up", "--dir", dir, "--port-offset", "-1"},
		{"up", "--dir", dir, "--port-offset", "x"},
		{"logs", "a", "b"},
		{"endpoints"},
		{"endpoints", "remove"},
		{"endpoints", "add", "--merchant", "m"},
		{"migrate"},
		{"migrate", "--ledger", "nonsense://"},
		{"kfake"},
		{"balance"},
		{"up", "--dir", dir, "--workers", "5"},
	} {
		got := hookline(t, args...)
		require.Equal(t, exitUsage, got.code, args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.True(t, strings.HasPrefix(got.stderr, "hookline"), got.stderr)
		require.Empty(t, got.stdout, args)
	}
	require.Equal(t, exitUsage, hookline(t).code)
}

func TestFailuresAreOneLineAndExitOne(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	for want, args := range map[string][]string{
		"hookline up starts it":          {"endpoints", "list", "--dir", dir},
		"there is no log of \"nothing\"": {"logs", "nothing", "--dir", dir},
		"there are no logs yet":          {"logs", "--dir", dir},
		"migrating the ledger tables":    {"migrate", "--ledger", "postgres://127.0.0.1:1/x?connect_timeout=1"},
	} {
		got := hookline(t, args...)
		require.Equal(t, exitFailed, got.code, args)
		require.Contains(t, got.stderr, want)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
	}
}

func TestEveryVerbExplainsItself(t *testing.T) {
	t.Parallel()
	top := hookline(t, "--help")
	require.Equal(t, exitOK, top.code)
	for _, v := range verbs {
		if v.summary != "" {
			require.Contains(t, top.stdout, v.name)
		}
		got := hookline(t, v.name, "--help")
		require.Equal(t, exitOK, got.code, v.name)
		require.Contains(t, got.stdout, "Usage: hookline "+v.name)
		require.Empty(t, got.stderr)
	}
}

func TestStatusAsJSONIsTheLastLine(t *testing.T) {
	t.Parallel()
	got := hookline(t, "status", "--json", "--dir", filepath.Join(t.TempDir(), "none"))
	require.Equal(t, exitOK, got.code, got.stderr)
	var status struct {
		Components []struct{ Name, State, Address string }
		DSN        *string
	}
	lines := strings.Split(strings.TrimSpace(got.stdout), "\n")
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &status))
	require.Len(t, status.Components, 8)
	require.NotNil(t, status.DSN)
}

func TestLogsPrintTheLastLinesAndThenWhatIsAdded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "logs", "kafka.log")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o700))
	require.NoError(t, os.WriteFile(file, []byte("one\ntwo\nthree\nhal"), 0o600))
	got := hookline(t, "logs", "kafka", "-n", "2", "--dir", dir)
	require.Equal(t, result{stdout: "two\nthree\n"}, got)
	got = hookline(t, "logs", "--dir", dir)
	require.Equal(t, "kafka              | one\nkafka              | two\nkafka              | three\n", got.stdout)

	require.NoError(t, os.WriteFile(file, []byte("one\ntwo\nthree\nhalf\n"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	followed := &printed{until: "half\nmore\n", done: cancel, begun: make(chan struct{})}
	go func() { // the log grows only once it is followed
		<-followed.begun
		if log, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0); err == nil {
			fmt.Fprintln(log, "more")
			log.Close()
		}
	}()
	require.Equal(t, exitOK, run(ctx, []string{"logs", "kafka", "-f", "-n", "1", "--dir", dir}, followed, os.Stderr))
	require.Equal(t, "half\nmore\n", followed.text.String())
}

// printed ends the verb once it has printed what is waited for.
type printed struct {
	text  bytes.Buffer
	until string
	done  func()
	begun chan struct{}
}

func (p *printed) Write(b []byte) (int, error) {
	if p.text.Len() == 0 {
		close(p.begun)
	}
	p.text.Write(b)
	if p.text.String() == p.until {
		p.done()
	}
	return len(b), nil
}

func TestBrokerKeepsItsRecordsWhenItEnds(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	dir := filepath.Join(t.TempDir(), "kfake")
	broker := func(use func(client *kgo.Client)) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan int, 1)
		go func() {
			var out bytes.Buffer
			ended <- run(ctx, []string{"kfake", "--listen", address, "--dir", dir}, &out, &out)
		}()
		client, err := kgo.NewClient(kgo.SeedBrokers(address), kgo.ConsumeTopics("t"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		require.NoError(t, err)
		defer client.Close()
		use(client)
		cancel()
		require.Equal(t, exitOK, <-ended)
	}
	var made []string
	broker(func(client *kgo.Client) {
		require.Eventually(t, func() bool { return client.Ping(t.Context()) == nil }, 20*time.Second, 20*time.Millisecond)
		require.NoError(t, kafka.EnsureTopic(t.Context(), client, "t", 1, 1, 0))
		for i := range 3 {
			value := fmt.Sprint("record ", i)
			require.NoError(t, client.ProduceSync(t.Context(), &kgo.Record{Topic: "t", Value: []byte(value)}).FirstErr())
			made = append(made, value)
		}
	})
	broker(func(client *kgo.Client) {
		var got []string
		require.Eventually(t, func() bool {
			client.PollFetches(t.Context()).EachRecord(func(r *kgo.Record) { got = append(got, string(r.Value)) })
			return len(got) >= len(made)
		}, 20*time.Second, 20*time.Millisecond)
		require.ElementsMatch(t, made, got)
	})
}
