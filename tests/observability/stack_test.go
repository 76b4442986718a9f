package observability_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/testkit/commands"
)

// restateFabric is the port of Restate's metrics.
const restateFabric = 5122

// scraped are the jobs of prometheus.yml that run in the embedded stack.
var scraped = []string{stack.PaymentsAPI, stack.DataService, stack.CDCRelay, stack.WebhookWorker, stack.MerchantSimulator, stack.Restate}

// bin holds the commands, built once.
var bin string

func TestMain(m *testing.M) { commands.Main(m, &bin) }

// running is an embedded stack of the built commands.
type running struct {
	dir    string
	offset int
	status stack.Status
}

// start brings a stack up at the first offset whose ports are all free. Its deliveries have one
// retry, which comes at once.
func start(t *testing.T) *running {
	t.Helper()
	commands.LookAtSources(t)
	s := &running{dir: t.TempDir()}
	t.Cleanup(func() {
		_, stderr, err := s.hookline(t, "down", "--purge")
		require.NoError(t, err, stderr)
	})
	for s.offset = 3000; s.offset < 4500; s.offset += 20 {
		stdout, stderr, err := s.hookline(t, "up", "--json")
		if err != nil && strings.Contains(stderr, "is held by") {
			continue
		}
		require.NoError(t, err, stderr)
		s.read(t, stdout)
		return s
	}
	require.Fail(t, "there is no offset at which all ports are free")
	return nil
}

func (s *running) up(t *testing.T, args ...string) {
	t.Helper()
	stdout, stderr, err := s.hookline(t, append([]string{"up", "--json"}, args...)...)
	require.NoError(t, err, stderr)
	s.read(t, stdout)
}

func (s *running) read(t *testing.T, stdout string) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(stdout), "\n")
	s.status = stack.Status{}
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &s.status), stdout)
	require.True(t, s.status.Ready(), stdout)
}

// hookline runs a verb, with its flags, on the stack.
func (s *running) hookline(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	environ := []string{fmt.Sprintf("HOOKLINE_PORT_OFFSET=%d", s.offset), "RETRY_SCHEDULE=100ms", "RECONCILE_INTERVAL=200ms"}
	return commands.Hookline(t, bin, s.dir, environ, args...)
}

// address is where Prometheus would find the job.
func (s *running) address(job string) string {
	if job == stack.Restate {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(restateFabric+s.offset))
	}
	return s.status.Address(job)
}

func (s *running) scrape(t require.TestingT, ctx context.Context) scrape { //nolint:revive // T first, as everywhere
	out := newScrape()
	for _, job := range scraped {
		require.NoError(t, out.add(request(t, ctx, http.MethodGet, s.address(job), "/metrics", "")), job)
	}
	return out
}

func request(t require.TestingT, ctx context.Context, method, address, path, body string) string { //nolint:revive // T first, as everywhere
	req, err := http.NewRequestWithContext(ctx, method, "http://"+address+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	content, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, 2, resp.StatusCode/100, "%s %s: %s: %s", method, path, resp.Status, content)
	return string(content)
}

// pay makes a payment, and refunds it.
func (s *running) pay(t *testing.T) {
	t.Helper()
	var payment struct{ ID string }
	answer := request(t, t.Context(), http.MethodPost, s.status.Address(stack.PaymentsAPI), "/payments", `{"amount":1000,"currency":"USD"}`)
	require.NoError(t, json.Unmarshal([]byte(answer), &payment))
	request(t, t.Context(), http.MethodPatch, s.status.Address(stack.PaymentsAPI), "/payments/"+payment.ID, `{"status":"refunded"}`)
}

// misbehave makes whatever shows only when something goes wrong: a delivery that dies, and a record that nobody can read.
func (s *running) misbehave(t *testing.T) {
	t.Helper()
	request(t, t.Context(), http.MethodPut, s.status.Address(stack.MerchantSimulator), "/behaviour", `{"status":503}`)
	s.pay(t)
	client, err := kgo.NewClient(kgo.SeedBrokers(s.status.Address(stack.Kafka)))
	require.NoError(t, err)
	defer client.Close()
	record := &kgo.Record{Topic: "webhook-events", Key: []byte("m"), Value: []byte("not an event")}
	require.NoError(t, client.ProduceSync(t.Context(), record).FirstErr())
}

// Metrics and documentation are one, of the processes as of the code; and what a rule or a panel asks for is there: in the
// running stack, or, where it is Sequin's, in what is known of it.
func TestWhatIsAskedForIsMeasuredAndWhatIsMeasuredIsDocumented(t *testing.T) {
	s := start(t)
	s.pay(t)
	s.misbehave(t)

	needed := map[string]bool{}
	for _, question := range questions(t) {
		for _, selector := range question.query.selectors {
			if strings.HasPrefix(selector.metric, "hookline_") {
				needed[selector.metric] = true
			}
		}
	}
	var batches scrape
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		batches = s.scrape(c, t.Context())
		require.Empty(c, missing(needed, batches), "nobody exposes what a rule or a panel asks for")
		require.Contains(c, batches.metrics["hookline_delivery_outcomes_total"]["state"], "dead")
	}, 2*time.Minute, 100*time.Millisecond)

	documented := documentedMetrics(t)
	for name, labels := range batches.families() {
		if strings.HasPrefix(name, "hookline_") && !strings.HasPrefix(name, kafkaClient) {
			_, found := documented[name]
			require.True(t, found, "docs/metrics.md does not have %s", name)
			require.ElementsMatch(t, labels, documented[name], "labels of %s in docs/metrics.md", name)
		}
	}

	// Restate's own subscription has metrics of its own.
	s.up(t, "--intake", stack.IntakeSubscription)
	s.pay(t)
	var subscription scrape
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		subscription = s.scrape(c, t.Context())
		require.Contains(c, subscription.metrics, "restate_kafka_ingress_consumer_lag") // with the first statistics, which come every few seconds
	}, 2*time.Minute, 100*time.Millisecond)
	sequin := newScrape()
	require.NoError(t, sequin.add(readFile(t, "tests", "observability", "testdata", "sequin.prom")))
	checkQuestions(t, batches, subscription, sequin)
	s.checkJobs(t)
}

// missing are the names that the scrape does not have.
func missing(names map[string]bool, in scrape) []string {
	return slices.DeleteFunc(keys(names), func(name string) bool { return in.metrics[name] != nil })
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for key := range m {
		out = append(out, key)
	}
	return out
}

// checkQuestions looks for every metric, label and value that the rules and panels name.
func checkQuestions(t *testing.T, scrapes ...scrape) {
	t.Helper()
	known := map[string]map[string][]string{
		"up": {}, "ALERTS": {"alertname": nil, "alertstate": {"firing", "pending"}},
	}
	for _, rule := range readRules(t) {
		if rule.Record != "" {
			known[rule.Record] = map[string][]string{}
		}
	}
	for _, each := range scrapes {
		for name, labels := range each.metrics {
			if known[name] == nil {
				known[name] = map[string][]string{}
			}
			for label, values := range labels {
				known[name][label] = append(known[name][label], values...)
			}
		}
	}
	jobs := keys(readJobs(t))
	words := readSource(t).literals
	for _, question := range questions(t) {
		labels := []string{"job", "instance"}
		for _, selector := range question.query.selectors {
			own, found := known[selector.metric]
			require.True(t, found, "nobody exposes %s, which %s asks for", selector.metric, question.by)
			labels = append(labels, keys(own)...)
			for _, m := range selector.matchers {
				possible := own[m.label]
				if m.label == "job" {
					possible = jobs
				} else {
					require.Contains(t, own, m.label, "%s has no such label, which %s asks for", selector.metric, question.by)
				}
				for _, value := range m.values() {
					// Many a value shows only when something goes wrong; then the code has it as a word.
					require.True(t, m.label == "le" || slices.Contains(possible, value) || words[value],
						"%s of %s is never %q, which %s asks for", m.label, selector.metric, value, question.by)
				}
			}
		}
		require.Subset(t, labels, question.query.groups, "%s groups by what its metrics do not have", question.by)
	}
}

// checkJobs compares the ports of prometheus.yml with those that the services listen at.
func (s *running) checkJobs(t *testing.T) {
	t.Helper()
	jobs := readJobs(t)
	for _, name := range scraped {
		require.Len(t, jobs[name].DNS, 1, name)
		require.Equal(t, []string{name}, jobs[name].DNS[0].Names)
		_, port, err := net.SplitHostPort(s.address(name))
		require.NoError(t, err)
		require.Equal(t, port, strconv.Itoa(jobs[name].DNS[0].Port+s.offset), name)
	}
}
