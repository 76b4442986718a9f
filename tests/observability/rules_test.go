package observability_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// rule is an alert or a recording of deploy/prometheus/alerts.yml.
type rule struct {
	Alert       string
	Record      string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func readYAML(t *testing.T, into any, elements ...string) {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(readFile(t, elements...)))
	require.NoError(t, decoder.Decode(into), filepath.Join(elements...))
}

func readRules(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct{ Rules []rule }
	}
	readYAML(t, &file, "deploy", "prometheus", "alerts.yml")
	var rules []rule
	for _, group := range file.Groups {
		rules = append(rules, group.Rules...)
	}
	require.NotEmpty(t, rules)
	return rules
}

// target is where Prometheus finds a job.
type target struct {
	Name string `yaml:"job_name"`
	DNS  []struct {
		Names []string
		Port  int
	} `yaml:"dns_sd_configs"`
}

func readJobs(t *testing.T) map[string]target {
	t.Helper()
	var file struct {
		Scrapes []target `yaml:"scrape_configs"`
	}
	readYAML(t, &file, "deploy", "prometheus", "prometheus.yml")
	jobs := map[string]target{}
	for _, job := range file.Scrapes {
		jobs[job.Name] = job
	}
	require.NotEmpty(t, jobs)
	return jobs
}

// dashboard is what the tests look at of a dashboard's file.
type dashboard struct {
	UID, Title string
	Panels     []panel
	Links      []struct{ URL string }
}

type panel struct {
	ID          int
	Type, Title string
	GridPos     struct{ X, Y, W, H int }
	Datasource  struct{ Type, UID string }
	Targets     []struct{ RefID, Expr, LegendFormat string }
}

func readDashboards(t *testing.T) map[string]dashboard {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "deploy", "grafana", "dashboards", "*.json"))
	require.NoError(t, err)
	out := map[string]dashboard{}
	for _, file := range files {
		var d dashboard
		name := filepath.Base(file)
		require.NoError(t, json.Unmarshal([]byte(readFile(t, "deploy", "grafana", "dashboards", name)), &d), name)
		out[name] = d
	}
	require.NotEmpty(t, out)
	return out
}

func TestDashboardsAreWellFormed(t *testing.T) {
	t.Parallel()
	var sources struct {
		Datasources []struct{ UID, Type string }
	}
	readYAML(t, &sources, "deploy", "grafana", "provisioning", "datasources", "prometheus.yml")
	require.Len(t, sources.Datasources, 1)

	dashboards := readDashboards(t)
	uids := map[string]bool{}
	for name, d := range dashboards {
		require.NotEmpty(t, d.Title, name)
		require.Regexp(t, `^[a-z-]{1,40}$`, d.UID, name)
		require.NotContains(t, uids, d.UID, name)
		uids[d.UID] = true
	}
	for name, d := range dashboards {
		for _, link := range d.Links {
			require.Contains(t, uids, strings.TrimPrefix(link.URL, "/d/"), "a link of %s leads nowhere", name)
		}
		ids, cells := map[int]string{}, map[[2]int]string{}
		for _, p := range d.Panels {
			what := fmt.Sprintf("%s: %d %s", name, p.ID, p.Title)
			require.NotEmpty(t, p.Title, what)
			require.Positive(t, p.ID, what)
			require.NotContains(t, ids, p.ID, what)
			ids[p.ID] = p.Title
			require.Positive(t, p.GridPos.W*p.GridPos.H, what)
			require.LessOrEqual(t, p.GridPos.X+p.GridPos.W, 24, what)
			for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
				for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
					require.Empty(t, cells[[2]int{x, y}], "%s lies over another panel", what)
					cells[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				require.Empty(t, p.Targets, what)
				continue
			}
			require.Equal(t, sources.Datasources[0].UID, p.Datasource.UID, what)
			require.Equal(t, sources.Datasources[0].Type, p.Datasource.Type, what)
			require.NotEmpty(t, p.Targets, what)
			refs := map[string]bool{}
			for _, target := range p.Targets {
				require.NotEmpty(t, target.Expr, what)
				require.NotContains(t, refs, target.RefID, what)
				refs[target.RefID] = true
				if len(p.Targets) > 1 {
					require.NotEmpty(t, target.LegendFormat, "%s: several lines, and one has no name", what)
				}
			}
		}
	}
}

// asked is an expression, with who asks.
type asked struct {
	by     string
	query  query
	legend []string // labels that the legend shows
}

var inLegend = regexp.MustCompile(`\{\{\s*([a-z_]+)\s*\}\}`)

// questions are the expressions of all rules and panels.
func questions(t *testing.T) []asked {
	t.Helper()
	var out []asked
	add := func(by, expression, legend string) {
		q, err := parse(expression)
		require.NoError(t, err, by)
		each := asked{by: by, query: q}
		for _, found := range inLegend.FindAllStringSubmatch(legend, -1) {
			each.legend = append(each.legend, found[1])
		}
		out = append(out, each)
	}
	for _, rule := range readRules(t) {
		add(rule.Alert+rule.Record, rule.Expr, "")
	}
	for name, d := range readDashboards(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				add(name+": "+p.Title, target.Expr, target.LegendFormat)
			}
		}
	}
	return out
}

// A legend shows what the expression leaves of the labels, and that is what it groups by.
func TestLegendsShowLabelsThatAreThere(t *testing.T) {
	t.Parallel()
	for _, question := range questions(t) {
		for _, label := range question.legend {
			require.True(t, slices.Contains(question.query.groups, label), "%s shows {{%s}}, which its expression does not keep", question.by, label)
		}
	}
}
