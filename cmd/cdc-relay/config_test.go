package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/platform/config"
)

func TestSettingsComeFromTheEnvironment(t *testing.T) {
	t.Parallel()
	const url = "DATABASE_URL=postgres://u:p@127.0.0.1/d"
	cfg, err := config.Load(defaults(), []string{url})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:3004", cfg.ListenAddr)
	require.Equal(t, "hookline_relay", cfg.Replication.Slot)
	require.Zero(t, cfg.Linger)

	cfg, err = config.Load(defaults(), []string{url, "LISTEN_ADDR=127.0.0.1:3999", "KAFKA_BROKERS=a:1,b:2", "RELAY_LINGER=5ms"})
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:3999", cfg.ListenAddr)
	require.Equal(t, []string{"a:1", "b:2"}, cfg.Kafka.Brokers)

	for _, bad := range []string{
		"DATABASE_URL=x", "SLOT_NAME=A", "PUBLICATION=a'b", "COMPRESSION=brotli", "RELAY_LINGER=1m", "MAX_RECORD_BYTES=100",
		"MAX_IN_FLIGHT_RECORDS=0", "MAX_IN_FLIGHT_BYTES=0", "HEARTBEAT=-1s", "MAX_LAG_BYTES=-1", "LISTEN_ADDR=0.0.0.0:1", "DATABASE_URL=",
	} {
		_, err := config.Load(defaults(), []string{url, bad})
		name, _, _ := strings.Cut(bad, "=")
		require.ErrorContains(t, err, name, bad)
	}
}
