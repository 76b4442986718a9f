package catalogue

import (
	"regexp"
	"slices"

	"github.com/hookline/hookline/internal/fault"
)

// anyOf ends a filter that takes every type with a prefix: payment.* takes all that begin with "payment.".
const anyOf = ".*"

var wellFormed = regexp.MustCompile(`^[a-z0-9_]+(\.[a-z0-9_]+)*(\.\*)?$`)

// CheckFilter looks whether an endpoint's filter for event types is one that can match: a type of the
// catalogue, or a prefix of one and ".*". Its error is a fault.Invalid that names the nearest known.
func CheckFilter(filter string) error {
	switch {
	case filter == "":
		return fault.New(fault.Invalid, "an event type must not be empty")
	case filter == "*":
		return fault.New(fault.Invalid, "an endpoint without event types takes every type: leave * out")
	case !wellFormed.MatchString(filter):
		return fault.New(fault.Invalid, "%.100q is no event type: want words of a-z, 0-9 and _ with dots between, such as payment.succeeded, or a prefix such as payment.*", filter)
	}
	candidates := filters()
	if slices.Contains(candidates, filter) {
		return nil
	}
	if near := nearest(filter, candidates); near != "" {
		return fault.New(fault.Invalid, "unknown event type %.100q: did you mean %q?", filter, near)
	}
	return fault.New(fault.Invalid, "unknown event type %.100q", filter)
}

// Nearest returns the known type that name was probably meant to be; empty where none is near.
func Nearest(name string) string {
	var names []string
	for _, t := range known().types {
		names = append(names, t.Name)
	}
	return nearest(name, names)
}

// filters are the filters that can match: each type and each prefix of one.
func filters() []string {
	var all []string
	for _, t := range known().types {
		all = append(all, t.Name)
		for i := range len(t.Name) {
			if prefix := t.Name[:i] + anyOf; t.Name[i] == '.' && !slices.Contains(all, prefix) {
				all = append(all, prefix)
			}
		}
	}
	return all
}

// nearest returns the candidate that takes the fewest edits, of a quarter of its characters at the most.
func nearest(name string, candidates []string) string {
	found, fewest := "", len(name)+1
	for _, candidate := range candidates {
		most := max(2, len(candidate)/4)
		if len(name)-len(candidate) > most {
			continue // and a long text costs nothing
		}
		if edits := distance(name, candidate); edits <= most && edits < fewest {
			found, fewest = candidate, edits
		}
	}
	return found
}

// distance counts the bytes to insert, remove and replace that make b of a: Levenshtein's, a row at a time.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0]++
		for j := range len(b) {
			replaced := diagonal
			if a[i] != b[j] {
				replaced++
			}
			diagonal = row[j+1]
			row[j+1] = min(replaced, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
