package dispatch

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/delivery"
)

type dispatchMetrics struct {
	planned     prometheus.Counter
	outcomes    *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	dead        *prometheus.CounterVec
	paced       *prometheus.CounterVec
	latency     prometheus.Histogram
	batchEvents prometheus.Histogram
	stepSeconds prometheus.Histogram
	commitToAck *prometheus.HistogramVec
	replaced    prometheus.Counter
	circuits    *prometheus.CounterVec
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
		paced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_paced_total", Help: "Deliveries at endpoints with a rate limit whose turn it was not, by why.",
		}, []string{"why"}),
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
		commitToAck: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hookline_commit_to_ack_seconds",
			Help:    "From the event's creation in the payment's transaction, by the database's clock, to the endpoint's 2xx, by the worker's.",
			Buckets: []float64{.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600, 86400},
		}, []string{"attempt"}),
		replaced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_svix_replacements_total", Help: "Events handed over to Svix by a second message, as the first seemed lost: had it not been, the merchant gets them twice.",
		}),
	}
	m.circuits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hookline_circuit_changes_total", Help: "Circuits of endpoints that this process opened, after failures, or closed, after a probe.",
	}, []string{"to"})
	for _, to := range []delivery.Circuit{delivery.CircuitOpen, delivery.CircuitClosed} { // alarms need the 0 before the first one
		m.circuits.WithLabelValues(string(to))
	}
	for _, attempt := range []string{firstAttempt, laterAttempt} {
		m.commitToAck.WithLabelValues(attempt)
	}
	for _, why := range []string{pacedNoSlot, pacedLate, pacedParked} {
		m.paced.WithLabelValues(why)
	}
	registry.MustRegister(m.planned, m.outcomes, m.attempts, m.dead, m.paced, m.latency, m.batchEvents, m.stepSeconds, m.commitToAck, m.replaced,
		m.circuits)
	return m
}

// Values of the label attempt.
const (
	firstAttempt = "first"
	laterAttempt = "later"
)

// acknowledged counts an endpoint's 2xx. The event's time is text on its way through the pipeline; one that cannot be read
// is nobody's latency.
func (m *dispatchMetrics) acknowledged(claim delivery.Claim, occurredAt string) {
	occurred, err := time.Parse(time.RFC3339Nano, occurredAt)
	if err != nil {
		return
	}
	attempt := laterAttempt
	if claim.Number == 1 && claim.Generation == 0 { // the first attempt of a replay is as late as the replay
		attempt = firstAttempt
	}
	m.commitToAck.WithLabelValues(attempt).Observe(max(0, time.Since(occurred).Seconds()))
}

func (m *dispatchMetrics) count(outcome delivery.Outcome) {
	state := outcome.State
	if state == delivery.Unmoved {
		state = delivery.Retrying
	}
	m.outcomes.WithLabelValues(string(state), string(outcome.Cause)).Inc()
}
