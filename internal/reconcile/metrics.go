package reconcile

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/delivery"
)

type reconcileMetrics struct {
	leading     prometheus.Gauge
	looks       prometheus.Counter
	failures    *prometheus.CounterVec
	unplanned   prometheus.Gauge
	unaccounted prometheus.Gauge
	behind      prometheus.Gauge
	redriven    *prometheus.CounterVec
	refused     prometheus.Counter
	xminAge     prometheus.Gauge
	settledAge  prometheus.Gauge
	deliveries  *prometheus.GaugeVec
	waitingAge  prometheus.Gauge
	overdue     prometheus.Gauge
	endpoints   *prometheus.GaugeVec
	unanswered  prometheus.Gauge
	svixLooks   *prometheus.CounterVec
	circuits    *prometheus.GaugeVec
}

func newMetrics(registry prometheus.Registerer) *reconcileMetrics {
	m := &reconcileMetrics{
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_reconciler_leading", Help: "1 in the process that reconciles.",
		}),
		looks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_reconciler_looks_total", Help: "Looks of the reconciler; standing still while it leads is an alarm.",
		}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_reconciler_failures_total", Help: "Parts of a look that failed.",
		}, []string{"part"}),
		unplanned: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_events_unplanned", Help: "Committed events seen without a plan; most of them are on their way.",
		}),
		unaccounted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_events_unaccounted", Help: "Committed events that are visible, unplanned, unexplained and over-age: 0 is the promise.",
		}),
		behind: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_reconciler_behind", Help: "1 while a look ends before the feed does: what is beyond counts nowhere yet.",
		}),
		redriven: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_reconciler_redriven_total", Help: "Events and deliveries that the reconciler drove, by reason, and drainers that it woke, as parked.",
		}, []string{"reason"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hookline_operational_events_refused_total", Help: "Events about endpoints that payments-api refused for what they say; delivery.operational_events has them.",
		}),
		xminAge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_feed_xmin_age_seconds", Help: "How long one transaction of the business database has kept the feed's cursor from advancing past visible events.",
		}),
		settledAge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_settled_watermark_age_seconds", Help: "Age of the oldest plan that still has a delivery under way.",
		}),
		deliveries: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hookline_deliveries", Help: "Deliveries that have not succeeded, by state, at the last look; each up to 20,000.",
		}, []string{"state"}),
		waitingAge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_deliveries_waiting_age_seconds", Help: "How long the oldest delivery has waited for its object's versions before, at the last look.",
		}),
		overdue: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_deliveries_overdue", Help: "Deliveries whose attempt has been due for longer than the grace, at the last look; at most 5,000.",
		}),
		endpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hookline_endpoints", Help: "Endpoints, by whether they are enabled, at the last look.",
		}, []string{"enabled"}),
		unanswered: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hookline_svix_unanswered_seconds", Help: "Age of the oldest delivery that Svix has and shows no attempt of, at the last look.",
		}),
		svixLooks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hookline_svix_looks_total", Help: "Looks at what has become of a delivery that Svix has, by what was found.",
		}, []string{"cause"}),
		circuits: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hookline_circuits", Help: "Enabled endpoints, by their circuit, at the last look: deliveries of those that are open are parked.",
		}, []string{"state"}),
	}
	// Alarms need the 0 before the first one.
	for _, part := range []string{"events", "deliveries", "parked", "waiting", "operational", "settled", "svix"} {
		m.failures.WithLabelValues(part)
	}
	for _, reason := range []string{"overtaken", "over_age", "overdue", "owner_ended", "parked", "overslept", "svix_lost"} {
		m.redriven.WithLabelValues(reason)
	}
	for _, cause := range []delivery.Cause{delivery.CauseSvixExhausted, delivery.CauseSvixNoEndpoint, delivery.CauseSvixSilent} {
		m.svixLooks.WithLabelValues(string(cause))
	}
	m.countDeliveries(nil)
	m.countEndpoints(0, 0)
	m.countCircuits(nil)
	registry.MustRegister(m.leading, m.looks, m.failures, m.unplanned, m.unaccounted, m.behind, m.redriven, m.refused, m.xminAge, m.settledAge,
		m.deliveries, m.waitingAge, m.overdue, m.endpoints, m.unanswered, m.svixLooks, m.circuits)
	return m
}

// countDeliveries sets how many there are; a state that is not in counts has none.
func (m *reconcileMetrics) countDeliveries(counts map[delivery.State]int) {
	for _, state := range []delivery.State{delivery.Pending, delivery.Retrying, delivery.Parked, delivery.Waiting, delivery.HandedOver, delivery.Dead} {
		m.deliveries.WithLabelValues(string(state)).Set(float64(counts[state]))
	}
}

func (m *reconcileMetrics) countEndpoints(enabled, disabled int) {
	m.endpoints.WithLabelValues(strconv.FormatBool(true)).Set(float64(enabled))
	m.endpoints.WithLabelValues(strconv.FormatBool(false)).Set(float64(disabled))
}

func (m *reconcileMetrics) countCircuits(counts map[delivery.Circuit]int) {
	for _, state := range []delivery.Circuit{delivery.CircuitClosed, delivery.CircuitOpen, delivery.CircuitHalfOpen} {
		m.circuits.WithLabelValues(string(state)).Set(float64(counts[state]))
	}
}

// stopLeading leaves nothing behind that another process says now.
func (m *reconcileMetrics) stopLeading() {
	for _, gauge := range []prometheus.Gauge{m.leading, m.unplanned, m.unaccounted, m.behind, m.xminAge, m.settledAge, m.waitingAge, m.overdue, m.unanswered} {
		gauge.Set(0)
	}
	m.countDeliveries(nil)
	m.countEndpoints(0, 0)
	m.countCircuits(nil)
}
