package restate

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/event"
)

// book is a ledger with one endpoint, which takes no outcome at first.
type book struct {
	endpoint delivery.Endpoint
	refusals atomic.Int32
}

func (b *book) Plan(_ context.Context, _, _ string, refs []event.Ref) ([]delivery.Claim, delivery.Planned, error) {
	var claims []delivery.Claim
	var planned delivery.Planned
	for _, r := range refs {
		planned.Events = append(planned.Events, r.ID)
		claims = append(claims, delivery.Claim{
			Key: delivery.Key{EventID: r.ID, EndpointID: b.endpoint.ID}, Epoch: 1, Number: 1, EndpointRevision: 1,
			Event: event.PayloadRequest{EventID: r.ID, TxID: r.TxID, MinVersion: r.ObjectVersion},
		})
	}
	return claims, planned, nil
}

func (*book) Resume(context.Context, string, []uuid.UUID) ([]delivery.Claim, []delivery.Settled, error) {
	return nil, nil, nil
}

func (*book) Claim(context.Context, string, uuid.UUID, []delivery.Ticket) ([]delivery.Claim, []delivery.Settled, error) {
	return nil, nil, nil
}

func (*book) Release(context.Context, string, delivery.Sequence) ([]delivery.Overdue, error) {
	return nil, nil
}

func (*book) Awaited(context.Context, []delivery.Sequence) ([]delivery.Sequence, error) {
	return nil, nil
}

func (*book) Holds(context.Context, delivery.Claim) (bool, error) { return true, nil }

func (b *book) Record(context.Context, string, []delivery.Outcome) error {
	if b.refusals.Add(-1) >= 0 {
		return errors.New("the ledger cannot be reached")
	}
	return nil
}

func (b *book) Endpoints(context.Context, []uuid.UUID) ([]delivery.Endpoint, error) {
	return []delivery.Endpoint{b.endpoint}, nil
}

func (*book) Park(context.Context, uuid.UUID, []delivery.Ticket, delivery.Cause) error { return nil }

func (*book) OpenCircuit(context.Context, uuid.UUID, time.Time, time.Duration) (bool, error) {
	return false, nil
}
func (*book) CloseCircuit(context.Context, uuid.UUID, time.Time) (bool, error) { return false, nil }
func (*book) ForgetOpens(context.Context, uuid.UUID, time.Time) (bool, error)  { return false, nil }

func (*book) Bury(context.Context, delivery.DeadRecord) error { return nil }

// vault is a data-service whose payloads hold what nobody else may see.
type vault struct{ secret string }

func (v vault) Payloads(_ context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	var out []event.Payload
	for _, a := range asked {
		out = append(out, event.Payload{
			EventID: a.EventID, Visibility: event.Visible, Type: "payment.succeeded", ObjectVersion: a.MinVersion, OccurredAt: "2026-02-23T12:00:00.000000Z",
			Payment: fmt.Appendf(nil, `{"card": "%s"}`, v.secret), Snapshot: fmt.Appendf(nil, `{"card": "%s"}`, v.secret),
		})
	}
	return out, nil
}

func TestTheJournalNamesWhatHappenedAndHoldsNothingToBeKept(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	const (
		inBody   = "4242-4242-4242-4242"
		inURL    = "token-in-the-url"
		inAnswer = "no such order at the merchant"
	)
	merchant := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, inAnswer, http.StatusServiceUnavailable)
	}))
	defer merchant.Close()
	secret := base64.StdEncoding.EncodeToString([]byte("the secret of an endpoint"))
	ledger := &book{endpoint: delivery.Endpoint{
		ID: uuid.New(), URL: merchant.URL + "/" + inURL, Enabled: true, Timeout: 5 * time.Second, Revision: 1,
		Secrets: []delivery.Secret{{Value: "whsec_" + secret}},
	}}
	ledger.refusals.Store(2) // so that there is a record step, too
	var local egress.Config
	require.NoError(t, local.Allow.UnmarshalText([]byte("127.0.0.1")))
	poster := deliver.NewClient(1, egress.New(local))
	defer poster.Close()
	d := dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Hour}}, ledger, vault{inBody}, poster, silent(), prometheus.NewRegistry())
	defer func() { require.NoError(t, d.Close(context.WithoutCancel(t.Context()))) }()

	one, two := ref(), ref()
	var owned atomic.Value
	w.scripts.onProcess(one.ID, func(ctx context.Context, owner string, refs []event.Ref) (dispatch.Result, error) {
		owned.Store(owner)
		return d.Process(ctx, owner, refs)
	})
	w.scripts.onRecord(one.ID, d.Record) // whichever line comes first
	w.scripts.onRecord(two.ID, d.Record)
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{one, two}))

	var journal struct {
		Rows []struct {
			EntryType string `json:"entry_type"`
			Name      string
			Raw       string
			EntryJSON string `json:"entry_json"`
		}
	}
	owner := owned.Load().(string)
	ask(t, http.MethodPost, w.admin+"/query", map[string]string{"query": "select * from sys_journal where id = '" + owner + "' order by index"}, &journal)
	var everything strings.Builder
	var steps []string
	for _, row := range journal.Rows {
		raw, err := hex.DecodeString(row.Raw)
		require.NoError(t, err)
		everything.Write(raw)
		everything.WriteString(row.EntryJSON)
		if row.EntryType == "Command: Run" {
			steps = append(steps, row.Name)
		}
	}
	var rest json.RawMessage // what went wrong is kept beside the journal
	for _, table := range []string{"sys_invocation", "sys_journal_events"} {
		ask(t, http.MethodPost, w.admin+"/query", map[string]string{"query": "select * from " + table + " where id = '" + owner + "'"}, &rest)
		everything.Write(rest)
	}
	text := everything.String()
	require.Equal(t, []string{"deliver", "record"}, steps)
	for _, want := range []string{one.ID.String(), two.ID.String(), ledger.endpoint.ID.String(), `"status_code":503`, `"latency_ms":`, `"cause":"server_error"`} {
		require.Contains(t, text, want)
	}
	for _, hidden := range []string{inBody, inURL, inAnswer, secret, merchant.URL, "whsec_", "webhook-signature"} {
		require.NotContains(t, text, hidden)
	}
}

func TestEndedTellsWhatWillNeverRunAgain(t *testing.T) {
	t.Parallel()
	w := theWorker(t)
	running, finished := ref(), ref()
	owners, release := make(chan string, 2), make(chan struct{})
	w.scripts.onProcess(running.ID, func(_ context.Context, owner string, _ []event.Ref) (dispatch.Result, error) {
		owners <- owner
		<-release
		return dispatch.Result{}, nil
	})
	w.scripts.onProcess(finished.ID, func(_ context.Context, owner string, _ []event.Ref) (dispatch.Result, error) {
		owners <- owner
		return dispatch.Result{}, nil
	})
	require.NoError(t, w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{finished}))
	done := receive(t, owners)
	returned := make(chan error, 1)
	go func() { returned <- w.client.Dispatch(t.Context(), uuid.NewString(), []event.Ref{running}) }()
	alive := receive(t, owners)

	const unknown, nonsense = "inv_1boLFRyBIB3k118o5phbTEDTEneovV40yR", "x'; drop table"
	asked := []string{done, alive, unknown, nonsense}
	for len(asked) < statusesAtOnce {
		asked = append(asked, unknown)
	}
	asked = append(asked, alive)
	ended, err := w.registrar(Subscription{}).Ended(t.Context(), asked)
	require.NoError(t, err)
	require.Equal(t, map[string]bool{done: true, alive: false, unknown: true, nonsense: true}, ended)
	close(release)
	require.NoError(t, receive(t, returned))

	down := NewRegistrar(RegistrarConfig{AdminURL: "http://127.0.0.1:1"}, Subscription{}, "", silent())
	_, err = down.Ended(t.Context(), []string{alive})
	require.ErrorContains(t, err, "asking Restate about invocations")
}
