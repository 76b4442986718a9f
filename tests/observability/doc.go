// Package observability holds together what the code measures, what docs/metrics.md says of it, and what the alert rules
// and dashboards ask for.
package observability
