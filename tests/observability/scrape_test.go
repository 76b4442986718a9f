package observability_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// scrape is what processes expose: the values of each label, by metric.
type scrape struct {
	metrics map[string]map[string][]string
	kinds   map[string]string // of the families, by their names
}

func newScrape() scrape {
	return scrape{metrics: map[string]map[string][]string{}, kinds: map[string]string{}}
}

var (
	sample = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? [^ ]+$`)
	pair   = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// add reads the text format.
func (s scrape) add(text string) error {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if words := strings.Fields(line); len(words) == 4 && words[0] == "#" && words[1] == "TYPE" {
			s.kinds[words[2]] = words[3]
		}
		if line == "" || line[0] == '#' {
			continue
		}
		found := sample.FindStringSubmatch(line)
		if found == nil {
			return fmt.Errorf("no sample: %s", line)
		}
		labels := s.metrics[found[1]]
		if labels == nil {
			labels = map[string][]string{}
			s.metrics[found[1]] = labels
		}
		for _, each := range pair.FindAllStringSubmatch(found[2], -1) {
			if !slices.Contains(labels[each[1]], each[2]) {
				labels[each[1]] = append(labels[each[1]], each[2])
			}
		}
	}
	return nil
}

// families are the metrics by the names that the code gives them, with the labels that it does: a histogram is one.
func (s scrape) families() map[string][]string {
	out := map[string][]string{}
	for name, labels := range s.metrics {
		names := slices.Sorted(maps.Keys(labels))
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if base := strings.TrimSuffix(name, suffix); base != name && s.kinds[base] == "histogram" {
				name, names = base, slices.DeleteFunc(names, func(l string) bool { return l == "le" })
			}
		}
		out[name] = names
	}
	return out
}

func TestScrapesAreRead(t *testing.T) {
	t.Parallel()
	s := newScrape()
	require.NoError(t, s.add("# HELP a_seconds Of a.\n# TYPE a_seconds histogram\na_seconds_bucket{x=\"1\",le=\"+Inf\"} 2\na_seconds_sum{x=\"2\"} 1e-3\n"+
		"a_seconds_count{x=\"1\"} 2\n\n# TYPE b_count gauge\nb_count NaN\nb_count{y=\"a \\\"}\\\" b\",z=\"\"} +Inf\n"))
	require.Equal(t, map[string][]string{"a_seconds": {"x"}, "b_count": {"y", "z"}}, s.families())
	require.Equal(t, map[string][]string{"x": {"1"}, "le": {"+Inf"}}, s.metrics["a_seconds_bucket"])
	require.Equal(t, []string{`a \"}\" b`}, s.metrics["b_count"]["y"])
	require.Error(t, s.add("<html>"))
}
