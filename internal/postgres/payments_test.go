package postgres_test

import (
	"context"
	"encoding/json"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

const trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"

// paymentsDB is a store as payments-api has it, and a superuser's eyes.
type paymentsDB struct {
	*postgres.PaymentStore
	all *pgxpool.Pool
}

func newPaymentsDB(t *testing.T) paymentsDB {
	t.Helper()
	db := pgtest.New(t)
	// The role's own time-outs are for a service; a test machine may be slower than them.
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleAPI)+"&lock_timeout=60s&statement_timeout=60s",
		postgres.Options{ApplicationName: "test", MaxConns: 10})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return paymentsDB{PaymentStore: postgres.NewPaymentStore(pool), all: db.Pool(t, "")}
}

// hold runs a statement and leaves its transaction open, until it is committed or the test ends.
func (b paymentsDB) hold(t *testing.T, statement string, args ...any) pgx.Tx {
	t.Helper()
	tx, err := b.all.Begin(t.Context())
	require.NoError(t, err)
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(t.Context())) })
	_, err = tx.Exec(t.Context(), statement, args...)
	require.NoError(t, err)
	return tx
}

// awaitWaiters returns when so many statements wait for a lock.
func (b paymentsDB) awaitWaiters(t *testing.T, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		var waiting int
		err := b.all.QueryRow(t.Context(), `select count(*) from pg_stat_activity
			where datname = current_database() and wait_event_type = 'Lock'`).Scan(&waiting)
		return err == nil && waiting == want
	}, 30*time.Second, 2*time.Millisecond)
}

func (b paymentsDB) count(t *testing.T, table string) int {
	t.Helper()
	var n int
	require.NoError(t, b.all.QueryRow(t.Context(), "select count(*) from "+pgx.Identifier{table}.Sanitize()).Scan(&n))
	return n
}

func draft(t *testing.T, status payment.Status) payment.Draft {
	t.Helper()
	id, err := uuid.NewV7()
	require.NoError(t, err)
	return payment.Draft{ID: id, MerchantID: "m1", Amount: 1000, Currency: "EUR", Status: status, Metadata: json.RawMessage(`{"order":7}`)}
}

func decode(t *testing.T, document json.RawMessage) payment.Payment {
	t.Helper()
	var p payment.Payment
	require.NoError(t, json.Unmarshal(document, &p))
	return p
}

func TestCreateStoresThePaymentAndItsEvent(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	want := draft(t, payment.StatusPending)
	answer, err := b.Create(t.Context(), want, payment.Origin{Traceparent: trace})
	require.NoError(t, err)
	require.Equal(t, want.ID.String(), answer.ID)
	require.False(t, answer.Replayed)
	got := decode(t, answer.Document)
	require.Empty(t, cmp.Diff(payment.Payment{
		ID: want.ID, MerchantID: "m1", Amount: 1000, Currency: "EUR", Status: "pending", Version: 1, Metadata: json.RawMessage(`{"order": 7}`),
	}, got, cmpopts.IgnoreFields(payment.Payment{}, "CreatedAt", "UpdatedAt")))
	require.WithinDuration(t, time.Now(), got.CreatedAt, time.Minute)

	read, err := b.Get(t.Context(), want.ID)
	require.NoError(t, err)
	require.Equal(t, string(answer.Document), string(read))

	var eventType, traceparent string
	var snapshot json.RawMessage
	require.NoError(t, b.all.QueryRow(t.Context(), "select event_type, traceparent, payload from domain_events where object_id = $1", want.ID.String()).
		Scan(&eventType, &traceparent, (*[]byte)(&snapshot)))
	require.Equal(t, "payment.pending", eventType)
	require.Equal(t, trace, traceparent)
	require.Equal(t, string(answer.Document), string(snapshot))
}

func TestTraceContextDoesNotStickToTheConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool, err := postgres.NewPool(t.Context(), db.RoleDSN(migrations.RoleAPI), postgres.Options{ApplicationName: "test", MaxConns: 1})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	store := postgres.NewPaymentStore(pool)
	d := draft(t, payment.StatusPending)
	_, err = store.Create(t.Context(), d, payment.Origin{Traceparent: trace})
	require.NoError(t, err)
	_, err = store.ChangeStatus(t.Context(), d.ID, 0, payment.StatusProcessing, "")
	require.NoError(t, err)
	_, err = store.ChangeStatus(t.Context(), d.ID, 0, payment.StatusSucceeded, trace)
	require.NoError(t, err)

	rows, err := db.Pool(t, "").Query(t.Context(), "select coalesce(traceparent, '') from domain_events order by object_version")
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	require.NoError(t, err)
	require.Equal(t, []string{trace, "", trace}, got)
}

func TestAKeyIsAnsweredOnce(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	origin := payment.Origin{IdempotencyKey: "k1", RequestHash: [32]byte{1}}
	first, err := b.Create(t.Context(), draft(t, payment.StatusSucceeded), origin)
	require.NoError(t, err)
	_, err = b.ChangeStatus(t.Context(), uuid.MustParse(first.ID), 0, payment.StatusRefunded, "")
	require.NoError(t, err)

	again, err := b.Create(t.Context(), draft(t, payment.StatusSucceeded), origin)
	require.NoError(t, err)
	first.Replayed = true
	require.Empty(t, cmp.Diff(first, again), "the stored answer, also after the payment moved on")

	other := payment.Origin{IdempotencyKey: "k1", RequestHash: [32]byte{2}}
	_, err = b.Create(t.Context(), draft(t, payment.StatusSucceeded), other)
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
	_, err = b.AppendEvent(t.Context(), "invoice.sent", "m1", json.RawMessage(`{}`), other)
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)

	require.Equal(t, 1, b.count(t, "payments"))
	require.Equal(t, 2, b.count(t, "domain_events"))
	require.Equal(t, 1, b.count(t, "idempotency_keys"))
}

func TestConcurrentRequestsWithOneKeyWriteOnePayment(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	const keys, requests = 10, 5
	for key := range keys {
		origin := payment.Origin{IdempotencyKey: string(rune('a' + key)), RequestHash: [32]byte{1}}
		drafts := [requests]payment.Draft{}
		for i := range drafts {
			drafts[i] = draft(t, payment.StatusSucceeded)
		}
		var answers [requests]payment.Answer
		var errs [requests]error
		together(requests, func(i int) { answers[i], errs[i] = b.Create(t.Context(), drafts[i], origin) })
		written := 0
		for i := range answers {
			require.NoError(t, errs[i])
			require.Equal(t, string(answers[0].Document), string(answers[i].Document))
			require.Equal(t, answers[0].ID, answers[i].ID)
			if !answers[i].Replayed {
				written++
			}
		}
		require.Equal(t, 1, written)
	}
	require.Equal(t, keys, b.count(t, "payments"))
	require.Equal(t, keys, b.count(t, "domain_events"))
}

func TestAppendEvent(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	data := json.RawMessage(`{"total":1.50}`)
	answer, err := b.AppendEvent(t.Context(), "invoice.sent", "m1", data, payment.Origin{Traceparent: trace})
	require.NoError(t, err)
	var body struct {
		Status  string    `json:"status"`
		EventID uuid.UUID `json:"event_id"`
	}
	require.NoError(t, json.Unmarshal(answer.Document, &body))
	require.Equal(t, "accepted", body.Status)

	var line string
	require.NoError(t, b.all.QueryRow(t.Context(), `
		select concat_ws(' ', event_type, object_type, object_id = id::text, object_version, merchant_id, payload, traceparent)
		  from domain_events where id = $1`, [16]byte(body.EventID)).Scan(&line))
	require.Equal(t, `invoice.sent event t 1 m1 {"total": 1.50} `+trace, line)

	origin := payment.Origin{IdempotencyKey: "k", RequestHash: [32]byte{1}}
	first, err := b.AppendEvent(t.Context(), "invoice.sent", "m1", data, origin)
	require.NoError(t, err)
	again, err := b.AppendEvent(t.Context(), "invoice.sent", "m1", data, origin)
	require.NoError(t, err)
	require.True(t, again.Replayed)
	require.Equal(t, string(first.Document), string(again.Document))
	require.Equal(t, 2, b.count(t, "domain_events"))
}

func TestChangeStatusFollowsTheStateMachine(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	for _, from := range payment.Statuses() {
		for _, to := range payment.Statuses() {
			d := draft(t, from)
			_, err := b.Create(t.Context(), d, payment.Origin{})
			require.NoError(t, err)
			before := b.count(t, "domain_events")
			document, err := b.ChangeStatus(t.Context(), d.ID, 0, to, "")
			events := b.count(t, "domain_events") - before
			switch {
			case from == to:
				require.NoError(t, err)
				require.EqualValues(t, 1, decode(t, document).Version)
				require.Zero(t, events, "%s stays", from)
			case from.CanBecome(to):
				require.NoError(t, err)
				got := decode(t, document)
				require.Equal(t, to, got.Status)
				require.EqualValues(t, 2, got.Version)
				require.True(t, got.UpdatedAt.After(got.CreatedAt))
				require.Equal(t, 1, events)
			default:
				require.Equal(t, fault.Conflict, fault.ClassOf(err), "%s to %s: %v", from, to, err)
				require.Zero(t, events)
			}
		}
	}
}

func TestConcurrentMovesOutOfOneStatusCannotBothWin(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	ends := []payment.Status{payment.StatusFailed, payment.StatusCanceled, payment.StatusRefunded}
	for range 10 {
		d := draft(t, payment.StatusPending)
		_, err := b.Create(t.Context(), d, payment.Origin{})
		require.NoError(t, err)
		// Hold the row, so that all of them have read it as pending before any can change it.
		holder := b.hold(t, "select from payments where id = $1 for update", [16]byte(d.ID))
		errs := make([]error, len(ends))
		done := make(chan struct{})
		go func() {
			defer close(done)
			together(len(ends), func(i int) { _, errs[i] = b.ChangeStatus(t.Context(), d.ID, 0, ends[i], "") })
		}()
		b.awaitWaiters(t, 2) // the third is a forbidden move, and does not wait
		require.NoError(t, holder.Commit(t.Context()))
		<-done

		won := 0
		for _, err := range errs {
			if err == nil {
				won++
				continue
			}
			require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
		}
		require.Equal(t, 1, won)
	}
	require.Equal(t, 20, b.count(t, "domain_events"))
}

func TestAMoveThatBecomesPossibleWhileItWaitsIsMade(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	d := draft(t, payment.StatusSucceeded)
	_, err := b.Create(t.Context(), d, payment.Origin{})
	require.NoError(t, err)
	holder := b.hold(t, "update payments set status = 'disputed' where id = $1", [16]byte(d.ID))
	done := make(chan error, 1)
	go func() {
		_, err := b.ChangeStatus(t.Context(), d.ID, 0, payment.StatusRefunded, "")
		done <- err
	}()
	b.awaitWaiters(t, 1)
	require.NoError(t, holder.Commit(t.Context()))
	require.NoError(t, <-done)
	document, err := b.Get(t.Context(), d.ID)
	require.NoError(t, err)
	require.EqualValues(t, 3, decode(t, document).Version)
}

func TestOnlyThePaymentAtTheVersionIsMoved(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	d := draft(t, payment.StatusSucceeded)
	_, err := b.Create(t.Context(), d, payment.Origin{})
	require.NoError(t, err)
	_, err = b.ChangeStatus(t.Context(), d.ID, 2, payment.StatusDisputed, "")
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
	require.ErrorContains(t, err, "at version 1, not 2")
	require.Equal(t, 1, b.count(t, "domain_events"))
	for range 2 { // the second finds it there, and at another version
		document, err := b.ChangeStatus(t.Context(), d.ID, 1, payment.StatusDisputed, "")
		require.NoError(t, err)
		require.EqualValues(t, 2, decode(t, document).Version)
	}
	// Won, and disputed again: the status is what it was, and the payment is not.
	for _, next := range []payment.Status{payment.StatusSucceeded, payment.StatusDisputed} {
		_, err = b.ChangeStatus(t.Context(), d.ID, 0, next, "")
		require.NoError(t, err)
	}
	_, err = b.ChangeStatus(t.Context(), d.ID, 2, payment.StatusSucceeded, "")
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
	require.Equal(t, 4, b.count(t, "domain_events"))
	_, err = b.ChangeStatus(t.Context(), uuid.New(), 1, payment.StatusRefunded, "")
	require.Equal(t, fault.NotFound, fault.ClassOf(err), err)
}

func TestAMoveThatWaitedLooksAtTheVersionAgain(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	d := draft(t, payment.StatusSucceeded)
	_, err := b.Create(t.Context(), d, payment.Origin{})
	require.NoError(t, err)
	holder := b.hold(t, "update payments set status = 'disputed' where id = $1", [16]byte(d.ID))
	done := make(chan error, 1)
	go func() {
		_, err := b.ChangeStatus(t.Context(), d.ID, 1, payment.StatusRefunded, "") // which both statuses may become
		done <- err
	}()
	b.awaitWaiters(t, 1)
	require.NoError(t, holder.Commit(t.Context()))
	err = <-done
	require.Equal(t, fault.Conflict, fault.ClassOf(err), err)
	require.Equal(t, 2, b.count(t, "domain_events"))
}

func TestAnUnknownPaymentIsNotFound(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	_, err := b.Get(t.Context(), uuid.New())
	require.Equal(t, fault.NotFound, fault.ClassOf(err), err)
	_, err = b.ChangeStatus(t.Context(), uuid.New(), 0, payment.StatusRefunded, "")
	require.Equal(t, fault.NotFound, fault.ClassOf(err), err)
}

func TestWhatPostgreSQLCannotStoreIsInvalid(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	for _, value := range []string{`{"a":"\u0000"}`, `{"a":"\ud800"}`, `{"a":1e-20000}`} {
		_, err := b.AppendEvent(t.Context(), "a.b", "m", json.RawMessage(value), payment.Origin{})
		require.Equal(t, fault.Invalid, fault.ClassOf(err), "%s: %v", value, err)
	}
	require.Zero(t, b.count(t, "domain_events"))
}

func TestAnOutageIsUnavailable(t *testing.T) {
	t.Parallel()
	pool, err := postgres.NewPool(t.Context(), "postgres://u:p@127.0.0.1:1/none", postgres.Options{ApplicationName: "test"})
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	store := postgres.NewPaymentStore(pool)
	id := uuid.New()
	for name, call := range map[string]func() error{
		"create": func() error {
			_, err := store.Create(t.Context(), draft(t, payment.StatusPending), payment.Origin{IdempotencyKey: "k"})
			return err
		},
		"get": func() error { _, err := store.Get(t.Context(), id); return err },
		"change": func() error {
			_, err := store.ChangeStatus(t.Context(), id, 0, payment.StatusFailed, "")
			return err
		},
		"append": func() error {
			_, err := store.AppendEvent(t.Context(), "a.b", "m", json.RawMessage(`{}`), payment.Origin{})
			return err
		},
		"ready": func() error { return store.Ready(t.Context(), false) },
	} {
		err := call()
		require.Equal(t, fault.Unavailable, fault.ClassOf(err), "%s: %v", name, err)
		require.NotContains(t, err.Error(), "u:p")
	}
}

func TestATimeoutIsUnavailable(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	d := draft(t, payment.StatusPending)
	_, err := b.Create(t.Context(), d, payment.Origin{})
	require.NoError(t, err)
	b.hold(t, "select from payments for update")

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = b.ChangeStatus(ctx, d.ID, 0, payment.StatusFailed, "")
	require.Equal(t, fault.Unavailable, fault.ClassOf(err), err)
}

func TestReadyWantsASlot(t *testing.T) {
	t.Parallel()
	b := newPaymentsDB(t)
	require.NoError(t, b.Ready(t.Context(), false))
	require.ErrorContains(t, b.Ready(t.Context(), true), "no logical replication slot")

	_, err := b.all.Exec(t.Context(), "select pg_create_logical_replication_slot(current_database()::name, 'pgoutput')")
	require.NoError(t, err)
	t.Cleanup(func() { // a slot keeps its database from being dropped
		_, err := b.all.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot(current_database()::name)")
		require.NoError(t, err)
	})
	require.NoError(t, b.Ready(t.Context(), true))
}

// together runs n calls at once and waits for all.
func together(n int, call func(i int)) {
	var wg sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			call(i)
		})
	}
	close(start)
	wg.Wait()
}
