-- One role per job, with the least that the job needs. Roles belong to the whole server, so they are made
-- only where missing and outlive a Down; `hookline migrate` gives them passwords where it is told to.
-- The time-outs keep a frozen process from holding a lock, or the xmin that every feed waits for.

-- +goose Up
-- +goose StatementBegin
do $$
declare
    name text;
begin
    foreach name in array array['hookline_api', 'hookline_reader', 'hookline_cdc'] loop
        if not exists (select from pg_roles where rolname = name) then
            execute format('create role %I login', name);
            execute format('alter role %I set idle_in_transaction_session_timeout = ''2s''', name);
            if name <> 'hookline_cdc' then
                execute format('alter role %I set statement_timeout = ''5s''', name);
                execute format('alter role %I set lock_timeout = ''2s''', name);
            end if;
        end if;
    end loop;
    begin
        alter role hookline_cdc replication;
    exception when insufficient_privilege then
        -- Managed PostgreSQL keeps this right to itself and has a grant of its own (RDS: rds_replication).
        raise warning 'grant the right of replication to hookline_cdc by your provider''s own way';
    end;
end
$$;
-- +goose StatementEnd

grant usage on schema public to hookline_api, hookline_reader, hookline_cdc;

grant select on public.payments to hookline_api;
grant insert (id, merchant_id, amount, currency, status, metadata) on public.payments to hookline_api;
grant update (status) on public.payments to hookline_api;
grant select, insert on public.idempotency_keys to hookline_api;
grant execute on function public.append_event(text, text, jsonb, text) to hookline_api;

grant select on public.payments, public.domain_events to hookline_reader;

grant select on public.domain_events to hookline_cdc;

-- +goose Down
revoke all on public.payments, public.domain_events, public.idempotency_keys
    from hookline_api, hookline_reader, hookline_cdc;
revoke all on function public.append_event(text, text, jsonb, text) from hookline_api;
revoke usage on schema public from hookline_api, hookline_reader, hookline_cdc;
