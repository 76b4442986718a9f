-- The ledger: who gets what, what was tried, what came back. It may live in another database than the
-- business tables, so nothing here refers to them. All times are this database's clock.

-- +goose Up
create schema delivery;

create table delivery.endpoints (
    id             uuid        primary key default gen_random_uuid(),
    merchant_id    text        not null,
    url            text        not null,
    description    text        not null default '',
    event_types    text[]      not null default '{}', -- empty: every type; 'payment.*' takes a prefix
    enabled        boolean     not null default true,
    ordering       text        not null default 'parallel',
    timeout_ms     integer     not null default 10000, -- of one attempt, from the dial to the last byte read
    retry_delays_ms bigint[],                          -- null: the deployment's schedule
    revision       bigint      not null default 1,     -- rises with every change, also of its secrets: caches compare it
    created_at     timestamptz not null default clock_timestamp(),
    updated_at     timestamptz not null default clock_timestamp(),

    constraint merchant_id_not_empty check (merchant_id <> ''),
    constraint ordering_is_known check (ordering in ('parallel', 'object')),
    constraint timeout_in_range check (timeout_ms between 1000 and 30000)
);
create index endpoints_merchant on delivery.endpoints (merchant_id);

-- Several live at once while one rotates: an attempt is signed with each that has not expired.
create table delivery.endpoint_secrets (
    id          uuid        primary key default gen_random_uuid(),
    endpoint_id uuid        not null references delivery.endpoints on delete cascade,
    secret      text        not null, -- whsec_ and base64, as Standard Webhooks writes it
    created_at  timestamptz not null default clock_timestamp(),
    expires_at  timestamptz
);
create index endpoint_secrets_endpoint on delivery.endpoint_secrets (endpoint_id);

-- +goose StatementBegin
create function delivery.endpoints_raise_revision() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    new.revision := old.revision + 1;
    new.updated_at := clock_timestamp();
    return new;
end
$$;
-- +goose StatementEnd
create trigger endpoints_raise_revision
    before update on delivery.endpoints
    for each row execute function delivery.endpoints_raise_revision();

-- +goose StatementBegin
create function delivery.endpoint_secrets_touch_endpoint() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    update delivery.endpoints set enabled = enabled
     where id = case tg_op when 'DELETE' then old.endpoint_id else new.endpoint_id end;
    return null;
end
$$;
-- +goose StatementEnd
create trigger endpoint_secrets_touch_endpoint
    after insert or update or delete on delivery.endpoint_secrets
    for each row execute function delivery.endpoint_secrets_touch_endpoint();

-- Whether an endpoint's filter takes an event type: an empty filter takes all, 'payment.*' what begins with 'payment.'.
-- +goose StatementBegin
create function delivery.takes(filter text[], event_type text) returns boolean
    language sql immutable
as $$
    select filter = '{}' or event_type = any (filter)
        or exists (select from unnest(filter) as f where right(f, 2) = '.*' and starts_with(event_type, left(f, -1)))
$$;
-- +goose StatementEnd

-- One row per event, whatever is duplicated upstream: the primary key is what makes a plan unique.
-- Zero deliveries is a plan too, so an event nobody subscribed to stays visible.
create table delivery.plans (
    event_id       uuid        primary key,
    txid           bigint      not null,
    object_version bigint      not null,
    planned_at     timestamptz not null default clock_timestamp(),
    merchant_id    text        not null,
    event_type     text        not null,
    object_type    text        not null,
    object_id      text        not null,
    route          text        not null,
    planned_by     text        not null, -- the Restate invocation

    constraint route_is_known check (route in ('inhouse', 'svix'))
);

create table delivery.deliveries (
    event_id        uuid        not null,
    endpoint_id     uuid        not null,
    generation      bigint      not null default 0, -- 0 is live, otherwise the replay's id
    epoch           bigint      not null,           -- raised by every claim: who holds a lower one has lost the row
    planned_at      timestamptz not null default clock_timestamp(),
    next_attempt_at timestamptz,
    ended_at        timestamptz,
    attempts        integer     not null default 0, -- attempts whose outcome is written
    merchant_id     text        not null,
    state           text        not null,
    owner           text,                           -- the invocation that holds it now
    last_owner      text,                           -- the invocation that wrote the last outcome
    last_cause      text,

    primary key (event_id, endpoint_id, generation),
    constraint state_is_known check (state in
        ('pending', 'retrying', 'waiting', 'parked', 'handed_over', 'succeeded', 'dead')),
    constraint ended_when_final check ((ended_at is not null) = (state in ('succeeded', 'dead')))
) with (fillfactor = 80);

-- What is due and by whom held: the reconciler's and the drainers' scans stay bounded by what is open.
create index deliveries_due on delivery.deliveries (next_attempt_at)
    where state in ('pending', 'retrying');

create table delivery.attempts (
    event_id      uuid        not null,
    endpoint_id   uuid        not null,
    generation    bigint      not null,
    epoch         bigint      not null, -- of the claim it was sent under: one claim sends at most once
    number        integer     not null, -- 1 is the first attempt of the delivery
    status_code   integer,              -- null: no answer
    latency_ms    integer     not null,
    attempted_at  timestamptz not null,
    ended_at      timestamptz not null default clock_timestamp(),
    owner         text        not null,
    cause         text        not null,
    body_sha256   bytea,                -- null: it failed before there was a body
    answer        bytea,                -- first bytes of what the endpoint answered

    primary key (event_id, endpoint_id, generation, epoch)
);

-- Records that could not become a delivery, with all that is needed to look at them and drive them again.
create table delivery.dead_records (
    id           bigint      generated always as identity primary key,
    topic        text        not null,
    partition    integer     not null,
    "offset"     bigint      not null,
    event_id     uuid,
    reason       text        not null,
    detail       text        not null,
    key          bytea,
    value        bytea,
    value_sha256 bytea       not null,
    created_at   timestamptz not null default clock_timestamp(),
    redriven_at  timestamptz
);
-- The hash because a topic that was made anew counts its offsets from 0 again.
create unique index dead_records_origin on delivery.dead_records (topic, partition, "offset", value_sha256);

-- +goose Down
drop schema delivery cascade;
