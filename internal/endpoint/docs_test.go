package endpoint_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
)

var update = flag.Bool("update", false, "write the table of causes in docs/endpoints.md anew")

const (
	docsFile  = "../../docs/endpoints.md"
	docsBegin = "<!-- The causes, written by `go generate ./internal/endpoint`: -->\n"
	docsEnd   = "<!-- The end of the causes. -->\n"
)

// causes are those that internal/delivery declares, in their order there.
func causes(t *testing.T) []delivery.Cause {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../delivery/cause.go", nil, 0)
	require.NoError(t, err)
	var out []delivery.Cause
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !strings.HasPrefix(spec.Names[0].Name, "Cause") {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		require.NoError(t, err)
		out = append(out, delivery.Cause(value))
		return false
	})
	require.Contains(t, out, delivery.CauseOK)
	require.Contains(t, out, delivery.CauseRecorded)
	return out
}

func TestTheDocsExplainEveryCause(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile(docsFile)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(docs), docsBegin)
	require.True(t, ok, "%s has no line %s", docsFile, docsBegin)
	written, after, ok := strings.Cut(rest, docsEnd)
	require.True(t, ok, "%s has no line %s", docsFile, docsEnd)

	want := "\n| cause | what happened | what to do | counts |\n|---|---|---|---|\n"
	for _, each := range causes(t) {
		explanation, counts := each.Explain(), ""
		require.NotEqual(t, string(each), explanation.What, "nothing explains it")
		if each.OfEndpoint() {
			counts = "yes"
		}
		want += fmt.Sprintf("| `%s` | %s | %s | %s |\n", each, explanation.What, explanation.Do, counts)
	}
	want += "\n"
	if *update {
		require.NoError(t, os.WriteFile(docsFile, []byte(before+docsBegin+want+docsEnd+after), 0o644))
		return
	}
	require.Empty(t, cmp.Diff(want, written), "run go generate ./internal/endpoint")
}

func TestTheDocsListThePresets(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile(docsFile)
	require.NoError(t, err)
	for name, preset := range delivery.Presets() {
		require.Contains(t, string(docs), fmt.Sprintf("| `%s` | `%s` |\n", name, preset))
	}
}
