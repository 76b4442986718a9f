-- The business tables: what a payments platform already has before it sends a single webhook.
-- Only payments-api writes here, and only data-service reads.

-- +goose Up
create table public.payments (
    id          uuid        primary key default gen_random_uuid(),
    merchant_id text        not null,
    amount      bigint      not null, -- minor units of the currency
    currency    char(3)     not null, -- ISO 4217
    status      text        not null,
    version     bigint      not null default 1, -- rises with each event, never alone
    metadata    jsonb       not null default '{}',
    created_at  timestamptz not null default clock_timestamp(),
    updated_at  timestamptz not null default clock_timestamp(),

    -- 2^53 - 1: beyond it JSON readers, Sequin among them, round.
    constraint amount_in_range check (amount between 1 and 9007199254740991),
    constraint currency_is_upper_case check (currency ~ '^[A-Z]{3}$'),
    constraint merchant_id_not_empty check (merchant_id <> ''),
    constraint metadata_is_an_object check (jsonb_typeof(metadata) = 'object'),
    constraint status_is_known check (status in
        ('pending', 'processing', 'succeeded', 'failed', 'canceled', 'refunded', 'disputed'))
);

-- The answer of a request that carried an Idempotency-Key, kept so that a client that lost the
-- answer gets the same one, also after the payment moved on.
create table public.idempotency_keys (
    key          text        primary key,
    request_hash bytea       not null, -- SHA-256 of method, path and canonical body
    answer       jsonb       not null,
    created_at   timestamptz not null default clock_timestamp()
);

-- +goose Down
drop table public.idempotency_keys;
drop table public.payments;
