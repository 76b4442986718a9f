package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, got, 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(string(want), string(got)))
}

func sampleReport() Report {
	return Report{
		Mode: "burst", Intake: "batches", Kafka: "kfake", Machine: Machine{CPU: "Fast CPU @ 3.00GHz", Cores: 2},
		Created: 10000, Delivered: 9999, Lost: 1, Duplicates: 2, Seconds: 4.12, DeliveredPerS: 2426.9, PublishedPerS: 2700.5,
		CPUMSPerEvent: 0.685, CommitToAckMS: load.Percentiles{P50: 300.12, P95: 410, P99: 450.5, Max: 501.75},
		Publishers: 32, Merchants: 10, BodyBytes: 1027, Errors: 3, PublishMS: load.Percentiles{P50: 9.8, P95: 20, P99: 31, Max: 64},
		Troubled: []Troubled{{
			Kind: "hanging", Endpoints: 2, Created: 700, States: map[delivery.State]int{delivery.Parked: 690, delivery.Retrying: 9}, Unaccounted: 1,
			Attempts: 41, MostOfOne: 21, MostOfOnePerS: 20, MostOpenAtOnce: 20, MostOfOneLatePerM: 1,
			Circuits: map[delivery.Circuit]int{delivery.CircuitOpen: 2}, OpenedAfterS: &[]float64{10.2}[0], AttemptsOpen: 3, Probes: 4,
		}},
		LostIDs: []uuid.UUID{uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")},
		Processes: []Usage{
			usage("postgres", 3*time.Second, 9999, 300<<20, map[string]time.Duration{"hookline_api": 2 * time.Second, "other": time.Second}),
			usage("restate", 800*time.Millisecond, 9999, 200<<20, nil),
			{Name: "webhook-worker", Ended: true},
			{Name: "kafka", Memory: &Memory{
				FirstMB: 20, LastMB: 90.5, MaxMB: 91, SlopeMBPerMin: 17.25, SlopeOverS: 240, SeriesMB: []float64{20, 90.5}, SeriesEveryS: 2,
			}},
		},
		LoadGenerator: usage("load generator and merchants", 2*time.Second, 9999, 90<<20, nil),
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	asJSON, err := json.MarshalIndent(sampleReport(), "", "  ")
	require.NoError(t, err)
	golden(t, "report.json", append(asJSON, '\n'))

	var text bytes.Buffer
	sampleReport().Print(&text)
	golden(t, "report.txt", text.Bytes())
}

func TestReportThatFails(t *testing.T) {
	t.Parallel()
	good := Report{Created: 2, Delivered: 2}
	for name, c := range map[string]struct {
		change func(r *Report)
		want   error
	}{
		"all delivered":     {func(*Report) {}, nil},
		"duplicates":        {func(r *Report) { r.Duplicates = 1 }, nil},
		"failed posts":      {func(r *Report) { r.Errors = 1 }, nil},
		"a loss":            {func(r *Report) { r.Lost = 1 }, errors.New("1 of 2 events were not delivered")},
		"a bad signature":   {func(r *Report) { r.InvalidSignatures = 1 }, errors.New("1 webhooks were not signed well")},
		"a hidden loss":     {func(r *Report) { r.Troubled = []Troubled{{}, {Unaccounted: 3}} }, errors.New("3 events of endpoints that hang or fail are not in the ledger")},
		"a stranger":        {func(r *Report) { r.Unexpected = 1 }, errors.New("1 webhooks are of events that were never committed")},
		"nothing published": {func(r *Report) { *r = Report{Errors: 5} }, errors.New("no payment was created: 5 posts failed")},
	} {
		r := good
		c.change(&r)
		if c.want == nil {
			require.NoError(t, r.Err(), name)
			continue
		}
		require.EqualError(t, r.Err(), c.want.Error(), name)
	}
}
