package plot

import (
	"math"
	"strconv"
	"strings"
)

// axis is the values' axis of a panel.
type axis struct {
	log      bool
	from, to float64 // the exponents of 10 where it is logarithmic
	ticks    []float64
}

// axis makes one that every value of the panel is on.
func (panel Panel) axis() axis {
	least, most := math.Inf(1), math.Inf(-1)
	look := func(value float64) {
		if math.IsNaN(value) || math.IsInf(value, 0) || (panel.Log && value <= 0) {
			return
		}
		least, most = min(least, value), max(most, value)
	}
	for _, line := range panel.Lines {
		for _, point := range line.Points {
			look(point.Y)
		}
	}
	for _, limit := range panel.Limits {
		look(limit.Y)
	}
	if least > most { // there is nothing
		least, most = 1, 1
	}
	a := axis{log: panel.Log}
	if a.log {
		a.from, a.to = math.Floor(math.Log10(least)), math.Ceil(math.Log10(most))
		a.to = max(a.to, a.from+1)
		for exponent := a.from; exponent <= a.to; exponent++ {
			a.ticks = append(a.ticks, math.Pow(10, exponent))
		}
		return a
	}
	a.from = min(0, least)
	each := step(max(most, 1)-a.from, 5, false)
	a.from = math.Floor(a.from/each) * each
	a.to = math.Ceil(max(most, 1)/each) * each
	for i := 0; a.from+float64(i)*each <= a.to+each/2; i++ {
		a.ticks = append(a.ticks, a.from+float64(i)*each)
	}
	return a
}

// at is where a value is: 0 is the bottom, 1 the top.
func (a axis) at(value float64) float64 {
	if a.log {
		value = math.Log10(value)
	}
	return min(1, max(0, (value-a.from)/(a.to-a.from)))
}

// step is a distance between ticks that people can count in, with at most so many of them in the range.
func step(length float64, most int, time bool) float64 {
	factors := []float64{1, 2, 5}
	if time && length > 30*float64(most) {
		for _, each := range []float64{60, 120, 300, 600, 1200, 1800, 3600} {
			if length/each <= float64(most) {
				return each
			}
		}
	}
	for unit := math.Pow(10, math.Floor(math.Log10(length/float64(most)))); ; unit *= 10 {
		for _, factor := range factors {
			if length/(unit*factor) <= float64(most) {
				return unit * factor
			}
		}
	}
}

// label is a value with its unit.
func label(value float64, unit string) string {
	if unit == "ms" && value >= 1000 {
		value, unit = value/1000, "s"
	}
	text := strconv.FormatFloat(value, 'f', -1, 64)
	if math.Abs(value) < 1 {
		text = strconv.FormatFloat(value, 'g', 3, 64)
	}
	if unit == "" || strings.HasPrefix(unit, "/") {
		return text + unit
	}
	return text + " " + unit
}
