package bench

import (
	"context"
	"sync"
	"time"

	"github.com/hookline/hookline/internal/load"
)

const (
	memoryInterval = 2 * time.Second
	// settledAfter is the share of a run after which memory is to be flat: caches, pools and heaps have found their size.
	// Of 5 minutes it leaves the last 4.
	settledAfter = 0.2
	// leastSettled is the shortest time over which a slope says anything.
	leastSettled = 20 * time.Second
	// What a process may grow by in that time and count as flat: a share of what it held, or so many MiB, which is what a
	// heap moves by between two collections.
	flatShare, flatMB = 0.1, 16
	maxSeries         = 60
)

// Memory is what a component held during the run, in MiB.
type Memory struct {
	FirstMB float64 `json:"first_mb"`
	LastMB  float64 `json:"last_mb"`
	MaxMB   float64 `json:"max_mb"`
	// SlopeMBPerMin is of the straight line that fits the last SlopeOverS seconds best; both are 0 for a short run.
	SlopeMBPerMin float64 `json:"slope_mb_per_min"`
	SlopeOverS    float64 `json:"slope_over_s"`
	// Flat says that it grew by less than a tenth, or than 16 MiB, in that time.
	Flat bool `json:"flat"`
	// SeriesMB is what it held every SeriesEveryS seconds.
	SeriesMB     []float64 `json:"series_mb"`
	SeriesEveryS float64   `json:"series_every_s"`
}

// held is a component's memory at a moment.
type held struct {
	at    time.Duration // since the beginning
	bytes int64
}

// memoryWatch looks at the components' memory now and then.
type memoryWatch struct {
	proc       procFS
	components []Component
	stop       func()
	held       map[string][]held // by component
	err        error
}

// watchMemory looks until the watch is stopped. What it has seen is to be read after that; to stop it again does nothing.
func watchMemory(ctx context.Context, proc procFS, components []Component) *memoryWatch {
	ctx, cancel := context.WithCancel(ctx)
	w := &memoryWatch{proc: proc, components: components, held: map[string][]held{}}
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(memoryInterval)
		defer tick.Stop()
		for began := time.Now(); ; {
			if err := w.look(time.Since(began)); err != nil {
				w.err = err
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	w.stop = func() { cancel(); looking.Wait() }
	return w
}

func (w *memoryWatch) look(at time.Duration) error {
	all, err := w.proc.processes()
	if err != nil {
		return err
	}
	for _, c := range w.components {
		bytes, err := w.proc.heldMemory(family(all, c.PID))
		if err != nil {
			return err
		}
		w.held[c.Name] = append(w.held[c.Name], held{at, bytes})
	}
	return nil
}

// memoryOf says what the looks have shown; nil where there was none.
func memoryOf(looks []held) *Memory {
	if len(looks) == 0 {
		return nil
	}
	mb := func(bytes float64) float64 { return load.Round(bytes/(1<<20), 1) }
	first, last := looks[0], looks[len(looks)-1]
	m := &Memory{FirstMB: mb(float64(first.bytes)), LastMB: mb(float64(last.bytes)), Flat: true}
	every := (len(looks) + maxSeries - 1) / maxSeries
	m.SeriesEveryS = (time.Duration(every) * memoryInterval).Seconds()
	from := time.Duration(float64(last.at) * settledAfter)
	var settled []held
	for i, look := range looks {
		m.MaxMB = max(m.MaxMB, mb(float64(look.bytes)))
		if i%every == 0 {
			m.SeriesMB = append(m.SeriesMB, mb(float64(look.bytes)))
		}
		if look.at >= from {
			settled = append(settled, look)
		}
	}
	if over := last.at - from; over >= leastSettled {
		slope, mean := fit(settled)
		grown := slope * over.Seconds()
		m.SlopeMBPerMin, m.SlopeOverS = load.Round(slope*60/(1<<20), 2), load.Round(over.Seconds(), 0)
		m.Flat = grown < flatShare*mean || grown < flatMB<<20
	}
	return m
}

// fit returns the slope of the straight line that fits best, in bytes per second, and the mean.
func fit(looks []held) (slope, mean float64) {
	var sumX, sumY, sumXX, sumXY float64
	for _, look := range looks {
		x, y := look.at.Seconds(), float64(look.bytes)
		sumX, sumY, sumXX, sumXY = sumX+x, sumY+y, sumXX+x*x, sumXY+x*y
	}
	n := float64(len(looks))
	if spread := n*sumXX - sumX*sumX; spread > 0 {
		slope = (n*sumXY - sumX*sumY) / spread
	}
	return slope, sumY / max(1, n)
}
