package bench

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
)

// Limits of a webhook's size, in bytes.
const (
	// envelope is a webhook whose payment has no metadata: event id, type, version and time, and the payment twice,
	// as it is and as it was.
	envelope = 734
	// MaxBodyBytes is what the metadata that a payment may have allows.
	MaxBodyBytes = 32 << 10
)

// newMerchantIDs returns ids that no other run has.
func newMerchantIDs(n int) []string {
	var random [4]byte
	rand.Read(random[:])
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("bench-%s-%d", hex.EncodeToString(random[:]), i)
	}
	return ids
}

// paymentBodies returns one body of POST /payments for each merchant, padded so that its webhook has about so many bytes.
func paymentBodies(merchantIDs []string, webhookBytes int) [][]byte {
	metadata := ""
	if padding := (webhookBytes - envelope) / 2; padding > 0 {
		metadata = fmt.Sprintf(`,"metadata":{"padding":%q}`, strings.Repeat("x", padding))
	}
	bodies := make([][]byte, len(merchantIDs))
	for i, id := range merchantIDs {
		bodies[i] = fmt.Appendf(nil, `{"merchant_id":%q,"amount":1000,"currency":"USD"%s}`, id, metadata)
	}
	return bodies
}
