package crashtest

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/plot"
)

// perSecond counts the moments in each second since the beginning.
func perSecond(began time.Time, moments []time.Time, seconds int) []int {
	counts := make([]int, seconds)
	for _, moment := range moments {
		if i := int(moment.Sub(began) / time.Second); i >= 0 && i < seconds {
			counts[i]++
		}
	}
	return counts
}

// length is how many seconds the load and its deliveries took.
func (r Result) length() int {
	end := r.Began
	for _, moments := range [][]time.Time{r.Commits, r.Deliveries} {
		if len(moments) > 0 && moments[len(moments)-1].After(end) {
			end = moments[len(moments)-1]
		}
	}
	return int(end.Sub(r.Began)/time.Second) + 1
}

// timeline draws commits, deliveries and faults for a terminal, in at most so many columns.
func timeline(r Result) []string {
	const columns = 100
	seconds := r.length()
	each := (seconds + columns - 1) / columns // seconds in one column
	commits, deliveries := perSecond(r.Began, r.Commits, seconds), perSecond(r.Began, r.Deliveries, seconds)
	squeezed := func(counts []int) []int {
		out := make([]int, (seconds+each-1)/each)
		for i, n := range counts {
			out[i/each] += n
		}
		return out
	}
	commits, deliveries = squeezed(commits), squeezed(deliveries)
	most := 1
	for i := range commits {
		most = max(most, commits[i], deliveries[i])
	}
	bars := func(counts []int) string {
		levels := []rune("▁▂▃▄▅▆▇█")
		var line strings.Builder
		for _, n := range counts {
			if n == 0 {
				line.WriteRune(' ')
				continue
			}
			line.WriteRune(levels[(n*len(levels)+most-1)/most-1])
		}
		return line.String()
	}
	var faults strings.Builder
	for i := range commits {
		from, to := r.Began.Add(time.Duration(i*each)*time.Second), r.Began.Add(time.Duration((i+1)*each)*time.Second)
		mark := ' '
		for _, w := range r.Faults {
			if w.From.Before(to) && w.To.After(from) {
				mark = '█'
			}
		}
		faults.WriteRune(mark)
	}
	return []string{
		"commits    |" + bars(commits) + "|",
		"deliveries |" + bars(deliveries) + "|",
		"fault      |" + faults.String() + "|",
		fmt.Sprintf("            0 to %d s, %d s a column, up to %.0f per second", seconds, each, float64(most)/float64(each)),
	}
}

// Plot writes commits and deliveries per second, with the faults as shades, as an SVG.
func (r Result) Plot(w io.Writer) error {
	seconds := r.length()
	figure := plot.Figure{
		Title: r.Fault, Seconds: float64(seconds),
		Subtitle: fmt.Sprintf("%d committed, %d received, %d lost, %d twice", r.Committed, r.Received, r.Lost, r.Duplicates),
		Panels: []plot.Panel{{Title: "webhooks", Unit: "/s", Lines: []plot.Line{
			{Name: "commits", Colour: plot.Blue, Points: rate(perSecond(r.Began, r.Commits, seconds))},
			{Name: "2xx of merchants", Colour: plot.Green, Points: rate(perSecond(r.Began, r.Deliveries, seconds))},
		}}},
	}
	for _, fault := range r.Faults {
		figure.Shades = append(figure.Shades, plot.Span{
			From: fault.From.Sub(r.Began).Seconds(), To: fault.To.Sub(r.Began).Seconds(), Name: fault.Fault, Colour: plot.Red,
		})
	}
	return figure.Write(w)
}

// rate is what was counted in each second, at its middle.
func rate(counts []int) []plot.Point {
	points := make([]plot.Point, len(counts))
	for i, n := range counts {
		points[i] = plot.Point{X: float64(i) + 0.5, Y: float64(n)}
	}
	return points
}
