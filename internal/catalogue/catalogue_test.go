package catalogue_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/testkit/pgtest"
	"github.com/hookline/hookline/migrations"
)

var (
	eventID = uuid.MustParse("01a2048f-7455-7122-a997-06e7d8417230")
	noon    = time.Date(2026, time.March, 3, 12, 0, 0, 125_000_000, time.UTC)
)

func lookup(t *testing.T, name string) catalogue.Type {
	t.Helper()
	found, ok := catalogue.Lookup(name)
	require.True(t, ok, name)
	return found
}

func example(t *testing.T, of catalogue.Type) []byte {
	t.Helper()
	body, err := of.Example(eventID, "acme", noon)
	require.NoError(t, err)
	return body
}

// compile compiles a type's schema as a merchant does, who knows nothing of ours and has nothing else at hand.
func compile(t *testing.T, of catalogue.Type) *jsonschema.Schema {
	t.Helper()
	compiler := jsonschema.NewCompiler()
	compiler.UseLoader(jsonschema.SchemeURLLoader{})
	compiler.AssertFormat()
	require.NoError(t, compiler.AddResource("urn:test", decode(t, of.Schema())))
	schema, err := compiler.Compile("urn:test")
	require.NoError(t, err)
	return schema
}

func decode(t *testing.T, text []byte) any {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	require.NoError(t, err, "%s", text)
	return value
}

// field is a field of a JSON object.
func field[T any](t *testing.T, value any, name string) T {
	t.Helper()
	object, ok := value.(map[string]any)
	require.True(t, ok, "%v", value)
	found, ok := object[name].(T)
	require.True(t, ok, "%s: %v", name, object[name])
	return found
}

func TestTheCatalogueIsSortedAndComplete(t *testing.T) {
	t.Parallel()
	want := []string{
		"invoice.created", "invoice.sent", "invoice.paid", "invoice.payment_failed",
		"subscription.created", "subscription.renewed", "subscription.canceled",
		"payout.paid", "payout.failed", "dispute.opened", "dispute.closed", catalogue.EndpointDisabled,
	}
	for _, status := range payment.Statuses() {
		want = append(want, "payment."+string(status))
	}
	slices.Sort(want)
	var got []string
	for _, each := range catalogue.All() {
		got = append(got, each.Name)
		require.Regexp(t, `^[A-Z].*\.$`, each.Description, each.Name)
		require.Equal(t, each.Name == catalogue.EndpointDisabled, each.Operational, each.Name)
		require.Equal(t, each.Operational, catalogue.Operational(each.Name))
		require.Equal(t, each.Name, lookup(t, each.Name).Name)
	}
	require.Empty(t, cmp.Diff(want, got))
	for _, unknown := range []string{"", "payment", "payment.*", "payment.paid", "Payment.succeeded"} {
		_, ok := catalogue.Lookup(unknown)
		require.False(t, ok, unknown)
	}
}

func TestWhatACallerDoesToTheCatalogueStaysWithIt(t *testing.T) {
	t.Parallel()
	catalogue.All()[0].Name = "x"
	clear(lookup(t, "invoice.paid").Schema())
	require.NotEqual(t, "x", catalogue.All()[0].Name)
	require.True(t, json.Valid(lookup(t, "invoice.paid").Schema()))
}

func TestEveryExampleFitsItsSchemaAndNoOther(t *testing.T) {
	t.Parallel()
	for _, each := range catalogue.All() {
		t.Run(each.Name, func(t *testing.T) {
			t.Parallel()
			schema := compile(t, each)
			for _, other := range catalogue.All() {
				err := schema.Validate(decode(t, example(t, other)))
				require.Equal(t, other.Name == each.Name, err == nil, "%s: %v", other.Name, err)
			}
			// Each field of the envelope is needed.
			body := field[map[string]any](t, map[string]any{"": decode(t, example(t, each))}, "")
			for name, value := range body {
				delete(body, name)
				require.Error(t, schema.Validate(body), name)
				body[name] = value
			}
			require.NoError(t, schema.Validate(body))
		})
	}
}

func TestAnExampleIsOfTheEventThatIsAskedFor(t *testing.T) {
	t.Parallel()
	body := decode(t, example(t, lookup(t, "payment.refunded")))
	require.Equal(t, eventID.String(), field[string](t, body, "event_id"))
	require.Equal(t, "2026-03-03T12:00:00.125000Z", field[string](t, body, "occurred_at"))
	for _, part := range []string{"payment", "snapshot"} {
		object := field[map[string]any](t, body, part)
		require.Equal(t, "acme", object["merchant_id"])
		require.Equal(t, "refunded", object["status"])
		require.Equal(t, field[json.Number](t, body, "object_version"), object["version"])
		require.Equal(t, "2026-03-03T12:00:00.125+00:00", object["updated_at"])
		require.Equal(t, "2026-03-03T11:58:41.298905+00:00", object["created_at"])
	}
	data := field[map[string]any](t, decode(t, example(t, lookup(t, catalogue.EndpointDisabled))), "snapshot")
	require.Equal(t, "2026-03-03T12:00:00Z", data["disabled_at"])
	require.Equal(t, "2026-02-26T12:00:00Z", data["failing_since"])

	// In any zone, and for any text that is given for a merchant.
	body2, err := lookup(t, "payment.refunded").Example(eventID, `$1"\`, noon.In(time.FixedZone("", 3600)))
	require.NoError(t, err)
	snapshot := field[map[string]any](t, decode(t, body2), "snapshot")
	require.Equal(t, `$1"\`, snapshot["merchant_id"])
	require.Equal(t, "2026-03-03T12:00:00.125+00:00", snapshot["updated_at"])
}

// What is sent is made in deliver, of what PostgreSQL has. Whatever changes there must change the catalogue.
func TestTheCatalogueSaysWhatIsSent(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	store := postgres.NewPaymentStore(db.Pool(t, migrations.RoleAPI))
	events := postgres.NewEventStore(db.Pool(t, migrations.RoleReader))

	for _, each := range catalogue.All() {
		if status, ok := strings.CutPrefix(each.Name, "payment."); ok {
			_, err := store.Create(t.Context(), payment.Draft{
				ID: uuid.New(), MerchantID: "acme", Amount: 4200, Currency: "EUR", Status: payment.Status(status),
				Metadata: json.RawMessage(`{"order": "1842"}`),
			}, payment.Origin{})
			require.NoError(t, err)
			continue
		}
		var webhook struct {
			Snapshot json.RawMessage `json:"snapshot"`
		}
		require.NoError(t, json.Unmarshal(example(t, each), &webhook))
		_, err := store.AppendEvent(t.Context(), each.Name, "acme", webhook.Snapshot, payment.Origin{})
		require.NoError(t, err)
	}
	page, err := events.Feed(t.Context(), "", 100, true)
	require.NoError(t, err)
	require.Len(t, page.Events, len(catalogue.All()))
	for _, ref := range page.Events {
		payloads, err := events.Payloads(t.Context(), []event.PayloadRequest{{EventID: ref.ID, TxID: ref.TxID, MinVersion: ref.ObjectVersion}})
		require.NoError(t, err)
		message, err := deliver.Render(payloads[0])
		require.NoError(t, err)

		each := lookup(t, ref.Type)
		sent := decode(t, message.Body)
		require.NoError(t, compile(t, each).Validate(sent), "%s", message.Body)
		require.Empty(t, cmp.Diff(shape(decode(t, example(t, each))), shape(sent)), each.Name)
	}
}

// shape is a document without its values: the kind of each field, and the form of times.
func shape(value any) any {
	switch v := value.(type) {
	case map[string]any:
		fields := map[string]any{}
		for name, value := range v {
			fields[name] = shape(value)
		}
		return fields
	case json.Number:
		return "number"
	case string:
		if _, err := time.Parse(time.RFC3339, v); err != nil {
			return "string"
		}
		if strings.HasSuffix(v, "Z") {
			return "time with Z"
		}
		return "time with offset"
	}
	return value
}

func TestAnExampleHasTheFormThatDeliverRenders(t *testing.T) {
	t.Parallel()
	for _, each := range catalogue.All() {
		body := example(t, each)
		var webhook struct {
			ObjectVersion     int64 `json:"object_version"`
			Payment, Snapshot json.RawMessage
		}
		require.NoError(t, json.Unmarshal(body, &webhook))
		message, err := deliver.Render(event.Payload{
			EventID: eventID, Visibility: event.Visible, Type: each.Name, ObjectVersion: webhook.ObjectVersion,
			OccurredAt: "2026-03-03T12:00:00.125000Z", Payment: webhook.Payment, Snapshot: webhook.Snapshot,
		})
		require.NoError(t, err)
		require.Equal(t, string(message.Body), string(body))
	}
}

func TestValidateDataNamesEachProblem(t *testing.T) {
	t.Parallel()
	const (
		isMissing   = "is missing"
		notInteger  = "want a whole number without fraction and exponent"
		notCurrency = "want a currency of ISO 4217 in upper case, such as USD"
		notTime     = "want a time of RFC 3339, such as 2026-01-15T09:30:00Z"
	)
	for name, test := range map[string]struct {
		eventType, data string
		want            map[string]string
	}{
		"the least":          {"invoice.created", `{"id":"i","amount":0,"currency":"JPY"}`, nil},
		"the most":           {"invoice.created", `{"id":"` + strings.Repeat("~", 255) + `","amount":9007199254740991,"currency":"EUR"}`, nil},
		"more than is known": {"invoice.created", `{"id":"i","amount":1,"currency":"JPY","lines":[{"sku":"x"}]}`, nil},
		"nothing":            {"invoice.payment_failed", `{}`, map[string]string{"data/id": isMissing, "data/amount": isMissing, "data/currency": isMissing, "data/reason": isMissing}},
		"an array":           {"invoice.created", `[]`, map[string]string{"data": "want object, not array"}},
		"no JSON":            {"invoice.created", `{`, map[string]string{"data": "is not JSON"}},
		"empty":              {"invoice.created", ``, map[string]string{"data": "is not JSON"}},
		"types":              {"invoice.created", `{"id":7,"amount":"7","currency":null}`, map[string]string{"data/id": "want string, not number", "data/amount": "want integer, not string", "data/currency": "want string, not null"}},
		"a fraction":         {"payout.paid", `{"id":"p","amount":1.5,"currency":"EUR","paid_at":"2026-01-15T09:30:00Z"}`, map[string]string{"data/amount": "want integer, not number"}},
		"written otherwise":  {"invoice.created", `{"id":"i","amount":10.0,"currency":"EUR"}`, map[string]string{"data/amount": notInteger}},
		"an exponent":        {"invoice.created", `{"id":"i","amount":1e3,"currency":"EUR"}`, map[string]string{"data/amount": notInteger}},
		"too little":         {"invoice.created", `{"id":"i","amount":-1,"currency":"EUR"}`, map[string]string{"data/amount": "want 0 or more"}},
		"too much":           {"invoice.created", `{"id":"i","amount":9007199254740992,"currency":"EUR"}`, map[string]string{"data/amount": "want 9007199254740991 at most"}},
		"no currency":        {"invoice.created", `{"id":"i","amount":1,"currency":"XXX"}`, map[string]string{"data/currency": notCurrency}},
		"lower case":         {"invoice.created", `{"id":"i","amount":1,"currency":"eur"}`, map[string]string{"data/currency": notCurrency}},
		"an empty id":        {"invoice.created", `{"id":"","amount":1,"currency":"EUR"}`, map[string]string{"data/id": "want 1 or more characters"}},
		"a long id":          {"invoice.created", `{"id":"` + strings.Repeat("i", 256) + `","amount":1,"currency":"EUR"}`, map[string]string{"data/id": "want 255 characters at most"}},
		"an id of words":     {"invoice.created", `{"id":"i 7","amount":1,"currency":"EUR"}`, map[string]string{"data/id": "does not match ^[!-~]*$"}},
		"a day":              {"invoice.created", `{"id":"i","amount":1,"currency":"EUR","due_at":"2026-02-14"}`, map[string]string{"data/due_at": notTime}},
		"no time, or none":   {"invoice.payment_failed", `{"id":"i","amount":1,"currency":"EUR","reason":"r","next_attempt_at":"soon"}`, map[string]string{"data/next_attempt_at": notTime}},
		"null where it may":  {"invoice.payment_failed", `{"id":"i","amount":1,"currency":"EUR","reason":"r","next_attempt_at":null}`, nil},
		"no UUID":            {"dispute.opened", `{"id":"d","payment_id":"p1","amount":1,"currency":"EUR"}`, map[string]string{"data/payment_id": "want a UUID"}},
		"none of a list":     {catalogue.EndpointDisabled, `{"endpoint_id":"01a1f0c2-13b8-7d10-9f0e-5a3d2c1b0a99","reason":"tired","detail":"d","failing_since":null,"disabled_at":"2026-01-15T09:30:00Z"}`, map[string]string{"data/reason": "want one of gone, failing"}},
		"gone at once":       {catalogue.EndpointDisabled, `{"endpoint_id":"01a1f0c2-13b8-7d10-9f0e-5a3d2c1b0a99","reason":"gone","detail":"d","failing_since":null,"disabled_at":"2026-01-15T09:30:00Z"}`, nil},
		"without words":      {catalogue.EndpointDisabled, `{"endpoint_id":"01a1f0c2-13b8-7d10-9f0e-5a3d2c1b0a99","reason":"failing","failing_since":"2026-01-10T09:30:00.5+00:00","disabled_at":"2026-01-15T09:30:00+00:00"}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := lookup(t, test.eventType).ValidateData(json.RawMessage(test.data))
			if test.want == nil {
				require.NoError(t, err)
				return
			}
			require.Equal(t, fault.Invalid, fault.ClassOf(err))
			var invalid *fault.Error
			require.ErrorAs(t, err, &invalid)
			require.Empty(t, cmp.Diff(test.want, invalid.Fields))
		})
	}
}

// Whatever is in an example, put anything else in its place: a type takes it or says where it is wrong.
func TestAProblemIsWhereTheDataWasChanged(t *testing.T) {
	t.Parallel()
	names := map[string][]string{} // by type
	for _, each := range catalogue.All() {
		for name := range field[map[string]any](t, decode(t, example(t, each)), "snapshot") {
			names[each.Name] = append(names[each.Name], name)
		}
		slices.Sort(names[each.Name])
	}
	rapid.Check(t, func(r *rapid.T) {
		each := rapid.SampledFrom(catalogue.All()).Draw(r, "type")
		name := rapid.SampledFrom(names[each.Name]).Draw(r, "field")
		var webhook struct{ Snapshot map[string]any }
		require.NoError(r, json.Unmarshal(example(t, each), &webhook))
		webhook.Snapshot[name] = rapid.SampledFrom([]any{nil, true, -1, 0.5, "", "x", []any{}, map[string]any{}}).Draw(r, "value")
		data, err := json.Marshal(webhook.Snapshot)
		require.NoError(r, err)
		err = each.ValidateData(data)
		if err == nil {
			return
		}
		var invalid *fault.Error
		require.ErrorAs(r, err, &invalid)
		require.Len(r, invalid.Fields, 1)
		require.NotEmpty(r, invalid.Fields["data/"+name])
	})
}

func BenchmarkValidateData(b *testing.B) {
	each, _ := catalogue.Lookup("invoice.paid")
	body, err := each.Example(eventID, "acme", noon)
	if err != nil {
		b.Fatal(err)
	}
	var webhook struct{ Snapshot json.RawMessage }
	if err := json.Unmarshal(body, &webhook); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := each.ValidateData(webhook.Snapshot); err != nil {
			b.Fatal(err)
		}
	}
}
