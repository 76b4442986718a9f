-- What drains the backlog of an endpoint, which is what is parked, counts what it has taken and what has not ended. Built
-- beside the traffic, as the table is the largest.

-- +goose NO TRANSACTION
-- +goose Up
-- 'open' is a request that has outlived its step: it is under way, whoever began it.
create index concurrently if not exists deliveries_draining on delivery.deliveries (endpoint_id)
    where state in ('pending', 'retrying') and last_cause in ('drained', 'open');

-- How a drain goes, for people, and for who looks whether it still does. There is no reference to endpoints: the deliveries of
-- one that was removed are drained, too.
create table if not exists delivery.drains (
    endpoint_id uuid             primary key,
    started_at  timestamptz      not null default clock_timestamp(),
    ticked_at   timestamptz      not null default clock_timestamp(),
    next_at     timestamptz,                        -- of the next tick; null when the drain has ended
    at_once     integer          not null default 0, -- how many may be under way
    per_second  double precision not null default 0  -- of those that ended, lately
);
grant select, insert, update, delete on delivery.drains to hookline_worker;

-- +goose Down
drop table if exists delivery.drains;
drop index concurrently if exists delivery.deliveries_draining;
