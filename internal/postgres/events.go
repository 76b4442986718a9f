package postgres

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/wal"
)

// EventStore reads the business tables: payloads by event, payments, and the feed of events. Its pool must
// be NewPool's, which pins UTC. A database that cannot be reached is a fault.Unavailable. It is safe for
// concurrent use.
type EventStore struct {
	pool *pgxpool.Pool
}

// NewEventStore makes a store upon the pool, which stays the caller's to close.
func NewEventStore(pool *pgxpool.Pool) *EventStore { return &EventStore{pool: pool} }

const selectSlots = `
select slot_name, active,
       coalesce(pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end, restart_lsn), 0)::bigint
  from pg_replication_slots where slot_type = 'logical' and database = current_database() order by slot_name`

// Slots returns the database's logical replication slots.
func (s *EventStore) Slots(ctx context.Context) ([]wal.Slot, error) {
	rows, err := s.pool.Query(ctx, selectSlots)
	if err != nil {
		return nil, readerError(err, "reading the replication slots")
	}
	slots, err := pgx.CollectRows(rows, pgx.RowToStructByPos[wal.Slot])
	if err != nil {
		return nil, readerError(err, "reading the replication slots")
	}
	return slots, nil
}

// One row per id asked for, found or not, so that the xmin of the statement's own snapshot is always there:
// an xmin read by a second statement would call an event missing that the first one could not see yet.
// Another object_type's object_id need not be a UUID, hence the case.
const selectPayloads = `
select (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint),
       e.id is not null, coalesce(e.event_type, ''), coalesce(e.object_version, 0), e.created_at, e.payload::text,
       coalesce(p.version, 0), case when p.id is not null then public.payment_document(p)::text end
  from unnest($1::uuid[]) with ordinality as asked (id, position)
  left join public.domain_events e on e.id = asked.id
  left join public.payments p on p.id = case when e.object_type = 'payment' then e.object_id::uuid end
 order by asked.position`

// Payloads answers each request, in their order, from one snapshot of the database. An event whose payment
// has been deleted is visible, without a payment.
func (s *EventStore) Payloads(ctx context.Context, asked []event.PayloadRequest) ([]event.Payload, error) {
	ids := make([][16]byte, len(asked))
	for i, each := range asked {
		ids[i] = each.EventID
	}
	rows, err := s.pool.Query(ctx, selectPayloads, ids)
	if err != nil {
		return nil, readerError(err, "reading %d payloads", len(asked))
	}
	defer rows.Close()
	answers := make([]event.Payload, 0, len(asked))
	for rows.Next() {
		var row payloadRow
		if err := rows.Scan(&row.xmin, &row.found, &row.eventType, &row.objectVersion, &row.createdAt, &row.snapshot,
			&row.paymentVersion, &row.payment); err != nil {
			return nil, readerError(err, "reading %d payloads", len(asked))
		}
		if len(answers) == len(asked) {
			return nil, errors.New("reading payloads: more rows than were asked for")
		}
		answers = append(answers, row.answer(asked[len(answers)]))
	}
	if err := rows.Err(); err != nil {
		return nil, readerError(err, "reading %d payloads", len(asked))
	}
	if len(answers) != len(asked) {
		return nil, fmt.Errorf("reading payloads: %d rows for the %d asked for", len(answers), len(asked))
	}
	return answers, nil
}

type payloadRow struct {
	xmin           int64
	found          bool
	eventType      string
	objectVersion  int64
	createdAt      pgtype.Timestamptz
	snapshot       []byte // null where the event was not found
	paymentVersion int64
	payment        []byte // null where there is none
}

func (r payloadRow) answer(asked event.PayloadRequest) event.Payload {
	answer := event.Payload{EventID: asked.EventID}
	switch {
	case !r.found && asked.TxID < r.xmin:
		answer.Visibility = event.Missing
	case !r.found, r.payment != nil && r.paymentVersion < asked.MinVersion:
		answer.Visibility = event.NotVisible
	default:
		answer.Visibility = event.Visible
		answer.Type = r.eventType
		answer.ObjectVersion = r.objectVersion
		answer.OccurredAt = r.createdAt.Time.UTC().Format(occurredAt)
		answer.Payment = r.payment
		answer.Snapshot = r.snapshot
	}
	return answer
}

// occurredAt always has six digits: a merchant may compare the texts.
const occurredAt = "2006-01-02T15:04:05.000000Z"

const selectPayment = `select public.payment_document(p)::text from public.payments p where p.id = $1`

// Payment returns the payment's document as of now; a fault.NotFound where there is none.
func (s *EventStore) Payment(ctx context.Context, id uuid.UUID) (json.RawMessage, error) {
	var document []byte
	err := s.pool.QueryRow(ctx, selectPayment, [16]byte(id)).Scan(&document)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.New(fault.NotFound, "there is no payment %s", id)
	}
	if err != nil {
		return nil, readerError(err, "reading payment %s", id)
	}
	return document, nil
}

// The timeline of a standby is that of what it replays; pg_current_wal_lsn() fails there. On a primary it
// comes from the WAL itself, as the control file learns of a promotion only with the next checkpoint.
// The bound on txid stands as an index condition, so that a long transaction does not make every page read
// all the events above it.
const selectFeed = `
select snapshot.xmin,
       (select system_identifier::text from pg_control_system()),
       case when pg_is_in_recovery()
            then (select lpad(upper(to_hex(greatest(r.min_recovery_end_timeline, c.timeline_id))), 8, '0')
                    from pg_control_recovery() r, pg_control_checkpoint() c)
            else left(pg_walfile_name(pg_current_wal_lsn()), 8)
       end,
       e.id, coalesce(e.txid, 0), coalesce(e.sequence, 0), coalesce(e.event_type, ''), coalesce(e.object_type, ''),
       coalesce(e.object_id, ''), coalesce(e.object_version, 0), coalesce(e.merchant_id, ''), coalesce(e.traceparent, '')
  from (select pg_snapshot_xmin(pg_current_snapshot())::text::bigint as xmin) as snapshot
  left join lateral (
       select d.id, d.txid, d.sequence, d.event_type, d.object_type, d.object_id, d.object_version, d.merchant_id, d.traceparent
         from public.domain_events d
        where (d.txid, d.sequence) > ($1::bigint, $2::bigint) and d.txid < case when $3 then $4::bigint else snapshot.xmin end
        order by d.txid, d.sequence
        limit $5) e on true
 order by e.txid, e.sequence`

// Feed returns at most limit events behind the cursor, in the order (txid, sequence), and the cursor of the
// last of them. An empty cursor is the start. Only what lies below the oldest running transaction is in the
// feed: nothing can appear before it any more, so a walk by page.Next skips no event. That transaction may be
// in any database of the server, as PostgreSQL's snapshots are not per database. With visible the page goes
// on with what is visible above; page.Next does not follow there, page.Last does. A cursor that is not one is a
// fault.Invalid.
func (s *EventStore) Feed(ctx context.Context, after string, limit int, visible bool) (event.FeedPage, error) {
	page := event.FeedPage{Events: []event.Ref{}, From: after, Next: after, Last: after}
	from, err := parseCursor(after)
	if err != nil {
		return page, err
	}
	// One more than asked for tells whether there is more.
	rows, err := s.pool.Query(ctx, selectFeed, from.txid, from.sequence, visible, int64(math.MaxInt64), limit+1)
	if err != nil {
		return page, readerError(err, "reading the feed after %q", after)
	}
	defer rows.Close()
	for rows.Next() {
		var (
			id  pgtype.UUID // null in the one row of an empty page
			at  cursor
			ref event.Ref
		)
		if err := rows.Scan(&page.Xmin, &page.System, &page.Timeline, &id, &at.txid, &at.sequence,
			&ref.Type, &ref.ObjectType, &ref.ObjectID, &ref.ObjectVersion, &ref.MerchantID, &ref.Traceparent); err != nil {
			return page, readerError(err, "reading the feed after %q", after)
		}
		if !id.Valid {
			continue
		}
		if len(page.Events) == limit {
			page.More = true
			continue
		}
		ref.ID, ref.TxID = id.Bytes, at.txid
		page.Events = append(page.Events, ref)
		page.Last = at.String()
		if at.txid < page.Xmin {
			page.Next = page.Last
		}
	}
	if err := rows.Err(); err != nil {
		return page, readerError(err, "reading the feed after %q", after)
	}
	return page, nil
}

// Ids are UUIDv7, so the primary key finds the last event before a time.
const selectFeedStart = `select txid from public.domain_events where id < $1 order by id desc limit 1`

// feedMargin makes room for clocks that differ and for transactions that were long: what began before another need not
// have written before it.
const feedMargin = time.Hour

// FeedStart returns a cursor from which the feed holds every event written at or after since, and those of the hour before.
func (s *EventStore) FeedStart(ctx context.Context, since time.Time) (string, error) {
	var txid int64
	err := s.pool.QueryRow(ctx, selectFeedStart, floorOfUUIDv7(since.Add(-feedMargin))).Scan(&txid)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil // nothing is that old
	}
	if err != nil {
		return "", readerError(err, "finding the feed's place at %s", since)
	}
	return cursor{txid: txid - 1, sequence: math.MaxInt64}.String(), nil
}

// floorOfUUIDv7 is the least UUIDv7 of a millisecond.
func floorOfUUIDv7(at time.Time) [16]byte {
	var id [16]byte
	binary.BigEndian.PutUint64(id[:8], uint64(max(at.UnixMilli(), 0))<<16)
	id[6] = 0x70
	id[8] = 0x80
	return id
}

// Ping says whether the database answers.
func (s *EventStore) Ping(ctx context.Context) error {
	if err := s.pool.Ping(ctx); err != nil {
		return readerError(err, "asking the database for an answer")
	}
	return nil
}

// cursor is a place in the feed: just behind an event.
type cursor struct{ txid, sequence int64 }

func (c cursor) String() string {
	return strconv.FormatInt(c.txid, 10) + "." + strconv.FormatInt(c.sequence, 10)
}

func parseCursor(text string) (cursor, error) {
	if text == "" {
		return cursor{}, nil
	}
	left, right, _ := strings.Cut(text, ".")
	txid, err := strconv.ParseUint(left, 10, 63) // takes no sign
	if err != nil {
		return cursor{}, errCursor
	}
	sequence, err := strconv.ParseUint(right, 10, 63)
	if err != nil {
		return cursor{}, errCursor
	}
	return cursor{txid: int64(txid), sequence: int64(sequence)}, nil
}

var errCursor = fault.InvalidFields(map[string]string{"after": "is not a cursor of this feed"})

// readerError says what was being done, and classes an outage as one.
func readerError(err error, format string, args ...any) error {
	err = fmt.Errorf(format+": %w", append(args, err)...)
	if Unavailable(err) {
		return fault.Wrap(err, fault.Unavailable, "the database does not answer")
	}
	return err
}
