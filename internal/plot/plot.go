package plot

import (
	"cmp"
	"fmt"
	"html"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode"
)

// Colours that can be told apart, also by most of those who see fewer, on white.
const (
	Blue   = "#2468c0"
	Green  = "#1a8f4a"
	Orange = "#d97706"
	Red    = "#d33a2c"
	Purple = "#7b4fb5"
	Grey   = "#8a8f98"
)

// Figure is panels over one time axis. Times are seconds since its beginning.
type Figure struct {
	Title    string
	Subtitle string  // a line of figures
	Seconds  float64 // how long the axis is; what lies outside is not drawn
	Shades   []Span  // behind every panel, named above them
	Panels   []Panel
}

// Panel has lines, or strips.
type Panel struct {
	Title  string
	Unit   string // of the values; ms are labelled as seconds from 1000 on
	Log    bool   // the values' axis is logarithmic; what is not positive is not drawn
	Lines  []Line
	Limits []Limit
	Strips []Strip
}

// Line is one series.
type Line struct {
	Name   string
	Colour string
	Points []Point // by time
	Step   bool    // a value holds until the next one
	Area   bool    // what is below it is tinted
}

// Point is a value at a time. A value that is not a number leaves a gap.
type Point struct{ X, Y float64 }

// Limit is a value that a panel's lines are to be compared with.
type Limit struct {
	Name string
	Y    float64
}

// Strip shows which of a few states something was in.
type Strip struct {
	Name  string
	Spans []Span
}

// Span is a time that has a name. Spans of one name have one colour.
type Span struct {
	From, To float64
	Name     string
	Colour   string
}

// The measures of the picture, in pixels.
const (
	width, left, right  = 960, 86, 24
	lineHeight          = 150 // of a panel with lines
	stripHeight, stripY = 18, 24
	above, below        = 30, 16 // of a panel: for its title, and before the next one
	row                 = 17     // of text
	letter              = 6.6    // about as wide as a letter is
)

// Write writes the figure as an SVG document.
func (f Figure) Write(w io.Writer) error {
	p := picture{Figure: f, end: max(f.Seconds, 1)}
	p.draw()
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %.0f" font-family="system-ui, sans-serif" font-size="12" fill="#24292f">`+
		"\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n%s</svg>\n", width, p.y, p.out.String())
	if err != nil {
		return fmt.Errorf("writing the plot: %w", err)
	}
	return nil
}

// picture is a figure as it is being drawn, from the top.
type picture struct {
	Figure
	end float64 // of the time axis
	y   float64 // how far it is
	out strings.Builder
}

func (p *picture) printf(format string, args ...any) { fmt.Fprintf(&p.out, format+"\n", args...) }

func (p *picture) text(x, y float64, attributes, text string) {
	p.printf(`<text x="%.1f" y="%.1f"%s>%s</text>`, x, y, attributes, escape(text))
}

// x is where a time is, which may be before or behind the axis.
func (p *picture) x(second float64) float64 {
	return left + min(1, max(0, second/p.end))*(width-left-right)
}

func (p *picture) draw() {
	p.y = 26
	p.text(left, p.y, ` font-size="15" font-weight="600"`, p.Title)
	if p.Subtitle != "" {
		p.y += row + 2
		p.text(left, p.y, ` fill="#57606a"`, p.Subtitle)
	}
	p.nameShades()
	for _, panel := range p.Panels {
		p.panel(panel)
	}
	for second := 0.0; second <= p.end; second += step(p.end, 12, true) {
		p.text(p.x(second), p.y+2, ` text-anchor="middle" fill="#57606a"`, strconv.FormatFloat(second, 'f', -1, 64)+" s")
	}
	p.y += row
}

// nameShades writes the names of the shades above the panels, in as many rows as they need.
func (p *picture) nameShades() {
	if len(p.Shades) == 0 {
		p.y += 4
		return
	}
	var full []float64 // where each row's last name ends
	named := map[string]bool{}
	for _, shade := range p.Shades {
		if named[shade.Name] {
			continue
		}
		named[shade.Name] = true
		wide := float64(len([]rune(shade.Name)))*letter + 8
		x := min(p.x(shade.From), width-right-wide)
		at := 0
		for at < len(full) && full[at] > x {
			at++
		}
		if at == len(full) {
			full = append(full, 0)
		}
		full[at] = x + wide
		p.text(x, p.y+float64(at+1)*row+4, ` fill="`+colour(shade.Colour)+`"`, shade.Name)
	}
	p.y += float64(len(full))*row + 4
}

// escape makes text of XML of any text. XML has no way to write a control character.
func escape(text string) string {
	return html.EscapeString(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\uFFFE' || r == '\uFFFF' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
}

// colour is for who set none.
func colour(set string) string { return escape(cmp.Or(set, Grey)) }

// panel draws one below what there is.
func (p *picture) panel(panel Panel) {
	high := float64(lineHeight)
	if len(panel.Lines) == 0 {
		high = float64(len(panel.Strips))*stripY + 4
	}
	p.text(left, p.y+above-10, ` font-weight="600"`, panel.Title)
	p.legend(panel, p.y+above-10)
	top := p.y + above
	p.printf(`<rect x="%d" y="%.1f" width="%d" height="%.1f" fill="#f6f8fa"/>`, left, top, width-left-right, high)
	for _, shade := range p.Shades {
		from, to := p.x(shade.From), p.x(shade.To)
		p.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" fill-opacity="0.12"><title>%s</title></rect>`,
			from, top, max(1, to-from), high, colour(shade.Colour), escape(shade.Name))
	}
	for second := 0.0; second <= p.end; second += step(p.end, 12, true) {
		p.printf(`<line x1="%.1f" x2="%.1f" y1="%.1f" y2="%.1f" stroke="#e4e8ec"/>`, p.x(second), p.x(second), top, top+high)
	}
	if len(panel.Lines) > 0 {
		p.lines(panel, top)
	} else {
		p.strips(panel, top)
	}
	p.y = top + high + below
}

// legend names a panel's lines, or the states of its strips, from the right.
func (p *picture) legend(panel Panel, y float64) {
	type entry struct{ name, colour string }
	var entries []entry
	known := map[string]bool{}
	add := func(name, colour string) {
		if !known[name] {
			known[name] = true
			entries = append(entries, entry{name, colour})
		}
	}
	for _, line := range panel.Lines {
		add(line.Name, line.Colour)
	}
	for _, strip := range panel.Strips {
		for _, span := range strip.Spans {
			add(span.Name, span.Colour)
		}
	}
	x := float64(width - right)
	for i := len(entries) - 1; i >= 0; i-- {
		p.printf(`<rect x="%.1f" y="%.1f" width="11" height="11" rx="2" fill="%s"/>`, x-11, y-10, colour(entries[i].colour))
		p.text(x-16, y, ` text-anchor="end"`, entries[i].name) // how wide it is is only guessed
		x -= float64(len([]rune(entries[i].name)))*letter + 34
	}
}

// strips draws the states, a strip a row.
func (p *picture) strips(panel Panel, top float64) {
	for i, strip := range panel.Strips {
		y := top + 4 + float64(i)*stripY
		p.text(left-8, y+13, ` text-anchor="end"`, strip.Name)
		for _, span := range strip.Spans {
			from, to := p.x(span.From), p.x(span.To)
			p.printf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%d" fill="%s"><title>%s: %s, %.1f s to %.1f s</title></rect>`,
				from, y, max(1.5, to-from), stripHeight, colour(span.Colour), escape(strip.Name), escape(span.Name), span.From, span.To)
		}
	}
}

// lines draws a panel's axis, and its lines on it.
func (p *picture) lines(panel Panel, top float64) {
	axis := panel.axis()
	y := func(value float64) float64 { return top + lineHeight - axis.at(value)*lineHeight }
	for _, value := range axis.ticks {
		p.printf(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#d5dae0"/>`, left, width-right, y(value), y(value))
		p.text(left-8, y(value)+4, ` text-anchor="end" fill="#57606a"`, label(value, panel.Unit))
	}
	for _, limit := range panel.Limits {
		p.printf(`<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#57606a" stroke-dasharray="5 4"/>`, left, width-right, y(limit.Y), y(limit.Y))
		p.text(left+6, y(limit.Y)-4, ` fill="#57606a"`, limit.Name)
	}
	for _, line := range panel.Lines {
		for _, part := range p.parts(line, panel.Log) {
			p.line(line, part, y, top+lineHeight)
		}
	}
}

// parts cuts a line at its gaps, and at the ends of the axis.
func (p *picture) parts(line Line, log bool) [][]Point {
	var parts [][]Point
	open := false
	for _, point := range line.Points {
		if math.IsNaN(point.Y) || math.IsInf(point.Y, 0) || (log && point.Y <= 0) || !(point.X >= 0 && point.X <= p.end) {
			open = false
			continue
		}
		if !open {
			parts, open = append(parts, nil), true
		}
		last := len(parts) - 1
		parts[last] = append(parts[last], point)
	}
	return parts
}

func (p *picture) line(line Line, points []Point, y func(float64) float64, bottom float64) {
	var path strings.Builder
	fmt.Fprintf(&path, "M%.1f %.1f", p.x(points[0].X), y(points[0].Y))
	for i := 1; i < len(points); i++ {
		switch {
		case !line.Step:
			fmt.Fprintf(&path, "L%.1f %.1f", p.x(points[i].X), y(points[i].Y))
		case points[i].Y != points[i-1].Y || i == len(points)-1:
			fmt.Fprintf(&path, "H%.1fV%.1f", p.x(points[i].X), y(points[i].Y))
		}
	}
	if line.Area {
		p.printf(`<path d="%sV%.1fH%.1fZ" fill="%s" fill-opacity="0.18"/>`, path.String(), bottom, p.x(points[0].X), colour(line.Colour))
	}
	if len(points) == 1 { // a line of no length would not be seen
		p.printf(`<circle cx="%.1f" cy="%.1f" r="2" fill="%s"/>`, p.x(points[0].X), y(points[0].Y), colour(line.Colour))
		return
	}
	p.printf(`<path d="%s" fill="none" stroke="%s" stroke-width="1.6" stroke-linejoin="round"/>`, path.String(), colour(line.Colour))
}
