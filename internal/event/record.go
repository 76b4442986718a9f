package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// ErrUndecodable is in the chain of every error of DecodeRecord: the record can never become an event,
// however often it is read.
var ErrUndecodable = errors.New("not a record of domain_events")

// DecodeRecord reads a Kafka value as cdc-relay and Sequin's "path: record" write it: the row of
// domain_events as a JSON object. Columns that a pointer does not need are ignored. It also reads the message that
// Sequin writes where that transform was forgotten. With an error comes what could be read, such as the id.
func DecodeRecord(value []byte) (Ref, error) {
	var ref Ref
	if !utf8.Valid(value) {
		return ref, fmt.Errorf("%w: the value is not UTF-8", ErrUndecodable)
	}
	if err := json.Unmarshal(value, &ref); err != nil {
		return ref, fmt.Errorf("%w: %w", ErrUndecodable, err)
	}
	if ref == (Ref{}) { // not one of the columns: no row
		var err error
		if ref, err = decodeMessage(value); err != nil {
			return ref, fmt.Errorf("%w: %w", ErrUndecodable, err)
		}
	}
	switch {
	case bytes.ContainsRune(value, 0) || strings.ContainsRune(ref.MerchantID+ref.Type+ref.ObjectType+ref.ObjectID, 0):
		return ref, fmt.Errorf("%w: a name holds a NUL character, which no text column takes", ErrUndecodable)
	case ref.ID == uuid.Nil:
		return ref, fmt.Errorf("%w: id is missing", ErrUndecodable)
	case ref.MerchantID == "":
		return ref, fmt.Errorf("%w: merchant_id is missing", ErrUndecodable)
	case ref.Type == "" || ref.ObjectType == "" || ref.ObjectID == "":
		return ref, fmt.Errorf("%w: event_type, object_type or object_id is missing", ErrUndecodable)
	case ref.ObjectVersion < 1:
		return ref, fmt.Errorf("%w: object_version is not positive", ErrUndecodable)
	case ref.TxID < 1:
		return ref, fmt.Errorf("%w: txid is not positive", ErrUndecodable)
	}
	return ref, nil
}

// The table that Sequin's messages must be of, and those of its actions that bring an event: a row that was written, and
// one that a backfill reads. A row that changes or goes is no event, and of an update Sequin does not even know every
// value: what is stored out of line and did not change is the text "unchanged_toast".
const (
	messageSchema = "public"
	messageTable  = "domain_events"
	actionInsert  = "insert"
	actionRead    = "read"
)

// decodeMessage reads the row out of Sequin's message. A value that is none leaves the Ref empty.
func decodeMessage(value []byte) (Ref, error) {
	var message struct {
		Record   *Ref   `json:"record"`
		Action   string `json:"action"`
		Metadata struct {
			Schema string `json:"table_schema"`
			Table  string `json:"table_name"`
		} `json:"metadata"`
	}
	err := json.Unmarshal(value, &message)
	var ref Ref
	if message.Record != nil {
		ref = *message.Record
	}
	switch {
	case err != nil:
		return ref, err
	case message.Record == nil:
		return ref, nil
	case message.Metadata.Schema != messageSchema || message.Metadata.Table != messageTable:
		return ref, fmt.Errorf("a message about the table %.100q.%.100q", message.Metadata.Schema, message.Metadata.Table)
	case message.Action != actionInsert && message.Action != actionRead:
		return ref, fmt.Errorf("a message about the action %.100q, which is no event", message.Action)
	}
	return ref, nil
}

// Record is a Kafka record as the intake sees it.
type Record struct {
	Topic       string
	Partition   int32
	Offset      int64
	LeaderEpoch int32
	// HighWatermark is the partition's end when the record was fetched: what lies between is the lag.
	HighWatermark int64
	Key           []byte
	Value         []byte
}

// Partition names a partition of a topic.
type Partition struct {
	Topic string
	ID    int32
}
