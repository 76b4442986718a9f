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
// domain_events as a JSON object. Columns that a pointer does not need are ignored.
func DecodeRecord(value []byte) (Ref, error) {
	var ref Ref
	if !utf8.Valid(value) {
		return ref, fmt.Errorf("%w: the value is not UTF-8", ErrUndecodable)
	}
	if err := json.Unmarshal(value, &ref); err != nil {
		return ref, fmt.Errorf("%w: %w", ErrUndecodable, err)
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
