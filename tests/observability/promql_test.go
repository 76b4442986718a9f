package observability_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// query is what a PromQL expression names.
type query struct {
	selectors []selector
	groups    []string // labels of by, without, on, ignoring and group_*
}

// selector is a metric with its matchers.
type selector struct {
	metric   string
	matchers []matcher
}

type matcher struct{ label, op, value string }

// values are the label's values that the matcher names, one of a regular expression each; none where it is not that simple.
func (m matcher) values() []string {
	if strings.ContainsAny(m.value, `.*+?()[]$\`) {
		return nil
	}
	return strings.Split(m.value, "|")
}

var (
	aggregators = []string{
		"avg", "bottomk", "count", "count_values", "group", "max", "min", "quantile", "stddev", "stdvar", "sum", "topk",
	}
	groupers = []string{"by", "without", "on", "ignoring", "group_left", "group_right"}
	words    = []string{"and", "or", "unless", "offset", "bool", "inf", "nan"}
)

// parse finds metrics and labels in an expression. It takes what Prometheus takes, and does not check it: promtool does.
func parse(expression string) (query, error) {
	s := &scanner{rest: expression}
	var q query
	for {
		word, err := s.word()
		switch {
		case err != nil:
			return q, fmt.Errorf("%w in %s", err, expression)
		case word == "":
			return q, nil
		case slices.Contains(groupers, word):
			if !s.take('(') { // group_left without labels
				continue
			}
			for _, label := range strings.Split(s.until(')'), ",") {
				if label = strings.TrimSpace(label); label != "" {
					q.groups = append(q.groups, label)
				}
			}
		case slices.Contains(aggregators, word), slices.Contains(words, strings.ToLower(word)), s.next() == '(':
		default:
			matchers, err := s.matchers()
			if err != nil {
				return q, fmt.Errorf("%w in %s", err, expression)
			}
			q.selectors = append(q.selectors, selector{word, matchers})
		}
	}
}

type scanner struct{ rest string }

const blank = " \t\r\n"

// next is the next byte that is not blank, 0 at the end.
func (s *scanner) next() byte {
	s.rest = strings.TrimLeft(s.rest, blank)
	if s.rest == "" {
		return 0
	}
	return s.rest[0]
}

func (s *scanner) take(b byte) bool {
	if s.next() != b {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

func (s *scanner) until(b byte) string {
	before, after, _ := strings.Cut(s.rest, string(b))
	s.rest = after
	return before
}

// word is the next identifier, past numbers, strings, ranges, comments and operators; empty at the end.
func (s *scanner) word() (string, error) {
	for {
		c := s.next()
		switch {
		case c == 0:
			return "", nil
		case isLetter(c):
			return s.while(func(c byte) bool { return isLetter(c) || isDigit(c) }), nil
		case isDigit(c): // and a duration, or an exponent
			s.while(func(c byte) bool { return isDigit(c) || isLetter(c) || c == '.' })
		case c == '#':
			s.until('\n')
		case c == '[':
			s.until(']')
		case c == '"':
			if _, err := s.text(); err != nil {
				return "", err
			}
		case c == '{':
			return "", fmt.Errorf("matchers without a metric's name at %s", s.rest)
		default:
			s.rest = s.rest[1:]
		}
	}
}

func (s *scanner) while(is func(byte) bool) string {
	n := 0
	for n < len(s.rest) && is(s.rest[n]) {
		n++
	}
	word := s.rest[:n]
	s.rest = s.rest[n:]
	return word
}

func isLetter(c byte) bool {
	return c == '_' || c == ':' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// text is a quoted string, whose escapes it takes as they are.
func (s *scanner) text() (string, error) {
	s.rest = s.rest[1:]
	for n := 0; n < len(s.rest); n++ {
		switch s.rest[n] {
		case '\\':
			n++
		case '"':
			text := s.rest[:n]
			s.rest = s.rest[n+1:]
			return text, nil
		}
	}
	return "", fmt.Errorf("a string without its end")
}

func (s *scanner) matchers() ([]matcher, error) {
	if !s.take('{') {
		return nil, nil
	}
	var out []matcher
	for !s.take('}') {
		if s.next() == 0 {
			return nil, fmt.Errorf("matchers without their end")
		}
		m := matcher{label: s.while(func(c byte) bool { return isLetter(c) || isDigit(c) })}
		s.next()
		m.op = s.while(func(c byte) bool { return strings.IndexByte("=!~", c) >= 0 })
		if s.next() != '"' || m.label == "" || m.op == "" {
			return nil, fmt.Errorf("no matcher at %q", s.rest)
		}
		var err error
		if m.value, err = s.text(); err != nil {
			return nil, err
		}
		out = append(out, m)
		s.take(',')
	}
	return out, nil
}

func TestMetricsAndLabelsAreFoundInExpressions(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		expression string
		want       query
	}{
		{"", query{}},
		{"1 + 2e9 > bool 0x1F", query{}},
		{"up", query{selectors: []selector{{metric: "up"}}}},
		{"vector(1)", query{}},
		{"absent(up == 1) # of nothing{", query{selectors: []selector{{metric: "up"}}}},
		{`a:b{x="1",y!~"2|3" , z=~"5..",}[5m:1m] offset -1h`, query{selectors: []selector{
			{"a:b", []matcher{{"x", "=", "1"}, {"y", "!~", "2|3"}, {"z", "=~", "5.."}}},
		}}},
		{`a{x = "} or b"}`, query{selectors: []selector{{"a", []matcher{{"x", "=", "} or b"}}}}}},
		{`a{x="quote \" or b"}`, query{selectors: []selector{{"a", []matcher{{"x", "=", `quote \" or b`}}}}}},
		{"sum by (job, le) (rate(a_total[$__rate_interval])) / sum(b) without (instance)", query{
			selectors: []selector{{metric: "a_total"}, {metric: "b"}}, groups: []string{"job", "le", "instance"},
		}},
		{"a * on (x) group_left () b unless on () c and ignoring(y) d", query{
			selectors: []selector{{metric: "a"}, {metric: "b"}, {metric: "c"}, {metric: "d"}}, groups: []string{"x", "y"},
		}},
		{"sum\n  (a)\nor -Inf or histogram_quantile (0.99, b_bucket)", query{selectors: []selector{{metric: "a"}, {metric: "b_bucket"}}}},
		{`label_replace(a, "x", "$1", "y", "(.*)") + b`, query{selectors: []selector{{metric: "a"}, {metric: "b"}}}},
	} {
		got, err := parse(test.expression)
		require.NoError(t, err, test.expression)
		require.Equal(t, test.want, got, test.expression)
	}
	for _, bad := range []string{`{__name__=~"a|b"}`, `a{x="1"`, `a{x=1}`, `a{="1"}`, `a{x="1}`, `rate("a`} {
		_, err := parse(bad)
		require.Error(t, err, bad)
	}
	require.Equal(t, []string{"a", "b"}, matcher{"x", "=~", "a|b"}.values())
	require.Empty(t, matcher{"x", "=~", "5.."}.values())
}
