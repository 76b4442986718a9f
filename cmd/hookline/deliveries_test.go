package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/restate"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func TestMistakesAboutDeliveriesAreOneLine(t *testing.T) {
	t.Parallel()
	id := uuid.NewString()
	for want, args := range map[string][]string{
		"want `deliveries list`, `deliveries show` or": {},
		"want `deliveries list`,":                      {"drop"},
		"want one of dead, parked":                     {"list", "--state", "lost"},
		`"x" is not a UUID`:                            {"list", "--endpoint", "x"},
		`"y" is not a UUID`:                            {"list", "--event", "y"},
		"want a time as 2026-02-28T12:00:00Z":          {"list", "--since", "yesterday"},
		"or 2h30m for so long ago":                     {"list", "--until", "-1h"},
		"--limit 0: want 1 to 10000":                   {"list", "--limit", "0"},
		"unexpected argument":                          {"list", id},
		"want the id of an event; hookline":            {"show"},
		`"z" is not a UUID: want the id of an event`:   {"show", "z"},
		"want an event, --endpoint or --merchant":      {"retry"},
		"with an event only --endpoint narrows":        {"retry", id, "--merchant", "m"},
		"with an event only --endpoint narrows it":     {"retry", id, "--cause", "dns"},
		"want either --endpoint or --merchant":         {"retry", "--merchant", "m", "--endpoint", id},
		"--until is before --since":                    {"retry", "--merchant", "m", "--since", "1h", "--until", "2h"},
		"there is no such cause":                       {"retry", "--merchant", "m", "--cause", "rain"},
		"--state parked: only what is dead":            {"retry", "--merchant", "m", "--state", "parked"},
		"--rate 0: want 1 to 10000":                    {"retry", id, "--rate", "0"},
		"--by is empty":                                {"retry", id, "--by", " "},
		"--replay knows what it is to take up":         {"retry", id, "--replay", "7"},
		"--replay -1: want a positive number":          {"retry", "--replay", "-1"},
	} {
		got := hookline(t, append([]string{"deliveries"}, args...)...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want, args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.Empty(t, got.stdout)
	}
	dir := filepath.Join(t.TempDir(), "none")
	for _, args := range [][]string{{"list"}, {"show", id}, {"retry", id}, {"retry", "--replay", "7"}} {
		got := hookline(t, append(append([]string{"deliveries"}, args...), "--dir", dir)...)
		require.Equal(t, exitFailed, got.code, args)
		require.Contains(t, got.stderr, "hookline up starts it")
	}
}

func TestATimeIsAMomentADayOrSoLongAgo(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]time.Time{
		"2026-02-28T12:00:00+01:00": now.Add(-25 * time.Hour),
		"2026-02-28":                now.Add(-36 * time.Hour),
		"90m":                       now.Add(-90 * time.Minute),
		"0s":                        now,
	} {
		got, err := parseTime(text, now)
		require.NoError(t, err)
		require.True(t, want.Equal(got), "%s: %s", text, got)
	}
}

// cemetery is a ledger with a delivery that died at each of two endpoints and one that succeeded, and an ingress.
type cemetery struct {
	ledger    *postgres.Ledger
	retrier   *redrive.Retrier
	all       *pgxpool.Pool
	endpoints []uuid.UUID
	dead      event.Ref
	fine      event.Ref
	sent      chan delivery.AttemptList
	ingress   *httptest.Server
}

func newCemetery(t *testing.T) *cemetery {
	t.Helper()
	c := &cemetery{all: pgtest.New(t).Pool(t, ""), sent: make(chan delivery.AttemptList, 100)}
	c.ledger = postgres.NewLedger(c.all, postgres.LedgerOptions{Keys: endpointtest.Keys(t)})
	for range 2 {
		c.endpoints = append(c.endpoints, endpointtest.Add(t, c.all, "m", nil))
	}
	ref := func() event.Ref {
		return event.Ref{ID: uuid.Must(uuid.NewV7()), TxID: 7, Type: "payment.failed", ObjectType: "payment", ObjectID: "p", ObjectVersion: 1, MerchantID: "m"}
	}
	c.dead, c.fine = ref(), ref()
	claims, _, err := c.ledger.Plan(t.Context(), "inv_1", "inhouse", []event.Ref{c.dead, c.fine})
	require.NoError(t, err)
	var outcomes []delivery.Outcome
	for _, claim := range claims {
		o := delivery.Outcome{
			Key: claim.Key, Epoch: claim.Epoch, Number: 1, State: delivery.Dead, Cause: delivery.CauseServerError, StatusCode: 503, Attempted: true,
			Latency: 12 * time.Millisecond, BodySHA256: []byte{0xab, 0xcd}, Answer: []byte("\x1b[31mdown\n for  maintenance\xff"),
		}
		if claim.EventID == c.fine.ID {
			o.State, o.Cause, o.StatusCode, o.Answer = delivery.Succeeded, delivery.CauseOK, 200, []byte("ok")
		}
		outcomes = append(outcomes, o)
	}
	require.NoError(t, c.ledger.Record(t.Context(), "inv_1", outcomes))
	c.ingress = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var list delivery.AttemptList
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &list) != nil || r.URL.Path != "/WebhookDispatcher/Attempt/send" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		c.sent <- list
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusAccepted)
		io.WriteString(w, `{"invocationId":"inv_2","status":"Accepted"}`)
	}))
	t.Cleanup(c.ingress.Close)
	calls := restate.NewClient(c.ingress.URL, 1)
	t.Cleanup(calls.Close)
	c.retrier = redrive.NewRetrier(c.ledger, calls)
	return c
}

func (c *cemetery) retry(t *testing.T, s redrive.Selection, change func(*redrive.Order)) (string, string, error) {
	t.Helper()
	order := redrive.Order{Replay: redrive.Replay{RequestedBy: "joe", Selection: s}, Rate: 1000}
	if change != nil {
		change(&order)
	}
	var stdout, stderr bytes.Buffer
	err := retry(t.Context(), c.retrier, order, false, &stdout, &stderr)
	return stdout.String(), stderr.String(), err
}

func TestDeliveriesAreListedInPlainWords(t *testing.T) {
	t.Parallel()
	c := newCemetery(t)
	var out bytes.Buffer
	require.NoError(t, printDeliveries(t.Context(), c.ledger, delivery.Filter{State: delivery.Dead}, 1, false, &out))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 2)
	for _, word := range []string{c.dead.ID.String(), "payment.failed", "m", "dead", "1", "the endpoint failed with a 5xx", "ended 20"} {
		require.Contains(t, lines[0], word)
	}
	require.Equal(t, "and more: --limit is 1", lines[1])

	out.Reset()
	require.NoError(t, printDeliveries(t.Context(), c.ledger, delivery.Filter{}, 10, true, &out))
	var listed struct {
		Deliveries []map[string]any `json:"deliveries"`
		More       bool             `json:"more"`
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &listed))
	require.False(t, listed.More)
	require.Len(t, listed.Deliveries, 4)
	require.Equal(t, c.fine.ID.String(), listed.Deliveries[0]["event_id"], "the newest first")
	require.Equal(t, "succeeded", listed.Deliveries[0]["state"])
	require.NotContains(t, listed.Deliveries[0], "next_attempt_at")
}

func TestAnEventIsShownWithEveryAttempt(t *testing.T) {
	t.Parallel()
	c := newCemetery(t)
	_, _, err := c.retry(t, redrive.Selection{EventID: c.dead.ID, EndpointID: c.endpoints[0]}, nil)
	require.NoError(t, err)
	_, err = endpointtest.NewManager(t, c.all).Remove(t.Context(), c.endpoints[1])
	require.NoError(t, err)

	var out bytes.Buffer
	require.NoError(t, printHistory(t.Context(), c.ledger, c.dead.ID, uuid.Nil, false, &out))
	for _, words := range []string{
		"type      payment.failed", "object    payment p, version 1", "by inv_1", c.endpoints[0].String() + "  http://127.0.0.1:1/webhooks",
		c.endpoints[1].String() + "  (removed)", "standing  dead, attempts: 1, ended 20", "standing  retrying (replay 1), attempts: 0, next 20",
		"503 in 12 ms  server_error: the endpoint failed with a 5xx; look into the server's log", "answered \ufffd[31mdown for maintenance\ufffd",
		"body SHA-256 abcd, sent by inv_1",
	} {
		require.Contains(t, out.String(), words)
	}
	require.NotContains(t, out.String(), "\x1b", "what a terminal would obey is not printed")

	out.Reset()
	require.NoError(t, printHistory(t.Context(), c.ledger, c.dead.ID, c.endpoints[0], true, &out))
	var shown struct {
		Deliveries []struct {
			Generation int64
			Made       []struct {
				Answer struct{ Hex string }
			}
		}
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &shown))
	require.Len(t, shown.Deliveries, 2)
	require.True(t, strings.HasPrefix(shown.Deliveries[0].Made[0].Answer.Hex, "1b5b"))
	require.EqualValues(t, 1, shown.Deliveries[1].Generation)

	out.Reset()
	require.NoError(t, printHistory(t.Context(), c.ledger, c.dead.ID, uuid.New(), false, &out))
	require.Contains(t, out.String(), "not planned for this endpoint")
	require.ErrorContains(t, printHistory(t.Context(), c.ledger, uuid.New(), uuid.Nil, false, &out), "has no plan")
}

func TestARetryOfAnEventSaysWhatBecomesOfEachDelivery(t *testing.T) {
	t.Parallel()
	c := newCemetery(t)
	manager := endpointtest.NewManager(t, c.all)
	require.NoError(t, manager.Disable(t.Context(), c.endpoints[1]))
	stdout, _, err := c.retry(t, redrive.Selection{EventID: c.dead.ID}, func(o *redrive.Order) { o.DryRun = true })
	require.NoError(t, err)
	require.Contains(t, stdout, c.endpoints[0].String()+": would be sent\n")
	require.Contains(t, stdout, c.endpoints[1].String()+": would be parked: the endpoint is disabled\n")
	require.Contains(t, stdout, "would be done: 1 to send; 1 parked")
	require.Empty(t, c.sent)

	stdout, _, err = c.retry(t, redrive.Selection{EventID: c.dead.ID}, nil)
	require.NoError(t, err)
	require.Contains(t, stdout, ": to be sent once more\n")
	require.Contains(t, stdout, "gets it when it is enabled")
	require.Contains(t, stdout, "replay 1: 1 to send; 1 parked")
	list := <-c.sent
	require.Equal(t, delivery.AttemptList{
		EndpointID: c.endpoints[0], Number: 1, Tickets: []delivery.Ticket{{EventID: c.dead.ID, Generation: 1, Epoch: 1}}, Backlog: true,
	}, list, "behind what comes now")

	stdout, _, err = c.retry(t, redrive.Selection{EventID: c.dead.ID}, nil)
	require.Equal(t, fault.Conflict, fault.ClassOf(err))
	require.Contains(t, stdout, "left alone: it is under way, or parked")
	stdout, _, err = c.retry(t, redrive.Selection{EventID: c.fine.ID}, nil)
	require.ErrorContains(t, err, "nothing of event")
	require.Contains(t, stdout, "--even-succeeded sends it once more")
}

func TestARetryInBulkSaysHowMany(t *testing.T) {
	t.Parallel()
	c := newCemetery(t)
	stdout, stderr, err := c.retry(t, redrive.Selection{MerchantID: "m", Cause: delivery.CauseDNS}, nil)
	require.NoError(t, err)
	require.Contains(t, stdout, "nothing was made: 2 left alone (it died of another cause)")
	require.Contains(t, stderr, "0 made")
	stdout, stderr, err = c.retry(t, redrive.Selection{MerchantID: "m"}, func(o *redrive.Order) { o.DryRun = true })
	require.NoError(t, err)
	require.Contains(t, stdout, "would be done: 2 to send\n")
	require.Contains(t, stderr, c.endpoints[0].String())
	stdout, stderr, err = c.retry(t, redrive.Selection{MerchantID: "m"}, nil)
	require.NoError(t, err)
	require.Contains(t, stdout, "2 to send\n")
	require.Contains(t, stderr, "2 made, 2 handed over\n")
	require.Len(t, c.sent, 2)
	stdout, _, err = c.retry(t, redrive.Selection{MerchantID: "nobody"}, nil)
	require.NoError(t, err)
	require.Equal(t, "there is nothing dead to retry\n", stdout)
}

func TestARetryWithoutAnIngressSaysWhoSendsIt(t *testing.T) {
	t.Parallel()
	c := newCemetery(t)
	c.ingress.Close()
	stdout, _, err := c.retry(t, redrive.Selection{EndpointID: c.endpoints[0]}, nil)
	require.NoError(t, err)
	require.Contains(t, stdout, "1 could not be handed over")
	require.Contains(t, stdout, "the worker's reconciler sends them")
	overdue, err := c.ledger.Overdue(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Len(t, overdue, 1)

	var out bytes.Buffer
	require.NoError(t, retry(t.Context(), c.retrier,
		redrive.Order{Replay: redrive.Replay{RequestedBy: "joe", Selection: redrive.Selection{EndpointID: c.endpoints[1]}}, Rate: 1}, true, &out, io.Discard))
	require.Contains(t, out.String(), `"deliveries":{"send":1},"handed_over":0,"hand_over_error":"sending attempts`)
}

func TestARetryThatIsInterruptedNamesItsReplay(t *testing.T) {
	t.Parallel()
	c := newCemetery(t)
	ctx, interrupt := context.WithCancel(t.Context())
	retrier := redrive.NewRetrier(c.ledger, interrupting(interrupt))
	var stderr bytes.Buffer
	order := redrive.Order{Replay: redrive.Replay{RequestedBy: "joe", Selection: redrive.Selection{MerchantID: "m"}}, Rate: 1}
	require.ErrorIs(t, retry(ctx, retrier, order, false, io.Discard, &stderr), context.Canceled)
	require.Equal(t, "replay 1: 1 are made and will be sent; hookline deliveries retry --replay 1 takes up the rest\n", stderr.String())
	var stdout bytes.Buffer
	require.NoError(t, retry(t.Context(), c.retrier, redrive.Order{Replay: redrive.Replay{ID: 1}, Rate: 1000}, false, &stdout, io.Discard))
	require.Equal(t, "replay 1: 1 to send; 1 left alone (this replay, or a later one, has taken it)\n", stdout.String())
}

// interrupting is an ingress at which the command is interrupted.
type interrupting context.CancelFunc

func (i interrupting) SendAttempt(ctx context.Context, _ delivery.AttemptList) error {
	i()
	return ctx.Err()
}
