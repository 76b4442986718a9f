package dispatch_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
)

// oversize is a data-service whose payloads no webhook can hold.
type oversize struct{}

func (oversize) Payloads(_ context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	out := make([]event.Payload, len(asked))
	for i, each := range asked {
		out[i] = event.Payload{EventID: each.EventID, Visibility: event.Visible, Snapshot: json.RawMessage(`"` + strings.Repeat("x", deliver.MaxBodyBytes) + `"`)}
	}
	return out, nil
}

// shyLedger refuses to bury as often as it is told.
type shyLedger struct {
	*flakyLedger
	refuses int
}

func (l *shyLedger) Bury(ctx context.Context, record delivery.DeadRecord) error {
	if l.refuses > 0 {
		l.refuses--
		return fault.New(fault.Unavailable, "the ledger is away")
	}
	return l.flakyLedger.Bury(ctx, record)
}

// The interleaving: the ledger goes away between the plan and the dead record. The delivery must not end without the
// record, nor the record be counted before there is one.
func TestABodyThatIsTooLargeIsKeptAsADeadRecordAndCountedOnceItIs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	registry := prometheus.NewRegistry()
	d := dispatch.New(t.Context(), dispatch.Config{Route: "inhouse"}, &shyLedger{w.ledger, 1}, oversize{}, w.merchant, slog.New(slog.DiscardHandler), registry)
	t.Cleanup(func() { require.NoError(t, d.Close(context.WithoutCancel(t.Context()))) })

	ref := newRef()
	result, err := d.Process(t.Context(), "inv-1", []event.Ref{ref})
	require.NoError(t, err)
	require.Equal(t, "retrying attempts=0", w.state(t, ref))
	require.Zero(t, count(t, registry, "hookline_dead_records_total"))

	follow := result.FollowUps()
	require.Len(t, follow, 1)
	_, err = d.Attempt(t.Context(), "inv-2", follow[0].List)
	require.NoError(t, err)
	require.Equal(t, "dead attempts=0", w.state(t, ref))
	require.Equal(t, 1, count(t, registry, "hookline_dead_records_total"))
	require.Empty(t, w.merchant.sent())
	var reason, detail string
	var id uuid.UUID
	require.NoError(t, w.all.QueryRow(t.Context(), "select reason, detail, event_id from delivery.dead_records").Scan(&reason, &detail, (*[16]byte)(&id)))
	require.Equal(t, delivery.ReasonOversize, reason)
	require.Contains(t, detail, "more than 1048576")
	require.Equal(t, ref.ID, id)
}

// count is how many series of the metric there are: one comes into being when it is counted first.
func count(t *testing.T, registry *prometheus.Registry, name string) int {
	t.Helper()
	n, err := testutil.GatherAndCount(registry, name)
	require.NoError(t, err)
	return n
}
