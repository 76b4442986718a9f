package redrive_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/redrive"
	"github.com/hookline/hookline/internal/restate"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/internal/testkit/restatetest"
	"github.com/hookline/hookline/migrations"
)

// RedriveCallback is for the tests of other records.
func (*world) RedriveCallback(context.Context, int64) (callback.Outcome, error) {
	return "", fault.New(fault.Unavailable, "nobody drives callbacks here")
}

// desk is a payments-api of one payment, which may not exist yet.
type desk struct {
	mu      sync.Mutex
	payment payment.Payment
	away    bool
}

func (d *desk) is(id uuid.UUID, status payment.Status) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.payment = payment.Payment{ID: id, Status: status, Version: d.payment.Version + 1}
}

func (d *desk) status() payment.Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.payment.Status
}

func (d *desk) Payment(_ context.Context, id uuid.UUID) (payment.Payment, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away {
		return payment.Payment{}, fault.New(fault.Unavailable, "away")
	}
	if d.payment.ID != id {
		return payment.Payment{}, fault.New(fault.NotFound, "there is no payment %s", id)
	}
	return d.payment, nil
}

func (d *desk) ChangeStatus(ctx context.Context, id uuid.UUID, version int64, status payment.Status) (payment.Payment, error) {
	if p, err := d.Payment(ctx, id); err != nil {
		return p, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.payment.Status != status && (d.payment.Version != version || !d.payment.Status.CanBecome(status)) {
		return payment.Payment{}, fault.New(fault.Conflict, "it cannot become that")
	}
	d.payment.Status = status
	d.payment.Version++
	return d.payment, nil
}

// callbackWorld is the ledger, Restate and a worker, whose code knows no type of acme's yet.
type callbackWorld struct {
	*redrive.Redriver
	ledger *postgres.Ledger
	client *restate.Client
	desk   *desk
	admin  string
}

const secret = "whsec_of_stripe"

func newCallbackWorld(t *testing.T) *callbackWorld {
	t.Helper()
	ingress, admin := restatetest.Start(t)
	db := pgtest.New(t)
	w := &callbackWorld{ledger: postgres.NewLedger(db.Pool(t, migrations.RoleWorker), postgres.LedgerOptions{}), desk: &desk{}, admin: admin}
	var providers callback.Providers
	require.NoError(t, providers.UnmarshalText([]byte("stripe="+secret)))
	callbacks := restate.NewCallbacks(providers, w.desk, w.ledger, w.ledger, w.ledger, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	handler, err := restate.Handler(nil, callbacks, nil, restate.HandlerConfig{Retention: time.Hour}, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	server := httptest.NewUnstartedServer(handler)
	server.Config.Protocols = &http.Protocols{}
	server.Config.Protocols.SetHTTP1(true)
	server.Config.Protocols.SetUnencryptedHTTP2(true)
	server.Start()
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)

	registrar := restate.NewRegistrar(restate.RegistrarConfig{AdminURL: admin, AdvertisedURL: server.URL}, restate.Subscription{}, "", slog.New(slog.DiscardHandler))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- registrar.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		<-ended
	})
	require.Eventually(t, func() bool { return registrar.Ready() == nil }, 20*time.Second, 10*time.Millisecond)
	w.client = restate.NewClient(ingress, 4)
	t.Cleanup(w.client.Close)
	w.Redriver = redrive.New(w.ledger, w.client)
	return w
}

// forward is what the door does; it waits until the callback is a dead record.
func (w *callbackWorld) forward(t *testing.T, body []byte) delivery.Buried {
	t.Helper()
	header := http.Header{"Stripe-Signature": {callback.StripeSignature(secret, time.Now(), body)}}
	e, err := callback.Parse(callback.Stripe, header, body)
	if err != nil {
		e = callback.Event{Provider: callback.Stripe, ID: uuid.NewString()} // not through the door
	}
	require.NoError(t, w.client.ForwardCallback(t.Context(), e, header, body))
	require.Eventually(t, func() bool { return len(w.open(t)) == 1 }, 20*time.Second, 10*time.Millisecond)
	record := w.open(t)[0]
	require.Equal(t, "callbacks/stripe", record.Topic)
	require.Equal(t, uuid.Nil, redrive.EventOf(record))
	return record
}

func (w *callbackWorld) open(t *testing.T) []delivery.Buried {
	t.Helper()
	records, err := w.ledger.DeadRecords(t.Context(), 0, "", true, 10)
	require.NoError(t, err)
	return records
}

func stripeEvent(eventType string, paymentID string) []byte {
	return fmt.Appendf(nil, `{"id":"evt_%s","type":%q,"created":1770000000,"data":{"object":{"metadata":{"payment_id":%q}}}}`, uuid.NewString(), eventType, paymentID)
}

func TestCallbacksThatDiedComeThroughWhenTheCauseIsMended(t *testing.T) { //nolint:paralleltest // Restate knows the worker's services under one name
	w := newCallbackWorld(t)

	t.Run("unknown payment", func(t *testing.T) { //nolint:paralleltest // see above
		id := uuid.New()
		record := w.forward(t, stripeEvent("charge.succeeded", id.String()))
		require.Equal(t, delivery.ReasonCallbackUnknownPayment, record.Reason)
		require.Contains(t, record.Detail, id.String())

		_, err := w.Redrive(t.Context(), record)
		require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
		require.ErrorContains(t, err, "there still is no payment "+id.String())
		require.Equal(t, 2, w.open(t)[0].Times)

		w.desk.is(id, payment.StatusPending)
		did, err := w.Redrive(t.Context(), w.open(t)[0])
		require.NoError(t, err)
		require.Contains(t, did, "applied")
		require.Equal(t, payment.StatusSucceeded, w.desk.status())
		require.Empty(t, w.open(t))

		did, err = w.Redrive(t.Context(), record)
		require.Equal(t, fault.Conflict, fault.ClassOf(err), "what was read before is not closed twice: %s", did)
		entries, err := w.client.PaymentHistory(t.Context(), id)
		require.NoError(t, err)
		require.Len(t, entries, 1)
		require.Equal(t, callback.Applied, entries[0].Outcome)
	})

	t.Run("contradiction", func(t *testing.T) { //nolint:paralleltest // see above
		id := uuid.New()
		w.desk.is(id, payment.StatusFailed)
		record := w.forward(t, stripeEvent("charge.succeeded", id.String()))
		require.Equal(t, delivery.ReasonCallbackContradicts, record.Reason)
		require.Contains(t, record.Detail, "is failed")
		_, err := w.Redrive(t.Context(), record)
		require.Equal(t, fault.Conflict, fault.ClassOf(err), err)

		w.desk.is(id, payment.StatusPending) // somebody has put it right
		_, err = w.Redrive(t.Context(), w.open(t)[0])
		require.NoError(t, err)
		require.Equal(t, payment.StatusSucceeded, w.desk.status())
		require.Empty(t, w.open(t))
	})

	t.Run("payments-api away", func(t *testing.T) { //nolint:paralleltest // see above
		id := uuid.New()
		record := w.forward(t, stripeEvent("charge.succeeded", id.String()))
		w.desk.is(id, payment.StatusPending)
		w.desk.mu.Lock()
		w.desk.away = true
		w.desk.mu.Unlock()
		did, err := w.Redrive(t.Context(), record)
		require.NoError(t, err)
		require.Contains(t, did, "away")
		w.desk.mu.Lock()
		w.desk.away = false
		w.desk.mu.Unlock()
		require.Eventually(t, func() bool { return w.desk.status() == payment.StatusSucceeded }, 20*time.Second, 10*time.Millisecond)
		require.Empty(t, w.open(t))
	})

	// What the code of now cannot take stays as it came, with its signature, for the code of later.
	for reason, body := range map[string][]byte{
		delivery.ReasonCallbackUnknownType: stripeEvent("charge.pondered", uuid.NewString()),
		delivery.ReasonCallbackUnmatched:   stripeEvent("charge.succeeded", "order 7"),
		delivery.ReasonCallbackUndecodable: []byte(`{"type":"charge.succeeded"}` + uuid.NewString()),
	} {
		t.Run(reason, func(t *testing.T) { //nolint:paralleltest // see above
			record := w.forward(t, body)
			require.Equal(t, reason, record.Reason)
			require.Equal(t, body, record.Value)
			var headers map[string]string
			require.NoError(t, json.Unmarshal(record.Key, &headers))
			require.True(t, strings.HasPrefix(headers["Stripe-Signature"], "t="), headers)
			_, err := w.Redrive(t.Context(), record)
			require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
			require.ErrorContains(t, err, record.Detail)
			require.Equal(t, []delivery.Buried{record}, w.open(t))

			// As a worker with less knowledge would have buried it.
			id := uuid.New()
			w.desk.is(id, payment.StatusPending)
			require.NoError(t, w.ledger.Bury(t.Context(), delivery.DeadRecord{
				Topic: "callbacks/stripe", Partition: -1, Offset: -1, Reason: reason, Key: record.Key, Value: stripeEvent("charge.succeeded", id.String()),
			}))
			known := w.open(t)[1]
			did, err := w.Redrive(t.Context(), known)
			require.NoError(t, err)
			require.Contains(t, did, "applied")
			require.Equal(t, payment.StatusSucceeded, w.desk.status())
			closed, err := w.ledger.MarkRedriven(t.Context(), record)
			require.NoError(t, err)
			require.True(t, closed)
		})
	}
}
