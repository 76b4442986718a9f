package wal_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/wal"
)

// Messages as pgoutput writes them.
var (
	announce = build('R', uint32(7), "public\x00", "t\x00", byte('d'), uint16(3),
		byte(1), "id\x00", uint32(2950), uint32(0xFFFFFFFF),
		byte(0), "n\x00", uint32(20), uint32(0xFFFFFFFF),
		byte(0), "note\x00", uint32(25), uint32(0xFFFFFFFF))
	insert = build('I', uint32(7), byte('N'), uint16(3), byte('t'), uint32(2), "ab", byte('n'), byte('t'), uint32(0))
	begin  = build('B', uint64(0x1_0000_0010), uint64(1_000_000), uint32(742))
	commit = build('C', byte(0), uint64(0x1_0000_0010), uint64(0x1_0000_0040), uint64(1_000_000))
)

func build(kind byte, parts ...any) []byte {
	out := []byte{kind}
	for _, part := range parts {
		switch part := part.(type) {
		case byte:
			out = append(out, part)
		case uint16:
			out = binary.BigEndian.AppendUint16(out, part)
		case uint32:
			out = binary.BigEndian.AppendUint32(out, part)
		case uint64:
			out = binary.BigEndian.AppendUint64(out, part)
		case string:
			out = append(out, part...)
		}
	}
	return out
}

func TestDecodeReadsATransaction(t *testing.T) {
	t.Parallel()
	var decoder wal.Decoder
	var got []wal.Message
	for _, data := range [][]byte{begin, announce, insert, build('M', uint32(1)), commit} {
		var m wal.Message
		require.NoError(t, decoder.Decode(data, &m))
		got = append(got, m)
	}
	at := time.Date(2000, 1, 1, 0, 0, 1, 0, time.UTC)
	require.Empty(t, cmp.Diff([]wal.Message{
		{Kind: wal.Begin, Time: at},
		{},
		{
			Kind: wal.Insert,
			Relation: &wal.Relation{ID: 7, Schema: "public", Name: "t", Columns: []wal.Column{
				{Name: "id", Type: 2950}, {Name: "n", Type: 20}, {Name: "note", Type: 25},
			}},
			Values: [][]byte{[]byte("ab"), nil, {}}, // null and the empty text are not the same
		},
		{},
		{Kind: wal.Commit, LSN: 0x1_0000_0040, Time: at},
	}, got))
	require.Equal(t, "1/40", got[4].LSN.String())
}

func TestDecodeRefusesWhatItCannotRead(t *testing.T) {
	t.Parallel()
	var decoder wal.Decoder
	var m wal.Message
	require.ErrorContains(t, decoder.Decode(insert, &m), "relation 7 was not announced")
	require.NoError(t, decoder.Decode(announce, &m))
	for _, message := range [][]byte{begin, commit, announce, insert} {
		for end := range message {
			require.Error(t, decoder.Decode(message[:end], &m), "%q cut after %d bytes", message[0], end)
		}
	}
	require.ErrorContains(t, decoder.Decode(build('I', uint32(7), byte('N'), uint16(1), byte('n')), &m), "1 values for 3 columns")
	require.ErrorContains(t, decoder.Decode(build('I', uint32(7), byte('N'), uint16(3), byte('u')), &m), `kind 'u'`)
	require.NoError(t, decoder.Decode(insert, &m), "a bad message leaves the relation as it was")
}

func FuzzDecode(f *testing.F) {
	for _, message := range [][]byte{announce, insert, begin, commit} {
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var decoder wal.Decoder
		var m wal.Message
		require.NoError(t, decoder.Decode(announce, &m))
		if err := decoder.Decode(data, &m); err == nil && m.Kind == wal.Insert {
			require.Len(t, m.Values, len(m.Relation.Columns))
		}
	})
}
