-- The worker's role: the ledger, and nothing of the business tables.

-- +goose Up
-- +goose StatementBegin
do $$
begin
    if not exists (select from pg_roles where rolname = 'hookline_worker') then
        create role hookline_worker login;
        alter role hookline_worker set idle_in_transaction_session_timeout = '2s';
        alter role hookline_worker set statement_timeout = '5s';
        alter role hookline_worker set lock_timeout = '2s';
    end if;
end
$$;
-- +goose StatementEnd

grant usage on schema delivery to hookline_worker;
grant select on delivery.endpoints, delivery.endpoint_secrets to hookline_worker;
grant select, insert on delivery.plans, delivery.attempts to hookline_worker;
grant select, insert, update on delivery.deliveries, delivery.dead_records to hookline_worker;

-- +goose Down
revoke all on all tables in schema delivery from hookline_worker;
revoke usage on schema delivery from hookline_worker;
