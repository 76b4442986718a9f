-- What cdc-relay must know beside its slot: how far it has confirmed, so that it sees when the slot is another one. A slot
-- that was invalidated, dropped or made anew starts behind everything that was committed meanwhile, and says nothing of it.

-- +goose Up
create table public.relay_state (
    slot_name         text        primary key,
    -- Written before a position is confirmed: a slot beyond it was moved, or made, by somebody else. It is compared only
    -- with positions of the history that the row itself is part of: after a failover or a restore row and WAL go back together.
    confirmed_lsn     pg_lsn      not null,
    system_identifier text        not null, -- another one: the row was copied from elsewhere
    timeline          integer     not null, -- for people
    updated_at        timestamptz not null default clock_timestamp()
);

-- Stretches of the WAL that the relay did not read. The events in them are driven by the reconciler; this says why.
create table public.relay_gaps (
    id          bigint      generated always as identity primary key,
    slot_name   text        not null,
    declared_at timestamptz not null default clock_timestamp(),
    from_lsn    pg_lsn,               -- null: it is not known where the last slot was
    to_lsn      pg_lsn      not null, -- from here on everything is relayed
    reason      text        not null
);

grant select, insert, update on public.relay_state to hookline_cdc;
grant select, insert on public.relay_gaps to hookline_cdc;
grant select on public.relay_gaps to hookline_reader;

-- +goose Down
drop table public.relay_gaps;
drop table public.relay_state;
