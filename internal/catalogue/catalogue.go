// Package catalogue lists the event types that Hookline knows: what each means, how its webhook looks, and an
// example. Other types may be posted and sent all the same; nobody checks those.
//
// The types are files in types/, each a JSON Schema of the event's data, which is the webhook's snapshot. The
// schema of the whole webhook is made around it.
package catalogue

//go:generate go test -run ^TestTheDocsListTheCatalogue$ . -update

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// EndpointDisabled is the type of the event that tells a merchant that one of its endpoints gets nothing any more.
const EndpointDisabled = "endpoint.disabled"

const (
	operationalPrefix = "endpoint."
	paymentPrefix     = "payment."
)

// Operational reports whether the type is about Hookline's own doing, not about the merchant's business. An
// endpoint gets such events only when its filter names them, by type or by prefix; an empty filter takes
// every type but these.
func Operational(eventType string) bool { return strings.HasPrefix(eventType, operationalPrefix) }

// Type is an event type of the catalogue. It may be used concurrently.
type Type struct {
	Name string
	// Description is one sentence for merchants.
	Description string
	// Operational is Operational(Name).
	Operational bool

	payment bool // carries the payment as of now beside its snapshot
	schema  []byte
	data    *jsonschema.Schema
	example exampleData
}

// All returns the types, sorted by name.
func All() []Type { return slices.Clone(known().types) }

// Lookup returns the type of the name.
func Lookup(name string) (Type, bool) {
	i, ok := known().byName[name]
	if !ok {
		return Type{}, false
	}
	return known().types[i], true
}

// Schema is the JSON Schema (draft 2020-12) of the type's whole webhook. It refers to nothing outside itself.
func (t Type) Schema() []byte { return slices.Clone(t.schema) }

// exampleData is an example of a type's data, as if it had been written at exampleTime.
type exampleData struct {
	json    []byte
	version int64 // of the object
}

var exampleTime = time.Date(2026, time.January, 15, 9, 30, 0, 0, time.UTC)

var (
	exampleMerchant = regexp.MustCompile(`"merchant_id":"[^"]*"`)
	exampleTimes    = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[^"]*"`)
)

// Layouts of times in UTC. PostgreSQL writes the times of a payment, and leaves zeros at the end out.
const (
	layoutEnvelope   = "2006-01-02T15:04:05.000000Z"
	layoutPostgreSQL = "2006-01-02T15:04:05.999999-07:00"
)

// Example is the body of a webhook of the type, as an attempt would send it: of the event id, which occurred
// at the time. The times within its data lie around it, and a payment is the merchant's; all else is made up.
func (t Type) Example(id uuid.UUID, merchantID string, at time.Time) ([]byte, error) {
	merchant, err := json.Marshal(merchantID)
	if err != nil {
		return nil, fmt.Errorf("encoding the merchant's id: %w", err)
	}
	data := exampleMerchant.ReplaceAllLiteral(t.example.json, slices.Concat([]byte(`"merchant_id":`), merchant))
	data = exampleTimes.ReplaceAllFunc(data, func(quoted []byte) []byte { return moveTime(quoted, at) })

	body := fmt.Appendf(nil, `{"event_id":"%s","event_type":"%s","object_version":%d,"occurred_at":"%s"`,
		id, t.Name, t.example.version, at.UTC().Format(layoutEnvelope))
	if t.payment {
		body = append(append(body, `,"payment":`...), data...)
	}
	body = append(append(body, `,"snapshot":`...), data...)
	return append(body, '}'), nil
}

// moveTime moves a time of an example from around exampleTime to around at.
func moveTime(quoted []byte, at time.Time) []byte {
	moment, err := time.Parse(time.RFC3339, string(bytes.Trim(quoted, `"`)))
	if err != nil {
		return quoted // a text that only begins like a time
	}
	layout := time.RFC3339
	if bytes.HasSuffix(quoted, []byte(`+00:00"`)) {
		layout = layoutPostgreSQL
	}
	return []byte(`"` + at.Add(moment.Sub(exampleTime)).UTC().Format(layout) + `"`)
}
