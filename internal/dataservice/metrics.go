package dataservice

import (
	"net/http"
	"strconv"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/hookline/hookline/internal/event"
)

type metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	payloads *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) metrics {
	factory := promauto.With(registry)
	m := metrics{
		requests: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_data_requests_total",
			Help: "Requests answered, by route and status code.",
		}, []string{"route", "status"}),
		duration: factory.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hookline_data_request_duration_seconds",
			Help:    "Time to answer a request, by route. For /payloads it includes the wait for rows that their records outran.",
			Buckets: []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .128, .25, .5, 1, 2, 5},
		}, []string{"route"}),
		payloads: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_data_payloads_total",
			Help: "Events asked for by /payloads, by what was told about them.",
		}, []string{"visibility"}),
	}
	for _, v := range []event.Visibility{event.Visible, event.NotVisible, event.Missing} {
		m.payloads.WithLabelValues(string(v)) // an alert on "missing" needs the 0 before the first one
	}
	return m
}

func (m metrics) measure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		answer := middleware.NewWrapResponseWriter(w, r.ProtoMajor)
		next.ServeHTTP(answer, r)
		route := chi.RouteContext(r.Context()).RoutePattern()
		m.requests.WithLabelValues(route, strconv.Itoa(answer.Status())).Inc()
		m.duration.WithLabelValues(route).Observe(time.Since(start).Seconds())
	})
}
