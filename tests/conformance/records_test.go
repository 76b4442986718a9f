package conformance_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/relay"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/internal/testkit/sequintest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	patient = time.Minute
	often   = 20 * time.Millisecond
)

// topic keeps what it is given and acknowledges it.
type topic struct {
	mu      sync.Mutex
	records []kafkaRecord
}

type kafkaRecord struct{ key, value string }

func (k *topic) Produce(key, value []byte, done func(error)) {
	k.mu.Lock()
	k.records = append(k.records, kafkaRecord{string(key), string(value)})
	k.mu.Unlock()
	done(nil)
}

func (*topic) Flush(context.Context) error { return nil }

func (*topic) Ready(context.Context) error { return nil }

func (k *topic) get() []kafkaRecord {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]kafkaRecord(nil), k.records...)
}

// Every row of the golden set is written to PostgreSQL, and the relay reads it from the WAL. The last ones have columns that
// a migration adds while the relay runs.
func TestTheRelayWritesForARowOfPostgreSQLWhatSequinWrites(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	cfg := replication.Config{DatabaseURL: db.RoleDSN(migrations.RoleCDC), Slot: "conformance_" + db.Name, Publication: migrations.Publication}
	got := start(t, pool, cfg)

	golden := sequintest.Records(t)
	for _, r := range golden {
		if r.Added {
			addColumns(t, pool, r.Columns)
		}
		requireColumns(t, pool, r.Columns)
		insert(t, pool, r)
	}
	require.Eventually(t, func() bool { return len(got.get()) >= len(golden) }, patient, often)
	records := got.get()
	require.Len(t, records, len(golden))
	for i, r := range golden {
		require.NoError(t, r.Differs([]byte(records[i].value)), r.Name)
		require.Equal(t, r.Key, records[i].key, r.Name)
		ref, err := event.DecodeRecord([]byte(records[i].value))
		require.Equal(t, r.Ref, ref, r.Name)
		require.Equal(t, r.Undecodable == "", err == nil, "%s: %v", r.Name, err)
	}
}

// start runs a relay from the database into a topic, and returns when it streams: what commits before is in no stream.
func start(t *testing.T, pool *pgxpool.Pool, cfg replication.Config) *topic {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	source := replication.New(cfg, log, func() {})
	out := &topic{}
	r := relay.New(source, out, relay.Options{
		Log: log, Metrics: relay.NewMetrics(prometheus.NewRegistry()), MaxRecordBytes: 1_000_000, MaxInFlightRecords: 1000,
		MaxInFlightBytes: 64 << 20, DrainTimeout: 5 * time.Second,
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
		ctx := context.WithoutCancel(t.Context())
		source.Close(ctx)
		require.Eventually(t, func() bool { // a database with a slot cannot be dropped
			_, err := pool.Exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", cfg.Slot)
			return err == nil
		}, patient, often)
	})
	require.Eventually(t, func() bool { return r.Ready(t.Context()) == nil }, patient, often)
	return out
}

// addColumns adds those that the table does not have.
func addColumns(t *testing.T, pool *pgxpool.Pool, columns []sequintest.Column) {
	t.Helper()
	for _, c := range columns {
		_, err := pool.Exec(t.Context(), "alter table domain_events add column if not exists "+pgx.Identifier{c.Name}.Sanitize()+" "+c.Type)
		require.NoError(t, err)
	}
}

// requireColumns holds the golden set to the table: a column that a migration adds or changes wants records of its own.
func requireColumns(t *testing.T, pool *pgxpool.Pool, want []sequintest.Column) {
	t.Helper()
	rows, err := pool.Query(t.Context(), `
		select a.attname, y.typname, y.oid from pg_attribute a join pg_type y on y.oid = a.atttypid
		 where a.attrelid = 'public.domain_events'::regclass and a.attnum > 0 and not a.attisdropped order by a.attnum`)
	require.NoError(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sequintest.Column])
	require.NoError(t, err)
	require.Equal(t, want, got)
}

func insert(t *testing.T, pool *pgxpool.Pool, r sequintest.Record) {
	t.Helper()
	names := make([]string, 0, len(r.Columns))
	values := make([]string, 0, len(r.Columns))
	for i, c := range r.Columns {
		names = append(names, pgx.Identifier{c.Name}.Sanitize())
		if r.Inserts[i] == nil {
			values = append(values, "null")
		} else {
			values = append(values, "'"+strings.ReplaceAll(*r.Inserts[i], "'", "''")+"'")
		}
	}
	_, err := pool.Exec(t.Context(), "insert into domain_events ("+strings.Join(names, ", ")+") overriding system value values ("+strings.Join(values, ", ")+")")
	require.NoError(t, err, r.Name)
}
