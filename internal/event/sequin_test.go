package event_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/sequintest"
)

func TestDecodeRecordReadsEveryRecordOfSequins(t *testing.T) {
	t.Parallel()
	for _, r := range sequintest.Records(t) {
		ref, err := event.DecodeRecord(r.Value)
		require.Equal(t, r.Ref, ref, r.Name)
		if r.Undecodable != "" {
			require.ErrorIs(t, err, event.ErrUndecodable, r.Name)
			continue
		}
		require.NoError(t, err, r.Name)
		unformatted := bytes.ReplaceAll(r.Value, []byte(`"created_at":"2026-02-23T12:00:00.123456Z"`), []byte(`"created_at":1771848000123456`))
		ref, err = event.DecodeRecord(unformatted) // timestamp_format: unix_microsecond
		require.NoError(t, err, r.Name)
		require.Equal(t, r.Ref, ref, r.Name)
	}
}

// A transform that was forgotten loses nothing.
func TestDecodeRecordReadsEveryMessageOfSequins(t *testing.T) {
	t.Parallel()
	records := sequintest.Records(t)
	for _, action := range []string{"insert", "read"} {
		ref, err := event.DecodeRecord(sequintest.Message(t, action))
		require.NoError(t, err, action)
		require.Equal(t, records[0].Ref, ref, action)
		for _, r := range records {
			ref, err := event.DecodeRecord(messageOf(t, action, r.Value))
			require.Equal(t, r.Ref, ref, r.Name)
			require.Equal(t, r.Undecodable == "", err == nil, "%s: %v", r.Name, err)
		}
	}
}

// messageOf is Sequin's message of the action, about another record.
func messageOf(t testing.TB, action string, record []byte) []byte {
	var message map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(sequintest.Message(t, action), &message))
	message["record"] = record
	out, err := json.Marshal(message)
	require.NoError(t, err)
	return out
}

// What changes or removes a row is kept as a dead record, under the event's id: nothing that it says is sent to a merchant.
func TestAnUpdateAndADeleteAreNoEventsAndSayWhichOneTheyAreAbout(t *testing.T) {
	t.Parallel()
	want := sequintest.Records(t)[0].Ref
	for _, action := range []string{"update", "delete", "delete-key"} {
		ref, err := event.DecodeRecord(sequintest.Message(t, action))
		require.ErrorIs(t, err, event.ErrUndecodable, action)
		require.ErrorContains(t, err, `"`+strings.TrimSuffix(action, "-key")+`"`, action)
		require.Equal(t, want.ID, ref.ID, action)
	}
}

func TestDecodeRecordRefusesAMessageThatIsNotAboutAnEvent(t *testing.T) {
	t.Parallel()
	insert := string(sequintest.Message(t, "insert"))
	for name, c := range map[string]struct{ old, new, want string }{
		"another table":         {`"table_name":"domain_events"`, `"table_name":"payments"`, `"payments"`},
		"another schema":        {`"table_schema":"public"`, `"table_schema":"archive"`, `"archive"`},
		"no metadata":           {`"metadata":`, `"other":`, "table"},
		"metadata of one word":  {`"metadata":{`, `"metadata":"x","other":{`, "metadata"},
		"no action":             {`"action":"insert",`, ``, `action ""`},
		"an unknown action":     {`"action":"insert"`, `"action":"truncate"`, `"truncate"`},
		"an action as a number": {`"action":"insert"`, `"action":1`, "action"},
		"a very long action":    {`"action":"insert"`, `"action":"` + strings.Repeat("x", 100_000) + `"`, "xxx"},
		"a record of null":      {`"record":{`, `"record":null,"other":{`, "id is missing"},
		"an empty record":       {`"record":{`, `"record":{},"other":{`, "id is missing"},
		"a record as text":      {`"record":{`, `"record":"{}","other":{`, "record"},
		"a list of records":     {`"record":{`, `"record":[],"other":{`, "record"},
		"a message in a record": {`"record":{`, `"record":{"record":{}},"other":{`, "id is missing"},
		"no record":             {`"record":`, `"other":`, "id is missing"},
		"a txid as text":        {`"txid":742`, `"txid":"742"`, "txid"},
		"a version of zero":     {`"object_version":2`, `"object_version":0`, "object_version"},
		"a NUL in the merchant": {`"joes-tshirt-shop"`, `"joes\u0000"`, "NUL"},
		"cut off":               {`"txid":742}}`, `"txid":742}`, "JSON"},
		"something behind it":   {`"txid":742}}`, `"txid":742}}{}`, "after"},
		"not UTF-8":             {`"joes-tshirt-shop"`, "\"\xff\"", "UTF-8"},
		"nested without end":    {`"annotations":{}`, `"annotations":` + strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000), "depth"},
	} {
		require.Contains(t, insert, c.old, name)
		_, err := event.DecodeRecord([]byte(strings.Replace(insert, c.old, c.new, 1)))
		require.ErrorIs(t, err, event.ErrUndecodable, name)
		require.ErrorContains(t, err, c.want, name)
		require.Less(t, len(err.Error()), 1000, name)
	}
}

// A migration may add columns of the names that Sequin's message has.
func TestARowWithColumnsNamedAsAMessagesIsARow(t *testing.T) {
	t.Parallel()
	r := sequintest.Records(t)[0]
	for _, more := range []string{
		`"action":"delete",`, `"action":7,`, `"metadata":"x",`, `"record":"x","changes":[],`, `"record":{"id":"01890a5d-ac96-774b-bcce-b302099a8057"},`,
	} {
		ref, err := event.DecodeRecord([]byte("{" + more + string(r.Value[1:])))
		require.NoError(t, err, more)
		require.Equal(t, r.Ref, ref, more)
	}
}

// Whatever the bytes, there is an event that can be planned, or an error; and a row is the same event alone and in a message.
func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(record))
	f.Add([]byte(`{"id":null}`))
	for _, r := range sequintest.Records(f) {
		f.Add(r.Value)
	}
	for _, action := range []string{"insert", "read", "update", "delete", "delete-key"} {
		f.Add(sequintest.Message(f, action))
	}
	before, after, _ := strings.Cut(string(messageOf(f, "insert", []byte(`"here"`))), `"here"`)
	f.Fuzz(func(t *testing.T, value []byte) {
		ref, err := event.DecodeRecord(value)
		if err != nil {
			require.ErrorIs(t, err, event.ErrUndecodable)
			return
		}
		require.NotEqual(t, uuid.Nil, ref.ID)
		for _, name := range []string{ref.MerchantID, ref.Type, ref.ObjectType, ref.ObjectID} {
			require.NotEmpty(t, name)
			require.NotContains(t, name, "\x00")
		}
		require.Positive(t, ref.ObjectVersion)
		require.Positive(t, ref.TxID)

		var row event.Ref
		require.NoError(t, json.Unmarshal(value, &row))
		if row != ref {
			return // it is a message itself
		}
		again, err := event.DecodeRecord([]byte(before + string(value) + after))
		require.NoError(t, err)
		require.Equal(t, ref, again)
	})
}
