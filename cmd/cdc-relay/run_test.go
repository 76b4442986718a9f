package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/logging"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	topic      = "webhook-events"
	partitions = 3
	patient    = 20 * time.Second
	often      = 20 * time.Millisecond
)

// bench is a database, a Kafka, and a relay between them that can be started, stopped and killed.
type bench struct {
	t       *testing.T
	db      pgtest.Database
	all     *pgxpool.Pool // as superuser
	cluster *kfake.Cluster
	topic   *kgo.Client
	cfg     Config
	log     *lines
	marked  int64 // where the WAL stood before the last commit
}

func setup(t *testing.T, opts ...kfake.Opt) *bench {
	t.Helper()
	cluster, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(partitions, topic)}, opts...)...)
	require.NoError(t, err)
	b := &bench{t: t, db: pgtest.New(t), cluster: cluster, log: &lines{}}
	t.Cleanup(func() { b.cluster.Close() })
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(b.log.String())
		}
	})
	b.all = b.db.Pool(t, "")
	b.topic, err = kgo.NewClient(append(kafka.Config{Brokers: cluster.ListenAddrs()}.Options(), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(50*time.Millisecond))...)
	require.NoError(t, err)
	t.Cleanup(b.topic.Close)

	b.cfg = defaults()
	b.cfg.ListenAddr = "127.0.0.1:0"
	b.cfg.ShutdownTimeout = 10 * time.Second
	b.cfg.Replication.DatabaseURL = b.db.RoleDSN(migrations.RoleCDC)
	b.cfg.Replication.Slot = "relay_" + b.db.Name // slots belong to the server, not to the database
	b.cfg.Replication.Publication = migrations.Publication
	b.cfg.Kafka.Brokers = cluster.ListenAddrs()
	b.cfg.Kafka.Topic = topic
	b.cfg.Compression = "lz4"
	b.cfg.MaxRecordBytes = 1_000_000
	b.cfg.MaxInFlightRecords = 10_000
	b.cfg.MaxInFlightBytes = 64 << 20
	b.cfg.Heartbeat = 30 * time.Second
	b.cfg.MaxLagBytes = 1 << 30
	t.Cleanup(func() { // a database with a slot cannot be dropped
		require.Eventually(t, func() bool {
			_, err := b.all.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", b.cfg.Replication.Slot)
			return err == nil
		}, patient, often)
	})
	return b
}

// running is a relay that runs.
type running struct {
	b    *bench
	addr string
	stop func() // as SIGTERM does
}

func (b *bench) start() *running {
	b.t.Helper()
	require.NoError(b.t, b.cfg.Validate())
	ctx, cancel := context.WithCancel(b.t.Context())
	addr := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		done <- serve(ctx, b.cfg, logging.New(b.log, slog.LevelDebug, "cdc-relay"), func(at string) { addr <- at })
	}()
	r := &running{b: b, stop: sync.OnceFunc(func() {
		cancel()
		require.NoError(b.t, <-done)
	})}
	b.t.Cleanup(r.stop)
	select {
	case r.addr = <-addr:
	case err := <-done:
		require.NoError(b.t, err)
	}
	return r
}

// get returns the status and body of a path.
func (r *running) get(path string) (int, string) {
	request, err := http.NewRequestWithContext(r.b.t.Context(), http.MethodGet, "http://"+r.addr+path, nil)
	require.NoError(r.b.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(r.b.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(r.b.t, err)
	return response.StatusCode, string(body)
}

func (r *running) awaitReady() {
	r.b.t.Helper()
	require.Eventually(r.b.t, func() bool { status, _ := r.get("/readyz"); return status == http.StatusOK }, patient, often)
}

// awaitUnready waits until the relay says that it is not, for a reason that contains text.
func (r *running) awaitUnready(text string) {
	r.b.t.Helper()
	require.Eventually(r.b.t, func() bool {
		status, body := r.get("/readyz")
		return status == http.StatusServiceUnavailable && strings.Contains(body, text)
	}, patient, often)
}

func (r *running) metric(name string) float64 {
	r.b.t.Helper()
	_, body := r.get("/metrics")
	for line := range strings.Lines(body) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			var value float64
			_, err := fmt.Sscan(rest, &value)
			require.NoError(r.b.t, err)
			return value
		}
	}
	require.Failf(r.b.t, "no metric", "%s", name)
	return 0
}

// pay commits n payments in transactions of their own and returns the ids of their events.
func (b *bench) pay(n int) []uuid.UUID {
	b.t.Helper()
	if n > 1 {
		_, err := b.all.Exec(b.t.Context(), `do $$ begin for i in 1..`+fmt.Sprint(n-1)+` loop
			insert into payments (merchant_id, amount, currency, status) values ('merchant-' || i % 5, i, 'USD', 'succeeded');
			commit; end loop; end $$`)
		require.NoError(b.t, err)
	}
	b.payFor("merchant-1")
	return b.committed()
}

// committed are the ids of all events.
func (b *bench) committed() []uuid.UUID {
	rows, err := b.all.Query(b.t.Context(), "select id from domain_events order by txid, sequence")
	require.NoError(b.t, err)
	defer rows.Close()
	var ids []uuid.UUID
	for rows.Next() {
		var id [16]byte
		require.NoError(b.t, rows.Scan(&id))
		ids = append(ids, id)
	}
	require.NoError(b.t, rows.Err())
	return ids
}

// awaitRecords reads the topic until it has every id, and returns what else it saw on the way.
func (b *bench) awaitRecords(ids []uuid.UUID) (records []*kgo.Record, copies map[uuid.UUID]int) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), patient)
	defer cancel()
	copies = map[uuid.UUID]int{}
	missing := map[uuid.UUID]bool{}
	for _, id := range ids {
		missing[id] = true
	}
	for len(missing) > 0 {
		fetches := b.topic.PollFetches(ctx)
		require.NoError(b.t, ctx.Err(), "%d records are missing", len(missing))
		fetches.EachRecord(func(record *kgo.Record) {
			ref, err := event.DecodeRecord(record.Value)
			require.NoError(b.t, err)
			require.Equal(b.t, ref.MerchantID, string(record.Key))
			delete(missing, ref.ID)
			copies[ref.ID]++
			records = append(records, record)
		})
	}
	return records, copies
}

// confirmed is the slot's position as the server knows it, behind an arbitrary one.
func (b *bench) confirmed() int64 {
	b.t.Helper()
	var lsn int64
	require.NoError(b.t, b.all.QueryRow(b.t.Context(),
		"select coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0)::bigint from pg_replication_slots where slot_name = $1", b.cfg.Replication.Slot).Scan(&lsn))
	return lsn
}

func (b *bench) written() int64 {
	b.t.Helper()
	var lsn int64
	require.NoError(b.t, b.all.QueryRow(b.t.Context(), "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint").Scan(&lsn))
	return lsn
}

// awaitConfirmed waits until the server knows that the last commit is safe.
func (b *bench) awaitConfirmed() {
	b.t.Helper()
	require.Eventually(b.t, func() bool { return b.confirmed() > b.marked }, patient, often)
}

// lines is a log that tests look into.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func TestEveryCommittedEventReachesTheTopicInOrderAndIsConfirmed(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.start()
	r.awaitReady()
	ids := b.pay(50)
	records, copies := b.awaitRecords(ids)
	require.Len(t, copies, 50)
	require.Len(t, records, 50, "nothing broke, so nothing came twice")
	b.awaitConfirmed()

	homes := map[string]int32{}
	for _, record := range records {
		var row map[string]any
		require.NoError(t, json.Unmarshal(record.Value, &row))
		require.Len(t, row, 11, "every column of domain_events is there")
		require.IsType(t, map[string]any{}, row["payload"])
		require.Regexp(t, `^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$`, row["created_at"])
		if last, ok := homes[string(record.Key)]; ok {
			require.Equal(t, last, record.Partition, "a merchant's records share a partition")
		}
		homes[string(record.Key)] = record.Partition
	}
	require.Equal(t, 50.0, r.metric("hookline_relay_records_total"))
	require.Positive(t, r.metric("hookline_relay_confirmed_lsn"))
	require.Zero(t, r.metric("hookline_relay_lag_seconds"))

	// What rolls back leaves no record; a stop confirms what is there, so that the next start sends only the rest.
	r.stop()
	again := b.start()
	again.awaitReady()
	_, err := b.all.Exec(t.Context(), "begin; insert into payments (merchant_id, amount, currency, status) values ('m', 1, 'USD', 'failed'); rollback")
	require.NoError(t, err)
	ids = b.pay(1)
	records, _ = b.awaitRecords(ids[50:])
	require.Len(t, records, 1)
}

func TestATransactionOfManyRowsIsRelayedWhole(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.MaxInFlightRecords = 100 // far fewer than its rows
	b.start().awaitReady()
	b.marked = b.written()
	_, err := b.all.Exec(t.Context(), "insert into payments (merchant_id, amount, currency, status) select 'm' || i % 7, i, 'USD', 'succeeded' from generate_series(1, 3000) i")
	require.NoError(t, err)
	records, _ := b.awaitRecords(b.committed())
	require.Len(t, records, 3000)
	b.awaitConfirmed()
}

func TestAColumnAddedByAMigrationAppears(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.start().awaitReady()
	b.awaitRecords(b.pay(1))
	_, err := b.all.Exec(t.Context(), "alter table domain_events add column note text default 'new'")
	require.NoError(t, err)
	records, _ := b.awaitRecords(b.pay(1)[1:])
	require.Contains(t, string(records[len(records)-1].Value), `"merchant_id":"merchant-1","note":"new","object_id":`)
}

func TestWhatCommitsWhileTheRelayIsDownArrives(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.start()
	r.awaitReady()
	r.stop()
	ids := b.pay(20)
	b.start().awaitReady()
	records, _ := b.awaitRecords(ids)
	require.Len(t, records, 20)
}

// merchantOf returns a merchant whose records go to the partition, which the client's own partitioner tells.
func merchantOf(t *testing.T, partition int) string {
	t.Helper()
	partitioner := kgo.StickyKeyPartitioner(nil).ForTopic(topic)
	for i := range 1000 {
		merchant := fmt.Sprintf("m%d", i)
		if partitioner.Partition(&kgo.Record{Key: []byte(merchant)}, partitions) == partition {
			return merchant
		}
	}
	require.Fail(t, "no merchant for the partition")
	return ""
}

// payFor commits one payment of the merchant and returns its event's id.
func (b *bench) payFor(merchant string) uuid.UUID {
	b.t.Helper()
	b.marked = b.written()
	_, err := b.all.Exec(b.t.Context(), "insert into payments (merchant_id, amount, currency, status) values ($1, 1, 'USD', 'succeeded')", merchant)
	require.NoError(b.t, err)
	ids := b.committed()
	return ids[len(ids)-1]
}

func TestNothingIsConfirmedBeyondARecordThatKafkaHasNotAcknowledged(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.ShutdownTimeout = time.Second // the drain will wait in vain
	r := b.start()
	r.awaitReady()
	refusal := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Topic: topic, Partitions: []int32{0}, Err: kerr.NotEnoughReplicas, Count: -1})
	first := b.payFor(merchantOf(t, 0))
	second := b.payFor(merchantOf(t, 1))
	b.awaitRecords([]uuid.UUID{second})
	require.Eventually(t, func() bool { return r.metric("hookline_relay_records_total") == 1 }, patient, often)
	require.Positive(t, r.metric("hookline_relay_lag_seconds"))
	r.stop()
	require.Contains(t, b.log.String(), "records were not acknowledged in time")

	refusal.Remove()
	b.start().awaitReady()
	_, copies := b.awaitRecords([]uuid.UUID{first, second})
	require.Equal(t, 1, copies[first], "the server sent it again, as nothing from it on was confirmed")
	b.awaitConfirmed()
}

func TestWhatWasProducedButNotConfirmedIsProducedAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.ShutdownTimeout = time.Second
	r := b.start()
	r.awaitReady()
	// The broker writes the records, and its answer is lost: for the relay it is as if it died here.
	lost := b.cluster.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Err: kerr.RequestTimedOut, Count: -1})
	var ids []uuid.UUID
	for partition := range partitions { // the next record of a partition would wait for the answer
		ids = append(ids, b.payFor(merchantOf(t, partition)))
	}
	b.awaitRecords(ids)
	r.stop()

	lost.Remove()
	b.start().awaitReady()
	_, again := b.awaitRecords(ids)
	require.Len(t, again, partitions, "every one again, none missing")
	b.awaitConfirmed()
}

func TestKafkaDownWhileRowsCommit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := setup(t, kfake.DataDir(dir), kfake.SyncWrites())
	b.cfg.MaxInFlightRecords = 10 // so that the stream stops being read
	_, err := b.all.Exec(t.Context(), fmt.Sprintf("alter role %s in database %s set wal_sender_timeout = '1s'", migrations.RoleCDC, b.db.Name))
	require.NoError(t, err)
	r := b.start()
	r.awaitReady()
	b.awaitRecords(b.pay(3))
	_, port, err := net.SplitHostPort(b.cluster.ListenAddrs()[0])
	require.NoError(t, err)
	b.cluster.Close()
	ids := b.pay(200)[3:]
	r.awaitUnready("Kafka")

	// The stream is held up, but the server hears of us: for twice its time-out it keeps the very connection.
	const walsender = "select pid, reply_time > now() - interval '1s', now() - $2::timestamptz > interval '2s' from pg_stat_replication where pid = (select active_pid from pg_replication_slots where slot_name = $1)"
	var pid, held int
	down := time.Now()
	require.Eventually(t, func() bool {
		var fresh, long bool
		require.NoError(t, b.all.QueryRow(t.Context(), walsender, b.cfg.Replication.Slot, down).Scan(&pid, &fresh, &long))
		if held == 0 {
			held = pid
		}
		require.Equal(t, held, pid, "the connection was dropped")
		return fresh && long
	}, patient, often)

	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.Ports(number), kfake.DataDir(dir), kfake.SyncWrites())
		if err == nil {
			b.cluster = cluster
		}
		return err == nil
	}, patient, often)
	records, _ := b.awaitRecords(ids)
	require.Len(t, records, 200)
	r.awaitReady()
	b.awaitConfirmed()
	require.Positive(t, r.metric(`hookline_relay_reconnects_total{peer="kafka"}`))
	require.Zero(t, r.metric(`hookline_relay_reconnects_total{peer="postgres"}`))
}

func TestATopicThatIsMadeLate(t *testing.T) {
	t.Parallel()
	b := setup(t)
	b.cfg.Kafka.Topic = "late"
	r := b.start()
	r.awaitUnready("UNKNOWN_TOPIC_OR_PARTITION")
	b.pay(3)
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Kafka.Brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	require.NoError(t, kafka.EnsureTopic(t.Context(), client, "late", 1, 1, 0))
	r.awaitReady()
	require.Eventually(t, func() bool { return r.metric("hookline_relay_records_total") == 3 }, patient, often)
}

func TestARowTooLargeBecomesAStubAndTheStreamMovesOn(t *testing.T) {
	t.Parallel()
	b := setup(t)
	// One that the relay measures, and one that only the broker does.
	limit := "300000"
	client, err := kgo.NewClient(kgo.SeedBrokers(b.cfg.Kafka.Brokers...))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	_, err = kadm.NewClient(client).AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: "max.message.bytes", Value: &limit}}, topic)
	require.NoError(t, err)
	b.cfg.Compression = "none"
	r := b.start()
	r.awaitReady()
	for _, size := range []int{2_000_000, 500_000, 10} {
		b.marked = b.written()
		_, err := b.all.Exec(t.Context(), "select append_event('large.happened', 'm', jsonb_build_object('text', repeat('x', $1)), null)", size)
		require.NoError(t, err)
	}
	records, _ := b.awaitRecords(b.committed())
	stubs := 0
	for _, record := range records {
		var row struct {
			Payload map[string]string `json:"payload"`
			Omitted bool              `json:"payload_omitted"`
		}
		require.NoError(t, json.Unmarshal(record.Value, &row))
		if row.Omitted {
			require.Nil(t, row.Payload)
			stubs++
		}
	}
	require.Equal(t, 2, stubs)
	require.Equal(t, 2.0, r.metric("hookline_relay_stubs_total"))
	b.awaitConfirmed()
	require.Zero(t, r.metric(`hookline_relay_reconnects_total{peer="kafka"}`))
}

func TestAnIdleTableDoesNotPinWAL(t *testing.T) {
	t.Parallel()
	b, other := setup(t), pgtest.New(t).Pool(t, "")
	r := b.start()
	r.awaitReady()
	for _, pool := range []*pgxpool.Pool{b.all, other} { // beside the table, and in another database
		before := b.written()
		_, err := pool.Exec(t.Context(), "create table junk as select repeat('x', 1000) from generate_series(1, 2000)")
		require.NoError(t, err)
		b.marked = before + 1_000_000 // what is less than a confirmation is worth may stay
		require.Greater(t, b.written(), before+2_100_000)
		b.awaitConfirmed()
	}
	require.Zero(t, r.metric("hookline_relay_records_total"))
}

func TestABrokenConnectionToPostgreSQLIsMadeAgain(t *testing.T) {
	t.Parallel()
	b := setup(t)
	r := b.start()
	r.awaitReady()
	b.awaitRecords(b.pay(5))
	_, err := b.all.Exec(t.Context(), "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1", b.cfg.Replication.Slot)
	require.NoError(t, err)
	b.awaitRecords(b.pay(5)[5:])
	require.Positive(t, r.metric(`hookline_relay_reconnects_total{peer="postgres"}`))
	r.awaitReady()
}

func TestASecondRelayWaitsForTheSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	first := b.start()
	first.awaitReady()
	second := b.start()
	second.awaitUnready("is active for PID")
	first.stop()
	second.awaitReady()
	b.awaitRecords(b.pay(3))
}

func TestThePublicationMustComeBeforeTheSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	_, err := b.all.Exec(t.Context(), "drop publication hookline_events")
	require.NoError(t, err)
	r := b.start()
	r.awaitUnready("run the migrations")
	var slots int
	require.NoError(t, b.all.QueryRow(t.Context(), "select count(*) from pg_replication_slots where slot_name = $1", b.cfg.Replication.Slot).Scan(&slots))
	require.Zero(t, slots)
	_, err = b.all.Exec(t.Context(), "create publication hookline_events for table domain_events with (publish = 'insert')")
	require.NoError(t, err)
	r.awaitReady()
	b.awaitRecords(b.pay(2))
}

func TestTheFormOfARecordDoesNotDependOnTheDatabasesSettings(t *testing.T) {
	t.Parallel()
	b := setup(t)
	for _, setting := range []string{"datestyle = 'SQL, DMY'", "timezone = 'Asia/Kolkata'", "bytea_output = 'escape'", "extra_float_digits = 0", "statement_timeout = '1s'"} {
		_, err := b.all.Exec(t.Context(), fmt.Sprintf("alter role %s in database %s set %s", migrations.RoleCDC, b.db.Name, setting))
		require.NoError(t, err)
	}
	_, err := b.all.Exec(t.Context(), `alter table domain_events add column f float8 default 0.1::float8 + 0.2::float8, add column b bytea default '\xff00',
		add column n numeric default 1.10, add column ts timestamp default '2026-02-23 12:00:00.5', add column a text[] default '{a,NULL,"b c"}', add column t bool default true`)
	require.NoError(t, err)
	b.start().awaitReady()
	records, _ := b.awaitRecords(b.pay(1))
	var row map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(records[0].Value, &row))
	require.Regexp(t, `^"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"$`, string(row["created_at"]))
	for column, want := range map[string]string{
		"f": `0.30000000000000004`, "b": `"\\xff00"`, "n": `"1.10"`, "ts": `"2026-02-23T12:00:00.500000"`, "a": `["a",null,"b c"]`, "t": `true`,
	} {
		require.Equal(t, want, string(row[column]), column)
	}
}
