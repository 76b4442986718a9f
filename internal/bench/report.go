package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/load"
)

// Report is what a run measured.
type Report struct {
	Mode    string  `json:"mode"` // burst or rate
	Intake  string  `json:"intake"`
	Kafka   string  `json:"kafka"`
	Machine Machine `json:"machine"`

	Created    int     `json:"created"` // events that were committed
	Delivered  int     `json:"delivered"`
	Lost       int     `json:"lost"`       // of the created, those whose 2xx never came
	Duplicates int     `json:"duplicates"` // of the created, those with more than one 2xx
	Seconds    float64 `json:"seconds"`    // from the first post to the last 2xx

	DeliveredPerS float64 `json:"delivered_per_s"`
	PublishedPerS float64 `json:"published_per_s"`
	// CPUMSPerEvent is of all processes of the stack, without the load generator and its merchants.
	CPUMSPerEvent float64          `json:"cpu_ms_per_event"`
	CommitToAckMS load.Percentiles `json:"commit_to_ack_ms"` // from the commit to the merchant's first 2xx

	OfferedPerS       float64          `json:"offered_per_s,omitempty"` // of a rate
	Publishers        int              `json:"publishers,omitempty"`    // of a burst
	Merchants         int              `json:"merchants"`
	BodyBytes         int64            `json:"body_bytes"`  // mean of the webhooks
	Errors            int              `json:"errors"`      // posts that were not answered 201
	LateStarts        int              `json:"late_starts"` // posts that began more than 5 ms behind the schedule
	InvalidSignatures int              `json:"invalid_signatures"`
	Unexpected        int              `json:"unexpected"` // webhooks of events that were never committed
	PublishMS         load.Percentiles `json:"publish_ms"` // of a post, until its 201
	LostIDs           []uuid.UUID      `json:"lost_ids,omitempty"`

	// Troubled are the endpoints that hang or fail. Where there are any, all figures above but errors, late starts and
	// those of publishing are of the others alone.
	Troubled []Troubled `json:"troubled,omitempty"`

	Processes     []Usage `json:"processes"`
	LoadGenerator Usage   `json:"load_generator"` // this process: the publishers and the merchants
}

// Machine is what the run ran on.
type Machine struct {
	CPU   string `json:"cpu"`
	Cores int    `json:"cores"`
}

// Err is what makes a run a failure, whatever its speed; nil where nothing was lost, and all was signed well.
func (r Report) Err() error {
	switch {
	case r.Lost > 0:
		return fmt.Errorf("%d of %d events were not delivered", r.Lost, r.Created)
	case r.InvalidSignatures > 0:
		return fmt.Errorf("%d webhooks were not signed well", r.InvalidSignatures)
	case r.Unexpected > 0:
		return fmt.Errorf("%d webhooks are of events that were never committed", r.Unexpected)
	case r.unaccounted() > 0:
		return fmt.Errorf("%d events of endpoints that hang or fail are not in the ledger", r.unaccounted())
	case r.Created == 0:
		return fmt.Errorf("no payment was created: %d posts failed", r.Errors)
	}
	return nil
}

func (r Report) unaccounted() int {
	sum := 0
	for _, each := range r.Troubled {
		sum += each.Unaccounted
	}
	return sum
}

// Print writes the report for a person to read.
func (r Report) Print(w io.Writer) {
	fmt.Fprintf(w, "%s on %d cores of %s; intake %s, kafka %s; %d merchants, webhooks of %d bytes\n\n",
		r.Mode, r.Machine.Cores, r.Machine.CPU, r.Intake, r.Kafka, r.Merchants, r.BodyBytes)
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintf(tw, "created\t%d\tpublished %.0f/s, %d errors, %d late starts, answered in p50 %.1f, p99 %.1f ms\n",
		r.Created, r.PublishedPerS, r.Errors, r.LateStarts, r.PublishMS.P50, r.PublishMS.P99)
	fmt.Fprintf(tw, "delivered\t%d\t%.0f/s over %.1f s\n", r.Delivered, r.DeliveredPerS, r.Seconds)
	fmt.Fprintf(tw, "lost\t%d\nduplicates\t%d\ninvalid signatures\t%d\n", r.Lost, r.Duplicates, r.InvalidSignatures)
	fmt.Fprintf(tw, "commit to 2xx\t-\tp50 %.1f, p95 %.1f, p99 %.1f, max %.1f ms\n",
		r.CommitToAckMS.P50, r.CommitToAckMS.P95, r.CommitToAckMS.P99, r.CommitToAckMS.Max)
	fmt.Fprintf(tw, "CPU per event\t-\t%.3f ms\n", r.CPUMSPerEvent)
	tw.Flush()

	fmt.Fprintln(w)
	r.printTroubled(w)
	tw = tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "CPU s\tms per event\tpeak MiB\t")
	for _, u := range r.Processes {
		name := u.Name
		if u.Ended {
			name += " (it ended during the run: not counted)"
		}
		fmt.Fprintf(tw, "%.2f\t%.3f\t%.0f\t  %s\n", u.CPUSeconds, u.CPUMSPerEvent, u.PeakRSSMB, name)
		for _, part := range u.Parts {
			fmt.Fprintf(tw, "%.2f\t%.3f\t\t  - %s\n", part.CPUSeconds, part.CPUMSPerEvent, part.Name)
		}
	}
	fmt.Fprintf(tw, "%.2f\t%.3f\t%.0f\t  %s\n", r.LoadGenerator.CPUSeconds, r.LoadGenerator.CPUMSPerEvent,
		r.LoadGenerator.PeakRSSMB, "(load and merchants, not in the sum)")
	tw.Flush()
	r.printMemory(w)
	for _, id := range r.LostIDs {
		fmt.Fprintf(w, "lost: %s\n", id)
	}
}

func (r Report) printTroubled(w io.Writer) {
	for _, t := range r.Troubled {
		fmt.Fprintf(w, "%d of the endpoints are %s, and not in the figures above: %d events, %d of them not in the ledger; there %s; circuits %s\n",
			t.Endpoints, t.Kind, t.Created, t.Unaccounted, counts(t.States), counts(t.Circuits))
		fmt.Fprintf(w, "  %d requests came; the most at one endpoint: %d, %d within a second, %d open at once, %d in the last minute\n",
			t.Attempts, t.MostOfOne, t.MostOfOnePerS, t.MostOpenAtOnce, t.MostOfOneLatePerM)
		if t.OpenedAfterS == nil {
			fmt.Fprintf(w, "  not all of their circuits opened\n\n")
			continue
		}
		fmt.Fprintf(w, "  all of their circuits had opened after %.1f s; since then %d requests came to all of them, and %d probes were allowed\n\n",
			*t.OpenedAfterS, t.AttemptsOpen, t.Probes)
	}
}

// counts writes what there is of each, by name.
func counts[K ~string](of map[K]int) string {
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(of)) {
		parts = append(parts, fmt.Sprintf("%s %d", key, of[key]))
	}
	return cmp.Or(strings.Join(parts, ", "), "none")
}

func (r Report) printMemory(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', tabwriter.AlignRight)
	headed := false
	for _, u := range r.Processes {
		m := u.Memory
		if m == nil {
			continue
		}
		if !headed {
			headed = true
			fmt.Fprintf(w, "\nmemory in MiB, and how it moved in the last %.0f s\n", m.SlopeOverS)
			fmt.Fprintln(tw, "first\tlast\tmost\tper minute\t")
		}
		verdict := "flat"
		if !m.Flat {
			verdict = "it grows"
		}
		if m.SlopeOverS == 0 {
			verdict = "too short to say"
		}
		fmt.Fprintf(tw, "%.0f\t%.0f\t%.0f\t%+.1f\t  %s: %s\n", m.FirstMB, m.LastMB, m.MaxMB, m.SlopeMBPerMin, u.Name, verdict)
	}
	tw.Flush()
}
