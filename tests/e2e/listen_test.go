package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/stack"
)

// listening is a `hookline listen --json` under way.
type listening struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	lines  chan heard
}

// heard is a line of it.
type heard struct {
	Kind      string
	Secret    string
	EventType string `json:"event_type"`
	ObjectID  string `json:"object_id"`
	Attempt   int
	Status    int
	Open      int
}

func (s *running) listen(t *testing.T, args ...string) *listening {
	t.Helper()
	l := &listening{lines: make(chan heard, 100)}
	l.cmd = exec.Command(filepath.Join(bin, "hookline"), append([]string{"listen", "--json", "--dir", filepath.Join(s.dir, ".hookline")}, args...)...)
	l.cmd.Stderr = &l.stderr
	stdout, err := l.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, l.cmd.Start())
	t.Cleanup(func() { l.cmd.Process.Kill() })
	go func() {
		defer close(l.lines)
		for scanner := bufio.NewScanner(stdout); scanner.Scan(); {
			var line heard
			if json.Unmarshal(scanner.Bytes(), &line) != nil {
				line.Kind = "no JSON: " + scanner.Text()
			}
			l.lines <- line
		}
	}()
	return l
}

func (l *listening) next(t *testing.T, kind string) heard {
	t.Helper()
	select {
	case line := <-l.lines:
		require.Equal(t, kind, line.Kind)
		return line
	case <-time.After(time.Minute):
		require.Fail(t, "nothing was printed")
		return heard{}
	}
}

// wait waits for the end of the process. Wait closes the pipe, so that it must have been read.
func (l *listening) wait() error {
	for range l.lines {
	}
	return l.cmd.Wait()
}

func TestListenBringsAPaymentToALocalServerThatVerifiesIt(t *testing.T) {
	s := start(t)
	killed := s.listen(t)
	killed.next(t, "listening")
	require.NoError(t, killed.cmd.Process.Kill())
	require.Error(t, killed.wait())

	type request struct {
		header http.Header
		body   []byte
	}
	requests := make(chan request, 10)
	statuses := make(chan int, 2)
	statuses <- http.StatusInternalServerError
	statuses <- http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			requests <- request{r.Header, body}
		}
		w.WriteHeader(<-statuses)
	}))
	t.Cleanup(server.Close)
	l := s.listen(t, "--forward-to", server.URL+"/hook", "--events", "payment.*")
	merchant, err := svix.NewWebhook(l.next(t, "listening").Secret)
	require.NoError(t, err)

	var ignored any
	call(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/events", `{"event_type":"report.ready","data":{}}`, &ignored)
	id := s.pay(t)
	for attempt, status := range []int{http.StatusInternalServerError, http.StatusOK} {
		got := <-requests
		require.NoError(t, merchant.Verify(got.body, got.header))
		require.Equal(t, heard{Kind: "webhook", EventType: "payment.succeeded", ObjectID: id, Attempt: attempt + 1, Status: status}, l.next(t, "webhook"))
	}
	require.NoError(t, l.cmd.Process.Signal(os.Interrupt))
	require.Zero(t, l.next(t, "ended").Open)
	require.NoError(t, l.wait())
	require.Contains(t, l.stderr.String(), "removed endpoint", "what the killed one had left")

	stdout, stderr, err := hookline(t, s.dir, nil, "endpoints", "list", "--json")
	require.NoError(t, err, stderr)
	var listed struct {
		Endpoints []struct{ Description string }
	}
	require.NoError(t, json.Unmarshal([]byte(stdout), &listed))
	require.Len(t, listed.Endpoints, 1)
	require.Equal(t, "the merchant simulator", listed.Endpoints[0].Description)
}
