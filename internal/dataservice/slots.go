package dataservice

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/hookline/hookline/internal/platform/logging"
)

// slotsPatience bounds a look at the slots, well below what a scrape waits.
const slotsPatience = 2 * time.Second

var slotRetained = prometheus.NewDesc("hookline_slot_retained_wal_bytes",
	"WAL that a logical replication slot of the business database keeps the server from removing, by whether anybody reads it.",
	[]string{"slot", "active"}, nil)

// slotCollector looks at the slots at each scrape: at those of either CDC, also where neither runs. A database that cannot
// be asked leaves the metric out.
type slotCollector struct {
	ctx   context.Context //nolint:containedctx // a scrape carries none
	store store
	log   *slog.Logger
}

// Describe implements prometheus.Collector.
func (slotCollector) Describe(descriptions chan<- *prometheus.Desc) { descriptions <- slotRetained }

// Collect implements prometheus.Collector.
func (c slotCollector) Collect(metrics chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(c.ctx, slotsPatience)
	defer cancel()
	slots, err := c.store.Slots(ctx)
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "the replication slots are not measured", logging.Error(err))
		return
	}
	for _, slot := range slots {
		metrics <- prometheus.MustNewConstMetric(slotRetained, prometheus.GaugeValue, float64(slot.Retained), slot.Name, strconv.FormatBool(slot.Active))
	}
}
