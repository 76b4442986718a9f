package paymentsapi

import "github.com/prometheus/client_golang/prometheus"

// The names of the metrics.
const (
	metricRequests  = "hookline_api_requests_total"
	metricDuration  = "hookline_api_request_duration_seconds"
	metricCallbacks = "hookline_callbacks_received_total"
	metricWaits     = "hookline_api_turn_waits_total"
)

type metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	callbacks *prometheus.CounterVec
	waits     prometheus.Counter
}

func newMetrics(registry *prometheus.Registry, providers []string) metrics {
	m := metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricRequests, Help: "Requests answered, by route, method and status.",
		}, []string{"route", "method", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: metricDuration, Help: "Seconds from a request's headers to its answer, by route.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10},
		}, []string{"route"}),
		callbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: metricCallbacks, Help: "Callbacks of payment providers, by provider and what became of them at the door.",
		}, []string{"provider", "outcome"}),
		waits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: metricWaits, Help: "Creations that waited for a turn, as their merchant creates far more than the others: see MERCHANT_RATE.",
		}),
	}
	for _, provider := range providers { // a callback for anybody else counts nowhere: its name is the sender's choice
		for _, each := range outcomes() {
			m.callbacks.WithLabelValues(provider, string(each))
		}
	}
	registry.MustRegister(m.requests, m.duration, m.callbacks, m.waits)
	return m
}
