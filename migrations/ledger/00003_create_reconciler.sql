-- What the reconciler remembers between two processes: how far it has seen every event planned or explained. A cursor
-- counts in one server's history of transactions, so it carries that history's name.

-- +goose Up
create table delivery.watermarks (
    name       text        primary key,
    cursor     text        not null, -- of data-service's feed
    system     text        not null, -- system identifier of the business database's server
    timeline   text        not null,
    updated_at timestamptz not null default clock_timestamp()
);

-- A dead record explains why its event has no plan.
create index dead_records_event on delivery.dead_records (event_id) where event_id is not null;

grant select, insert, update on delivery.watermarks to hookline_worker;

-- +goose Down
drop index delivery.dead_records_event;
drop table delivery.watermarks;
