package relay

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/wal"
)

// domainEvents is the table as the server announces it.
var domainEvents = &wal.Relation{ID: 1, Schema: "public", Name: "domain_events", Columns: []wal.Column{
	{Name: "id", Type: 2950},
	{Name: "sequence", Type: 20},
	{Name: "txid", Type: 20},
	{Name: "event_type", Type: 25},
	{Name: "object_type", Type: 25},
	{Name: "object_id", Type: 25},
	{Name: "object_version", Type: 20},
	{Name: "merchant_id", Type: 25},
	{Name: "payload", Type: 3802},
	{Name: "traceparent", Type: 25},
	{Name: "created_at", Type: 1184},
}}

func row(payload string) [][]byte {
	return texts("01890a5d-ac96-774b-bcce-b302099a8057", "9007199254740993", "742", "payment.succeeded", "payment", "p1", "2",
		"joes-tshirt-shop", payload, "", "2026-02-23 12:00:00.1+00")
}

func texts(values ...string) [][]byte {
	out := make([][]byte, 0, len(values))
	for _, value := range values {
		out = append(out, []byte(value))
	}
	return out
}

func TestEncodeWritesAnEventAsSequinDoes(t *testing.T) {
	t.Parallel()
	values := row(`{"id": "p1", "rate": 1.10, "tags": [], "amount": 12345678901234567890}`)
	values[9] = nil
	r := newEncoder(domainEvents).encode(values, 1<<20)
	require.Equal(t, "joes-tshirt-shop", string(r.key))
	require.False(t, r.stub)
	require.Equal(t, `{"created_at":"2026-02-23T12:00:00.100000Z","event_type":"payment.succeeded",`+
		`"id":"01890a5d-ac96-774b-bcce-b302099a8057","merchant_id":"joes-tshirt-shop","object_id":"p1",`+
		`"object_type":"payment","object_version":2,`+
		`"payload":{"id": "p1", "rate": 1.10, "tags": [], "amount": 12345678901234567890},`+
		`"sequence":9007199254740993,"traceparent":null,"txid":742}`, string(r.value))

	ref, err := event.DecodeRecord(r.value)
	require.NoError(t, err)
	require.Equal(t, event.Ref{
		ID: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057"), TxID: 742, Type: "payment.succeeded",
		ObjectType: "payment", ObjectID: "p1", ObjectVersion: 2, MerchantID: "joes-tshirt-shop",
	}, ref)
}

func TestEncodeWritesEveryType(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		oid  uint32
		text string
		want string
	}{
		{"bool", 16, "t", `true`},
		{"bool", 16, "f", `false`},
		{"int2", 21, "-32768", `-32768`},
		{"int4", 23, "7", `7`},
		{"int8", 20, "9223372036854775807", `9223372036854775807`},
		{"oid", 26, "4294967295", `4294967295`},
		{"float4", 700, "1.5", `1.5`},
		{"float8", 701, "1e+300", `1e+300`},
		{"float8", 701, "-0", `-0`},
		{"float8", 701, "NaN", `"NaN"`},
		{"float8", 701, "-Infinity", `"-Infinity"`},
		{"numeric", 1700, "199.90", `"199.90"`},
		{"uuid", 2950, "01890a5d-ac96-774b-bcce-b302099a8057", `"01890a5d-ac96-774b-bcce-b302099a8057"`},
		{"text", 25, "", `""`},
		{"text", 25, "a\"b\\c/d\x01\b\t\n\f\r\x1f\x7f<é>\u2028😀", `"a\"b\\c/d\u0001\b\t\n\f\r\u001F` + "\x7f<é>\u2028😀" + `"`},
		{"text that is no UTF-8", 25, "a\xffb", "\"a\uFFFDb\""},
		{"varchar", 1043, "a", `"a"`},
		{"bpchar", 1042, "USD  ", `"USD  "`},
		{"bytea", 17, `\xdeadbeef`, `"\\xdeadbeef"`},
		{"json", 114, "{ \"b\" : 1,\n \"a\" : 2 }", "{ \"b\" : 1,\n \"a\" : 2 }"},
		{"jsonb", 3802, `null`, `null`},
		{"jsonb", 3802, `{"a": [1.10, "\u0000x"]}`, `{"a": [1.10, "\u0000x"]}`},
		{"date", 1082, "2026-02-23", `"2026-02-23"`},
		{"time", 1083, "12:00:00.5", `"12:00:00.5"`},
		{"timestamp", 1114, "2026-02-23 12:00:00", `"2026-02-23T12:00:00.000000"`},
		{"timestamp", 1114, "2026-02-23 12:00:00.12", `"2026-02-23T12:00:00.120000"`},
		{"timestamp", 1114, "infinity", `"infinity"`},
		{"timestamptz", 1184, "2026-02-23 12:00:00+00", `"2026-02-23T12:00:00.000000Z"`},
		{"timestamptz", 1184, "2026-02-23 12:00:00.123456+00", `"2026-02-23T12:00:00.123456Z"`},
		{"timestamptz", 1184, "2026-02-23 14:00:00.5+02", `"2026-02-23T12:00:00.500000Z"`},
		{"timestamptz", 1184, "2026-02-23 17:30:00+05:30", `"2026-02-23T12:00:00.000000Z"`},
		{"timestamptz", 1184, "12026-02-23 12:00:00+00", `"12026-02-23 12:00:00+00"`},
		{"timestamptz", 1184, "0044-03-15 12:00:00+00 BC", `"0044-03-15 12:00:00+00 BC"`},
		{"timestamptz", 1184, "-infinity", `"-infinity"`},
		{"an unknown type", 999999, "(1,2)", `"(1,2)"`},
		{"int4[]", 1007, "{}", `[]`},
		{"int4[]", 1007, "{1,NULL,3}", `[1,null,3]`},
		{"int4[]", 1007, "{{1,2},{3,4}}", `[[1,2],[3,4]]`},
		{"int4[]", 1007, "[0:1]={1,2}", `[1,2]`},
		{"bool[]", 1000, "{t,f}", `[true,false]`},
		{"text[]", 1009, `{a,"b c","d\"e\\f,}",NULL,"NULL",""}`, `["a","b c","d\"e\\f,}",null,"NULL",""]`},
		{"jsonb[]", 3807, `{"{\"a\": [1, 2]}",null}`, `[{"a": [1, 2]},null]`},
		{"numeric[]", 1231, "{1.10}", `["1.10"]`},
		{"uuid[]", 2951, "{01890a5d-ac96-774b-bcce-b302099a8057}", `["01890a5d-ac96-774b-bcce-b302099a8057"]`},
		{"timestamptz[]", 1185, `{"2026-02-23 12:00:00+00"}`, `["2026-02-23T12:00:00.000000Z"]`},
		{"an array that is none", 1007, "{1,", `"{1,"`},
	} {
		e := newEncoder(&wal.Relation{Columns: []wal.Column{{Name: "c", Type: test.oid}}})
		got := string(e.encode(texts(test.text), 1<<20).value)
		require.Equal(t, `{"c":`+test.want+`}`, got, "%s %q", test.name, test.text)
		require.True(t, json.Valid([]byte(got)), got)
		require.Equal(t, `{"c":null}`, string(e.encode([][]byte{nil}, 1<<20).value), test.name)
	}
}

func TestAColumnThatIsAddedAppears(t *testing.T) {
	t.Parallel()
	more := *domainEvents
	more.Columns = append(more.Columns[:len(more.Columns):len(more.Columns)], wal.Column{Name: `a "new" one`, Type: 23})
	r := newEncoder(&more).encode(append(row("{}"), []byte("5")), 1<<20)
	require.True(t, strings.HasPrefix(string(r.value), `{"a \"new\" one":5,"created_at":`), string(r.value))
	_, err := event.DecodeRecord(r.value)
	require.NoError(t, err)
}

func TestARowTooLargeLosesItsPayloadOnly(t *testing.T) {
	t.Parallel()
	e := newEncoder(domainEvents)
	large := row(`{"x": "` + strings.Repeat("y", 5000) + `"}`)
	whole := e.encode(large, 1<<20)
	require.False(t, whole.stub)

	for name, stub := range map[string]record{"found here": e.encode(large, 5000), "found by the broker": whole.withoutPayload()} {
		require.True(t, stub.stub, name)
		require.Equal(t, whole.key, stub.key, name)
		require.Contains(t, string(stub.value), `"object_version":2,"payload":null,"payload_omitted":true,"sequence":`, name)
		want, err := event.DecodeRecord(whole.value)
		require.NoError(t, err)
		got, err := event.DecodeRecord(stub.value)
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}
	require.Equal(t, whole.size(), e.encode(large, whole.size()).size(), "the limit itself still fits")
	require.True(t, e.encode(large, whole.size()-1).stub)

	// Escaping makes a row longer than its texts.
	escaped := row("{}")
	escaped[9] = bytes.Repeat([]byte{'"'}, 3000)
	require.True(t, e.encode(escaped, 4000).stub)
}

func TestARowThatIsTooLargeWithoutItsPayloadStillFits(t *testing.T) {
	t.Parallel()
	values := row("{}")
	values[7] = bytes.Repeat([]byte("m"), 50_000)
	values[3] = bytes.Repeat([]byte("\x01"), longestInStub) // the worst escaping
	r := newEncoder(domainEvents).encode(values, 16_000)
	require.Less(t, r.size(), 16_000)
	require.Nil(t, r.key)
	require.True(t, json.Valid(r.value))
	require.Contains(t, string(r.value), `"merchant_id":null`)
	require.Contains(t, string(r.value), `"id":"01890a5d-ac96-774b-bcce-b302099a8057"`)
	_, err := event.DecodeRecord(r.value)
	require.ErrorIs(t, err, event.ErrUndecodable, "it ends among the dead records, not nowhere")
}

// Whatever texts a row holds, its record is JSON that means the same, and the pointer can be read from it.
func TestEveryRowIsAReadableRecord(t *testing.T) {
	t.Parallel()
	e := newEncoder(domainEvents)
	rapid.Check(t, func(t *rapid.T) {
		// PostgreSQL's text takes every character but NUL.
		text := rapid.String().Filter(func(s string) bool { return s != "" && !strings.Contains(s, "\x00") })
		payload, err := json.Marshal(rapid.MapOf(rapid.String(), rapid.SliceOf(rapid.String())).Draw(t, "payload"))
		require.NoError(t, err)
		want := event.Ref{
			ID:   uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Filter(func(b []byte) bool { return uuid.UUID(b) != uuid.Nil }).Draw(t, "id")),
			TxID: rapid.Int64Min(1).Draw(t, "txid"), Type: text.Draw(t, "type"), ObjectType: text.Draw(t, "object type"),
			ObjectID: text.Draw(t, "object id"), ObjectVersion: rapid.Int64Min(1).Draw(t, "version"), MerchantID: text.Draw(t, "merchant"),
			Traceparent: text.Draw(t, "traceparent"),
		}
		values := texts(want.ID.String(), "1", strconv.FormatInt(want.TxID, 10), want.Type, want.ObjectType, want.ObjectID,
			strconv.FormatInt(want.ObjectVersion, 10), want.MerchantID, string(payload), want.Traceparent, "2026-02-23 12:00:00+00")
		r := e.encode(values, rapid.SampledFrom([]int{1 << 20, 400}).Draw(t, "limit"))
		require.True(t, json.Valid(r.value))
		if r.key == nil { // of last resort
			return
		}
		require.Equal(t, want.MerchantID, string(r.key))
		got, err := event.DecodeRecord(r.value)
		require.NoError(t, err)
		require.Equal(t, want, got)
		var whole struct {
			Payload json.RawMessage `json:"payload"`
			Omitted bool            `json:"payload_omitted"`
		}
		require.NoError(t, json.Unmarshal(r.value, &whole))
		require.Equal(t, r.stub, whole.Omitted)
		if !r.stub {
			require.JSONEq(t, string(payload), string(whole.Payload))
		}
		require.True(t, json.Valid(r.withoutPayload().value))
	})
}

func FuzzAppendString(f *testing.F) {
	f.Add([]byte("a\"\\\x00\x1f\u2028é\xff"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got string
		require.NoError(t, json.Unmarshal(appendString(nil, text), &got))
		if utf8.Valid(text) {
			require.Equal(t, string(text), got)
		}
	})
}

func FuzzAppendArray(f *testing.F) {
	for _, text := range []string{"{}", "{1,NULL}", `{"a\"b",{c}}`, "[0:1]={1,2}", "{", `{"`, "{{", "["} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		require.True(t, json.Valid(appendArray(nil, text, appendString)), "%q", text)
	})
}

func FuzzAppendTimestamp(f *testing.F) {
	for _, text := range []string{"2026-02-23 12:00:00.1+00", "infinity", "2026-02-23 14:00:00+02", "0044-03-15 12:00:00+00 BC", `" 12:00:00`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, write := range []format{appendTimestamp, appendTimestampTZ} {
			require.True(t, json.Valid(write(nil, text)), "%q", text)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e := newEncoder(domainEvents)
	values := row(`{"id": "01890a5d-ac96-774b-bcce-b302099a8057", "note": "` + strings.Repeat("y", 400) + `"}`)
	b.ReportAllocs()
	for b.Loop() {
		e.encode(values, 1<<20)
	}
}
