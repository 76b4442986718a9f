package intake

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/event"
)

type intakeMetrics struct {
	records  prometheus.Counter
	batches  prometheus.Counter
	failures prometheus.Counter
	waiting  prometheus.Gauge
	inFlight prometheus.Gauge
	seconds  prometheus.Histogram
	behind   *prometheus.GaugeVec
}

func newMetrics(registry prometheus.Registerer) *intakeMetrics {
	m := &intakeMetrics{
		records:  prometheus.NewCounter(prometheus.CounterOpts{Name: "hookline_intake_records_total", Help: "Records read from Kafka."}),
		batches:  prometheus.NewCounter(prometheus.CounterOpts{Name: "hookline_intake_batches_total", Help: "Batches whose invocation has ended."}),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "hookline_intake_call_failures_total", Help: "Calls of the dispatcher that had to be made again."}),
		waiting:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "hookline_intake_waiting_events", Help: "Events read and not yet in a batch."}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "hookline_intake_batches_in_flight", Help: "Batches under way."}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hookline_intake_batch_duration_seconds", Help: "From the start of a batch to the end of its invocation.",
			Buckets: []float64{.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 30},
		}),
		behind: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hookline_intake_lag_records", Help: "Records between the last one read and the partition's end.",
		}, []string{"partition"}),
	}
	registry.MustRegister(m.records, m.batches, m.failures, m.waiting, m.inFlight, m.seconds, m.behind)
	return m
}

func (m *intakeMetrics) lag(name event.Partition, record event.Record) {
	m.behind.WithLabelValues(strconv.Itoa(int(name.ID))).Set(float64(max(0, record.HighWatermark-record.Offset-1)))
}

func (m *intakeMetrics) forget(name event.Partition) {
	m.behind.DeleteLabelValues(strconv.Itoa(int(name.ID)))
}
