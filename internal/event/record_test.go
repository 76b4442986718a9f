package event_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
)

const record = `{"created_at":"2026-02-23T12:00:00.100000Z","event_type":"payment.succeeded",
	"id":"01890a5d-ac96-774b-bcce-b302099a8057","merchant_id":"joes-tshirt-shop","object_id":"p1","object_type":"payment",
	"object_version":2,"payload":{"amount":1000},"sequence":7,"traceparent":null,"txid":742}`

func TestDecodeRecordReadsThePointer(t *testing.T) {
	t.Parallel()
	ref, err := event.DecodeRecord([]byte(record))
	require.NoError(t, err)
	require.Equal(t, event.Ref{
		ID: uuid.MustParse("01890a5d-ac96-774b-bcce-b302099a8057"), TxID: 742, Type: "payment.succeeded",
		ObjectType: "payment", ObjectID: "p1", ObjectVersion: 2, MerchantID: "joes-tshirt-shop",
	}, ref)
}

func TestDecodeRecordRefusesWhatCannotBeAnEvent(t *testing.T) {
	t.Parallel()
	const id = `"id":"01890a5d-ac96-774b-bcce-b302099a8057"`
	for name, value := range map[string]string{
		"empty":            ``,
		"not JSON":         `{`,
		"null":             `null`,
		"an array":         `[]`,
		"not UTF-8":        "{\"id\":\"\xff\"}",
		"no id":            `{"merchant_id":"m","event_type":"a","object_type":"a","object_id":"1","object_version":1,"txid":1}`,
		"id not a UUID":    `{"id":"7","merchant_id":"m","event_type":"a","object_type":"a","object_id":"1","object_version":1,"txid":1}`,
		"no merchant":      `{` + id + `,"event_type":"a","object_type":"a","object_id":"1","object_version":1,"txid":1}`,
		"no type":          `{` + id + `,"merchant_id":"m","object_type":"a","object_id":"1","object_version":1,"txid":1}`,
		"version 0":        `{` + id + `,"merchant_id":"m","event_type":"a","object_type":"a","object_id":"1","txid":1}`,
		"a NUL in a name":  `{` + id + `,"merchant_id":"m\u0000","event_type":"a","object_type":"a","object_id":"1","object_version":1,"txid":1}`,
		"txid as a string": `{` + id + `,"merchant_id":"m","event_type":"a","object_type":"a","object_id":"1","object_version":1,"txid":"1"}`,
	} {
		_, err := event.DecodeRecord([]byte(value))
		require.ErrorIs(t, err, event.ErrUndecodable, name)
	}
}
