package relay

import (
	"bytes"
	"math"
	"slices"
	"strings"

	"github.com/hookline/hookline/internal/wal"
)

// The columns of domain_events that the encoder knows by name; all others just appear.
const (
	keyColumn     = "merchant_id"
	payloadColumn = "payload"
)

// longestInStub is the longest value, in bytes, that a record of last resort keeps.
const longestInStub = 256

// record is a Kafka record: a row's JSON object under its merchant's key.
type record struct {
	key   []byte
	value []byte
	stub  bool // something was left out

	payloadStart, payloadEnd int // where the payload's value is; 0 where there is none
}

func (r record) size() int { return len(r.key) + len(r.value) }

// withoutPayload is the stub of a record: the same object, its payload null and "payload_omitted": true.
func (r record) withoutPayload() record {
	if r.stub || r.payloadEnd == 0 {
		return r
	}
	value := make([]byte, 0, len(r.value)-(r.payloadEnd-r.payloadStart)+len(omitted))
	value = append(value, r.value[:r.payloadStart]...)
	value = append(value, omitted...)
	value = append(value, r.value[r.payloadEnd:]...)
	return record{key: r.key, value: value, stub: true}
}

const omitted = `null,"payload_omitted":true`

// encoder writes the rows of one relation as Sequin's "path: record" transform does: one JSON object of all
// columns, in the order of their names. A column that a migration adds is announced by the server, makes a
// new encoder, and is in the object from then on.
//
// In two points it is more faithful than Sequin, which decodes a json value and encodes it again: here it is
// the database's own text, so that numbers keep their digits (1.10, and what a double cannot hold), and the
// keys of jsonb their own order. To a JSON reader the two are the same object. A column of type time, timetz or interval
// would be written otherwise than by Sequin, which cuts off fractions of a second and makes an interval an object.
type encoder struct {
	relation *wal.Relation
	fields   []field
	key      int // the column of the key, -1 where there is none
	fixed    int // bytes of braces and names
}

type field struct {
	column  int
	prefix  []byte // the name, quoted, with the comma before and the colon after it
	format  format
	payload bool
}

// format appends the text of a value, as PostgreSQL writes it, as JSON.
type format func(dst, text []byte) []byte

func newEncoder(relation *wal.Relation) *encoder {
	e := &encoder{relation: relation, key: -1, fixed: 2}
	order := make([]int, len(relation.Columns))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int {
		return strings.Compare(relation.Columns[a].Name, relation.Columns[b].Name)
	})
	for i, column := range order {
		c := relation.Columns[column]
		prefix := []byte{','}
		if i == 0 {
			prefix = nil
		}
		prefix = append(appendString(prefix, []byte(c.Name)), ':')
		e.fields = append(e.fields, field{column: column, prefix: prefix, format: formatOf(c.Type), payload: c.Name == payloadColumn})
		e.fixed += len(prefix)
		if c.Name == keyColumn {
			e.key = column
		}
	}
	return e
}

// encode makes the record of a row. One that would be longer than limit bytes, key and value together, loses
// its payload; one that still is, every value over 256 bytes and the key, so that the row can never stop the
// stream. The last is no readable pointer: it ends among the dead records, where somebody sees it.
func (e *encoder) encode(values [][]byte, limit int) record {
	size := e.fixed
	for _, value := range values {
		size += len(value)
	}
	if size <= limit { // else not even tried: a payload can be a gigabyte
		if r := e.write(values, size, false, math.MaxInt); r.size() <= limit {
			return r
		}
	}
	if r := e.write(values, 0, true, math.MaxInt); r.size() <= limit {
		return r
	}
	return e.write(values, 0, true, longestInStub)
}

// write makes a record of the values that are at most longest bytes long, in a buffer of about size bytes.
func (e *encoder) write(values [][]byte, size int, stub bool, longest int) record {
	r := record{stub: stub}
	if e.key >= 0 && len(values[e.key]) <= longest {
		r.key = bytes.Clone(values[e.key])
	}
	dst := make([]byte, 0, size+size/8+32) // quotes, escapes
	dst = append(dst, '{')
	for i := range e.fields {
		f := &e.fields[i]
		dst = append(dst, f.prefix...)
		start := len(dst)
		switch value := values[f.column]; {
		case f.payload && stub:
			dst = append(dst, omitted...)
			continue
		case value == nil || len(value) > longest:
			dst = append(dst, "null"...)
		default:
			dst = f.format(dst, value)
		}
		if f.payload {
			r.payloadStart, r.payloadEnd = start, len(dst)
		}
	}
	dst = append(dst, '}')
	r.value = dst
	return r
}
