package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

func TestMistakesOfTheOneShotsAreOneLine(t *testing.T) {
	t.Setenv(envDatabaseURL, "")
	t.Setenv(envWebhookSecret, "")
	for want, args := range map[string][]string{
		"--brokers is missing":                   {"topic"},
		"--name is empty":                        {"topic", "--brokers", "a:1", "--name", ""},
		"1 to 1,000 partitions, not 0":           {"topic", "--brokers", "a:1", "--partitions", "0"},
		"1 to 10 copies, not 11":                 {"topic", "--brokers", "a:1", "--copies", "11"},
		"kept for a minute at least, not 1s":     {"topic", "--brokers", "a:1", "--retention", "1s"},
		"--business or --name is missing":        {"slot", "--name", "x"},
		"want at most 63 lower-case letters":     {"slot", "--business", "postgres://a/b", "--name", "Sequin"},
		"DATABASE_URL: not a PostgreSQL address": {"slot", "--business", "postgres://u:hush@a:port/b", "--name", "x"},
		"--url is missing":                       {"seed"},
		"DATABASE_URL is not set":                {"seed", "--url", "http://simulator/"},
	} {
		got := hookline(t, args...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.NotContains(t, got.stderr, "hush")
	}
}

func TestTopicIsMadeOnceAsItIsAskedFor(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := listener.Addr().String()
	require.NoError(t, listener.Close())
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	go func() {
		var out bytes.Buffer
		ended <- run(ctx, []string{"kfake", "--listen", address, "--dir", filepath.Join(t.TempDir(), "kfake")}, &out, &out)
	}()
	// Not waited for: the verb tries until there is a broker.
	for _, partitions := range []string{"12", "3"} {
		got := hookline(t, "topic", "--brokers", address, "--name", "made", "--partitions", partitions, "--retention", "168h")
		require.Equal(t, result{stderr: "the topic made is there\n"}, got)
	}
	client, err := kgo.NewClient(kgo.SeedBrokers(address))
	require.NoError(t, err)
	defer client.Close()
	admin := kadm.NewClient(client)
	topics, err := admin.ListTopics(t.Context(), "made")
	require.NoError(t, err)
	require.Len(t, topics["made"].Partitions, 12, "one that exists is left as it is")
	configs, err := admin.DescribeTopicConfigs(t.Context(), "made")
	require.NoError(t, err)
	retention := ""
	for _, config := range configs[0].Configs {
		if config.Key == "retention.ms" {
			retention = config.MaybeValue()
		}
	}
	require.Equal(t, "604800000", retention)
	stop()
	require.Equal(t, exitOK, <-ended)
}

func TestSlotIsMadeByTheRoleThatReadsIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pool := db.Pool(t, "")
	name := "slot_" + db.Name
	t.Cleanup(func() {
		_, err := pool.Exec(context.WithoutCancel(t.Context()), "select pg_drop_replication_slot($1)", name)
		require.NoError(t, err)
	})
	for range 2 {
		got := hookline(t, "slot", "--business", db.RoleDSN(migrations.RoleCDC), "--name", name)
		require.Equal(t, exitOK, got.code, got.stderr)
		require.Contains(t, got.stderr, "the slot "+name+" is there\n")
	}
	var plugin, database string
	require.NoError(t, pool.QueryRow(t.Context(), "select plugin, database from pg_replication_slots where slot_name = $1", name).Scan(&plugin, &database))
	require.Equal(t, []string{"pgoutput", db.Name}, []string{plugin, database})
}

func TestSeedGivesTheDemoMerchantOneEndpointHoweverOftenItIsRun(t *testing.T) {
	db := pgtest.New(t)
	t.Setenv(envDatabaseURL, db.DSN())
	t.Setenv(envWebhookSecret, "whsec_"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("s"), 32)))
	t.Setenv("ENCRYPTION_KEYS", "test:"+base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), 32)))
	t.Setenv("ENDPOINT_ALLOW", "127.0.0.1:4001")
	type row struct{ Merchant, URL string }
	var first time.Time
	for range 2 {
		got := hookline(t, "seed", "--url", "http://127.0.0.1:4001/webhooks")
		require.Equal(t, exitOK, got.code, got.stderr)
		var found row
		var count int
		var updated time.Time
		require.NoError(t, db.Pool(t, "").QueryRow(t.Context(),
			"select min(merchant_id), min(url), count(*), max(updated_at) from delivery.endpoints").Scan(&found.Merchant, &found.URL, &count, &updated))
		require.Empty(t, cmp.Diff(row{stack.DemoMerchant, "http://127.0.0.1:4001/webhooks"}, found))
		require.Equal(t, 1, count)
		if first.IsZero() {
			first = updated
		}
		require.Equal(t, first, updated, "nothing changed, so nothing is written")
	}
	got := hookline(t, "seed", "--url", "http://127.0.0.1:4002/webhooks")
	require.Equal(t, exitFailed, got.code)
	require.Contains(t, got.stderr, "address_loopback", "what is not allowed is not seeded")
}
