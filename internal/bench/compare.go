package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/hookline/hookline/internal/load"
)

const (
	// What the 99th percentile of the healthy endpoints may move by, when others hang or fail, and count as unmoved: a share,
	// or so many milliseconds, which is what it moves by on a shared machine on its own.
	unmovedShare, unmovedMS = 0.1, 3
	// maxAlternations bounds a comparison.
	maxAlternations = 50
	// betweenRuns is what the stack gets to finish one run before the next: a request that hangs, and what is retried soon.
	betweenRuns = 5 * time.Second
)

// Comparison is runs with and without endpoints that hang or fail, taken in turn, so that whatever else the machine does
// hits both.
type Comparison struct {
	With    []Report `json:"with"`
	Without []Report `json:"without"`
	// The medians of the runs, of the healthy endpoints alone.
	MedianWithMS    MedianPercentiles `json:"median_with_ms"`
	MedianWithoutMS MedianPercentiles `json:"median_without_ms"`
	// P99MovedMS and P99MovedPercent are by how much the median 99th percentile is higher with them than without.
	P99MovedMS      float64 `json:"p99_moved_ms"`
	P99MovedPercent float64 `json:"p99_moved_percent"`
	// Unmoved says that it is by less than 10 %, or than 3 ms.
	Unmoved bool `json:"unmoved"`
}

// MedianPercentiles are medians over runs, in milliseconds.
type MedianPercentiles struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

// Compare runs the options and, without the endpoints that hang or fail, the same again, so many times in turn.
func Compare(ctx context.Context, o Options, times int) (Comparison, error) {
	return compare(ctx, o, times, betweenRuns, Run)
}

// CheckAlternations checks what a user chose.
func (o Options) CheckAlternations(times int) error {
	switch {
	case times < 1 || times > maxAlternations:
		return fmt.Errorf("there are 1 to %d alternations, not %d", maxAlternations, times)
	case o.Hanging+o.Failing == 0:
		return errors.New("without endpoints that hang or fail there is nothing to alternate")
	}
	return nil
}

func compare(ctx context.Context, o Options, times int, pause time.Duration, run func(context.Context, Options) (Report, error)) (Comparison, error) {
	var c Comparison
	for i := range times {
		for _, troubled := range []bool{true, false} {
			if len(c.With) > 0 {
				if err := load.Wait(ctx, pause); err != nil {
					return c, err
				}
			}
			one, into := o, &c.With
			if !troubled {
				one.Hanging, one.Failing, into = 0, 0, &c.Without
			}
			report, err := run(ctx, one)
			if err != nil {
				return c, err
			}
			*into = append(*into, report)
			o.progress("run %d of %d, hanging %.0f %%, failing %.0f %%: healthy p50 %.1f ms, p99 %.1f ms; lost %d", i+1, times,
				100*one.Hanging, 100*one.Failing, report.CommitToAckMS.P50, report.CommitToAckMS.P99, report.Lost)
		}
	}
	c.judge()
	return c, nil
}

func (c *Comparison) judge() {
	medians := func(runs []Report) MedianPercentiles {
		return MedianPercentiles{
			P50: median(runs, func(r Report) float64 { return r.CommitToAckMS.P50 }),
			P99: median(runs, func(r Report) float64 { return r.CommitToAckMS.P99 }),
		}
	}
	c.MedianWithMS, c.MedianWithoutMS = medians(c.With), medians(c.Without)
	c.P99MovedMS = load.Round(c.MedianWithMS.P99-c.MedianWithoutMS.P99, 2)
	if c.MedianWithoutMS.P99 > 0 {
		c.P99MovedPercent = load.Round(100*c.P99MovedMS/c.MedianWithoutMS.P99, 1)
	}
	c.Unmoved = c.P99MovedMS < unmovedMS || c.P99MovedPercent < 100*unmovedShare
}

// median is the middle value, or the mean of the two in the middle.
func median(runs []Report, value func(Report) float64) float64 {
	if len(runs) == 0 {
		return math.NaN()
	}
	values := make([]float64, len(runs))
	for i, run := range runs {
		values[i] = value(run)
	}
	slices.Sort(values)
	return load.Round((values[(len(values)-1)/2]+values[len(values)/2])/2, 2)
}

// Err is what makes any of the runs a failure, or that the healthy endpoints were hurt.
func (c Comparison) Err() error {
	for i := range c.With {
		for _, run := range []Report{c.With[i], c.Without[i]} {
			if err := run.Err(); err != nil {
				return fmt.Errorf("run %d: %w", i+1, err)
			}
		}
	}
	if !c.Unmoved {
		return fmt.Errorf("the healthy endpoints' p99 moved by %.1f ms, %.1f %%", c.P99MovedMS, c.P99MovedPercent)
	}
	return nil
}

// Print writes the runs and the medians for a person to read.
func (c Comparison) Print(w io.Writer) {
	fmt.Fprintln(w, "healthy endpoints, commit to 2xx in ms:")
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "run\tp50 with\tp50 without\tp99 with\tp99 without\tlost\trequests at one in trouble, at most\topen at once\tat all since their circuits opened\tprobes allowed\t")
	for i, with := range c.With {
		without := c.Without[i]
		var most, open, since, probes int
		for _, t := range with.Troubled {
			most, open = max(most, t.MostOfOne), max(open, t.MostOpenAtOnce)
			since, probes = since+t.AttemptsOpen, probes+t.Probes
		}
		fmt.Fprintf(tw, "%d\t%.1f\t%.1f\t%.1f\t%.1f\t%d\t%d\t%d\t%d\t%d\t\n", i+1, with.CommitToAckMS.P50, without.CommitToAckMS.P50,
			with.CommitToAckMS.P99, without.CommitToAckMS.P99, with.Lost+without.Lost, most, open, since, probes)
	}
	fmt.Fprintf(tw, "median\t%.1f\t%.1f\t%.1f\t%.1f\t\t\t\t\t\t\n", c.MedianWithMS.P50, c.MedianWithoutMS.P50, c.MedianWithMS.P99, c.MedianWithoutMS.P99)
	tw.Flush()
	verdict := "unmoved"
	if !c.Unmoved {
		verdict = "MOVED"
	}
	fmt.Fprintf(w, "\np99 with endpoints in trouble: %+.1f ms, %+.1f %%: %s (less than 3 ms or 10 %% is nothing)\n", c.P99MovedMS, c.P99MovedPercent, verdict)
}
