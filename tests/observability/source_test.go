package observability_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var root = filepath.Join("..", "..")

// source is what the code registers, and which words it holds.
type source struct {
	metrics  map[string][]string // labels by name
	literals map[string]bool     // what any string literal says: a label's value is one
}

// readSource reads the metrics out of the code, and not out of a process: there a vector shows nothing before its first
// value, which for a failure is hopefully never.
func readSource(t *testing.T) source {
	t.Helper()
	s := source{metrics: map[string][]string{}, literals: map[string]bool{}}
	for _, dir := range []string{"internal", "cmd"} {
		packages := map[string][]*ast.File{}
		files := token.NewFileSet()
		require.NoError(t, filepath.WalkDir(filepath.Join(root, dir), func(name string, entry fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if entry.IsDir() && entry.Name() == "testkit" {
				return fs.SkipDir
			}
			if entry.IsDir() || filepath.Ext(name) != ".go" || strings.HasSuffix(name, "_test.go") {
				return nil
			}
			file, err := parser.ParseFile(files, name, nil, parser.SkipObjectResolution)
			packages[filepath.Dir(name)] = append(packages[filepath.Dir(name)], file)
			return err
		}))
		for _, parsed := range packages {
			p := packageSource{t: t, files: files, constants: constantsOf(parsed), found: s}
			for _, file := range parsed {
				ast.Inspect(file, p.visit)
			}
		}
	}
	return s
}

// constantsOf are the package's string constants.
func constantsOf(files []*ast.File) map[string]string {
	out := map[string]string{}
	for _, file := range files {
		ast.Inspect(file, func(n ast.Node) bool {
			spec, is := n.(*ast.ValueSpec)
			if !is {
				return true
			}
			for i, name := range spec.Names {
				if i >= len(spec.Values) {
					break
				}
				if literal, is := spec.Values[i].(*ast.BasicLit); is && literal.Kind == token.STRING {
					out[name.Name], _ = strconv.Unquote(literal.Value)
				}
			}
			return true
		})
	}
	return out
}

type packageSource struct {
	t         *testing.T
	files     *token.FileSet
	constants map[string]string
	found     source
}

func (p packageSource) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(n.Value); n.Kind == token.STRING && err == nil {
			p.found.literals[text] = true
		}
	case *ast.CallExpr:
		p.call(n)
	}
	return true
}

// call takes prometheus.NewX(prometheus.XOpts{Name: ...}, labels) and prometheus.NewDesc(name, help, labels, constants), of
// a factory as well.
func (p packageSource) call(call *ast.CallExpr) {
	function, is := call.Fun.(*ast.SelectorExpr)
	if !is || len(call.Args) == 0 {
		return
	}
	if function.Sel.Name == "NewDesc" && isFrom(function, "prometheus") {
		p.found.metrics[p.text(call.Args[0])] = append(p.texts(call.Args[2]), p.keys(call.Args[3])...)
		return
	}
	options, is := call.Args[0].(*ast.CompositeLit)
	if !is {
		return
	}
	kind, is := options.Type.(*ast.SelectorExpr)
	if !is || !isFrom(kind, "prometheus") || !strings.HasSuffix(kind.Sel.Name, "Opts") {
		return
	}
	var name string
	labels := []string{}
	for _, element := range options.Elts {
		field, is := element.(*ast.KeyValueExpr)
		if !is {
			continue
		}
		switch key, _ := field.Key.(*ast.Ident); key.Name {
		case "Name":
			name = p.text(field.Value)
		case "ConstLabels":
			labels = append(labels, p.keys(field.Value)...)
		}
	}
	if strings.HasSuffix(function.Sel.Name, "Vec") {
		labels = append(labels, p.texts(call.Args[1])...)
	}
	if name != "" { // a handler's and a collector's options have none
		p.found.metrics[name] = labels
	}
}

func isFrom(s *ast.SelectorExpr, name string) bool {
	from, is := s.X.(*ast.Ident)
	return is && from.Name == name
}

// text is a string as it is written, or a constant of the package: only such a name can be looked for.
func (p packageSource) text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(e.Value)
		require.NoError(p.t, err)
		return text
	case *ast.Ident:
		if text, found := p.constants[e.Name]; found {
			return text
		}
	}
	require.Fail(p.t, "a metric's name or label is neither a literal nor a constant of its package", p.files.Position(e.Pos()))
	return ""
}

func (p packageSource) texts(e ast.Expr) []string {
	out := []string{}
	if list, is := e.(*ast.CompositeLit); is {
		for _, element := range list.Elts {
			out = append(out, p.text(element))
		}
	}
	return out
}

func (p packageSource) keys(e ast.Expr) []string {
	var out []string
	if list, is := e.(*ast.CompositeLit); is {
		for _, element := range list.Elts {
			out = append(out, p.text(element.(*ast.KeyValueExpr).Key))
		}
	}
	return out
}

// kafkaClient is the prefix of the Kafka client's own metrics, which its plugin names.
const kafkaClient = "hookline_kafka_"

func TestEveryMetricIsDocumentedWithItsLabels(t *testing.T) {
	t.Parallel()
	documented := documentedMetrics(t)
	require.Contains(t, documented, kafkaClient+"*")
	delete(documented, kafkaClient+"*")
	code := readSource(t).metrics
	require.NotEmpty(t, code)
	for _, name := range slices.Sorted(maps.Keys(code)) {
		_, found := documented[name]
		require.True(t, found, "docs/metrics.md does not have %s, with the labels %v", name, code[name])
		require.ElementsMatch(t, code[name], documented[name], "labels of %s in docs/metrics.md", name)
	}
	for name := range documented {
		_, found := code[name]
		require.True(t, found, "docs/metrics.md has %s, and the code has not", name)
	}
}

func readFile(t *testing.T, elements ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(append([]string{root}, elements...)...))
	require.NoError(t, err)
	return string(content)
}
