-- Endpoints that want an object's events in order: when it is a version's turn.

-- +goose Up
-- Whether the versions of the object below this one were all planned, and what was planned of them for the endpoint has ended,
-- by that time. Versions count from 1 without a gap, so one that is missing is seen. An event that was planned without the
-- endpoint holds up nothing; replays, the other generations, have no place in the order.
-- +goose StatementBegin
create function delivery.in_turn(endpoint uuid, type text, object text, version bigint, at timestamptz) returns boolean
    language sql stable
as $$
    select count(*) = version - 1
       and coalesce(bool_and(p.planned_at <= at and (d.event_id is null or coalesce(d.ended_at <= at, false))), true)
      from delivery.plans p
      left join delivery.deliveries d on d.event_id = p.event_id and d.endpoint_id = endpoint and d.generation = 0
     where p.object_id = object and p.object_type = type and p.object_version < version
$$;
-- +goose StatementEnd

-- +goose Down
drop function delivery.in_turn;
