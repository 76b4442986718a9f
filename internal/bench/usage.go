package bench

import (
	"cmp"
	"slices"
	"time"

	"github.com/hookline/hookline/internal/load"
)

// Component is one part of the stack by its leading process.
type Component struct {
	Name string
	PID  int
}

// Usage is what a component spent on the run.
type Usage struct {
	Name          string  `json:"name"`
	CPUSeconds    float64 `json:"cpu_s"`
	CPUMSPerEvent float64 `json:"cpu_ms_per_event"`
	// PeakRSSMB is the most memory that the component held since it was started, in MiB.
	PeakRSSMB float64 `json:"peak_rss_mb"`
	// Memory is what it held during the run. It is watched where memory may grow: at a rate.
	Memory *Memory `json:"memory,omitempty"`
	// Ended says that the process ended during the run. What it spent is unknown and missing in every sum.
	Ended bool `json:"ended,omitempty"`
	// Parts says where the CPU went, where that is known: for whom PostgreSQL's processes worked.
	Parts []Part `json:"parts,omitempty"`
}

// Part is the share of some of a component's processes.
type Part struct {
	Name          string  `json:"name"`
	CPUSeconds    float64 `json:"cpu_s"`
	CPUMSPerEvent float64 `json:"cpu_ms_per_event"`
}

// sample is the state of all processes at one moment.
type sample map[int]process

// spent is what the component used between two samples. names, which may be nil, names some of its processes.
func spent(before, after sample, c Component, names map[int]string) (time.Duration, map[string]time.Duration) {
	members := family(after, c.PID)
	// One that was restarted in between starts from 0: what it spent before its death went with it.
	var base time.Duration
	if then, ok := before[c.PID]; ok && then.started == after[c.PID].started {
		base = cpuOf(family(before, c.PID))
	}
	total := max(0, cpuOf(members)-base)
	if names == nil {
		return total, nil
	}
	parts, rest := map[string]time.Duration{}, total
	for _, now := range members {
		name, ok := names[now.pid]
		if !ok || now.pid == c.PID {
			continue
		}
		used := now.cpu
		if then, ok := before[now.pid]; ok && then.started == now.started {
			used -= then.cpu
		}
		parts[name] += used
		rest -= used
	}
	if rest > 0 { // its leader, and processes that came and went
		parts["other"] += rest
	}
	return total, parts
}

// usage turns what was spent into a row of the report.
func usage(name string, cpu time.Duration, events int, peak int64, parts map[string]time.Duration) Usage {
	u := Usage{
		Name: name, CPUSeconds: load.Round(cpu.Seconds(), 2), CPUMSPerEvent: perEvent(cpu, events),
		PeakRSSMB: load.Round(float64(peak)/(1<<20), 1),
	}
	for part, used := range parts {
		if used > 0 {
			u.Parts = append(u.Parts, Part{Name: part, CPUSeconds: load.Round(used.Seconds(), 2), CPUMSPerEvent: perEvent(used, events)})
		}
	}
	slices.SortFunc(u.Parts, func(a, b Part) int {
		return cmp.Or(cmp.Compare(b.CPUSeconds, a.CPUSeconds), cmp.Compare(a.Name, b.Name))
	})
	return u
}

func perEvent(cpu time.Duration, events int) float64 {
	if events == 0 {
		return 0
	}
	return load.Round(float64(cpu)/float64(time.Millisecond)/float64(events), 3)
}
