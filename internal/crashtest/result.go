package crashtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/stack"
)

// Result is what a run found.
type Result struct {
	Fault     string  `json:"fault"`
	Seed      uint64  `json:"seed"`
	Intake    string  `json:"intake"`
	Kafka     string  `json:"kafka"`
	Rate      float64 `json:"rate"`
	Merchants int     `json:"merchants"`
	Workers   int     `json:"workers"`
	Ordered   bool    `json:"ordered,omitempty"` // the endpoints want each payment's events in order
	HangOne   bool    `json:"hang_one,omitempty"`
	FreezeS   float64 `json:"freeze_s,omitempty"`

	Acknowledged int `json:"acknowledged"` // by the API: payments and refunds
	Committed    int `json:"committed"`    // events in PostgreSQL
	Received     int `json:"received"`     // different events that merchants answered 2xx

	Lost           int           `json:"lost"`
	Phantoms       int           `json:"phantoms"`
	Mismatches     int           `json:"mismatches"`
	Duplicates     int           `json:"duplicates"`
	LateDuplicates int           `json:"late_duplicates"` // more than 250 ms before the fault, or without one
	ByGeneration   map[int64]int `json:"duplicates_by_generation"`
	// DuplicateList has the first of them, each with the time from its first 2xx to the fault.
	DuplicateList []Duplicate `json:"duplicate_list,omitempty"`
	// OrderViolations are versions whose first 2xx came before that of an earlier one of the payment. Where no order was asked
	// for there may be some.
	OrderViolations int `json:"order_violations"`
	Unaccounted     int `json:"unaccounted"` // at the end
	// UnaccountedMost is how many there were at once during the run: what the fault held up for longer than the
	// reconciler's over-age.
	UnaccountedMost int `json:"unaccounted_most"`
	Dead            int `json:"dead"` // deliveries that were given up
	// WaitingRetries is of the fault that kills while they wait.
	WaitingRetries *WaitingRetries `json:"waiting_retries,omitempty"`

	// RecoveryS is, for each fault, from it to the first 2xx of an event that was committed after it.
	RecoveryS map[string]float64 `json:"recovery_s"`
	// LongestGapS is the longest time without any 2xx while there was load.
	LongestGapS float64 `json:"longest_gap_s"`
	// WorstDelayS is the longest time from the commit of an event to its first 2xx.
	WorstDelayS float64        `json:"worst_delay_s"`
	APIFailures map[string]int `json:"api_failures"` // requests that were repeated, by why
	Settled     bool           `json:"settled"`
	SettleS     float64        `json:"settle_s"` // after the load
	Seconds     float64        `json:"seconds"`
	// Findings are what failed beside the sets.
	Findings []string `json:"findings,omitempty"`
	// EndedByThemselves are components that ended though no fault hit them.
	EndedByThemselves []string `json:"ended_by_themselves,omitempty"`

	Verdict Verdict   `json:"-"`
	Faults  []Window  `json:"-"`
	Began   time.Time `json:"-"`
	// Commits and Deliveries are the moments of each commit and of each 2xx.
	Commits    []time.Time `json:"-"`
	Deliveries []time.Time `json:"-"`
}

// Err says what makes the run a failure; nil where nothing was lost, invented, changed, or sent twice without excuse.
func (r Result) Err() error {
	var errs []error
	for what, n := range map[string]int{
		"lost": r.Lost, "phantoms": r.Phantoms, "mismatches": r.Mismatches, "late duplicates": r.LateDuplicates, "unaccounted": r.Unaccounted,
	} {
		if n != 0 {
			errs = append(errs, fmt.Errorf("%d %s", n, what))
		}
	}
	if r.Ordered && r.OrderViolations != 0 {
		errs = append(errs, fmt.Errorf("%d order violations", r.OrderViolations))
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	for _, finding := range r.Findings {
		errs = append(errs, errors.New(finding))
	}
	if r.Acknowledged == 0 {
		errs = append(errs, errors.New("nothing was acknowledged"))
	}
	if len(errs) == 0 {
		return nil
	}
	texts := make([]string, len(errs))
	for i, err := range errs {
		texts[i] = err.Error()
	}
	return errors.New(strings.Join(texts, "; "))
}

// verdict reads the sets and compares them.
func (r *run) verdict(ctx context.Context, settled bool, settling time.Duration) (Result, error) {
	if err := r.receipts.read(); err != nil {
		return Result{}, err
	}
	sets := Sets{Acknowledged: r.clients.acknowledged, Faults: r.windows}
	var err error
	if sets.Committed, err = r.records.events(ctx, r.merchants); err != nil {
		return Result{}, err
	}
	if sets.Ledger, err = r.records.attempts(ctx, r.merchants); err != nil {
		return Result{}, err
	}
	if sets.Generations, err = r.records.generations(ctx, r.merchants); err != nil {
		return Result{}, err
	}
	p, err := r.records.progress(ctx, r.merchants)
	if err != nil {
		return Result{}, err
	}
	var invalid int
	sets.Received, invalid = r.receipts.all()
	v := Check(sets)
	if invalid > 0 {
		r.find("%d webhooks were not signed well", invalid)
	}
	if p.Dead > 0 {
		r.find("%d deliveries were given up", p.Dead)
	}
	if !settled {
		r.find("the stack did not settle")
	}
	if len(v.Duplicates) > 0 && r.o.Fault.deploy() && !r.o.Random {
		r.find("a stop in good order sent %d webhooks twice", len(v.Duplicates))
	}
	out := Result{
		Fault: r.o.name(), Seed: r.o.Seed, Intake: r.status.Intake, Kafka: r.status.Kafka,
		Rate: r.o.Rate, Merchants: r.o.Merchants, Workers: len(r.status.WorkerNames()), Ordered: r.o.Ordered, HangOne: r.o.HangOne,
		Acknowledged: v.Acknowledged, Committed: v.Committed, Received: v.Received,
		Lost: len(v.Lost), Phantoms: len(v.Phantoms), Mismatches: len(v.Mismatches),
		OrderViolations: len(v.Disorder), Duplicates: len(v.Duplicates), LateDuplicates: v.Late(), ByGeneration: map[int64]int{},
		Unaccounted: r.report.Unaccounted, UnaccountedMost: r.unaccounted, Dead: p.Dead,
		APIFailures: map[string]int{}, Settled: settled, SettleS: seconds(settling), Seconds: seconds(time.Since(r.began)),
		EndedByThemselves: r.ended, Verdict: v, Faults: r.windows, Began: r.began,
	}
	if r.o.Fault.Kind == kindFreeze && !r.o.Random {
		out.FreezeS = r.o.Freeze.Seconds()
	}
	if w := r.waiting; w != nil {
		w.account(sets.Received, sets.Ledger)
		out.WaitingRetries = w
		if w.Once != w.Waiting {
			r.find("of %d retries that waited at the kill %d came never and %d more than once", w.Waiting, w.Never, w.Twice)
		}
	}
	for _, d := range v.Duplicates {
		out.ByGeneration[d.Generation]++
	}
	out.DuplicateList = v.Duplicates[:min(len(v.Duplicates), listed)]
	out.RecoveryS = recoveries(sets)
	out.WorstDelayS = seconds(worstDelay(sets))
	for _, w := range sets.Faults {
		if _, recovered := out.RecoveryS[w.Fault]; !recovered {
			r.find("nothing that was committed after %s was received", w.Fault)
		}
	}
	r.judgeFailures(&out)
	for _, e := range sets.Committed {
		out.Commits = append(out.Commits, e.Committed)
	}
	for _, receipt := range sets.Received {
		out.Deliveries = append(out.Deliveries, receipt.At)
	}
	slices.SortFunc(out.Commits, time.Time.Compare)
	slices.SortFunc(out.Deliveries, time.Time.Compare)
	out.LongestGapS = seconds(longestGap(out.Deliveries, r.loaded))
	out.Findings = r.findings
	return out, nil
}

// judgeFailures counts the requests that were repeated. While the worker is deployed there may be none; while the API
// or its database is, there may be no answer, or a 503 that says to ask again.
func (r *run) judgeFailures(out *Result) {
	excused := func(f failure) bool {
		for _, w := range r.windows {
			_, target, _ := strings.Cut(w.Fault, ":")
			hit := (target == stack.PaymentsAPI && f.status == 0) ||
				(target == stack.Postgres && (f.status == 0 || f.status == http.StatusServiceUnavailable))
			if hit && f.at.After(w.From) && f.at.Before(w.To.Add(answerWithin)) {
				return true
			}
		}
		return false
	}
	unexcused := 0
	var first failure
	for _, f := range r.clients.failures {
		why := "no answer"
		if f.status != 0 {
			why = fmt.Sprint(f.status)
		}
		out.APIFailures[why]++
		if !excused(f) {
			if unexcused == 0 {
				first = f
			}
			unexcused++
		}
	}
	if unexcused > 0 && r.o.Fault.deploy() && !r.o.Random {
		r.find("the API failed %d requests during a stop in good order, the first with: %s", unexcused, first.err)
	}
}

// recoveries measures from each fault to the first 2xx of an event that was committed after it; of faults with one name
// the slowest counts. A fault after which nothing came is left out.
func recoveries(s Sets) map[string]float64 {
	first := s.firsts()
	out, never := map[string]float64{}, map[string]bool{}
	for _, w := range s.Faults {
		var earliest time.Time
		for _, e := range s.Committed {
			at, received := first[e.ID.String()]
			if received && e.Committed.After(w.From) && (earliest.IsZero() || at.Before(earliest)) {
				earliest = at
			}
		}
		if earliest.IsZero() {
			never[w.Fault] = true
			continue
		}
		out[w.Fault] = max(out[w.Fault], seconds(earliest.Sub(w.From)))
	}
	for fault := range never {
		delete(out, fault)
	}
	return out
}

// firsts are the moments of each event's first 2xx.
func (s Sets) firsts() map[string]time.Time {
	first := make(map[string]time.Time, len(s.Received))
	for _, r := range s.Received {
		if at, found := first[r.ID]; !found || r.At.Before(at) {
			first[r.ID] = r.At
		}
	}
	return first
}

// worstDelay is the longest time from a commit to the first 2xx, of what was received.
func worstDelay(s Sets) time.Duration {
	first, worst := s.firsts(), time.Duration(0)
	for _, e := range s.Committed {
		if at, received := first[e.ID.String()]; received {
			worst = max(worst, at.Sub(e.Committed))
		}
	}
	return worst
}

// longestGap is the longest time without a delivery up to the end of the load: what comes later waits for a retry.
func longestGap(sorted []time.Time, end time.Time) time.Duration {
	longest := time.Duration(0)
	for i, at := range sorted {
		next := end
		if i+1 < len(sorted) && sorted[i+1].Before(end) {
			next = sorted[i+1]
		}
		longest = max(longest, next.Sub(at))
	}
	return longest
}

func seconds(d time.Duration) float64 { return math.Round(d.Seconds()*1000) / 1000 }

// shown bounds the lists that a person gets to read, listed those that a program does.
const (
	shown  = 10
	listed = 100
)

// Print writes the result for a person to read.
func (r Result) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%s, seed %d, intake %s, kafka %s, %g payments/s for %d merchants, %.0f s\n\n", r.Fault, r.Seed, r.Intake, r.Kafka, r.Rate, r.Merchants, r.Seconds)
	for _, line := range timeline(r) {
		fmt.Fprintln(w, line)
	}
	fmt.Fprintf(w, "\nacknowledged %d ⊆ committed %d ⊆ received %d\n", r.Acknowledged, r.Committed, r.Received)
	fmt.Fprintf(w, "lost %d, phantoms %d, mismatches %d, unaccounted %d (at most %d during the run)\n",
		r.Lost, r.Phantoms, r.Mismatches, r.Unaccounted, r.UnaccountedMost)
	fmt.Fprintf(w, "duplicates %d, of them %d late\n", r.Duplicates, r.LateDuplicates)
	var disorder []string
	if r.Ordered {
		fmt.Fprintf(w, "order violations %d\n", r.OrderViolations)
		disorder = r.Verdict.Disorder
	}
	if waited := r.WaitingRetries; waited != nil {
		fmt.Fprintf(w, "of %d retries that waited at the kill: %d came once, %d more than once, %d never; %d by their own timer, %.1f to %.1f s after it\n",
			waited.Waiting, waited.Once, waited.Twice, waited.Never, waited.ByTimer, waited.FirstS, waited.LastS)
	}
	for i, d := range r.Verdict.Duplicates {
		if i == shown {
			fmt.Fprintf(w, "  and %d more\n", len(r.Verdict.Duplicates)-shown)
			break
		}
		when := "without any fault"
		if d.Fault != "" {
			when = fmt.Sprintf("%.0f ms before %s", float64(d.Before.Microseconds())/1000, d.Fault)
		}
		fmt.Fprintf(w, "  %s generation %d: first 2xx %s, again %.3f s after the first%s\n",
			d.EventID, d.Generation, when, d.Again.Sub(d.First).Seconds(), map[bool]string{true: " LATE"}[d.Late])
	}
	for _, list := range []struct {
		name  string
		lines []string
	}{{"lost", r.Verdict.Lost}, {"phantom", r.Verdict.Phantoms}, {"mismatch", r.Verdict.Mismatches}, {"out of order", disorder}, {"found", r.Findings}} {
		for i, line := range list.lines {
			if i == shown {
				fmt.Fprintf(w, "  and %d more\n", len(list.lines)-shown)
				break
			}
			fmt.Fprintf(w, "  %s: %s\n", list.name, line)
		}
	}
	for _, fault := range sortedKeys(r.RecoveryS) {
		fmt.Fprintf(w, "recovered from %s in %.1f s\n", fault, r.RecoveryS[fault])
	}
	fmt.Fprintf(w, "longest time without a 2xx %.1f s, from a commit to its 2xx %.1f s; settled %.1f s after the load\n", r.LongestGapS, r.WorstDelayS, r.SettleS)
	for _, why := range sortedKeys(r.APIFailures) {
		fmt.Fprintf(w, "requests repeated because of %s: %d\n", why, r.APIFailures[why])
	}
	if len(r.EndedByThemselves) > 0 {
		fmt.Fprintf(w, "ended though no fault hit them: %s\n", strings.Join(r.EndedByThemselves, ", "))
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
