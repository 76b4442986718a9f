package listen

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/google/uuid"
)

// Started is what a developer needs to know at the beginning.
type Started struct {
	EndpointID uuid.UUID `json:"endpoint_id"`
	MerchantID string    `json:"merchant_id"`
	EventTypes []string  `json:"event_types"` // none is every type but the operational ones
	URL        string    `json:"url"`         // where Hookline sends them
	ForwardTo  string    `json:"forward_to,omitempty"`
	Secret     string    `json:"secret"` // what to verify with
}

// Printer prints for a person, or JSON for a program. It is safe for concurrent use.
type Printer struct {
	// JSON prints one object per line; its kind is listening, webhook or ended.
	JSON bool
	// Body prints bodies, too.
	Body bool

	mu  sync.Mutex
	out io.Writer
}

// NewPrinter makes a printer for persons.
func NewPrinter(out io.Writer) *Printer { return &Printer{out: out} }

func (p *Printer) started(s Started) {
	if p.JSON {
		p.object(struct {
			Kind string `json:"kind"`
			Started
		}{"listening", s})
		return
	}
	var text bytes.Buffer
	types := "all types"
	if len(s.EventTypes) > 0 {
		types = strings.Join(s.EventTypes, ", ")
	}
	fmt.Fprintf(&text, "listening for webhooks of %s, %s\n", clean(s.MerchantID), types)
	if s.ForwardTo != "" {
		fmt.Fprintf(&text, "forwarding to  %s\n", s.ForwardTo)
	}
	fmt.Fprintf(&text, "verify with    %s\n\n", s.Secret)
	p.write(text.Bytes())
}

func (p *Printer) webhook(w Webhook) {
	if p.JSON {
		p.object(struct {
			Kind string `json:"kind"`
			Webhook
			Body any `json:"body,omitempty"`
		}{"webhook", w, p.bodyValue(w.Body)})
		return
	}
	line := []string{w.At.Format("15:04:05.000")}
	for _, part := range []string{fmt.Sprintf("%-18s", clean(w.EventType)), clean(w.EventID), clean(strings.TrimSpace(w.ObjectType + " " + w.ObjectID))} {
		if strings.TrimSpace(part) != "" {
			line = append(line, part)
		}
	}
	if w.Attempt > 0 {
		line = append(line, "attempt "+strconv.Itoa(w.Attempt))
	}
	ending := "→ " + strconv.Itoa(w.Status)
	if w.Forwarded {
		ending += " in " + strconv.FormatFloat(w.LatencyMS, 'f', 1, 64) + " ms"
	} else {
		ending += ", not forwarded"
	}
	if w.Problem != "" {
		ending += ": " + clean(w.Problem)
	}
	text := []byte(strings.Join(append(line, ending), "  ") + "\n")
	if p.Body && len(w.Body) > 0 {
		text = append(text, pretty(w.Body)...)
	}
	p.write(text)
}

func (p *Printer) ended(open int64) {
	if p.JSON {
		p.object(struct {
			Kind string `json:"kind"`
			Open int64  `json:"open"`
		}{"ended", open})
		return
	}
	switch open {
	case 0:
		p.write([]byte("the endpoint is removed; no delivery was open\n"))
	case 1:
		p.write([]byte("the endpoint is removed; 1 delivery was open and ends as dead (endpoint_gone)\n"))
	default:
		p.write(fmt.Appendf(nil, "the endpoint is removed; %d deliveries were open and end as dead (endpoint_gone)\n", open))
	}
}

func (p *Printer) object(v any) {
	line, err := json.Marshal(v)
	if err != nil { // strings and numbers: cannot happen
		line = []byte(`{"kind":"error"}`)
	}
	p.write(append(line, '\n'))
}

// write writes a whole entry at once, so that none is torn.
func (p *Printer) write(text []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out.Write(text)
}

// bodyValue is the body as it stands in an object: as JSON where it is some.
func (p *Printer) bodyValue(body []byte) any {
	switch {
	case !p.Body || len(body) == 0:
		return nil
	case json.Valid(body):
		return json.RawMessage(body)
	default:
		return string(body)
	}
}

// pretty lays a body out below its line. A terminal obeys some characters: those are written as JSON's escapes.
func pretty(body []byte) []byte {
	const indent = "    "
	var laid bytes.Buffer
	laid.WriteString(indent)
	if json.Indent(&laid, body, indent, "  ") != nil {
		return []byte(indent + clean(string(body)) + "\n")
	}
	out := make([]byte, 0, laid.Len()+1)
	for _, r := range laid.String() {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			out = utf8.AppendRune(out, r)
		case r < 1<<16:
			out = fmt.Appendf(out, `\u%04x`, r)
		default:
			high, low := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, high, low)
		}
	}
	return append(out, '\n')
}

// longest is in characters, of a part of a line: a stranger may have written it.
const longest = 200

// clean makes a text one that a line of a terminal can hold.
func clean(text string) string {
	runes := []rune(strings.Join(strings.Fields(text), " "))
	for i, r := range runes {
		if !strconv.IsPrint(r) {
			runes[i] = utf8.RuneError
		}
	}
	if len(runes) > longest {
		runes = append(runes[:longest-1], '…')
	}
	return string(runes)
}
