-- data-service only ever looks rows up by an index. PostgreSQL would still choose to read a whole table while
-- it is small, and a prepared statement keeps that choice while a burst fills the table, until the next
-- ANALYZE: a minute in which each batch of payloads reads every event there is.

-- +goose Up
alter role hookline_reader set enable_seqscan = off;
alter role hookline_reader set enable_hashjoin = off;
alter role hookline_reader set enable_mergejoin = off;
alter role hookline_reader set jit = off;

-- +goose Down
alter role hookline_reader reset enable_seqscan;
alter role hookline_reader reset enable_hashjoin;
alter role hookline_reader reset enable_mergejoin;
alter role hookline_reader reset jit;
