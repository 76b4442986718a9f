-- The statements of data-service have one good plan each, and making it takes several times as long as the lookup.
-- PostgreSQL makes it again each time all the same, as it takes the few ids of a request for fewer than the generic
-- plan's guess.

-- +goose Up
alter role hookline_reader set plan_cache_mode = force_generic_plan;

-- +goose Down
alter role hookline_reader reset plan_cache_mode;
