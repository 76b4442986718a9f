package conformance_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/config"
	"github.com/hookline/hookline/internal/postgres/replication"
	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

const table = "public.domain_events"

// settings is what of sequin.yaml the pipeline rests on.
type settings struct {
	Databases []struct {
		Name        string
		Slot        struct{ Name string }
		Publication struct{ Name string }
	}
	Functions []struct{ Name, Type, Path string }
	Sinks     []struct {
		Name, Database, Status, Transform, Filter, Routing, Enrichment string
		Source                                                         map[string][]string
		Tables                                                         []struct {
			Name    string
			GroupBy []string `yaml:"group_column_names"`
		}
		Actions         []string
		MessageGrouping *bool  `yaml:"message_grouping"`
		MaxRetryCount   *int   `yaml:"max_retry_count"`
		Shedding        string `yaml:"load_shedding_policy"`
		BatchSize       int    `yaml:"batch_size"`
		Destination     struct{ Type, Topic, Compression string }
	}
}

func read(t *testing.T) settings {
	t.Helper()
	text, err := os.ReadFile("../../sequin.yaml")
	require.NoError(t, err)
	var s settings
	require.NoError(t, yaml.Unmarshal(text, &s))
	return s
}

func TestSequinIsToldToWriteTheRecordsThatTheWorkerReads(t *testing.T) {
	t.Parallel()
	s := read(t)
	require.Len(t, s.Databases, 1)
	require.Len(t, s.Sinks, 1)
	sink := s.Sinks[0]
	require.Equal(t, s.Databases[0].Name, sink.Database)
	require.Contains(t, []string{"", "active"}, sink.Status)

	require.Equal(t, map[string][]string{"include_tables": {table}}, sink.Source)
	require.Len(t, sink.Tables, 1)
	require.Equal(t, table, sink.Tables[0].Name)
	require.Equal(t, []string{"merchant_id"}, sink.Tables[0].GroupBy, "the group is the record's key")
	require.True(t, sink.MessageGrouping == nil || *sink.MessageGrouping)
	require.Equal(t, []string{"insert"}, sink.Actions, "a row that changes is no event")

	transform := ""
	for _, f := range s.Functions {
		if f.Name == sink.Transform && f.Type == "path" {
			transform = f.Path
		}
	}
	require.Equal(t, "record", transform)
	for _, other := range []string{sink.Filter, sink.Routing, sink.Enrichment} {
		require.Contains(t, []string{"", "none"}, other)
	}

	// What would drop events, or send none.
	require.Nil(t, sink.MaxRetryCount)
	require.Contains(t, []string{"", "pause_on_full"}, sink.Shedding)
	require.Positive(t, sink.BatchSize, "left out it is 1")
	require.NotEmpty(t, sink.Destination.Compression, "left out it fails every publish")

	var defaults struct{ Kafka kafka.Config }
	defaults, err := config.Load(defaults, nil)
	require.NoError(t, err)
	require.Equal(t, "kafka", sink.Destination.Type)
	require.Equal(t, defaults.Kafka.Topic, sink.Destination.Topic)
}

func TestSequinIsToldTheNamesThatAreThere(t *testing.T) {
	t.Parallel()
	database := read(t).Databases[0]
	require.Equal(t, migrations.Publication, database.Publication.Name)

	defaults, err := config.Load(replication.Config{}, []string{"DATABASE_URL=postgres://localhost/payments"})
	require.NoError(t, err)
	require.NotEqual(t, defaults.Slot, database.Slot.Name, "two readers of one slot take each other's events")

	var published string
	require.NoError(t, pgtest.New(t).Pool(t, "").QueryRow(t.Context(), `
		select concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables, string_agg(schemaname || '.' || tablename, ','))
		  from pg_publication left join pg_publication_tables using (pubname) where pubname = $1 group by pg_publication.oid`,
		database.Publication.Name).Scan(&published))
	require.Equal(t, "t f f f t f "+table, published, "inserts only, of the one table")
}

// Not parallel: doctor judges the slots of the whole server.
func TestDoctorKnowsTheSlotThatSequinIsTold(t *testing.T) {
	slot := read(t).Databases[0].Slot.Name
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	_, err := pool.Exec(t.Context(), "select pg_create_logical_replication_slot($1, 'pgoutput')", slot)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot($1)", slot)
		require.NoError(t, err)
	})
	checks, err := stack.Doctor(t.Context(), stack.Options{Dir: t.TempDir(), Environ: append(os.Environ(), "DATABASE_URL="+db.DSN())})
	require.NoError(t, err)
	for _, check := range checks {
		if check.Name == "replication slots" {
			require.False(t, check.OK)
			require.True(t, strings.HasPrefix(check.Detail, slot+", which nobody reads, keeps "), check.Detail)
			return
		}
	}
	require.Fail(t, "doctor says nothing of the slots")
}
