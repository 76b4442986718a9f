// Package metrics makes the Prometheus registry of a process.
package metrics

import (
	"runtime/debug"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// NewRegistry returns a registry with the metrics that every service has: the Go runtime's, the
// process's and hookline_build_info.
func NewRegistry(service string) *prometheus.Registry {
	registry := prometheus.NewRegistry()
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name:        "hookline_build_info",
		Help:        "1, labelled with the service and the version of its build.",
		ConstLabels: prometheus.Labels{"service": service, "version": Version()},
	})
	info.Set(1)
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		info,
	)
	return registry
}

// linked is the version of a build that sees no repository, such as an image's: -ldflags "-X path/to/metrics.linked=v1.2.3".
var linked string

// Version is the module version or the commit that the binary was built from; "devel" where the build
// did not record one.
func Version() string {
	if linked != "" {
		return linked
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "devel"
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" && len(setting.Value) >= 12 {
			return setting.Value[:12]
		}
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	return "devel"
}
