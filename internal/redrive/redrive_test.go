package redrive_test

import (
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/dispatch"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/internal/testkit/restatetest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m, restatetest.Stop) }

const shop = "shop"

// world is the ledger and the dispatcher, with Restate's part played by the driver: what is handed over runs at once,
// unless a test holds it back.
type world struct {
	*redrive.Redriver
	ledger     *postgres.Ledger
	dispatcher *dispatch.Dispatcher
	all        *pgxpool.Pool
	data       *data
	posts      *posts

	held []delivery.AttemptList // nil: attempts run at once
	hold bool
	fail error
}

func newWorld(t *testing.T) *world {
	t.Helper()
	db := pgtest.New(t)
	w := &world{ledger: postgres.NewLedger(db.Pool(t, migrations.RoleWorker), postgres.LedgerOptions{}), all: db.Pool(t, ""), data: &data{}, posts: &posts{}}
	w.dispatcher = dispatch.New(t.Context(), dispatch.Config{Route: "inhouse", Schedule: delivery.Schedule{time.Minute}}, w.ledger, w.data, w.posts,
		slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	t.Cleanup(func() { require.NoError(t, w.dispatcher.Close(context.WithoutCancel(t.Context()))) })
	w.Redriver = redrive.New(w.ledger, w)
	_, err := w.all.Exec(t.Context(), "insert into delivery.endpoints (merchant_id, url) values ($1, 'http://127.0.0.1:1/')", shop)
	require.NoError(t, err)
	return w
}

func (w *world) Dispatch(ctx context.Context, key string, batch []event.Ref) error {
	if w.fail != nil {
		return w.fail
	}
	_, err := w.dispatcher.Process(ctx, key, batch)
	return err
}

func (w *world) SendAttempt(ctx context.Context, list delivery.AttemptList) error {
	if w.fail != nil {
		return w.fail
	}
	if w.hold {
		w.held = append(w.held, list)
		return nil
	}
	return w.run(ctx, list)
}

func (w *world) run(ctx context.Context, list delivery.AttemptList) error {
	_, err := w.dispatcher.Attempt(ctx, "redriven", list)
	return err
}

// data is a data-service that knows every event but those that are missing, and whose payloads can be large.
type data struct {
	mu      sync.Mutex
	missing bool
	large   bool
}

func (d *data) Payloads(_ context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]event.Payload, len(asked))
	for i, each := range asked {
		out[i] = event.Payload{EventID: each.EventID, Visibility: event.Visible, Type: "payment.succeeded", ObjectVersion: 1, Snapshot: json.RawMessage(`{}`)}
		if d.missing {
			out[i] = event.Payload{EventID: each.EventID, Visibility: event.Missing}
		}
		if d.large {
			out[i].Payment = json.RawMessage(`"` + strings.Repeat("x", deliver.MaxBodyBytes) + `"`)
		}
	}
	return out, nil
}

func (d *data) is(missing, large bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.missing, d.large = missing, large
}

// posts is a merchant that answers 200, or 503.
type posts struct {
	mu   sync.Mutex
	sent int
	down bool
}

func (p *posts) is(down bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down = down
}

func (p *posts) Post(_ context.Context, _ delivery.Endpoint, _ deliver.Message, _ int, guard deliver.Guard) deliver.Response {
	if guard() != nil {
		return deliver.Response{Cause: delivery.CauseNotStarted}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	if p.down {
		return deliver.Response{Cause: delivery.CauseServerError, StatusCode: 503, Sent: true}
	}
	return deliver.Response{Cause: delivery.CauseOK, StatusCode: 200, Sent: true}
}

func (p *posts) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}

func newRef() event.Ref {
	id := uuid.Must(uuid.NewV7())
	return event.Ref{ID: id, TxID: 7, Type: "payment.succeeded", ObjectType: "payment", ObjectID: id.String(), ObjectVersion: 1, MerchantID: shop}
}

// process drives an event as the intake does.
func (w *world) process(t *testing.T, ref event.Ref) {
	t.Helper()
	_, err := w.dispatcher.Process(t.Context(), "inv", []event.Ref{ref})
	require.NoError(t, err)
}

// only is the one dead record.
func (w *world) only(t *testing.T) delivery.Buried {
	t.Helper()
	records, err := w.ledger.DeadRecords(t.Context(), 0, "", false, 10)
	require.NoError(t, err)
	require.Len(t, records, 1)
	return records[0]
}

func (w *world) fate(t *testing.T, ref event.Ref) string {
	t.Helper()
	fates, err := w.ledger.Fates(t.Context(), []uuid.UUID{ref.ID})
	require.NoError(t, err)
	fate, planned := fates[ref.ID]
	if !planned {
		return "not planned"
	}
	return redrive.Describe(fate)
}

func TestAnEventWhoseCauseOfDeathIsGoneIsDelivered(t *testing.T) {
	t.Parallel()
	for reason, dies := range map[string]struct{ missing, large bool }{
		delivery.ReasonPhantom:  {missing: true},
		delivery.ReasonOversize: {large: true},
	} {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			ref := newRef()
			w.data.is(dies.missing, dies.large)
			w.process(t, ref)
			require.Equal(t, "1 dead", w.fate(t, ref))
			record := w.only(t)
			require.Equal(t, reason, record.Reason)
			require.Equal(t, ref.ID, redrive.EventOf(record))

			w.data.is(false, false)
			did, err := w.Redrive(t.Context(), record)
			require.NoError(t, err)
			require.Equal(t, "1 deliveries are attempted again", did)
			require.Equal(t, "1 succeeded", w.fate(t, ref))
			require.Equal(t, 1, w.posts.count())
			require.NotZero(t, w.only(t).RedrivenAt)

			did, err = w.Redrive(t.Context(), w.only(t))
			require.NoError(t, err)
			require.Equal(t, "nothing to drive: 1 succeeded", did)
			require.Equal(t, 1, w.posts.count(), "what succeeded is not sent again")
		})
	}
}

// The interleaving: the attempt fails before the record is closed. Then it must not be closed.
func TestARecordThatFailsAtOnceStaysOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.is(true, false)
	w.process(t, ref)
	_, err := w.Redrive(t.Context(), w.only(t))
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
	require.Zero(t, w.only(t).RedrivenAt)
	require.Equal(t, 2, w.only(t).Times)
	require.Equal(t, "1 dead", w.fate(t, ref))
}

// The interleaving: the record is closed, and the attempt fails afterwards. That opens the same record again.
func TestARecordThatFailsLaterIsOpenAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.data.is(true, false)
	w.process(t, newRef())
	w.hold = true
	_, err := w.Redrive(t.Context(), w.only(t))
	require.NoError(t, err)
	require.NotZero(t, w.only(t).RedrivenAt)
	require.NoError(t, w.run(t.Context(), w.held[0]))
	require.Zero(t, w.only(t).RedrivenAt)
	open, err := w.ledger.DeadRecords(t.Context(), 0, delivery.ReasonPhantom, true, 10)
	require.NoError(t, err)
	require.Len(t, open, 1)
}

// The interleaving: two redrives of one record, the first one's attempt comes last. Its ticket is void.
func TestTwoRedrivesSendOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.is(true, false)
	w.process(t, ref)
	w.data.is(false, false)
	w.hold = true
	for range 2 {
		_, err := w.Redrive(t.Context(), w.only(t))
		require.NoError(t, err)
	}
	require.Len(t, w.held, 1, "the second finds nothing dead")
	require.NoError(t, w.run(t.Context(), w.held[0]))
	require.NoError(t, w.run(t.Context(), w.held[0]), "nor does a list that comes twice send twice")
	require.Equal(t, 1, w.posts.count())
}

// The interleaving: whoever redrives dies, or cannot reach Restate, between making the delivery possible and sending it.
func TestARedriveThatIsCutShortIsOverdue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.is(true, false)
	w.process(t, ref)
	w.fail = fault.New(fault.Unavailable, "no Restate")
	_, err := w.Redrive(t.Context(), w.only(t))
	require.Equal(t, fault.Unavailable, fault.ClassOf(err))
	require.Zero(t, w.only(t).RedrivenAt)
	overdue, err := w.ledger.Overdue(t.Context(), 0, 10)
	require.NoError(t, err)
	require.Len(t, overdue, 1)
	require.Empty(t, overdue[0].Owner, "the reconciler takes it over")
	require.EqualValues(t, 2, overdue[0].Epoch)
}

func TestAnUndecodableRecordThatCanBeReadNowIsPlanned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	value, err := json.Marshal(ref)
	require.NoError(t, err)
	// As an older worker buried it, whose code did not know the form.
	require.NoError(t, w.ledger.Bury(t.Context(), delivery.DeadRecord{Topic: "t", Reason: delivery.ReasonUndecodable, Detail: "what", Value: value}))
	require.Equal(t, ref.ID, redrive.EventOf(w.only(t)))
	did, err := w.Redrive(t.Context(), w.only(t))
	require.NoError(t, err)
	require.Equal(t, "planned: 1 succeeded", did)
	require.NotZero(t, w.only(t).RedrivenAt)
}

func TestARecordThatStillCannotBeReadStaysOpenUntilItsEventIsPlanned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	require.NoError(t, w.ledger.Bury(t.Context(), delivery.DeadRecord{
		Topic: "t", Reason: delivery.ReasonUndecodable, Detail: "what",
		Value: []byte(`{"id":"` + ref.ID.String() + `","merchant_id":null}`),
	}))
	_, err := w.Redrive(t.Context(), w.only(t))
	require.Equal(t, fault.Conflict, fault.ClassOf(err))
	require.ErrorContains(t, err, "merchant_id is missing")
	require.Zero(t, w.only(t).RedrivenAt)

	w.process(t, ref) // as the reconciler does, which reads the row
	did, err := w.Redrive(t.Context(), w.only(t))
	require.NoError(t, err)
	require.Equal(t, "was planned meanwhile: 1 succeeded", did)
	require.Equal(t, 1, w.posts.count())
}

func TestAnUnplannableEventIsPlannedOnceTheLedgerTakesIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	_, err := w.all.Exec(t.Context(), "alter table delivery.plans add constraint refused check (merchant_id <> 'shop')")
	require.NoError(t, err)
	w.process(t, ref)
	require.Equal(t, delivery.ReasonUnplannable, w.only(t).Reason)
	_, err = w.Redrive(t.Context(), w.only(t))
	require.Equal(t, fault.Conflict, fault.ClassOf(err))
	require.Equal(t, 2, w.only(t).Times)
	require.Zero(t, w.only(t).RedrivenAt)

	_, err = w.all.Exec(t.Context(), "alter table delivery.plans drop constraint refused")
	require.NoError(t, err)
	did, err := w.Redrive(t.Context(), w.only(t))
	require.NoError(t, err)
	require.Equal(t, "planned: 1 succeeded", did)
}

func TestARedriveDoesNotTouchWhatDiedOfItsEndpoint(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ref := newRef()
	w.data.is(true, false)
	w.process(t, ref)
	_, err := w.all.Exec(t.Context(), "update delivery.deliveries set last_cause = 'status', attempts = 2")
	require.NoError(t, err)
	did, err := w.Redrive(t.Context(), w.only(t))
	require.NoError(t, err)
	require.Equal(t, "nothing to drive: 1 dead", did)

	_, err = w.all.Exec(t.Context(), "delete from delivery.deliveries; delete from delivery.plans")
	require.NoError(t, err)
	_, err = w.Redrive(t.Context(), w.only(t))
	require.ErrorContains(t, err, "has no plan any more")
}

func TestARecordOfAnotherReasonNeedNotNameAnEvent(t *testing.T) {
	t.Parallel()
	require.Equal(t, uuid.Nil, redrive.EventOf(delivery.Buried{DeadRecord: delivery.DeadRecord{Reason: delivery.ReasonUndecodable, Value: []byte("\xff")}}))
	require.Equal(t, "no endpoint takes it", redrive.Describe(delivery.Fate{}))
	require.Equal(t, "1 dead, 2 succeeded", redrive.Describe(delivery.Fate{delivery.Succeeded: 2, delivery.Dead: 1}))
}
