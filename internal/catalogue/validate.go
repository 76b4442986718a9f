package catalogue

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
)

// dataField is what the fields of a problem begin with: where POST /events has the data.
const dataField = "data"

// errFormat is all that a format has to say: problemOf says what is wanted.
var errFormat = errors.New("not of the format")

// formatInt64 takes an integer that is written as one. JSON Schema takes 10.0 and 1e3 for integers too, which
// many a decoder does not.
var formatInt64 = jsonschema.Format{Name: "int64", Validate: func(v any) error {
	if number, ok := v.(json.Number); ok {
		_, err := strconv.ParseInt(string(number), 10, 64)
		return err
	}
	return nil
}}

var formatCurrency = jsonschema.Format{Name: "currency", Validate: func(v any) error {
	if code, ok := v.(string); ok && !payment.ValidCurrency(code) {
		return errFormat
	}
	return nil
}}

// ValidateData looks whether data is what POST /events takes for the type. Its error is a fault.Invalid with a
// problem for each place that is wrong, by JSON pointer: "data/amount". What the schema does not know passes.
//
// The work grows with the digits that a number has when it is written out, so bound exponents before.
func (t Type) ValidateData(data json.RawMessage) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return fault.InvalidFields(map[string]string{dataField: "is not JSON"})
	}
	invalid, ok := errors.AsType[*jsonschema.ValidationError](t.data.Validate(value))
	if !ok {
		return nil
	}
	problems := map[string]string{}
	collectProblems(problems, invalid)
	return fault.InvalidFields(problems)
}

// collectProblems notes what is wrong at each place; the first problem of a place is the one that is told.
func collectProblems(problems map[string]string, invalid *jsonschema.ValidationError) {
	for _, cause := range invalid.Causes {
		collectProblems(problems, cause)
	}
	if len(invalid.Causes) > 0 {
		return // only sums up its causes
	}
	note := func(pointer, problem string) {
		if problems[pointer] == "" {
			problems[pointer] = problem
		}
	}
	// Only names that a schema has occur here, and none of them needs escaping.
	pointer := strings.Join(slices.Concat([]string{dataField}, invalid.InstanceLocation), "/")
	if required, ok := invalid.ErrorKind.(*kind.Required); ok {
		for _, name := range required.Missing {
			note(pointer+"/"+name, "is missing")
		}
		return
	}
	note(pointer, problemOf(invalid.ErrorKind))
}

var formatProblems = map[string]string{
	"date-time":         "want a time of RFC 3339, such as 2026-01-15T09:30:00Z",
	"uuid":              "want a UUID",
	formatInt64.Name:    "want a whole number without fraction and exponent",
	formatCurrency.Name: "want a currency of ISO 4217 in upper case, such as USD",
}

// problemOf words a problem without repeating the value, which can be large.
func problemOf(problem jsonschema.ErrorKind) string {
	switch k := problem.(type) {
	case *kind.Type:
		return "want " + strings.Join(k.Want, " or ") + ", not " + k.Got
	case *kind.Enum:
		return "want one of " + strings.Trim(strings.Join(strings.Fields(fmt.Sprint(k.Want)), ", "), "[]")
	case *kind.Format:
		return cmp.Or(formatProblems[k.Want], "want a "+k.Want)
	case *kind.Pattern:
		return "does not match " + k.Want
	case *kind.MinLength:
		return fmt.Sprintf("want %d or more characters", k.Want)
	case *kind.MaxLength:
		return fmt.Sprintf("want %d characters at most", k.Want)
	case *kind.Minimum:
		return "want " + k.Want.RatString() + " or more"
	case *kind.Maximum:
		return "want " + k.Want.RatString() + " at most"
	}
	return "does not fit the event type's schema"
}
