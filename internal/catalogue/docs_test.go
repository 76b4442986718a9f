package catalogue_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/payment"
)

var update = flag.Bool("update", false, "write the list of event types in docs/events.md anew")

const (
	docsFile  = "../../docs/events.md"
	docsBegin = "<!-- The event types, written by `go generate ./internal/catalogue`: -->\n"
	docsEnd   = "<!-- The end of the event types. -->\n"
)

func TestTheDocsListTheCatalogue(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile(docsFile)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(docs), docsBegin)
	require.True(t, ok, "%s has no line %s", docsFile, docsBegin)
	written, after, ok := strings.Cut(rest, docsEnd)
	require.True(t, ok, "%s has no line %s", docsFile, docsEnd)

	want := listTypes(t)
	if *update {
		require.NoError(t, os.WriteFile(docsFile, []byte(before+docsBegin+want+docsEnd+after), 0o644))
		return
	}
	require.Empty(t, cmp.Diff(want, written), "run go generate ./internal/catalogue")
}

// listTypes is the list in Markdown. The types of payments differ in their status only, and share a table.
func listTypes(t *testing.T) string {
	var out strings.Builder
	out.WriteString("\n### payment.*\n\n| type | |\n|---|---|\n")
	for _, status := range payment.Statuses() {
		each := lookup(t, "payment."+string(status))
		fmt.Fprintf(&out, "| `%s` | %s |\n", each.Name, each.Description)
	}
	refunded := lookup(t, "payment.refunded")
	fmt.Fprintf(&out, "\n`payment` and `snapshot`; the `status` of `snapshot` is the type's:\n\n%s", fieldsTable(readSchema(t, refunded), "payment"))
	writeExample(t, &out, refunded)
	for _, each := range catalogue.All() {
		if strings.HasPrefix(each.Name, "payment.") {
			continue
		}
		fmt.Fprintf(&out, "### %s\n\n%s", each.Name, each.Description)
		if each.Operational {
			out.WriteString(" Operational.")
		}
		fmt.Fprintf(&out, " `snapshot`:\n\n%s", fieldsTable(readSchema(t, each), "data"))
		writeExample(t, &out, each)
	}
	return out.String()
}

func writeExample(t *testing.T, out *strings.Builder, each catalogue.Type) {
	var pretty bytes.Buffer
	// The time of the files' examples, so that their round times stay round.
	body, err := each.Example(eventID, "acme", time.Date(2026, time.January, 15, 9, 30, 0, 0, time.UTC))
	require.NoError(t, err)
	require.NoError(t, json.Indent(&pretty, body, "", "  "))
	fmt.Fprintf(out, "\n```json\n%s\n```\n\n", pretty.String())
}

// node is what the lists of fields show of a schema.
type node struct {
	Ref         string `json:"$ref"`
	Type        any
	Format      string
	Description string
	Enum        []string
	Required    []string
	Properties  map[string]node
}

type schema struct {
	Defs map[string]node `json:"$defs"`
}

func readSchema(t *testing.T, of catalogue.Type) schema {
	var s schema
	require.NoError(t, json.Unmarshal(of.Schema(), &s))
	return s
}

// resolve puts what a node says itself over what it refers to.
func (s schema) resolve(n node) node {
	if n.Ref == "" {
		return n
	}
	base := s.resolve(s.Defs[strings.TrimPrefix(n.Ref, "#/$defs/")])
	if n.Description != "" {
		base.Description = n.Description
	}
	base.Required = slices.Concat(base.Required, n.Required)
	base.Properties = maps.Clone(base.Properties)
	maps.Copy(base.Properties, n.Properties)
	return base
}

// fieldsTable lists a definition's fields, those first that are always there.
func fieldsTable(s schema, definition string) string {
	object := s.resolve(s.Defs[definition])
	names := slices.Clone(object.Required)
	for _, name := range slices.Sorted(maps.Keys(object.Properties)) {
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	var out strings.Builder
	out.WriteString("| field | type | always there | |\n|---|---|---|---|\n")
	for _, name := range names {
		always := ""
		if slices.Contains(object.Required, name) {
			always = "yes"
		}
		property := s.resolve(object.Properties[name])
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", name, typeText(property), always, property.Description)
	}
	return out.String()
}

func typeText(n node) string {
	if len(n.Enum) > 0 {
		return "`" + strings.Join(n.Enum, "`, `") + "`"
	}
	text := map[string]string{"uuid": "UUID", "date-time": "time, RFC 3339", "currency": "currency"}[n.Format]
	if types, ok := n.Type.([]any); ok {
		return fmt.Sprintf("%s, or %v", text, types[1])
	}
	if text == "" {
		text = fmt.Sprint(n.Type)
	}
	return text
}

func TestAnExampleShowsEveryField(t *testing.T) {
	t.Parallel()
	for _, each := range catalogue.All() {
		s := readSchema(t, each)
		shown := field[map[string]any](t, decode(t, example(t, each)), "snapshot")
		require.Equal(t, slices.Sorted(maps.Keys(s.resolve(s.Defs["data"]).Properties)), slices.Sorted(maps.Keys(shown)), each.Name)
	}
}

func TestTheSchemaKnowsEveryStatus(t *testing.T) {
	t.Parallel()
	var statuses []string
	for _, status := range payment.Statuses() {
		statuses = append(statuses, string(status))
	}
	require.Equal(t, statuses, readSchema(t, lookup(t, "payment.pending")).Defs["payment"].Properties["status"].Enum)
}
