package paymentsapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/platform/httpserver"
)

// object is a request's body: a JSON object, walked once without reflection. encoding/json would take a
// field in another case, take the last of two fields with one name, and stop at the first wrong type; here
// names are exact, each comes once, and every field's problem is told.
type object struct {
	body []byte
	bad  map[string]string
}

// maxProblems bounds the answer to a body that is all mistakes.
const maxProblems = 20

func readObject(w http.ResponseWriter, r *http.Request) (*object, error) {
	body, err := httpserver.ReadBody(w, r, maxBodyBytes)
	if err != nil {
		return nil, err
	}
	return parseObject(body)
}

func parseObject(body []byte) (*object, error) {
	if !utf8.Valid(body) {
		return nil, fault.New(fault.Malformed, "the body is not UTF-8")
	}
	if !json.Valid(body) {
		var ignored any
		return nil, httpserver.DecodeStrict(bytes.NewReader(body), &ignored) // it says why
	}
	if body[skipSpace(body, 0)] != '{' {
		return nil, fault.New(fault.Malformed, "the body must be a JSON object")
	}
	return &object{body: body}, nil
}

// all yields each field's name and value. It relies on the body being valid JSON.
func (o *object) all(yield func(name string, value json.RawMessage) bool) {
	var buffer [8]string
	seen := buffer[:0]
	i := skipSpace(o.body, skipSpace(o.body, 0)+1)
	for o.body[i] != '}' {
		end := stringEnd(o.body, i)
		name := unquote(o.body[i:end])
		start := skipSpace(o.body, skipSpace(o.body, end)+1)
		i = valueEnd(o.body, start)
		value := o.body[start:i:i]

		if slices.Contains(seen, name) {
			o.refuse(name, "is given twice")
		} else if !yield(name, value) {
			return
		}
		if len(seen) < cap(seen) { // beyond it there is an unknown field, which has the request refused anyway
			seen = append(seen, name)
		}
		if i = skipSpace(o.body, i); o.body[i] == ',' {
			i = skipSpace(o.body, i+1)
		}
	}
}

// refuse notes what is wrong with a field. The first problem of a field is the one that is told.
func (o *object) refuse(name, problem string) {
	if o.refused(name) || len(o.bad) >= maxProblems {
		return
	}
	if o.bad == nil {
		o.bad = map[string]string{}
	}
	o.bad[name] = problem
}

func (o *object) refused(name string) bool {
	_, ok := o.bad[name]
	return ok
}

func (o *object) refuseUnknown(name string) { o.refuse(name, "is not a field of this request") }

// refuseAll notes what is wrong with each field that err names.
func (o *object) refuseAll(err error) {
	if e, ok := errors.AsType[*fault.Error](err); ok {
		for _, name := range slices.Sorted(maps.Keys(e.Fields)) {
			o.refuse(name, e.Fields[name])
		}
	}
}

func (o *object) problems() error { return fault.InvalidFields(o.bad) }

// text reads a string, and refuses another type.
func (o *object) text(name string, value json.RawMessage) string {
	if value[0] != '"' {
		o.refuse(name, "want a string")
		return ""
	}
	return unquote(value)
}

// integer reads a number that is written as one: 10.0, 1e3 and "10" are refused.
func (o *object) integer(name string, value json.RawMessage, least, most int64, what string) int64 {
	n, err := strconv.ParseInt(string(value), 10, 64)
	if err != nil || n < least || n > most {
		o.refuse(name, "want a whole number from "+strconv.FormatInt(least, 10)+" to "+strconv.FormatInt(most, 10)+": "+what)
	}
	return n
}

func (o *object) merchantID(name string, value json.RawMessage) string {
	id := o.text(name, value)
	if !payment.ValidMerchantID(id) {
		o.refuse(name, "want 1 to 64 characters of A-Z, a-z, 0-9, dot, dash and underscore")
	}
	return id
}

func (o *object) status(name string, value json.RawMessage) payment.Status {
	status := payment.Status(o.text(name, value))
	if !status.Known() {
		known := make([]string, 0, len(payment.Statuses()))
		for _, s := range payment.Statuses() {
			known = append(known, string(s))
		}
		o.refuse(name, "want one of "+strings.Join(known, ", "))
	}
	return status
}

// document takes a JSON object that PostgreSQL can store as jsonb in at most limit bytes.
func (o *object) document(name string, value json.RawMessage, limit int) json.RawMessage {
	if problem := inspect(value, limit); problem != "" {
		o.refuse(name, problem)
	}
	return value
}

// maxDepth is far below what exhausts the stack of a parser downstream, PostgreSQL's among them.
const maxDepth = 32

// inspect says what keeps a valid JSON value from being stored as jsonb, or from being read by a merchant;
// empty where nothing does. It counts the bytes that jsonb will write, not those that came: to write out
// 1e9999 takes ten thousand digits, and a small body of such numbers would make a huge event.
func inspect(value json.RawMessage, limit int) string {
	if value[0] != '{' {
		return "want a JSON object"
	}
	size, depth := 0, 0
	for i := 0; i < len(value); {
		switch c := value[i]; c {
		case '"':
			end := stringEnd(value, i)
			if problem := inspectString(value[i:end]); problem != "" {
				return problem
			}
			size += end - i
			i = end
			continue
		case '{', '[':
			if depth++; depth > maxDepth {
				return "is nested deeper than " + strconv.Itoa(maxDepth) + " levels"
			}
			size++
		case '}', ']':
			depth--
			size++
		case ',', ':':
			size += 2 // jsonb writes a space behind
		case ' ', '\t', '\n', '\r':
		case '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9':
			end := valueEnd(value, i)
			digits, ok := plainLength(string(value[i:end]))
			if !ok {
				return "has a number that is beyond the range of a double"
			}
			size += digits
			i = end
			continue
		default: // a letter of true, false or null
			size++
		}
		i++
	}
	if size > limit {
		return "is larger than " + strconv.Itoa(limit) + " bytes"
	}
	return ""
}

// inspectString refuses what JSON can escape but PostgreSQL cannot store.
func inspectString(quoted []byte) string {
	for i := 0; ; {
		next := bytes.IndexByte(quoted[i:], '\\')
		if next < 0 {
			return ""
		}
		if i += next; quoted[i+1] != 'u' {
			i += 2
			continue
		}
		switch r := hex4(quoted[i+2:]); {
		case r == 0:
			return `has the character \u0000, which cannot be stored`
		case r < 0xd800 || r > 0xdfff:
			i += 6
		case r < 0xdc00 && quoted[i+6] == '\\' && quoted[i+7] == 'u' && isLowSurrogate(hex4(quoted[i+8:])):
			i += 12
		default:
			return "has half of a surrogate pair, which is no character"
		}
	}
}

func isLowSurrogate(r uint64) bool { return 0xdc00 <= r && r <= 0xdfff }

// hex4 reads the four digits that valid JSON has after \u.
func hex4(digits []byte) uint64 {
	r, err := strconv.ParseUint(string(digits[:4]), 16, 32)
	if err != nil {
		return 0 // not reached; NUL is refused
	}
	return r
}

// plainLength is how many bytes a number takes without an exponent, as jsonb writes it; false where it is
// no double.
func plainLength(number string) (int, bool) {
	const (
		alwaysDouble = 300 // digits
		maxExponent  = 350 // doubles end at 1e308 and 1e-324
	)
	mark := strings.IndexAny(number, "eE")
	if mark < 0 && len(number) < alwaysDouble {
		return len(number), true
	}
	if _, err := strconv.ParseFloat(number, 64); err != nil {
		return 0, false
	}
	if mark < 0 {
		return len(number), true
	}
	exponent, err := strconv.Atoi(number[mark+1:])
	if err != nil || exponent > maxExponent || exponent < -maxExponent { // 0e999 and 1e-999 are doubles too, namely 0
		return 0, false
	}
	return mark + max(exponent, -exponent), true
}

func skipSpace(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// stringEnd returns the index behind the string that starts at i.
func stringEnd(text []byte, i int) int {
	for i++; text[i] != '"'; i++ {
		if text[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd returns the index behind the value that starts at i.
func valueEnd(text []byte, i int) int {
	depth := 0
	for i < len(text) {
		switch text[i] {
		case '"':
			if i = stringEnd(text, i); depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of what holds a number or a literal
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\t', '\r':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}

func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return string(quoted) // not reached: the body is valid JSON
	}
	return text
}
