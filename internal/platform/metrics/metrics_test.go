package metrics_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/platform/metrics"
)

func TestRegistrySaysWhatRuns(t *testing.T) {
	t.Parallel()
	families, err := metrics.NewRegistry("thing").Gather()
	require.NoError(t, err)
	names := map[string]string{}
	for _, family := range families {
		names[family.GetName()] = family.GetMetric()[0].String()
	}
	require.Contains(t, names, "go_goroutines")
	require.Contains(t, names["hookline_build_info"], `"thing"`)
	require.NotEmpty(t, metrics.Version())
}
