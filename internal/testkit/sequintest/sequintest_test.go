package sequintest_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/testkit/sequintest"
)

// What every test of a record rests on: a drift is seen, and what means the same is none.
func TestADriftIsSeen(t *testing.T) {
	t.Parallel()
	for _, r := range sequintest.Records(t) {
		require.NoError(t, r.Differs(r.Value), r.Name)
	}
	records := map[string]sequintest.Record{}
	for _, r := range sequintest.Records(t) {
		records[r.Name] = r
	}
	for name, c := range map[string]struct {
		record   string
		old, new string
		differs  string // empty: it means the same
	}{
		"a time in another form":        {"ordinary", ".100000Z", ".1Z", "created_at"},
		"a number as a string":          {"ordinary", `"txid":742`, `"txid":"742"`, "txid"},
		"a null left out":               {"ordinary", `"traceparent":null,`, ``, "traceparent"},
		"a null as an empty string":     {"ordinary", `"traceparent":null`, `"traceparent":""`, "traceparent"},
		"a column that Sequin has not":  {"ordinary", `"txid":742`, `"txid":742,"zone":1`, "zone"},
		"another order":                 {"ordinary", `{"created_at":"2026-02-23T12:00:00.100000Z","event_type":"payment.succeeded"`, `{"event_type":"payment.succeeded","created_at":"2026-02-23T12:00:00.100000Z"`, "created_at"},
		"another escape":                {"quotes-and-control-characters", `\u001F`, `\u001f`, "object_id"},
		"digits lost":                   {"integers-beyond-a-double", `"sequence":9007199254740993`, `"sequence":9007199254740992`, "sequence"},
		"digits lost in the payload":    {"payload-numbers", `"beyond_double":9007199254740993`, `"beyond_double":9007199254740992`, "payload"},
		"a decimal that is another":     {"payload-numbers", `"price":1.1,`, `"price":1.2,`, "payload"},
		"a null in a list left out":     {"payload-nested", `[null,[null,`, `[[null,`, "payload"},
		"a key left out":                {"payload-nested", `"b":[],`, ``, "payload"},
		"an empty object for a list":    {"payload-nested", `"b":[]`, `"b":{}`, "payload"},
		"white space in the payload":    {"payload-nested", `"b":[]`, `"b": [ ]`, ""},
		"the payload's own digits":      {"payload-numbers", `"price":1.1,`, `"price":1.10,`, ""},
		"an exponent":                   {"payload-numbers", `"small":1.0e-7`, `"small":0.0000001`, ""},
		"another escape in the payload": {"unicode", `"שלום"`, `"\u05e9\u05dc\u05d5\u05dd"`, ""},
	} {
		r := records[c.record]
		changed := bytes.Replace(r.Value, []byte(c.old), []byte(c.new), 1)
		require.NotEqual(t, string(r.Value), string(changed), name)
		if c.differs == "" {
			require.NoError(t, r.Differs(changed), name)
		} else {
			require.ErrorContains(t, r.Differs(changed), "column "+c.differs, name)
		}
	}
	for _, broken := range []string{``, `[]`, `{`, `{}x`, `{} {}`} {
		require.Error(t, records["ordinary"].Differs([]byte(broken)), broken)
	}
}
