package deliver_test

import (
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/event"
)

var eventID = uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057")

func TestRenderIsTheBodyThatMerchantsParse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		payload event.Payload
		want    string
	}{
		"a payment's event": {
			event.Payload{
				EventID: eventID, Visibility: event.Visible, Type: "payment.succeeded", ObjectVersion: 2, OccurredAt: "2026-02-23T12:00:00.100000Z",
				Payment: json.RawMessage(`{"id": "p1", "status": "refunded", "version": 3}`), Snapshot: json.RawMessage(`{"id": "p1", "status": "succeeded", "version": 2}`),
			},
			`{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","event_type":"payment.succeeded","object_version":2,` +
				`"occurred_at":"2026-02-23T12:00:00.100000Z","payment":{"id": "p1", "status": "refunded", "version": 3},` +
				`"snapshot":{"id": "p1", "status": "succeeded", "version": 2}}`,
		},
		"an event without a payment": {
			event.Payload{
				EventID: eventID, Visibility: event.Visible, Type: "invoice.sent", ObjectVersion: 1, OccurredAt: "2026-02-23T12:00:00.000000Z",
				Snapshot: json.RawMessage(`{"number": 7}`),
			},
			`{"event_id":"01890a5d-ac96-774b-bcce-b302099a8057","event_type":"invoice.sent","object_version":1,` +
				`"occurred_at":"2026-02-23T12:00:00.000000Z","snapshot":{"number": 7}}`,
		},
	} {
		message, err := deliver.Render(test.payload)
		require.NoError(t, err, name)
		require.Equal(t, test.want, string(message.Body), name)
		require.Equal(t, sha256.Sum256([]byte(test.want)), message.Hash, name)
		require.Equal(t, eventID, message.EventID, name)
	}
}

func TestRenderRefusesABodyThatNoMerchantTakes(t *testing.T) {
	t.Parallel()
	p := event.Payload{EventID: eventID, Type: "invoice.sent", ObjectVersion: 1, OccurredAt: "2026-02-23T12:00:00.000000Z", Snapshot: json.RawMessage(`""`)}
	empty, err := deliver.Render(p)
	require.NoError(t, err)

	p.Snapshot = json.RawMessage(`"` + strings.Repeat("x", deliver.MaxBodyBytes-len(empty.Body)) + `"`)
	full, err := deliver.Render(p)
	require.NoError(t, err)
	require.Len(t, full.Body, deliver.MaxBodyBytes)

	p.Snapshot = append(p.Snapshot, ' ')
	_, err = deliver.Render(p)
	require.ErrorContains(t, err, "more than 1048576")
}

// A type is the merchant's platform's own text, for events that are not payments.
func FuzzRenderIsJSONWhateverTheType(f *testing.F) {
	for _, seed := range []string{"payment.succeeded", `"quoted"\`, "\a\v\x7f", "\U000e0001", "<&>", "zażółć"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, eventType string) {
		if !utf8.ValidString(eventType) {
			return // DecodeRecord lets none through, and no text column takes one
		}
		message, err := deliver.Render(event.Payload{
			EventID: eventID, Type: eventType, ObjectVersion: 1, OccurredAt: "2026-02-23T12:00:00.000000Z", Snapshot: json.RawMessage(`{}`),
		})
		require.NoError(t, err)
		var read struct {
			Type string `json:"event_type"`
		}
		require.NoError(t, json.Unmarshal(message.Body, &read), "%s", message.Body)
		require.Equal(t, eventType, read.Type)
	})
}
