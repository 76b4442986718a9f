package dispatch

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/delivery"
)

type dispatchMetrics struct {
	planned     prometheus.Counter
	outcomes    *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	dead        *prometheus.CounterVec
	latency     prometheus.Histogram
	batchEvents prometheus.Histogram
	stepSeconds prometheus.Histogram
}

func newMetrics(registry prometheus.Registerer) *dispatchMetrics {
	m := &dispatchMetrics{
		planned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_events_planned_total", Help: "Events whose plan this process wrote.",
		}),
		outcomes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_delivery_outcomes_total", Help: "Outcomes of deliveries, by the state they lead to and the cause.",
		}, []string{"state", "cause"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_attempts_total", Help: "Requests to endpoints, by how they ended.",
		}, []string{"cause"}),
		dead: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_dead_records_total", Help: "Records that cannot become a delivery, by reason.",
		}, []string{"reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hookline_attempt_duration_seconds", Help: "From the start of an attempt to the last byte read of its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		batchEvents: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hookline_batch_events", Help: "Events in a batch.", Buckets: []float64{1, 2, 4, 8, 16, 32, 64},
		}),
		stepSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "hookline_step_wait_seconds", Help: "How long a step waited for its posts.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 1.5},
		}),
	}
	registry.MustRegister(m.planned, m.outcomes, m.attempts, m.dead, m.latency, m.batchEvents, m.stepSeconds)
	return m
}

func (m *dispatchMetrics) count(outcome delivery.Outcome) {
	state := outcome.State
	if state == delivery.Unmoved {
		state = delivery.Retrying
	}
	m.outcomes.WithLabelValues(string(state), string(outcome.Cause)).Inc()
}
