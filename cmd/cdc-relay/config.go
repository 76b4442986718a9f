package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/service"
	"github.com/hookline/hookline/internal/postgres/replication"
)

// Config are the settings of cdc-relay.
type Config struct {
	service.Common
	httpserver.Config
	Replication replication.Config
	Kafka       kafka.Config

	Linger             time.Duration `env:"RELAY_LINGER" envDefault:"0s" desc:"how long a record waits for others to share its batch; 5ms at 500 events/s halves Kafka's CPU for 0.8 ms of latency"`
	Compression        string        `env:"COMPRESSION" envDefault:"lz4" unit:"none, gzip, snappy, lz4 or zstd" desc:"the codec of the batches"`
	MaxRecordBytes     int32         `env:"MAX_RECORD_BYTES" envDefault:"1000000" unit:"bytes" desc:"the topic's max.message.bytes, or less; a larger row goes without its payload"`
	MaxInFlightRecords int           `env:"MAX_IN_FLIGHT_RECORDS" envDefault:"10000" desc:"how many records may wait for Kafka's acknowledgement before the stream is read no further"`
	MaxInFlightBytes   int           `env:"MAX_IN_FLIGHT_BYTES" envDefault:"67108864" unit:"bytes" desc:"the same in bytes"`
	Heartbeat          time.Duration `env:"HEARTBEAT" envDefault:"30s" desc:"how long the slot's position may stand still behind the WAL before a heartbeat is written to it; 0 means for ever"`
	MaxLagBytes        int64         `env:"MAX_LAG_BYTES" envDefault:"1073741824" unit:"bytes" desc:"how much WAL the slot's position may be behind before the relay is not ready: well below the server's max_slot_wal_keep_size, beyond which the slot is invalidated; 0 means any"`
}

func defaults() Config {
	return Config{Config: httpserver.Config{ListenAddr: "127.0.0.1:3004"}}
}

// recordOverhead is what a batch and a record cost around key and value: 61 bytes for the one, at most 21 for
// the other, and room for what a later version of the format adds.
const recordOverhead = 256

// Validate implements config's last word.
func (c *Config) Validate() error {
	errs := []error{c.Config.Validate(), c.Replication.Validate()}
	if _, err := kafka.ParseCompression(c.Compression); err != nil {
		errs = append(errs, fmt.Errorf("COMPRESSION: %w", err))
	}
	if c.Linger < 0 || c.Linger > time.Second {
		errs = append(errs, errors.New("RELAY_LINGER: want 0 to 1s"))
	}
	if c.MaxRecordBytes < 16<<10 || c.MaxRecordBytes > 1<<30 {
		errs = append(errs, errors.New("MAX_RECORD_BYTES: want 16384, which every stub fits into, to 1073741824"))
	}
	if c.MaxInFlightRecords < 1 {
		errs = append(errs, errors.New("MAX_IN_FLIGHT_RECORDS: want 1 or more"))
	}
	if c.MaxInFlightBytes < 1 {
		errs = append(errs, errors.New("MAX_IN_FLIGHT_BYTES: want 1 or more"))
	}
	if c.Heartbeat < 0 {
		errs = append(errs, errors.New("HEARTBEAT: want 0 or more"))
	}
	if c.MaxLagBytes < 0 {
		errs = append(errs, errors.New("MAX_LAG_BYTES: want 0 or more"))
	}
	if len(c.Kafka.Brokers) == 0 || c.Kafka.Topic == "" {
		errs = append(errs, errors.New("KAFKA_BROKERS and KAFKA_TOPIC: must not be empty"))
	}
	return errors.Join(errs...)
}
