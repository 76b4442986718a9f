package paymentsapi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzObject holds the walk against encoding/json: the same bodies are objects, with the same fields.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { } `, `{"amount":1000,"currency":"USD"}`, `{"a":{"b":[1,{"c":"]}"}]},"d" : "\"\\" ,"e":-1.5e3,"f":null}`,
		`{"a":1,"a":2}`, `{"\u0061":1}`, `{"a":"\ud83d\ude00\u0000"}`, `[`, `{"a":[}`, `"x"`, `{"a":true}x`, `{"":[[]]}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := parseObject(body)
		var want map[string]json.RawMessage
		errWant := json.Unmarshal(body, &want)
		if err != nil {
			return
		}
		require.NoError(t, errWant)
		given := 0
		for name, value := range o.all {
			given++
			require.Contains(t, want, name)
			if len(o.bad) == 0 {
				require.True(t, json.Valid(value), "%s", value)
				inspect(value, 100)
			}
		}
		if len(o.bad) == 0 && len(want) <= 8 {
			require.Len(t, want, given)
			for name, value := range o.all {
				require.Equal(t, string(want[name]), string(value))
			}
		}
	})
}

func TestInspectCountsWhatIsWritten(t *testing.T) {
	t.Parallel()
	for document, size := range map[string]int{
		`{}`:                        2,
		`{ "a" : [ 1 , 2 ] }`:       len(`{"a": [1, 2]}`),
		`{"a":1e5}`:                 len(`{"a": 100000}`),
		`{"a":true,"b":null}`:       len(`{"a": true, "b": null}`),
		`{"a":"\ud83d\ude00 \n\\"}`: len(`{"a": "\ud83d\ude00 \n\\"}`), // an upper bound
	} {
		require.Empty(t, inspect(json.RawMessage(document), size), document)
		require.Contains(t, inspect(json.RawMessage(document), size-1), "larger than", document)
	}
}

func BenchmarkReadDraft(b *testing.B) {
	body := []byte(`{"amount":1000,"currency":"USD","merchant_id":"m1","metadata":{"order":"0123456789","note":"` + strings.Repeat("a", 600) + `"}}`)
	b.ReportAllocs()
	for b.Loop() {
		o, err := parseObject(body)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := readDraft(o); err != nil {
			b.Fatal(err)
		}
	}
}
