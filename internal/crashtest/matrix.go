package crashtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/platform/metrics"
	"github.com/hookline/hookline/internal/stack"
)

// Row is one run of a matrix.
type Row struct {
	Flags  string // of hookline crash-test, to run it alone
	Result Result
	// Err says that the run could not be made.
	Err error

	within time.Duration // what recovery is to take at most; 0 where there is no such limit
}

// Matrix is what came of every fault, one after the other.
type Matrix struct {
	Began    time.Time
	Seed     uint64
	Payments int
	Rate     float64
	Machine  string
	Versions []string
	Rows     []Row
}

// recoverWithin is how soon after a fault is over the stack is to deliver again.
const (
	recoverWithin       = 10 * time.Second
	recoverFreezeWithin = 15 * time.Second
	// recoverElsewhereWithin is from the fault, whatever it is, where another worker runs.
	recoverElsewhereWithin = 20 * time.Second
)

// entry is a row before it is run.
type entry struct {
	flags  string
	change func(o *Options)
	within time.Duration
}

// entries are all faults, those that are the quickest to show something first.
func entries() []entry {
	var all []entry
	add := func(f Fault, within time.Duration, extra string, change func(o *Options)) {
		all = append(all, entry{"--fault " + f.String() + extra, func(o *Options) {
			o.Fault = f
			if change != nil {
				change(o)
			}
		}, within})
	}
	for _, name := range components {
		add(Fault{kindKill, name}, recoverWithin, "", nil)
	}
	add(Fault{kindKill, stack.WebhookWorker}, recoverWithin, " --hang-one", func(o *Options) { o.HangOne = true })
	two := func(o *Options) { o.Stack.Workers = 2 }
	add(Fault{kindKill, stack.WebhookWorker}, recoverElsewhereWithin, " --workers 2", two)
	add(Fault{kindFreeze, stack.WebhookWorker}, recoverElsewhereWithin, " --workers 2", two)
	add(Fault{kindTerm, stack.WebhookWorker}, recoverWithin, " --workers 2", two)
	add(Fault{kindTerm, stack.WebhookWorker}, recoverWithin, "", nil)
	add(Fault{kindRestart, everything}, recoverWithin, "", nil)
	add(Fault{kindDown, stack.Kafka}, downtime+recoverWithin, "", nil)
	add(Fault{Kind: kindSlot}, 0, "", nil)
	add(Fault{kindGroupReset, earliest}, 0, "", nil)
	add(Fault{kindGroupReset, latest}, 0, "", nil)
	add(Fault{Kind: kindVolume}, 0, "", nil)
	add(Fault{kindKillWaiting, stack.WebhookWorker}, recoverWithin, "", nil)
	add(Fault{kindCrashLoop, stack.WebhookWorker}, 0, "", nil) // it is killed again before what waits at slow merchants is through
	add(Fault{Kind: kindLongTx}, 0, "", nil)
	for _, freeze := range []time.Duration{20 * time.Second, time.Minute} {
		for _, name := range components {
			add(Fault{kindFreeze, name}, freeze+recoverFreezeWithin, " --freeze "+freeze.String(), func(o *Options) { o.Freeze = freeze })
		}
	}
	all = append(all, entry{"--faults random --duration 2m", func(o *Options) { o.Random, o.Duration = true, 2*time.Minute }, 0})
	return all
}

// RunMatrix runs every fault one after the other, on one stack. A row that fails does not keep the next one from
// being run. done is called after each.
func RunMatrix(ctx context.Context, o Options, done func(m Matrix, left int)) (Matrix, error) {
	m := Matrix{Began: time.Now().UTC(), Seed: o.Seed, Payments: o.Payments, Rate: o.Rate, Machine: machine()}
	all := entries()
	for i, e := range all {
		row := Row{Flags: e.flags, within: e.within}
		each := o
		each.Seed = o.Seed + uint64(i)
		e.change(&each)
		row.Result, row.Err = Run(ctx, each)
		if ctx.Err() != nil {
			return m, ctx.Err()
		}
		m.Rows = append(m.Rows, row)
		if len(m.Versions) == 0 && row.Err == nil {
			m.Versions = versions(ctx, each.Stack)
		}
		done(m, len(all)-i-1)
	}
	return m, nil
}

// Verdict is one word on the row.
func (r Row) Verdict() string {
	switch {
	case r.Err != nil || r.Result.Err() != nil:
		return "FAILED"
	case r.slow():
		return "slow"
	default:
		return "ok"
	}
}

func (r Row) slow() bool {
	for _, s := range r.Result.RecoveryS {
		if r.within > 0 && s > r.within.Seconds() {
			return true
		}
	}
	return false
}

// recovery is the slowest of the row.
func (r Row) recovery() string {
	if len(r.Result.RecoveryS) == 0 {
		return "-"
	}
	slowest := 0.0
	for _, s := range r.Result.RecoveryS {
		slowest = max(slowest, s)
	}
	limit := ""
	if r.within > 0 {
		limit = fmt.Sprintf(" (< %.0f)", r.within.Seconds())
	}
	return fmt.Sprintf("%.1f%s", slowest, limit)
}

// Err says how many rows failed; nil where none did.
func (m Matrix) Err() error {
	failed := 0
	for _, row := range m.Rows {
		if row.Verdict() == "FAILED" {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d faults failed", failed, len(m.Rows))
	}
	return nil
}

// Write writes the report, as Markdown.
func (m Matrix) Write(w io.Writer) error {
	var b strings.Builder
	intake, kafka := "", ""
	for _, row := range m.Rows {
		if row.Err == nil {
			intake, kafka = row.Result.Intake, row.Result.Kafka
		}
	}
	fmt.Fprintf(&b, `# Crash matrix

Written by `+"`make crash-matrix`"+` on %s: every fault, one after the other, on one embedded stack under load (%g payments/s
for 10 merchants, a tenth of them refunded; %d payments at least, and for as long as the fault lasts).

- Machine: %s
- Versions: %s
- Intake %s, Kafka %s, seed %d

A row is ok when every id that the API acknowledged was committed, every committed id was received by its merchant with a
2xx and the very body that its event makes, nothing was received that was never committed, nothing is unaccounted, and no
webhook was sent twice whose first 2xx came more than 250 ms before the fault. Recovery is from the fault (a freeze: from
SIGSTOP) to the first 2xx of an event that was committed after it; the worst delay is that of any one event, from its commit
to its first 2xx. "Unaccounted (most)" is at the end, and at most during the run: what the reconciler found over-age, which
in these runs is 5 s instead of ten minutes. So where the ordinary way takes longer than that, it is the reconciler that
brings the first 2xx; RECONCILE_OVER_AGE=10m in the environment shows the ordinary way alone. A merchant that was frozen answers, when it wakes, also what its sender has long given up: those are
the webhooks sent twice there.

| | `+"`hookline crash-test`"+` | acknowledged | committed | received | lost | phantoms | changed | unaccounted (most) | twice (late) | recovery s | longest gap s | worst delay s | API requests repeated |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
`, m.Began.Format("2006-01-02 15:04 MST"), m.Rate, m.Payments, m.Machine, strings.Join(m.Versions, ", "), intake, kafka, m.Seed)
	var notes []string
	for _, row := range m.Rows {
		r := row.Result
		if row.Err != nil {
			fmt.Fprintf(&b, "| %s | `%s` | - | - | - | - | - | - | - | - | - | - | - | - |\n", row.Verdict(), row.Flags)
			notes = append(notes, fmt.Sprintf("`%s`: the run could not be made: %s", row.Flags, oneLine(row.Err)))
			continue
		}
		repeated := 0
		for _, n := range r.APIFailures {
			repeated += n
		}
		fmt.Fprintf(&b, "| %s | `%s` | %d | %d | %d | %d | %d | %d | %d (%d) | %d (%d) | %s | %.1f | %.1f | %d |\n",
			row.Verdict(), row.Flags, r.Acknowledged, r.Committed, r.Received, r.Lost, r.Phantoms, r.Mismatches,
			r.Unaccounted, r.UnaccountedMost, r.Duplicates, r.LateDuplicates, row.recovery(), r.LongestGapS, r.WorstDelayS, repeated)
		if err := r.Err(); err != nil {
			notes = append(notes, fmt.Sprintf("`%s --seed %d`: %s", row.Flags, r.Seed, oneLine(err)))
		}
		if len(r.EndedByThemselves) > 0 {
			notes = append(notes, fmt.Sprintf("`%s`: ended though no fault hit them: %s", row.Flags, strings.Join(r.EndedByThemselves, ", ")))
		}
	}
	if len(notes) > 0 {
		b.WriteString("\n## Notes\n\n")
		for _, note := range notes {
			fmt.Fprintf(&b, "- %s\n", note)
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return nil
}

func oneLine(err error) string { return strings.Join(strings.Fields(err.Error()), " ") }

// machine says in a line what this runs on.
func machine() string {
	cpu := runtime.GOARCH
	if content, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
			if name, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(name) == "model name" {
				cpu = strings.TrimSpace(value)
				break
			}
		}
	}
	memory := ""
	if content, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib int
		if _, err := fmt.Sscanf(string(content), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf(", %d GiB", kib>>20)
		}
	}
	load := ""
	if content, err := os.ReadFile("/proc/loadavg"); err == nil {
		load, _, _ = strings.Cut(string(content), " ")
		load = ", load average " + load + " at the start"
	}
	return fmt.Sprintf("%d cores of %s%s, %s%s", runtime.NumCPU(), cpu, memory, runtime.GOOS, load)
}

// versions are those of what the stack runs, as far as each tells.
func versions(ctx context.Context, options stack.Options) []string {
	out := []string{"hookline " + metrics.Version(), runtime.Version()}
	if info, found := debug.ReadBuildInfo(); found {
		for _, dep := range info.Deps {
			if strings.HasSuffix(dep.Path, "/kfake") {
				out = append(out, "kfake "+dep.Version)
			}
		}
	}
	status, err := stack.ReadStatus(ctx, options.Dir)
	if err != nil {
		return out
	}
	if records, err := connect(ctx, status.DSN); err == nil {
		defer records.close()
		var version string
		if records.pool.QueryRow(ctx, "show server_version").Scan(&version) == nil {
			out = append(out, "PostgreSQL "+version)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+status.RestateAdmin()+"/version", nil)
	if err != nil {
		return out
	}
	res, err := asking.Do(req)
	if err != nil {
		return out
	}
	defer res.Body.Close()
	var restate struct {
		Version string `json:"version"`
	}
	if json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&restate) == nil && restate.Version != "" {
		out = append(out, "Restate "+restate.Version)
	}
	return out
}
