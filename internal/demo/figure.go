package demo

import (
	"math"
	"slices"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/load"
	"github.com/hookline/hookline/internal/plot"
)

// slice is over how long a plot takes things together.
const slice = 500 * time.Millisecond

// mostInASecond is the most moments that any second has.
func mostInASecond(moments []time.Duration) int {
	slices.Sort(moments)
	most, first := 0, 0
	for i, at := range moments {
		for at-moments[first] >= time.Second {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

// slowest is the longest that events of each slice of time took, by their commit; a gap where there are none.
func slowest(events []arrival, length time.Duration) []plot.Point {
	points := empty(length, math.NaN())
	for _, e := range events {
		if i := int(e.committed / slice); e.accepted > 0 && e.committed >= 0 && i < len(points) {
			if took := load.Milliseconds(e.took()); math.IsNaN(points[i].Y) || took > points[i].Y {
				points[i].Y = took
			}
		}
	}
	return points
}

// perSecond is how many events were accepted, or committed, in each slice of time, per second.
func perSecond(events []arrival, length time.Duration, when func(arrival) time.Duration) []plot.Point {
	points := empty(length, 0)
	for _, e := range events {
		at := when(e)
		if i := int(at / slice); at > 0 && i < len(points) {
			points[i].Y += float64(time.Second / slice)
		}
	}
	return points
}

// empty is a point in the middle of each slice.
func empty(length time.Duration, value float64) []plot.Point {
	points := make([]plot.Point, int(length/slice)+1)
	for i := range points {
		points[i] = plot.Point{X: (time.Duration(i)*slice + slice/2).Seconds(), Y: value}
	}
	return points
}

// figure draws the ordeal.
func (d *ordeal) figure(title, subtitle, trouble string, fates []fate) plot.Figure {
	length := d.samples[len(d.samples)-1].at
	ill, well := eventsOf(fates[:d.ill]), eventsOf(fates[d.ill:])
	var parked, due []plot.Point
	for _, s := range d.samples {
		p, u := plot.Point{X: s.at.Seconds()}, plot.Point{X: s.at.Seconds()}
		for i, each := range s.backlogs {
			if i < d.ill {
				p.Y, u.Y = p.Y+float64(each.Parked), u.Y+float64(each.Due)
			}
		}
		parked, due = append(parked, p), append(due, u)
	}
	theirs, panel := "the merchant's", "the merchant's webhooks"
	if d.ill > 1 {
		theirs, panel = "of those that "+trouble, "webhooks of those that "+trouble
	}
	figure := plot.Figure{
		Title: title, Subtitle: subtitle, Seconds: length.Seconds(),
		Shades: []plot.Span{{From: d.fell.Seconds(), To: d.recovered.Seconds(), Name: trouble, Colour: plot.Red}},
		Panels: []plot.Panel{
			{Title: "backlog, events", Lines: []plot.Line{
				{Name: "parked", Colour: plot.Blue, Points: parked, Step: true, Area: true},
				{Name: "to be tried, or under way", Colour: plot.Orange, Points: due, Step: true},
			}},
			{Title: panel, Unit: "/s", Lines: []plot.Line{
				{Name: "created", Colour: plot.Grey, Points: perSecond(ill, length, func(a arrival) time.Duration { return a.committed })},
				{Name: "accepted", Colour: plot.Blue, Points: perSecond(ill, length, func(a arrival) time.Duration { return a.accepted })},
			}},
			{Title: "commit to 2xx, by when it was created: the slowest", Unit: "ms", Log: true, Limits: []plot.Limit{{Name: "1 s", Y: 1000}}, Lines: []plot.Line{
				{Name: theirs, Colour: plot.Blue, Points: slowest(ill, length)},
				{Name: "the others'", Colour: plot.Green, Points: slowest(well, length)},
			}},
		},
	}
	circuits := plot.Panel{Title: "circuit"}
	looks := map[delivery.Circuit]struct{ name, colour string }{
		delivery.CircuitClosed: {"closed", plot.Green}, delivery.CircuitHalfOpen: {"half open: one is tried", plot.Orange}, delivery.CircuitOpen: {"open", plot.Red},
	}
	for i := range d.ill {
		var strip plot.Strip
		if d.ill > 1 {
			strip.Name = string(rune('A' + i))
		}
		for _, p := range d.phases(i) {
			look := looks[p.state]
			strip.Spans = append(strip.Spans, plot.Span{From: p.from.Seconds(), To: p.to.Seconds(), Name: look.name, Colour: look.colour})
		}
		circuits.Strips = append(circuits.Strips, strip)
	}
	figure.Panels = append(figure.Panels, circuits)
	return figure
}
