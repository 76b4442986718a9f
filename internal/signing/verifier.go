package signing

import (
	"crypto/ed25519"
	"crypto/hmac"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/fault"
)

// Tolerance is how far webhook-timestamp may be from the clock of who verifies, either way: as in the libraries of
// Standard Webhooks and of Svix. An older webhook may be somebody's recording.
const Tolerance = 5 * time.Minute

// ErrUnsigned is Verify's error where the headers of a signature are not all there.
var ErrUnsigned = errors.New("the headers webhook-id, webhook-timestamp and webhook-signature are required")

// Verifier is what webhooks are verified with. ParseVerifier makes one; the zero value cannot be used. It is safe for
// concurrent use, and does not tell its key to what prints or logs it.
type Verifier struct {
	kind Kind
	key  func() []byte // an HMAC key or an ed25519.PublicKey; a function as a Secret's
}

// ParseVerifier reads what Secret.Verifier wrote: whsec_ and the base64 of 24 to 64 bytes, or whpk_ and the base64 of an
// ed25519 public key's 32. The error is a fault.Invalid and quotes nothing of the text.
func ParseVerifier(text string) (Verifier, error) {
	if encoded, ok := strings.CutPrefix(text, hmacPrefix); ok {
		key, err := parseHMAC(encoded)
		if err != nil {
			return Verifier{}, err
		}
		return Verifier{HMAC, func() []byte { return key }}, nil
	}
	encoded, ok := strings.CutPrefix(text, publicPrefix)
	if !ok {
		return Verifier{}, fault.New(fault.Invalid, "webhooks are verified with %s or %s", hmacPrefix, publicPrefix)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return Verifier{}, fault.New(fault.Invalid, "want %s and the base64 of an ed25519 public key, %d bytes",
			publicPrefix, ed25519.PublicKeySize)
	}
	return Verifier{Ed25519, func() []byte { return key }}, nil
}

// Verify returns nil where one of the signatures in the header is good and webhook-timestamp is within Tolerance of now.
// Signatures of other versions are passed over. Where Svix's own names (svix-id, svix-timestamp, svix-signature) are all
// there, they count instead of the standard ones. The error may be shown to the sender; it is ErrUnsigned where headers
// are missing.
func (v Verifier) Verify(header http.Header, body []byte, now time.Time) error {
	names := namesIn(header)
	id, stamp, signatures := header.Get(names+"Id"), header.Get(names+"Timestamp"), header.Get(names+"Signature")
	if id == "" || stamp == "" || signatures == "" {
		return ErrUnsigned
	}
	if strings.Contains(id, ".") {
		// Else a part of the body could be passed off as the timestamp, and the timestamp as a part of the id.
		return errors.New("webhook-id must not hold a dot")
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != stamp {
		return errors.New("webhook-timestamp is not a Unix time in seconds")
	}
	if at := time.Unix(seconds, 0); now.Sub(at) > Tolerance || at.Sub(now) > Tolerance {
		return errors.New("webhook-timestamp is more than " + Tolerance.String() + " from now")
	}
	if !v.matches(strings.Split(signatures, " "), content(id, stamp, body)) {
		return errors.New("no signature is good")
	}
	return nil
}

func (v Verifier) matches(signatures []string, content []byte) bool {
	if v.kind == Ed25519 {
		for _, each := range signatures {
			if encoded, ok := strings.CutPrefix(each, ed25519Version+","); ok && verifyEd25519(v.key(), content, encoded) {
				return true
			}
		}
		return false
	}
	want := []byte(signHMAC(v.key(), content))
	for _, each := range signatures {
		if hmac.Equal([]byte(each), want) { // in constant time
			return true
		}
	}
	return false
}

func verifyEd25519(key, content []byte, encoded string) bool {
	// Strict, and of the one right length, so that a signature has one spelling.
	if len(encoded) != base64.StdEncoding.EncodedLen(ed25519.SignatureSize) {
		return false
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
	return err == nil && ed25519.Verify(key, content, signature)
}

// String implements fmt.Stringer.
func (Verifier) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Verifier) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (Verifier) LogValue() slog.Value { return slog.StringValue(hidden) }

// ID returns the webhook's id: of several, the one that Verify looks at. It is a claim until Verify returned nil.
func ID(header http.Header) string { return header.Get(namesIn(header) + "Id") }

// BySvix reports whether Verify looks at Svix's own names, because all of them are there.
func BySvix(header http.Header) bool { return namesIn(header) == svixNames }

const svixNames = "Svix-"

// namesIn returns how the names of the signature's headers start.
func namesIn(header http.Header) string {
	for _, name := range []string{"Svix-Id", "Svix-Timestamp", "Svix-Signature"} {
		if header.Get(name) == "" {
			return "Webhook-"
		}
	}
	return svixNames
}
