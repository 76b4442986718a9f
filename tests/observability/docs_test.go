package observability_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var inCode = regexp.MustCompile("`(hookline_[a-z0-9_]+\\*?)(?:\\{([a-z_,]+)\\})?`")

// documentedMetrics are the first cells of the tables of docs/metrics.md: names and labels.
func documentedMetrics(t *testing.T) map[string][]string {
	t.Helper()
	out := map[string][]string{}
	for _, cells := range tables(t) {
		for _, found := range inCode.FindAllStringSubmatch(cells[0], -1) {
			require.NotContains(t, out, found[1], "it is there twice")
			out[found[1]] = []string{}
			if found[2] != "" {
				out[found[1]] = strings.Split(found[2], ",")
			}
		}
	}
	require.NotEmpty(t, out)
	return out
}

// tables are the rows of all tables of docs/metrics.md.
func tables(t *testing.T) [][]string {
	t.Helper()
	var rows [][]string
	for line := range strings.Lines(readFile(t, "docs", "metrics.md")) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "|") {
			rows = append(rows, strings.Split(strings.Trim(line, "|"), "|"))
		}
	}
	return rows
}

var alertInCode = regexp.MustCompile("`([A-Z][A-Za-z]+)`")

// The last cell of a row names the rules that look at its metric.
func TestEveryAlertIsInTheDocumentationAndViceVersa(t *testing.T) {
	t.Parallel()
	documented := map[string]bool{}
	for _, cells := range tables(t) {
		for _, found := range alertInCode.FindAllStringSubmatch(cells[len(cells)-1], -1) {
			documented[found[1]] = true
		}
	}
	for _, rule := range readRules(t) {
		if rule.Alert != "" {
			require.Contains(t, documented, rule.Alert, "docs/metrics.md does not name it in a last cell")
			delete(documented, rule.Alert)
		}
	}
	require.Empty(t, documented, "docs/metrics.md names alerts that are not in alerts.yml")
}

var anchorless = regexp.MustCompile(`[^\p{L}\p{N} _-]`)

// anchors are those that a forge makes of the page's headings.
func anchors(t *testing.T, page string) map[string]bool {
	t.Helper()
	out := map[string]bool{}
	for line := range strings.Lines(readFile(t, strings.Split(page, "/")...)) {
		if title, is := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); is && strings.HasPrefix(line, "#") {
			title = anchorless.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			out[strings.ReplaceAll(title, " ", "-")] = true
		}
	}
	return out
}

func TestEveryAlertSaysWhatToDoAndWhere(t *testing.T) {
	t.Parallel()
	tested := readFile(t, "deploy", "prometheus", "alerts_test.yml")
	for _, rule := range readRules(t) {
		if rule.Alert == "" {
			continue
		}
		require.Contains(t, []string{"page", "warn", "info"}, rule.Labels["severity"], rule.Alert)
		require.NotEmpty(t, rule.Labels["component"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["summary"], rule.Alert)
		require.NotEmpty(t, rule.Annotations["description"], rule.Alert)
		page, anchor, _ := strings.Cut(rule.Annotations["runbook"], "#")
		require.NotEmpty(t, page, rule.Alert)
		require.Contains(t, anchors(t, page), anchor, "the runbook of %s", rule.Alert)
		require.Contains(t, rule.Expr, "absent(", "%s is silent where there is no data", rule.Alert)
		require.GreaterOrEqual(t, strings.Count(tested, `"`+rule.Alert+`"`), 2, "%s is not tested: with data, and without", rule.Alert)
	}
}
