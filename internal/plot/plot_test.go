package plot

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// element is one of the document, with its text.
type element struct {
	name, text string
	attributes map[string]string
}

// draw writes the figure, and reads it back as XML.
func draw(t require.TestingT, f Figure) []element {
	var out bytes.Buffer
	require.NoError(t, f.Write(&out))
	var found []element
	var open []int
	for decoder := xml.NewDecoder(&out); ; {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			require.Empty(t, open)
			return found
		}
		require.NoError(t, err)
		switch token := token.(type) {
		case xml.StartElement:
			e := element{name: token.Name.Local, attributes: map[string]string{}}
			for _, each := range token.Attr {
				e.attributes[each.Name.Local] = each.Value
			}
			open, found = append(open, len(found)), append(found, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			if len(open) > 0 {
				found[open[len(open)-1]].text += string(token)
			}
		}
	}
}

func texts(elements []element) []string {
	var out []string
	for _, e := range elements {
		if e.name == "text" || e.name == "title" {
			out = append(out, e.text)
		}
	}
	return out
}

func count(elements []element, name string) int {
	n := 0
	for _, e := range elements {
		if e.name == name {
			n++
		}
	}
	return n
}

func TestAFigureSaysEverythingThatItWasGiven(t *testing.T) {
	t.Parallel()
	got := draw(t, Figure{
		Title: `a "<merchant>" & co`, Subtitle: "lost 0\x01", Seconds: 60,
		Shades: []Span{{From: 5, To: 25, Name: "answers <503>", Colour: Red}},
		Panels: []Panel{
			{Title: "backlog", Unit: "events", Lines: []Line{{Name: "parked", Colour: Blue, Points: []Point{{0, 0}, {10, 37}}}}},
			{Title: "latency", Unit: "ms", Log: true, Lines: []Line{{Name: "p99", Points: []Point{{0, 7}, {10, 2500}}}}, Limits: []Limit{{"1 s", 1000}}},
			{Title: "circuit", Strips: []Strip{{"shop", []Span{{0, 6, "closed", Green}, {6, 26, "open", Red}}}}},
		},
	})
	all := texts(got)
	for _, want := range []string{
		`a "<merchant>" & co`, "lost 0 ", "answers <503>", "backlog", "parked", "0 events", "40 events", "latency", "p99", "1 ms", "10 s", "1 s",
		"circuit", "shop", "closed", "open", "shop: open, 6.0 s to 26.0 s", "0 s", "60 s",
	} {
		require.Contains(t, all, want)
	}
	require.Equal(t, "svg", got[0].name)
}

func TestALineHasGapsWhereThereIsNoValue(t *testing.T) {
	t.Parallel()
	line := func(log bool, points ...Point) []element {
		return draw(t, Figure{Seconds: 10, Panels: []Panel{{Log: log, Lines: []Line{{Points: points}}}}})
	}
	require.Equal(t, 1, count(line(false, Point{1, 1}, Point{2, 2}, Point{3, 3}), "path"))
	require.Equal(t, 2, count(line(false, Point{1, 1}, Point{2, 2}, Point{3, math.NaN()}, Point{4, 1}, Point{5, 1}), "path"))
	require.Equal(t, 2, count(line(true, Point{1, 1}, Point{2, 2}, Point{3, 0}, Point{4, 1}, Point{5, 1}), "path"), "0 has no logarithm")
	require.Zero(t, count(line(false, Point{-1, 1}, Point{11, 2}), "path"), "it is outside")
	alone := line(false, Point{1, 1}, Point{2, math.NaN()})
	require.Zero(t, count(alone, "path"))
	require.Equal(t, 1, count(alone, "circle"), "a value with no neighbour is seen, too")
}

func TestAStepHoldsAValueUntilTheNextOne(t *testing.T) {
	t.Parallel()
	got := draw(t, Figure{Seconds: 10, Panels: []Panel{{Lines: []Line{{Step: true, Points: []Point{{0, 5}, {2, 5}, {4, 5}, {6, 0}, {10, 0}}}}}}})
	for _, e := range got {
		if e.name == "path" {
			require.Regexp(t, `^M86\.0 [\d.]+H596\.0V[\d.]+H936\.0V[\d.]+$`, e.attributes["d"])
		}
	}
	require.Equal(t, 1, count(got, "path"))
}

func TestNamesOfShadesDoNotCoverEachOther(t *testing.T) {
	t.Parallel()
	got := draw(t, Figure{Seconds: 100, Shades: []Span{
		{From: 1, To: 2, Name: "first fault"}, {From: 3, To: 4, Name: "second fault"}, {From: 60, To: 61, Name: "third fault"}, {From: 70, To: 71, Name: "first fault"},
	}})
	y := map[string]string{}
	for _, e := range got {
		if e.name == "text" && strings.HasSuffix(e.text, "fault") {
			require.NotContains(t, y, e.text, "it is named once")
			y[e.text] = e.attributes["y"]
		}
	}
	require.NotEqual(t, y["first fault"], y["second fault"])
	require.Equal(t, y["first fault"], y["third fault"])
}

func TestTicksArePlacesThatPeopleCountIn(t *testing.T) {
	t.Parallel()
	for length, want := range map[float64]float64{1: 0.1, 10: 1, 60: 5, 45: 5, 300: 50, 400: 60, 3600: 300} {
		require.InDelta(t, want, step(length, 12, true), 1e-9, "%g s", length)
	}
	for most, want := range map[float64][]float64{0: {0, 0.2, 0.4, 0.6, 0.8, 1}, 37: {0, 10, 20, 30, 40}, 400: {0, 100, 200, 300, 400}} {
		require.InDeltaSlice(t, want, Panel{Lines: []Line{{Points: []Point{{0, most}}}}}.axis().ticks, 1e-9)
	}
	require.InDeltaSlice(t, []float64{1, 10, 100, 1000}, Panel{Log: true, Lines: []Line{{Points: []Point{{0, 7}, {1, 730}}}}}.axis().ticks, 1e-9)
	require.Equal(t, []string{"0.2 ms", "5 ms", "1 s", "20 s", "1000/s", "7"},
		[]string{label(0.2, "ms"), label(5, "ms"), label(1000, "ms"), label(20_000, "ms"), label(1000, "/s"), label(7, "")})
}

var number = regexp.MustCompile(`[MLHV]|-?[\d.]+`)

// inside asks that every coordinate of a path is in the picture.
func inside(t require.TestingT, path string, height float64) {
	vertical, next := false, ' '
	for _, part := range number.FindAllString(strings.ReplaceAll(path, "Z", ""), -1) {
		switch part {
		case "M", "L":
			next, vertical = 'b', false
			continue
		case "H":
			next, vertical = 'h', false
			continue
		case "V":
			next, vertical = 'v', true
			continue
		}
		value, err := strconv.ParseFloat(part, 64)
		require.NoError(t, err)
		if vertical {
			require.True(t, value >= 0 && value <= height, "y %g of %g", value, height)
		} else {
			require.True(t, value >= left && value <= width-right, "x %g", value)
		}
		vertical = vertical || next == 'b'
	}
}

func TestWhateverIsDrawnIsXMLAndInThePicture(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		value := rapid.OneOf(rapid.Float64Range(-1e6, 1e6), rapid.Float64Range(0, 1e-3), rapid.SampledFrom([]float64{0, math.NaN(), math.Inf(1), 1e12}))
		span := rapid.Custom(func(t *rapid.T) Span {
			from := rapid.Float64Range(-10, 200).Draw(t, "from")
			return Span{from, from + rapid.Float64Range(0, 50).Draw(t, "length"), rapid.String().Draw(t, "name"), rapid.String().Draw(t, "colour")}
		})
		panel := rapid.Custom(func(t *rapid.T) Panel {
			if rapid.Bool().Draw(t, "strips") {
				return Panel{Title: rapid.String().Draw(t, "title"), Strips: []Strip{{rapid.String().Draw(t, "name"), rapid.SliceOfN(span, 0, 5).Draw(t, "spans")}}}
			}
			points := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Point {
				return Point{rapid.Float64Range(-10, 200).Draw(t, "x"), value.Draw(t, "y")}
			}), 0, 20).Draw(t, "points")
			return Panel{
				Title: rapid.String().Draw(t, "title"), Unit: rapid.String().Draw(t, "unit"), Log: rapid.Bool().Draw(t, "log"),
				Lines: []Line{{Name: rapid.String().Draw(t, "line"), Points: points, Step: rapid.Bool().Draw(t, "step"), Area: rapid.Bool().Draw(t, "area")}},
			}
		})
		f := Figure{
			Title: rapid.String().Draw(t, "title"), Subtitle: rapid.String().Draw(t, "subtitle"), Seconds: rapid.Float64Range(0, 400).Draw(t, "seconds"),
			Shades: rapid.SliceOfN(span, 0, 4).Draw(t, "shades"), Panels: rapid.SliceOfN(panel, 0, 3).Draw(t, "panels"),
		}
		got := draw(t, f)
		box := strings.Fields(got[0].attributes["viewBox"])
		height, err := strconv.ParseFloat(box[3], 64)
		require.NoError(t, err)
		for _, e := range got {
			if e.name == "path" {
				inside(t, e.attributes["d"], height)
			}
		}
	})
}
