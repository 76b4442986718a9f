// Package sequintest holds the Kafka records that Sequin writes: what whoever writes the topic, or reads it, is held to.
//
// The records in testdata are those of Sequin v0.14.6 with the transform "path: record", made by its own caster and
// encoder (Ecto 3.11.2, Jason 1.4.4) from the rows in manifest.json; the script beside them writes them. The messages are of
// the first row, without a transform.
package sequintest

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
)

//go:embed testdata/*.json
var files embed.FS

// Column is a column of domain_events, as the server announces it.
type Column struct {
	Name string `json:"name"`
	Type string `json:"type"` // pg_type's name
	OID  uint32 `json:"oid"`
}

// Record is a row and its record.
type Record struct {
	Name    string
	Columns []Column
	// Added says that the row has columns that domain_events does not have yet, behind its own.
	Added bool
	// Texts are the values as the server writes them into the stream; nil is null.
	Texts [][]byte
	// Inserts are the values as a client may write them. They differ from Texts where the server has a form of its own.
	Inserts []*string
	Key     string
	Value   []byte
	// Ref is the event that the record points to. Undecodable says why a record is none, where it is not.
	Ref         event.Ref
	Undecodable string
}

// orderedBelow is up to how many columns Sequin writes in the order of their names.
const orderedBelow = 32

// Records are the golden ones.
func Records(t testing.TB) []Record {
	t.Helper()
	var manifest struct {
		Columns, Added []Column
		Records        []struct {
			Name        string
			Row         map[string]*string
			Insert      map[string]string
			Undecodable string
		}
	}
	require.NoError(t, json.Unmarshal(read(t, "manifest"), &manifest))
	require.NotEmpty(t, manifest.Records)
	records := make([]Record, 0, len(manifest.Records))
	for _, m := range manifest.Records {
		r := Record{
			Name: m.Name, Columns: manifest.Columns, Value: read(t, "record-"+m.Name), Undecodable: m.Undecodable,
			Added: len(m.Row) > len(manifest.Columns),
		}
		if r.Added {
			r.Columns = slices.Concat(manifest.Columns, manifest.Added)
		}
		require.Len(t, m.Row, len(r.Columns), m.Name)
		text := map[string]string{}
		for _, column := range r.Columns {
			value, ok := m.Row[column.Name]
			require.True(t, ok, "%s has no %s", m.Name, column.Name)
			insert := value
			if other, ok := m.Insert[column.Name]; ok {
				insert = &other
			}
			r.Inserts = append(r.Inserts, insert)
			if value == nil {
				r.Texts = append(r.Texts, nil)
				continue
			}
			r.Texts = append(r.Texts, []byte(*value))
			text[column.Name] = *value
		}
		r.Key = text["merchant_id"]
		r.Ref = event.Ref{
			ID: uuid.MustParse(text["id"]), TxID: number(t, text["txid"]), Type: text["event_type"], ObjectType: text["object_type"],
			ObjectID: text["object_id"], ObjectVersion: number(t, text["object_version"]), MerchantID: text["merchant_id"],
			Traceparent: text["traceparent"],
		}
		records = append(records, r)
	}
	return records
}

// Message is what Sequin writes of the first record without a transform: of an insert, a read, an update, a delete, or a
// delete-key, which is a delete that names the key alone.
func Message(t testing.TB, action string) []byte {
	t.Helper()
	return read(t, "message-"+action)
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	value, err := files.ReadFile("testdata/" + name + ".json")
	require.NoError(t, err)
	return value
}

func number(t testing.TB, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}

// Differs says where a value is another record than Sequin's; nil means that it is not. Columns have the same order and the
// same bytes, but for documents and floating-point numbers, which mean the same: Sequin sends these through a double, so that
// 1.10 becomes 1.1, and sorts the keys of documents.
func (r Record) Differs(value []byte) error {
	want, err := fields(r.Value)
	if err != nil {
		return fmt.Errorf("reading the golden record: %w", err)
	}
	got, err := fields(value)
	if err != nil {
		return fmt.Errorf("reading the record: %w", err)
	}
	if len(r.Columns) > orderedBelow {
		byName := func(a, b field) int { return strings.Compare(a.name, b.name) }
		slices.SortFunc(want, byName)
		slices.SortFunc(got, byName)
	}
	types := map[string]string{}
	for _, column := range r.Columns {
		types[column.Name] = strings.TrimPrefix(column.Type, "_")
	}
	for i := range max(len(want), len(got)) {
		switch {
		case i >= len(want):
			return fmt.Errorf("column %s is not in Sequin's", got[i].name)
		case i >= len(got) || want[i].name != got[i].name:
			return fmt.Errorf("column %s of Sequin's is not there, or elsewhere", want[i].name)
		}
		same := bytes.Equal(want[i].value, got[i].value)
		switch types[want[i].name] {
		case "json", "jsonb", "float4", "float8":
			same = sameDocument(want[i].value, got[i].value)
		}
		if !same {
			return fmt.Errorf("column %s is %s, and Sequin's %s", got[i].name, got[i].value, want[i].value)
		}
	}
	return nil
}

type field struct {
	name  string
	value json.RawMessage
}

// fields are an object's, in their order.
func fields(object []byte) ([]field, error) {
	decoder := json.NewDecoder(bytes.NewReader(object))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, fmt.Errorf("no object: %v, %w", token, err)
	}
	var out []field
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		f := field{name: token.(string)} // within an object it can be nothing else
		if err := decoder.Decode(&f.value); err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	if _, err := decoder.Token(); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, fmt.Errorf("something follows the object: %w", err)
	}
	return out, nil
}

// sameDocument says whether Sequin's document means the same as another.
func sameDocument(sequins, other []byte) bool {
	a, errA := document(sequins)
	b, errB := document(other)
	return errA == nil && errB == nil && same(a, b)
}

func document(text []byte) (any, error) {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var out any
	err := decoder.Decode(&out)
	return out, err
}

func same(sequins, other any) bool {
	switch a := sequins.(type) {
	case map[string]any:
		b, ok := other.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for key, value := range a {
			if theirs, ok := b[key]; !ok || !same(value, theirs) {
				return false
			}
		}
		return true
	case []any:
		b, ok := other.([]any)
		return ok && slices.EqualFunc(a, b, same)
	case json.Number:
		b, ok := other.(json.Number)
		return ok && sameNumber(a.String(), b.String())
	default:
		return sequins == other
	}
}

// sameNumber compares whole numbers digit by digit, and others as the doubles that Sequin makes of them.
func sameNumber(sequins, other string) bool {
	if !strings.ContainsAny(sequins, ".eE") {
		a, okA := new(big.Int).SetString(sequins, 10)
		b, okB := new(big.Int).SetString(other, 10)
		return okA && okB && a.Cmp(b) == 0
	}
	a, errA := strconv.ParseFloat(sequins, 64)
	b, errB := strconv.ParseFloat(other, 64)
	return errA == nil && errB == nil && a == b
}
