package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
)

// PaymentStore writes the business tables, as the role hookline_api. Every write is one autocommit
// statement: a transaction around it would cost two more round trips, and a fifth more CPU. It is safe for
// concurrent use.
//
// Errors have a class: fault.Unavailable where the database does not answer (what was asked for may have
// been written or not), fault.NotFound, fault.Conflict, and fault.Invalid for a value that PostgreSQL
// refuses.
type PaymentStore struct {
	pool *pgxpool.Pool
}

// NewPaymentStore returns a store on the pool, which stays its maker's to close.
func NewPaymentStore(pool *pgxpool.Pool) *PaymentStore { return &PaymentStore{pool: pool} }

// The trace context rides to the trigger in a transaction-local setting. Materialized, and selected from,
// so that it is set before the row is written.
const withTraceparent = `with t as materialized (select set_config('hookline.traceparent', $1, true))`

const insertPayment = withTraceparent + `
insert into public.payments as p (id, merchant_id, amount, currency, status, metadata)
select $2::uuid, $3::text, $4::bigint, $5::text, $6::text, $7::jsonb from t
returning public.payment_document(p)`

// Payment, event and key are written or refused together. The key comes last, as its row holds the answer.
const insertPaymentOnce = withTraceparent + `,
created as (
    insert into public.payments as p (id, merchant_id, amount, currency, status, metadata)
    select $2::uuid, $3::text, $4::bigint, $5::text, $6::text, $7::jsonb from t
    returning public.payment_document(p) as document)
insert into public.idempotency_keys (key, request_hash, answer)
select $8::text, $9::bytea, document from created
returning answer`

// Create stores the draft, and by the trigger its event. With an idempotency key that an earlier request of
// the same content carried it returns that request's answer and writes nothing; one of another content is a
// fault.Conflict. Of two such requests at once the second waits for the first to commit.
func (s *PaymentStore) Create(ctx context.Context, draft payment.Draft, origin payment.Origin) (payment.Answer, error) {
	statement := insertPayment
	args := make([]any, 0, 9)
	args = append(args, origin.Traceparent, [16]byte(draft.ID), draft.MerchantID, draft.Amount, draft.Currency,
		string(draft.Status), []byte(draft.Metadata))
	if origin.IdempotencyKey != "" {
		statement = insertPaymentOnce
		args = append(args, origin.IdempotencyKey, origin.RequestHash[:])
	}
	answer, err := s.writeOnce(ctx, origin, statement, args)
	if err != nil {
		return answer, paymentFault(fmt.Errorf("inserting a payment: %w", err))
	}
	if !answer.Replayed {
		answer.ID = draft.ID.String()
	}
	return answer, nil
}

const appendEvent = `
select jsonb_build_object('status', 'accepted', 'event_id', public.append_event($1, $2, $3, $4))`

const appendEventOnce = `
with appended as materialized (select public.append_event($1, $2, $3, $4) as id)
insert into public.idempotency_keys (key, request_hash, answer)
select $5::text, $6::bytea, jsonb_build_object('status', 'accepted', 'event_id', id) from appended
returning answer`

// AppendEvent stores an event that is not about a payment. data is a JSON object. For the idempotency key
// see Create.
func (s *PaymentStore) AppendEvent(ctx context.Context, eventType, merchantID string, data json.RawMessage, origin payment.Origin) (payment.Answer, error) {
	statement := appendEvent
	args := make([]any, 0, 6)
	args = append(args, eventType, merchantID, []byte(data), origin.Traceparent)
	if origin.IdempotencyKey != "" {
		statement = appendEventOnce
		args = append(args, origin.IdempotencyKey, origin.RequestHash[:])
	}
	answer, err := s.writeOnce(ctx, origin, statement, args)
	if err != nil {
		return answer, paymentFault(fmt.Errorf("appending an event: %w", err))
	}
	return answer, nil
}

const selectStoredAnswer = `
select request_hash, answer, coalesce(answer->>'id', '')
  from public.idempotency_keys
 where key = $1`

// writeOnce runs a statement that returns its answer and, where there is a key, inserts it.
func (s *PaymentStore) writeOnce(ctx context.Context, origin payment.Origin, statement string, args []any) (payment.Answer, error) {
	var answer payment.Answer
	err := s.pool.QueryRow(ctx, statement, args...).Scan((*[]byte)(&answer.Document))
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || pgErr.ConstraintName != "idempotency_keys_pkey" {
		return answer, err
	}
	var hash []byte
	err = s.pool.QueryRow(ctx, selectStoredAnswer, origin.IdempotencyKey).Scan(&hash, (*[]byte)(&answer.Document), &answer.ID)
	if err != nil {
		return answer, fmt.Errorf("reading the answer stored under the idempotency key: %w", err)
	}
	if !bytes.Equal(hash, origin.RequestHash[:]) {
		return answer, fault.New(fault.Conflict, "this Idempotency-Key came with another request before")
	}
	answer.Replayed = true
	return answer, nil
}

const selectPaymentDocument = `select public.payment_document(p) from public.payments as p where id = $1`

// Get returns the payment's document.
func (s *PaymentStore) Get(ctx context.Context, id uuid.UUID) (json.RawMessage, error) {
	var document []byte
	err := s.pool.QueryRow(ctx, selectPaymentDocument, [16]byte(id)).Scan(&document)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "there is no payment %s", id)
	}
	if err != nil {
		return nil, paymentFault(fmt.Errorf("reading payment %s: %w", id, err))
	}
	return document, nil
}

// The WHERE is the state machine's guard: a statement that waited for another one's row lock looks at the
// status that the other one left, so two moves out of one status cannot both win.
const updatePaymentStatus = withTraceparent + `
update public.payments as p
   set status = $3::text
  from t
 where p.id = $2::uuid and p.status = any($4::text[]) and ($5::bigint = 0 or p.version = $5)
returning public.payment_document(p)`

const selectPaymentState = `select status, version, public.payment_document(p) from public.payments as p where id = $1`

// ChangeStatus moves the payment to next, and by the trigger writes the event of the move. Where it is there
// already nothing is written and the document is returned as it is. A move that the state machine forbids is
// a fault.Conflict, and so is one of a payment that is not at the version, where that is not 0.
func (s *PaymentStore) ChangeStatus(ctx context.Context, id uuid.UUID, version int64, next payment.Status, traceparent string) (json.RawMessage, error) {
	sources := make([]string, 0, len(payment.Statuses()))
	for _, from := range next.Sources() {
		sources = append(sources, string(from))
	}
	// Where nothing was updated a second statement says why: the first one's snapshot can be older than the
	// row that refused it. If by then the move has become possible, it is tried again. Every such round
	// needs a move by somebody else in between, and the longest way through the statuses without a cycle
	// is shorter than this.
	const rounds = 5
	for range rounds {
		var document []byte
		err := s.pool.QueryRow(ctx, updatePaymentStatus, traceparent, [16]byte(id), string(next), sources, version).Scan(&document)
		if err == nil {
			return document, nil
		}
		if !errors.Is(err, pgx.ErrNoRows) {
			return nil, paymentFault(fmt.Errorf("changing the status of payment %s: %w", id, err))
		}
		var now string
		var current int64
		err = s.pool.QueryRow(ctx, selectPaymentState, [16]byte(id)).Scan(&now, &current, &document)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil, fault.New(fault.NotFound, "there is no payment %s", id)
		}
		if err != nil {
			return nil, paymentFault(fmt.Errorf("reading payment %s: %w", id, err))
		}
		status := payment.Status(now)
		if status == next {
			return document, nil
		}
		if version != 0 && current != version {
			return nil, fault.New(fault.Conflict, "the payment is at version %d, not %d", current, version)
		}
		if !status.CanBecome(next) {
			return nil, fault.New(fault.Conflict, "a payment that is %s cannot become %s", status, next)
		}
	}
	return nil, fault.New(fault.Conflict, "the payment's status keeps changing: read it again")
}

const selectSlotExists = `
select exists (select from pg_replication_slots where slot_type = 'logical' and database = current_database())`

// Ready returns nil when the database answers and, where requireSlot is set, has a logical replication slot:
// what commits before there is one is in no stream.
func (s *PaymentStore) Ready(ctx context.Context, requireSlot bool) error {
	var slot bool
	if err := s.pool.QueryRow(ctx, selectSlotExists).Scan(&slot); err != nil {
		return paymentFault(fmt.Errorf("asking the database whether it is ready: %w", err))
	}
	if requireSlot && !slot {
		return fault.New(fault.Unavailable, "the database has no logical replication slot yet: start cdc-relay or Sequin, which make theirs")
	}
	return nil
}

// paymentFault gives an error that the caller can do something about its class.
func paymentFault(err error) error {
	if fault.ClassOf(err) != fault.Internal {
		return err
	}
	if Unavailable(err) {
		return fault.Wrap(err, fault.Unavailable,
			"the database does not answer: try again, and a write with the same Idempotency-Key, as it may have been stored")
	}
	// Class 22: data exceptions, such as a number that jsonb cannot hold.
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && len(pgErr.Code) == 5 && pgErr.Code[:2] == "22" {
		return fault.Wrap(err, fault.Invalid, "the database cannot store this: %s", pgErr.Message)
	}
	return err
}
