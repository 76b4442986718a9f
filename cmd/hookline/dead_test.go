package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/restate"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestMistakesAboutDeadRecordsAreOneLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	for want, args := range map[string][]string{
		"want `dead list`, `dead show` or `dead redrive`": {"dead"},
		"want `dead list`,":                       {"dead", "bury"},
		"want the id of a dead record":            {"dead", "show"},
		`"x" is not the id of a dead record`:      {"dead", "show", "x"},
		`"-" is not the id of a dead record`:      {"dead", "redrive", "-"},
		`"0" is not the id of a dead record`:      {"dead", "redrive", "0"},
		"want either an id or --all":              {"dead", "redrive", "1", "--all"},
		`there is no reason "age"`:                {"dead", "list", "--reason", "age"},
		`"1e3" is not the id of a dead record`:    {"dead", "redrive", "1e3"},
		"unexpected argument":                     {"dead", "list", "1"},
		`"99999999999999999999" is not the id of`: {"dead", "show", "99999999999999999999"},
	} {
		got := hookline(t, args...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want, args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.Empty(t, got.stdout)
	}
	for _, args := range [][]string{{"dead", "list", "--dir", dir}, {"dead", "show", "1", "--dir", dir}, {"dead", "redrive", "--all", "--dir", dir}} {
		got := hookline(t, args...)
		require.Equal(t, exitFailed, got.code, args)
		require.Contains(t, got.stderr, "hookline up starts it")
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
	}
}

// graveyard is a ledger with one record of each kind, and an ingress that plans what is handed over.
func graveyard(t *testing.T) (*postgres.Ledger, *redrive.Redriver, event.Ref) {
	t.Helper()
	ledger := postgres.NewLedger(pgtest.New(t).Pool(t, migrations.RoleWorker), postgres.LedgerOptions{})
	ref := event.Ref{ID: uuid.Must(uuid.NewV7()), TxID: 7, Type: "payment.failed", ObjectType: "payment", ObjectID: "p", ObjectVersion: 1, MerchantID: "m"}
	value, err := json.Marshal(ref)
	require.NoError(t, err)
	for _, record := range []delivery.DeadRecord{
		{Topic: "webhook-events", Partition: 2, Offset: 41, Reason: delivery.ReasonUndecodable, Detail: "not\nJSON", Key: []byte("m"), Value: []byte("\x1b[31m\xff")},
		{Topic: "webhook-events", Partition: 2, Offset: 42, Reason: delivery.ReasonUndecodable, Detail: "an older worker could not read it", Value: value},
		{Partition: -1, Offset: -1, EventID: uuid.Must(uuid.NewV7()), Reason: delivery.ReasonPhantom, Detail: "no row", Value: []byte{2}},
	} {
		require.NoError(t, ledger.Bury(t.Context(), record))
	}
	ingress := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var batch restate.Batch
		body, err := io.ReadAll(r.Body)
		if err != nil || json.Unmarshal(body, &batch) != nil || r.URL.Path != "/WebhookDispatcher/Process" || r.Header.Get("Idempotency-Key") == "" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if _, _, err := ledger.Plan(r.Context(), "inv", "inhouse", batch.Events); err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	t.Cleanup(ingress.Close)
	calls := restate.NewClient(ingress.URL, 1)
	t.Cleanup(calls.Close)
	return ledger, redrive.New(ledger, calls), ref
}

func TestDeadRecordsAreListedAndShown(t *testing.T) {
	t.Parallel()
	ledger, _, ref := graveyard(t)
	listed, more, err := readDead(t.Context(), ledger, "")
	require.NoError(t, err)
	require.False(t, more)
	require.Len(t, listed, 3)
	require.Equal(t, "webhook-events/2@41", listed[0].origin())
	require.Equal(t, ref.ID.String(), listed[1].EventID, "as far as the bytes tell")
	require.Equal(t, "event "+listed[2].EventID, listed[2].origin())
	for _, record := range listed {
		require.Equal(t, "open", record.standing())
	}
	phantoms, _, err := readDead(t.Context(), ledger, delivery.ReasonPhantom)
	require.NoError(t, err)
	require.Len(t, phantoms, 1)

	var out bytes.Buffer
	require.NoError(t, printDead(t.Context(), ledger, listed[0].ID, false, &out))
	require.Contains(t, out.String(), "hex 1b5b33316dff", "what a terminal would obey is not printed")
	require.NotContains(t, out.String(), "\x1b")
	require.Contains(t, out.String(), "not JSON")
	out.Reset()
	require.NoError(t, printDead(t.Context(), ledger, listed[1].ID, true, &out))
	var shown struct {
		ID    int64
		Value struct{ Text, Hex *string }
		Key   struct{ Text, Hex *string }
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &shown))
	require.Equal(t, listed[1].ID, shown.ID)
	require.Contains(t, *shown.Value.Text, ref.ID.String())
	require.Nil(t, shown.Key.Text)
	require.ErrorContains(t, printDead(t.Context(), ledger, 99, false, &out), "there is no dead record 99")
}

func TestRedriveOfAllDrivesWhatItCanAndFailsForTheRest(t *testing.T) {
	t.Parallel()
	ledger, redriver, ref := graveyard(t)
	var out bytes.Buffer
	err := redriveAll(t.Context(), ledger, redriver, &out)
	require.EqualError(t, err, "2 dead records are as dead as they were")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 4)
	require.Contains(t, lines[0], "still dead: it still cannot be read")
	require.Contains(t, lines[1], "planned: no endpoint takes it")
	require.Contains(t, lines[2], "has no plan any more")
	require.Equal(t, "1 driven again, 2 still dead", lines[3])
	fates, err := ledger.Fates(t.Context(), []uuid.UUID{ref.ID})
	require.NoError(t, err)
	require.Contains(t, fates, ref.ID)
	listed, _, err := readDead(t.Context(), ledger, "")
	require.NoError(t, err)
	require.Equal(t, "redriven: no endpoint takes it", listed[1].standing())
}
