# Writes the records beside this file: what Sequin makes of each row of manifest.json with the transform `path: record`,
# and of the first one without a transform. It calls Sequin's own caster and encoder. In Sequin's repository, at v0.14.6:
#
#     mix run --no-start .../testdata/encode.exs
alias Sequin.Postgres.ValueCaster

directory = __DIR__
%{"columns" => columns, "added" => added, "records" => records} =
  directory |> Path.join("manifest.json") |> File.read!() |> Jason.decode!()

types = Map.new(columns ++ added, &{&1["name"], &1["type"]})

cast = fn row ->
  Map.new(row, fn {name, text} ->
    {:ok, value} = ValueCaster.cast(Map.fetch!(types, name), text)
    {name, value}
  end)
end

write = fn name, value -> File.write!(Path.join(directory, name <> ".json"), Jason.encode!(value)) end

for %{"name" => name, "row" => row} <- records, do: write.("record-" <> name, cast.(row))

metadata = %{
  table_schema: "public",
  table_name: "domain_events",
  commit_timestamp: ~U[2026-02-23 12:00:00.200000Z],
  commit_lsn: 26_543_210,
  commit_idx: 0,
  database_name: "payments",
  transaction_annotations: nil,
  idempotency_key: Base.encode64("26543210:0"),
  record_pks: [hd(records)["row"]["id"]],
  enrichment: nil,
  consumer: %{id: "f47ac10b-58cc-4372-a567-0e02b2c3d479", name: "webhook-events", annotations: %{}},
  database: %{
    id: "12345678-9abc-4ef0-9234-56789abcdef0",
    name: "payments",
    annotations: %{},
    database: "payments",
    hostname: "postgres"
  }
}

row = cast.(hd(records)["row"])
message = fn action, record, changes -> %{action: action, changes: changes, metadata: metadata, record: record} end
write.("message-insert", message.("insert", row, nil))
write.("message-read", message.("read", row, nil))
# Of a value that is stored out of line and did not change, an update says nothing.
write.("message-update", message.("update", %{row | "payload" => "unchanged_toast"}, %{"traceparent" => "00-0-0-00"}))
# A delete names the old row: all of it with replica identity FULL, otherwise the key.
write.("message-delete", message.("delete", row, nil))
write.("message-delete-key", message.("delete", Map.new(row, fn {k, v} -> {k, if(k == "id", do: v)} end), nil))
