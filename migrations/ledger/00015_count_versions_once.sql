-- A version can be planned twice: where the business database is restored to a moment before it, the object gets it once more,
-- as another event. To the order both are that version.

-- +goose Up
-- As before, but that a version counts once, however many events were planned of it. All of them must have ended.
-- +goose StatementBegin
create or replace function delivery.in_turn(endpoint uuid, type text, object text, version bigint, at timestamptz) returns boolean
    language sql stable
as $$
    select count(distinct p.object_version) = version - 1
       and coalesce(bool_and(p.planned_at <= at and (d.event_id is null or coalesce(d.ended_at <= at, false))), true)
      from delivery.plans p
      left join delivery.deliveries d on d.event_id = p.event_id and d.endpoint_id = endpoint and d.generation = 0
     where p.object_id = object and p.object_type = type and p.object_version < version
$$;
-- +goose StatementEnd

-- +goose Down
-- +goose StatementBegin
create or replace function delivery.in_turn(endpoint uuid, type text, object text, version bigint, at timestamptz) returns boolean
    language sql stable
as $$
    select count(*) = version - 1
       and coalesce(bool_and(p.planned_at <= at and (d.event_id is null or coalesce(d.ended_at <= at, false))), true)
      from delivery.plans p
      left join delivery.deliveries d on d.event_id = p.event_id and d.endpoint_id = endpoint and d.generation = 0
     where p.object_id = object and p.object_type = type and p.object_version < version
$$;
-- +goose StatementEnd
