package reconcile

import "github.com/prometheus/client_golang/prometheus"

type reconcileMetrics struct {
	leading     prometheus.Gauge
	looks       prometheus.Counter
	failures    *prometheus.CounterVec
	unplanned   prometheus.Gauge
	unaccounted prometheus.Gauge
	behind      prometheus.Gauge
	redriven    *prometheus.CounterVec
	xminAge     prometheus.Gauge
	settledAge  prometheus.Gauge
}

func newMetrics(registry prometheus.Registerer) *reconcileMetrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
	}
	m := &reconcileMetrics{
		leading:     gauge("hookline_reconciler_leading", "1 in the process that reconciles."),
		looks:       prometheus.NewCounter(prometheus.CounterOpts{Name: "hookline_reconciler_looks_total", Help: "Looks of the reconciler; standing still while it leads is an alarm."}),
		failures:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hookline_reconciler_failures_total", Help: "Parts of a look that failed."}, []string{"part"}),
		unplanned:   gauge("hookline_events_unplanned", "Committed events seen without a plan; most of them are on their way."),
		unaccounted: gauge("hookline_events_unaccounted", "Committed events that are visible, unplanned, unexplained and over-age: 0 is the promise."),
		behind:      gauge("hookline_reconciler_behind", "1 while a look ends before the feed does: what is beyond counts nowhere yet."),
		redriven:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hookline_reconciler_redriven_total", Help: "Events and deliveries that the reconciler drove, by reason."}, []string{"reason"}),
		xminAge:     gauge("hookline_feed_xmin_age_seconds", "How long one transaction of the business database has kept the feed's cursor from advancing past visible events."),
		settledAge:  gauge("hookline_settled_watermark_age_seconds", "Age of the oldest plan that still has a delivery under way."),
	}
	for _, reason := range []string{"overtaken", "over_age", "overdue", "owner_ended"} {
		m.redriven.WithLabelValues(reason)
	}
	registry.MustRegister(m.leading, m.looks, m.failures, m.unplanned, m.unaccounted, m.behind, m.redriven, m.xminAge, m.settledAge)
	return m
}

// stopLeading leaves nothing behind that another process says now.
func (m *reconcileMetrics) stopLeading() {
	for _, gauge := range []prometheus.Gauge{m.leading, m.unplanned, m.unaccounted, m.behind, m.xminAge, m.settledAge} {
		gauge.Set(0)
	}
}
