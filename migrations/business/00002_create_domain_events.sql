-- The outbox. A change of a payment and its event are one transaction because a trigger writes the
-- event: no code path can do one without the other.

-- +goose Up

-- UUIDv7 of the wall clock, with the sub-millisecond part in rand_a as PostgreSQL 18's own uuidv7()
-- does; written here because 14 to 17 have none. PL/pgSQL, not SQL: a function in SQL that cannot be
-- inlined is parsed and planned again in every statement that calls it, which cost a fifth of an insert.
-- It has no SET search_path for the same reason, and names the schema of all that it calls.
-- +goose StatementBegin
create function public.uuid_v7() returns uuid
    language plpgsql volatile parallel safe
as $$
declare
    us bigint := (extract(epoch from pg_catalog.clock_timestamp()) * 1000000)::bigint;
begin
    return pg_catalog.encode(
        pg_catalog.substring(pg_catalog.int8send(us / 1000), 3)      -- 48 bits of milliseconds
        operator(pg_catalog.||)
        pg_catalog.int2send((28672 + (us % 1000) * 4096 / 1000)::int2) -- version 7, then 12 bits of fraction
        operator(pg_catalog.||)
        pg_catalog.substring(pg_catalog.uuid_send(pg_catalog.gen_random_uuid()), 9), -- the variant and 62 random bits of a v4
        'hex')::uuid;
end
$$;
-- +goose StatementEnd

create table public.domain_events (
    id             uuid        primary key default public.uuid_v7(), -- the webhook-id
    sequence       bigint      generated always as identity,
    -- A cursor over a sequence misses what commits late. Feeds order by (txid, sequence) and read only
    -- below pg_snapshot_xmin(pg_current_snapshot()). There is no direct cast from xid8 to bigint.
    txid           bigint      not null default (pg_current_xact_id()::text::bigint),
    event_type     text        not null,
    object_type    text        not null,
    object_id      text        not null,
    object_version bigint      not null,
    merchant_id    text        not null,
    payload        jsonb       not null, -- the object as this event left it; never changes
    traceparent    text,
    created_at     timestamptz not null default clock_timestamp(),

    constraint event_type_not_empty check (event_type <> ''),
    constraint merchant_id_not_empty check (merchant_id <> ''),
    constraint object_version_is_positive check (object_version > 0)
);
create index domain_events_feed on public.domain_events (txid, sequence);
-- Contiguous versions are what ordered delivery rests on: a gap is seen, a twin is refused.
create unique index domain_events_object on public.domain_events (object_id, object_version, object_type);

-- The one place that says how a payment looks in an event and in a webhook. Its time stamps follow the
-- session's time zone: callers pin UTC.
-- +goose StatementBegin
create function public.payment_document(p public.payments) returns jsonb
    language sql stable
as $$
    select jsonb_build_object(
        'id', p.id, 'merchant_id', p.merchant_id, 'amount', p.amount, 'currency', p.currency,
        'status', p.status, 'version', p.version, 'metadata', p.metadata,
        'created_at', p.created_at, 'updated_at', p.updated_at)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
create function public.payments_raise_version() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    new.version := old.version + 1;
    new.updated_at := clock_timestamp();
    return new;
end
$$;
-- +goose StatementEnd

-- SECURITY DEFINER: the API's role has no right on domain_events, so an event cannot be written, changed
-- or removed but by changing a payment.
-- +goose StatementBegin
create function public.payments_write_event() returns trigger
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
    set timezone = 'UTC'
as $$
begin
    if tg_op = 'INSERT' and new.version <> 1 then
        raise exception 'a payment starts at version 1, not %', new.version using errcode = 'check_violation';
    end if;
    insert into public.domain_events
        (event_type, object_type, object_id, object_version, merchant_id, payload, traceparent)
    values
        ('payment.' || new.status, 'payment', new.id::text, new.version, new.merchant_id,
         public.payment_document(new), nullif(current_setting('hookline.traceparent', true), ''));
    return null;
end
$$;
-- +goose StatementEnd

create trigger payments_raise_version
    before update on public.payments
    for each row when (old.status is distinct from new.status)
    execute function public.payments_raise_version();

-- AFTER, not BEFORE: ON CONFLICT DO NOTHING runs BEFORE triggers for rows that it then does not insert.
create trigger payments_insert_event
    after insert on public.payments
    for each row execute function public.payments_write_event();

create trigger payments_update_event
    after update on public.payments
    for each row when (old.status is distinct from new.status)
    execute function public.payments_write_event();

-- Appends an event that is not about a payment, and returns its id. Such an event is its own object, at version 1.
-- +goose StatementBegin
create function public.append_event(p_event_type text, p_merchant_id text, p_data jsonb, p_traceparent text)
    returns uuid
    language plpgsql security definer
    set search_path = pg_catalog, pg_temp
as $$
declare
    event_id uuid := public.uuid_v7();
begin
    insert into public.domain_events
        (id, event_type, object_type, object_id, object_version, merchant_id, payload, traceparent)
    values
        (event_id, p_event_type, 'event', event_id::text, 1, p_merchant_id, p_data, nullif(p_traceparent, ''));
    return event_id;
end
$$;
-- +goose StatementEnd

revoke all on function public.append_event(text, text, jsonb, text) from public;
revoke all on function public.payments_write_event() from public;

-- Before any slot: a slot that is older than its publication fails while decoding.
create publication hookline_events for table public.domain_events
    with (publish = 'insert', publish_via_partition_root = true);

-- +goose Down
drop publication hookline_events;
drop function public.append_event(text, text, jsonb, text);
drop trigger payments_update_event on public.payments;
drop trigger payments_insert_event on public.payments;
drop trigger payments_raise_version on public.payments;
drop function public.payments_write_event();
drop function public.payments_raise_version();
drop function public.payment_document(public.payments);
drop table public.domain_events;
drop function public.uuid_v7();
