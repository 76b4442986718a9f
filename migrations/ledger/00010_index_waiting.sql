-- What waits for another: a delivery for its object's versions before, and one that Svix has for the merchant's answer. Built
-- beside the traffic, as the tables are the largest.

-- +goose NO TRANSACTION
-- +goose Up
create index concurrently if not exists deliveries_waiting on delivery.deliveries (endpoint_id, event_id) where state = 'waiting';
create index concurrently if not exists deliveries_handed_over on delivery.deliveries (next_attempt_at) where state = 'handed_over';
create index concurrently if not exists plans_object on delivery.plans (object_id, object_version);

-- +goose Down
drop index concurrently if exists delivery.plans_object;
drop index concurrently if exists delivery.deliveries_handed_over;
drop index concurrently if exists delivery.deliveries_waiting;
