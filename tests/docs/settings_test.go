package docs_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the tables of docs/settings.md")

const settings = "../../docs/settings.md"

var (
	gap   = regexp.MustCompile(` {2,}`) // between the columns of --help
	table = regexp.MustCompile(`(?s)\| variable \| value \| default \| \|\n\|---\|---\|---\|---\|\n(.*?)\n(?:\n|$)`)
)

// The tables of docs/settings.md are what each service's --help says. go test ./tests/docs -update writes them.
func TestSettingsAreDocumentedAsTheServicesKnowThem(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(settings)
	require.NoError(t, err)
	bin := t.TempDir()
	out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin+"/", "../../cmd/...").CombinedOutput()
	require.NoError(t, err, string(out))

	services, err := filepath.Glob("../../cmd/*/config.go")
	require.NoError(t, err)
	require.NotEmpty(t, services)
	text := string(content)
	for _, path := range services {
		name := filepath.Base(filepath.Dir(path))
		help, err := exec.CommandContext(t.Context(), filepath.Join(bin, name), "--help").Output()
		require.NoError(t, err, name)
		start := strings.Index(text, "\n## "+name+"\n")
		require.GreaterOrEqual(t, start, 0, "docs/settings.md has no section on %s", name)
		at := table.FindStringSubmatchIndex(text[start:])
		require.NotNil(t, at, "the section on %s has no table", name)
		require.NotContains(t, text[start+1:start+at[0]], "\n## ", "the section on %s has no table", name)
		text = text[:start+at[2]] + rows(t, string(help)) + text[start+at[3]:]
	}
	if *update {
		require.NoError(t, os.WriteFile(settings, []byte(text), 0o600))
		return
	}
	require.Empty(t, cmp.Diff(string(content), text), "go test ./tests/docs -update writes the tables anew")
}

// rows are the lines of a table.
func rows(t *testing.T, help string) string {
	t.Helper()
	_, list, found := strings.Cut(help, "Settings come from the environment:\n")
	require.True(t, found)
	var lines []string
	for line := range strings.SplitSeq(strings.TrimRight(list, "\n"), "\n") {
		cells := gap.Split(strings.TrimSpace(line), 4)
		require.Len(t, cells, 4, "%q", line)
		initial := "`" + cells[2] + "`"
		switch cells[2] {
		case "-":
			initial = ""
		case "(required)":
			initial = "required"
		}
		lines = append(lines, fmt.Sprintf("| `%s` | %s | %s | %s |", cells[0], cells[1], initial, strings.ReplaceAll(cells[3], "|", `\|`)))
	}
	return strings.Join(lines, "\n")
}
