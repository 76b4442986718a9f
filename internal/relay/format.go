package relay

import (
	"bytes"
	"time"
	"unicode/utf8"
)

// formatOf is how values of a type are written. What is not listed is a string of PostgreSQL's own text, as
// with Sequin. The OIDs are those of pg_type, which never change.
func formatOf(oid uint32) format {
	switch oid {
	case 16:
		return appendBool
	case 20, 21, 23, 26: // int8, int2, int4, oid
		return appendNumber
	case 700, 701: // float4, float8; numeric is a string, as a double does not hold it
		return appendNumber
	case 114, 3802: // json, jsonb
		return appendJSON
	case 1114:
		return appendTimestamp
	case 1184:
		return appendTimestampTZ
	}
	if element := elementOf(oid); element != 0 {
		format := formatOf(element)
		return func(dst, text []byte) []byte { return appendArray(dst, text, format) }
	}
	return appendString
}

// elementOf is the element's type of an array's type, 0 where the type is none that we know as an array.
func elementOf(oid uint32) uint32 {
	switch oid {
	case 1000: // bool
		return 16
	case 1005: // int2
		return 21
	case 1007: // int4
		return 23
	case 1016: // int8
		return 20
	case 1028: // oid
		return 26
	case 1021: // float4
		return 700
	case 1022: // float8
		return 701
	case 199: // json
		return 114
	case 3807: // jsonb
		return 3802
	case 1115: // timestamp
		return 1114
	case 1185: // timestamptz
		return 1184
	case 1001, 1002, 1003, 1009, 1014, 1015: // bytea, "char", name, text, bpchar, varchar
		return 25
	case 1182, 1183, 1231, 1270, 2951: // date, time, numeric, timetz, uuid
		return 25
	}
	return 0
}

func appendBool(dst, text []byte) []byte {
	if string(text) == "t" {
		return append(dst, "true"...)
	}
	return append(dst, "false"...)
}

// appendNumber passes a number's text through: PostgreSQL's form is JSON's, but for NaN and the infinities.
func appendNumber(dst, text []byte) []byte {
	if len(text) == 0 || text[len(text)-1] < '0' || text[len(text)-1] > '9' {
		return appendString(dst, text)
	}
	return append(dst, text...)
}

// appendJSON passes json's text through. The server has checked it; only a database in SQL_ASCII can hold
// bytes that are no UTF-8.
func appendJSON(dst, text []byte) []byte {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	return append(dst, text...)
}

const hexDigits = "0123456789ABCDEF"

// appendString quotes a text; it escapes what JSON wants escaped, and nothing else.
func appendString(dst, text []byte) []byte {
	if !utf8.Valid(text) {
		text = bytes.ToValidUTF8(text, []byte("\uFFFD"))
	}
	dst = append(dst, '"')
	start := 0
	for i, c := range text {
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, text[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\t':
			dst = append(dst, `\t`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\r':
			dst = append(dst, `\r`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, text[start:]...)
	return append(dst, '"')
}

// appendTimestamp writes "2026-02-23 12:00:00.1" as "2026-02-23T12:00:00.100000".
func appendTimestamp(dst, text []byte) []byte {
	if out, ok := appendClock(dst, text); ok {
		return append(out, '"')
	}
	return appendString(dst, text) // infinity, before Christ, or after 9999
}

// appendTimestampTZ writes "2026-02-23 12:00:00.1+00" as "2026-02-23T12:00:00.100000Z".
func appendTimestampTZ(dst, text []byte) []byte {
	if utc, ok := bytes.CutSuffix(text, []byte("+00")); ok {
		if out, ok := appendClock(dst, utc); ok {
			return append(out, 'Z', '"')
		}
	}
	// Another zone, which the source's session does not use.
	for _, layout := range []string{"2006-01-02 15:04:05.999999-07", "2006-01-02 15:04:05.999999-07:00", "2006-01-02 15:04:05.999999-07:00:00"} {
		if at, err := time.Parse(layout, string(text)); err == nil {
			return at.UTC().AppendFormat(dst, `"2006-01-02T15:04:05.000000Z"`)
		}
	}
	return appendString(dst, text)
}

// appendClock writes date and time with exactly 6 decimals, without the closing quote. Years have four digits, as in ISO 8601.
func appendClock(dst, text []byte) ([]byte, bool) {
	space := bytes.IndexByte(text, ' ')
	if space != len("2006-01-02") {
		return dst, false
	}
	clock := text[space+1:]
	if len(clock) < 8 || len(clock) > 15 || (len(clock) > 8 && clock[8] != '.') {
		return dst, false
	}
	for _, c := range text[:space] {
		if (c < '0' || c > '9') && c != '-' {
			return dst, false
		}
	}
	for i, c := range clock {
		if (c < '0' || c > '9') && (i != 2 && i != 5 || c != ':') && i != 8 {
			return dst, false
		}
	}
	dst = append(dst, '"')
	dst = append(dst, text[:space]...)
	dst = append(dst, 'T')
	dst = append(dst, clock...)
	if len(clock) == 8 {
		return append(dst, ".000000"...), true
	}
	return append(dst, "000000"[:15-len(clock)]...), true
}

// appendArray writes {1,NULL,"a b"} as a JSON array of the elements' format.
func appendArray(dst, text []byte, element format) []byte {
	start := len(dst)
	rest := text
	if len(rest) > 0 && rest[0] == '[' { // [0:1]={..}: bounds other than from 1
		rest = rest[bytes.IndexByte(rest, '=')+1:]
	}
	out, rest, ok := appendArrayLevel(dst, rest, element)
	if !ok || len(rest) != 0 {
		return appendString(dst[:start], text)
	}
	return out
}

func appendArrayLevel(dst, rest []byte, element format) (out, left []byte, ok bool) {
	if len(rest) < 2 || rest[0] != '{' {
		return dst, rest, false
	}
	rest = rest[1:]
	dst = append(dst, '[')
	if rest[0] == '}' {
		return append(dst, ']'), rest[1:], true
	}
	for {
		if len(rest) == 0 {
			return dst, rest, false
		}
		switch rest[0] {
		case '{':
			if dst, rest, ok = appendArrayLevel(dst, rest, element); !ok {
				return dst, rest, false
			}
		case '"':
			var value []byte
			if value, rest, ok = unquote(rest[1:]); !ok {
				return dst, rest, false
			}
			dst = element(dst, value)
		default:
			end := bytes.IndexAny(rest, ",}")
			if end < 1 {
				return dst, rest, false
			}
			if value := rest[:end]; string(value) == "NULL" {
				dst = append(dst, "null"...)
			} else {
				dst = element(dst, value)
			}
			rest = rest[end:]
		}
		if len(rest) == 0 {
			return dst, rest, false
		}
		switch rest[0] {
		case ',':
			dst, rest = append(dst, ','), rest[1:]
		case '}':
			return append(dst, ']'), rest[1:], true
		default:
			return dst, rest, false
		}
	}
}

// unquote reads an array's element up to its closing quote.
func unquote(rest []byte) (value, left []byte, ok bool) {
	for i := 0; i < len(rest); i++ {
		switch rest[i] {
		case '\\':
			i++
			if i < len(rest) {
				value = append(value, rest[i])
			}
		case '"':
			return value, rest[i+1:], true
		default:
			value = append(value, rest[i])
		}
	}
	return nil, nil, false
}
