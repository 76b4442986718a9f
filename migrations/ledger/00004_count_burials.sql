-- A dead record that is driven again and fails again is the same record: it counts, and is open again. The number is what
-- a redrive compares, so that it never closes a record that was buried once more meanwhile.

-- +goose Up
alter table delivery.dead_records add column buried integer not null default 1;

-- +goose Down
alter table delivery.dead_records drop column buried;
