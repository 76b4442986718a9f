package paymentsapi

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/http"

	"github.com/hookline/hookline/internal/fault"
)

const (
	headerIdempotencyKey = "Idempotency-Key"
	headerReplayed       = "Idempotent-Replayed"
	maxKeyLength         = 255
)

// idempotencyKey returns the request's key; empty where it has none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values(headerIdempotencyKey)
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	if len(values) > 1 || key == "" || len(key) > maxKeyLength {
		return "", fault.New(fault.Malformed, "want one Idempotency-Key of 1 to %d characters", maxKeyLength)
	}
	for i := range len(key) {
		if key[i] < ' ' || key[i] > '~' {
			return "", fault.New(fault.Malformed, "the Idempotency-Key must be of printable ASCII characters")
		}
	}
	return key, nil
}

// hashRequest hashes what a request asks for. Each part goes in with its length, so that no two requests
// are the same bytes.
func hashRequest(parts ...string) [sha256.Size]byte {
	var buf []byte
	for _, part := range parts {
		buf = binary.AppendUvarint(buf, uint64(len(part)))
		buf = append(buf, part...)
	}
	return sha256.Sum256(buf)
}

// canonical writes valid JSON without white space and with sorted keys. Numbers stay as they were written.
func canonical(document json.RawMessage) string {
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.UseNumber()
	var value any
	if decoder.Decode(&value) != nil {
		return string(document) // not reached: the document was looked at before
	}
	out, err := json.Marshal(value)
	if err != nil {
		return string(document) // the same
	}
	return string(out)
}
