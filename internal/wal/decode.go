package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Decoder decodes the messages of one replication connection. It remembers the relations that the server
// announced, so that a new connection wants a new Decoder. The zero value is ready. It is not safe for
// concurrent use.
type Decoder struct {
	relations map[uint32]*Relation
	values    [][]byte
}

var errTruncated = errors.New("the message ends too early")

// Decode reads one pgoutput message (protocol version 1, values as text) into m. The row's texts are slices
// of data.
func (d *Decoder) Decode(data []byte, m *Message) error {
	*m = Message{}
	if len(data) == 0 {
		return errTruncated
	}
	r := reader{rest: data[1:]}
	switch data[0] {
	case 'B':
		r.skip(8) // where the commit record is
		m.Kind, m.Time = Begin, r.time()
		r.skip(4) // transaction id
	case 'C':
		r.skip(1 + 8) // flags, where the commit record is
		m.Kind, m.LSN, m.Time = Commit, LSN(r.uint64()), r.time()
	case 'R':
		d.relation(&r)
	case 'I':
		return d.insert(&r, m)
	default: // updates, deletes, truncations, types, origins, messages: not published, or of no use here
		return nil
	}
	if r.failed {
		return fmt.Errorf("decoding message %q: %w", data[0], errTruncated)
	}
	return nil
}

func (d *Decoder) relation(r *reader) {
	relation := &Relation{ID: r.uint32(), Schema: r.text(), Name: r.text()}
	r.skip(1) // replica identity
	for range r.uint16() {
		if r.failed {
			return
		}
		r.skip(1) // flags
		column := Column{Name: r.text(), Type: r.uint32()}
		r.skip(4) // type modifier
		relation.Columns = append(relation.Columns, column)
	}
	if r.failed {
		return
	}
	if d.relations == nil {
		d.relations = map[uint32]*Relation{}
	}
	d.relations[relation.ID] = relation
}

func (d *Decoder) insert(r *reader, m *Message) error {
	id := r.uint32()
	relation := d.relations[id]
	if relation == nil {
		return fmt.Errorf("decoding an insert: relation %d was not announced", id)
	}
	r.skip(1) // 'N', for a new row
	count := int(r.uint16())
	if count != len(relation.Columns) {
		return fmt.Errorf("decoding an insert into %s.%s: %d values for %d columns", relation.Schema, relation.Name, count, len(relation.Columns))
	}
	d.values = d.values[:0]
	for range count {
		switch kind := r.byte(); kind {
		case 'n':
			d.values = append(d.values, nil)
		case 't':
			d.values = append(d.values, r.bytes(r.uint32()))
		default: // 'u', an unchanged out-of-line value, is of updates; 'b', binary, was not asked for
			return fmt.Errorf("decoding an insert into %s.%s: a value of kind %q", relation.Schema, relation.Name, kind)
		}
	}
	if r.failed {
		return fmt.Errorf("decoding an insert into %s.%s: %w", relation.Schema, relation.Name, errTruncated)
	}
	m.Kind, m.Relation, m.Values = Insert, relation, d.values
	return nil
}

// reader takes a message apart. After the first thing that is not there it is failed and returns zeros.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(r.rest)) {
		r.rest, r.failed = nil, true
		return nil
	}
	out := r.rest[:n:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) skip(n uint32) { r.bytes(n) }

func (r *reader) byte() byte {
	if b := r.bytes(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if b := r.bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) uint64() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// time reads microseconds since 2000.
func (r *reader) time() time.Time {
	const epoch = 946_684_800_000_000                // 2000-01-01 in Unix microseconds
	return time.UnixMicro(int64(r.uint64()) + epoch) //nolint:gosec // a signed number on the wire
}

// text reads a zero-terminated string.
func (r *reader) text() string {
	end := bytes.IndexByte(r.rest, 0)
	if end < 0 {
		r.rest, r.failed = nil, true
		return ""
	}
	out := string(r.rest[:end])
	r.rest = r.rest[end+1:]
	return out
}
