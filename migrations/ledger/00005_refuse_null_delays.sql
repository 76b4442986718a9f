-- A null among an endpoint's delays could not be read, and one endpoint that cannot be read would hold up every batch
-- that an event of it is in.

-- +goose Up
alter table delivery.endpoints add constraint retry_delays_are_whole check (array_position(retry_delays_ms, null) is null);

-- +goose Down
alter table delivery.endpoints drop constraint retry_delays_are_whole;
