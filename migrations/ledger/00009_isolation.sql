-- What keeps one endpoint's trouble from everybody else: its circuit, and its rate limit.

-- +goose Up
-- While the circuit is not closed every delivery is parked, and at probe_at one of them finds out how the endpoint is.
alter table delivery.endpoints
    add column rate_limit         integer,                        -- webhooks a second; null: as many as there are
    add column circuit            text        not null default 'closed',
    add column circuit_changed_at timestamptz not null default clock_timestamp(),
    add column circuit_opens      integer     not null default 0, -- in a row, without a success in between
    add column probe_at           timestamptz,
    add constraint rate_limit_in_range check (rate_limit between 1 and 1000),
    add constraint circuit_is_known check (circuit in ('closed', 'open', 'half_open')),
    add constraint probed_when_not_closed check ((probe_at is null) = (circuit = 'closed'));
grant update (circuit, circuit_changed_at, circuit_opens, probe_at) on delivery.endpoints to hookline_worker;

-- +goose Down
revoke update (circuit, circuit_changed_at, circuit_opens, probe_at) on delivery.endpoints from hookline_worker;
alter table delivery.endpoints
    drop constraint probed_when_not_closed,
    drop constraint circuit_is_known,
    drop constraint rate_limit_in_range,
    drop column probe_at,
    drop column circuit_opens,
    drop column circuit_changed_at,
    drop column circuit,
    drop column rate_limit;
