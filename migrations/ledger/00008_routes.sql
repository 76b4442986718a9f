-- Who delivers a merchant's webhooks. A plan freezes the route of its event, so a switch cannot send one by both.

-- +goose Up
create table delivery.routes (
    merchant_id text        primary key, -- one that is not here has the deployment's route
    route       text        not null,
    updated_at  timestamptz not null default clock_timestamp(),

    constraint route_is_known check (route in ('inhouse', 'svix'))
);
grant select on delivery.routes to hookline_worker;

-- +goose Down
drop table delivery.routes;
