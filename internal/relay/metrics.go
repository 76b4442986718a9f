package relay

import (
	"math"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are what a relay counts.
type Metrics struct {
	registry    prometheus.Registerer
	records     prometheus.Counter
	stubs       prometheus.Counter
	lagBytes    prometheus.Gauge
	retained    prometheus.Gauge
	safe        prometheus.Gauge
	gaps        prometheus.Counter
	confirmed   prometheus.Gauge
	reconnects  *prometheus.CounterVec
	postgresDue prometheus.Counter
	kafkaDue    prometheus.Counter
}

// NewMetrics registers the relay's metrics.
func NewMetrics(registry prometheus.Registerer) *Metrics {
	m := &Metrics{
		registry: registry,
		records: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_relay_records_total", Help: "Records that Kafka has acknowledged.",
		}),
		stubs: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_relay_stubs_total", Help: "Records that were too large for the topic and went without their payload.",
		}),
		lagBytes: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_relay_lag_bytes", Help: "WAL between where the server writes and the slot's confirmed position, at the last look.",
		}),
		retained: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_relay_retained_wal_bytes", Help: "WAL that the slot keeps the server from removing, at the last look.",
		}),
		safe: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_relay_safe_wal_bytes", Help: "WAL that can still be written before the server may invalidate the slot, at the last look; +Inf without max_slot_wal_keep_size.",
		}),
		gaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_relay_gaps_total", Help: "Gaps declared: stretches of the WAL that the slot missed, because it was invalidated, dropped or made anew. See public.relay_gaps.",
		}),
		confirmed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_relay_confirmed_lsn", Help: "The position confirmed last, in bytes; 0 before the first. It can go back after a failover.",
		}),
		reconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_relay_reconnects_total", Help: "Connections that failed and were, or will be, tried again, by peer.",
		}, []string{"peer"}),
	}
	m.safe.Set(math.Inf(1)) // until it is known: 0 would be an alarm
	m.postgresDue = m.reconnects.WithLabelValues("postgres")
	m.kafkaDue = m.reconnects.WithLabelValues("kafka")
	registry.MustRegister(m.records, m.stubs, m.lagBytes, m.retained, m.safe, m.gaps, m.confirmed, m.reconnects)
	return m
}

// KafkaConnectFailed counts an attempt to connect to a broker that failed.
func (m *Metrics) KafkaConnectFailed() { m.kafkaDue.Inc() }

// GapDeclared counts a gap.
func (m *Metrics) GapDeclared() { m.gaps.Inc() }

// observeLag registers what is computed when it is asked for.
func (m *Metrics) observeLag(seconds func() float64) {
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hookline_relay_lag_seconds",
		Help: "Age of the oldest commit that is not confirmed; while there is no stream, at least the time since there was one.",
	}, seconds))
}
