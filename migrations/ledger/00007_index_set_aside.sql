-- What no timer holds: the drainer takes the parked of an endpoint in the order of their events, people look at the dead. Built
-- beside the traffic, as the table is the largest.

-- +goose NO TRANSACTION
-- +goose Up
create index concurrently if not exists deliveries_parked on delivery.deliveries (endpoint_id, event_id) where state = 'parked';
create index concurrently if not exists deliveries_dead on delivery.deliveries (endpoint_id, event_id) where state = 'dead';

-- +goose Down
drop index concurrently if exists delivery.deliveries_dead;
drop index concurrently if exists delivery.deliveries_parked;
