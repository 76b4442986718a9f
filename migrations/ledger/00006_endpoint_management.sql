-- Endpoints as merchants expect them: secrets that nobody reads in the database, headers of their own, a reason why one is
-- disabled, and the news of it.

-- +goose Up
-- Sealed texts are made and opened by internal/seal. Each names its key, so that keys can be replaced.
alter table delivery.endpoints
    add column url_sealed      text, -- the whole URL, where it holds user info or a query: url then has neither
    add column header_names    text[] not null default '{}',
    add column headers_sealed  text, -- a JSON object of the names and their values
    add column disabled_at     timestamptz,
    add column disabled_reason text;
update delivery.endpoints set disabled_at = clock_timestamp(), disabled_reason = 'operator' where not enabled;
alter table delivery.endpoints
    add constraint disabled_for_a_reason check (enabled = (disabled_reason is null) and enabled = (disabled_at is null)),
    add constraint disabled_reason_is_known check (disabled_reason in ('operator', 'gone', 'failing')),
    add constraint headers_sealed_with_names check ((header_names = '{}') = (headers_sealed is null));
alter table delivery.endpoint_secrets rename column secret to sealed;

-- Whoever disables or enables needs to say no more than that.
-- +goose StatementBegin
create or replace function delivery.endpoints_raise_revision() returns trigger
    language plpgsql
    set search_path = pg_catalog, pg_temp
as $$
begin
    new.revision := old.revision + 1;
    new.updated_at := clock_timestamp();
    if new.enabled then
        new.disabled_at := null;
        new.disabled_reason := null;
    elsif old.enabled then
        new.disabled_at := clock_timestamp();
        new.disabled_reason := coalesce(new.disabled_reason, 'operator');
    end if;
    return new;
end
$$;
-- +goose StatementEnd

-- An endpoint is here from its first failure after a success to its next success. last_at is a failure of about now, to the
-- hour: nothing is known of the time between two that are days apart. There is no reference to endpoints: outcomes of many
-- endpoints are written together, and must not wait for, or fail with, the removal of one.
create table delivery.failing_endpoints (
    endpoint_id uuid        primary key,
    since       timestamptz not null default clock_timestamp(),
    last_at     timestamptz not null default clock_timestamp()
);

-- An endpoint that is disabled by an answer, or by time, is the merchant's business: the event that says so is written
-- here, in the statement that disables, and goes from here to payments-api and the way of all events.
create table delivery.operational_events (
    id           uuid        primary key default gen_random_uuid(), -- the idempotency key of its publication
    merchant_id  text        not null,
    event_type   text        not null,
    data         jsonb       not null,
    created_at   timestamptz not null default clock_timestamp(),
    published_at timestamptz,
    refusal      text -- why payments-api will never take it: published_at is when it said so
);
create index operational_events_unpublished on delivery.operational_events (created_at) where published_at is null;

-- A replay is a generation of deliveries: its id is theirs.
create table delivery.replays (
    id           bigint      generated always as identity primary key,
    created_at   timestamptz not null default clock_timestamp(),
    requested_by text        not null,
    selection    jsonb       not null, -- what was asked for
    deliveries   integer     not null
);

-- Operational types reach an endpoint only when its filter names them: 'endpoint.disabled' or 'endpoint.*'.
-- +goose StatementBegin
create or replace function delivery.takes(filter text[], event_type text) returns boolean
    language sql immutable
as $$
    select (filter = '{}' and not starts_with(event_type, 'endpoint.')) or event_type = any (filter)
        or exists (select from unnest(filter) as f where right(f, 2) = '.*' and starts_with(event_type, left(f, -1)))
$$;
-- +goose StatementEnd

grant select, insert, update, delete on delivery.failing_endpoints to hookline_worker;
grant select, insert, update on delivery.operational_events to hookline_worker;
grant update (enabled, disabled_at, disabled_reason) on delivery.endpoints to hookline_worker;

-- +goose Down
revoke update (enabled, disabled_at, disabled_reason) on delivery.endpoints from hookline_worker;
-- +goose StatementBegin
create or replace function delivery.takes(filter text[], event_type text) returns boolean
    language sql immutable
as $$
    select filter = '{}' or event_type = any (filter)
        or exists (select from unnest(filter) as f where right(f, 2) = '.*' and starts_with(event_type, left(f, -1)))
$$;
-- +goose StatementEnd
-- +goose StatementBegin
create or replace function delivery.endpoints_raise_revision() returns trigger
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
drop table delivery.replays;
drop table delivery.operational_events;
drop table delivery.failing_endpoints;
-- What is sealed stays so, and nobody signs with it: each endpoint then needs a new secret, and its URL and headers anew.
alter table delivery.endpoint_secrets rename column sealed to secret;
alter table delivery.endpoints
    drop constraint headers_sealed_with_names,
    drop constraint disabled_reason_is_known,
    drop constraint disabled_for_a_reason,
    drop column disabled_reason,
    drop column disabled_at,
    drop column headers_sealed,
    drop column header_names,
    drop column url_sealed;
