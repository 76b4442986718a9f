package crashtest

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"
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

// Plot writes commits and deliveries per second, with the faults as bands, as an SVG.
func (r Result) Plot(w io.Writer) error {
	const width, height, left, top, right, bottom = 960, 360, 60, 40, 20, 50
	seconds := r.length()
	commits, deliveries := perSecond(r.Began, r.Commits, seconds), perSecond(r.Began, r.Deliveries, seconds)
	most := 1
	for i := range commits {
		most = max(most, commits[i], deliveries[i])
	}
	x := func(second float64) float64 { return left + second/float64(seconds)*(width-left-right) }
	y := func(n float64) float64 { return height - bottom - n/float64(most)*(height-top-bottom) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="14">%s: %d committed, %d received, %d lost, %d twice</text>`+"\n",
		left, html.EscapeString(r.Fault), r.Committed, r.Received, r.Lost, r.Duplicates)
	for _, fault := range r.Faults {
		from := max(0, fault.From.Sub(r.Began).Seconds())
		to := min(float64(seconds), fault.To.Sub(r.Began).Seconds())
		fmt.Fprintf(&b, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="#d33" fill-opacity="0.15"><title>%s</title></rect>`+"\n",
			x(from), top, max(1, x(to)-x(from)), height-top-bottom, html.EscapeString(fault.Fault))
	}
	for i := range 5 {
		n := float64(most) * float64(i) / 4
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/><text x="%d" y="%.1f" text-anchor="end">%.0f/s</text>`+"\n",
			left, width-right, y(n), y(n), left-6, y(n)+4, n)
		second := float64(seconds) * float64(i) / 4
		fmt.Fprintf(&b, `<text x="%.1f" y="%d" text-anchor="middle">%.0f s</text>`+"\n", x(second), height-bottom+18, second)
	}
	for _, line := range []struct {
		name, colour string
		counts       []int
		at           float64
	}{{"commits", "#2468c0", commits, left}, {"2xx of merchants", "#1a8f4a", deliveries, left + 120}} {
		var points []string
		for i, n := range line.counts {
			points = append(points, fmt.Sprintf("%.1f,%.1f", x(float64(i)+0.5), y(float64(n))))
		}
		fmt.Fprintf(&b, `<polyline fill="none" stroke="%s" stroke-width="1.5" points="%s"/>`+"\n", line.colour, strings.Join(points, " "))
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" fill="%s">%s</text>`+"\n", line.at, height-10, line.colour, line.name)
	}
	b.WriteString("</svg>\n")
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return nil
}
