// Package signing signs webhooks and verifies them as Standard Webhooks 1.0.0 says
// (https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md): HMAC-SHA256 with a secret
// that both sides know, or ed25519 with a private key that only the sender knows.
package signing

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/fault"
)

// Kind is a scheme of signatures.
type Kind string

// The kinds.
const (
	HMAC    Kind = "hmac"    // HMAC-SHA256: the merchant verifies with the secret itself
	Ed25519 Kind = "ed25519" // the merchant verifies with the public key
)

// How the specification writes keys and signatures.
const (
	hmacPrefix    = "whsec_"
	privatePrefix = "whsk_"
	publicPrefix  = "whpk_"

	hmacVersion    = "v1"
	ed25519Version = "v1a"
)

// Bytes of an HMAC key: what the specification allows, and what NewSecret draws.
const (
	minKey   = 24
	maxKey   = 64
	drawnKey = 32
)

// hidden is what is printed of a Secret or a Verifier.
const hidden = "[hidden]"

// Secret is what webhooks are signed with. ParseSecret makes one; the zero value cannot be used. It is safe for
// concurrent use, and does not tell its key to what prints or logs it.
type Secret struct {
	kind Kind
	// key returns an HMAC key or an ed25519.PrivateKey. It is a function because fmt calls no method of a Secret in an
	// unexported field, and prints whatever it can reach: of a function it prints the address.
	key func() []byte
}

// ParseSecret reads a secret as Standard Webhooks writes it: whsec_ and the base64 of 24 to 64 bytes for HMAC, or whsk_
// and the base64 of an ed25519 private key. The latter is 64 bytes, the seed and the public key, as the Svix server
// writes it; the seed's 32 bytes alone are taken too. The error is a fault.Invalid and quotes nothing of the secret.
func ParseSecret(text string) (Secret, error) {
	if encoded, ok := strings.CutPrefix(text, hmacPrefix); ok {
		key, err := parseHMAC(encoded)
		if err != nil {
			return Secret{}, err
		}
		return Secret{HMAC, func() []byte { return key }}, nil
	}
	encoded, ok := strings.CutPrefix(text, privatePrefix)
	if !ok {
		return Secret{}, fault.New(fault.Invalid, "a signing secret starts with %s or %s", hmacPrefix, privatePrefix)
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || (len(key) != ed25519.PrivateKeySize && len(key) != ed25519.SeedSize) {
		return Secret{}, fault.New(fault.Invalid, "want %s and the base64 of an ed25519 private key, %d bytes or its seed's %d",
			privatePrefix, ed25519.PrivateKeySize, ed25519.SeedSize)
	}
	whole := []byte(ed25519.NewKeyFromSeed(key[:ed25519.SeedSize]))
	if len(key) == len(whole) && !hmac.Equal(key, whole) {
		// Whoever signs with a public key that is not the seed's tells the seed.
		return Secret{}, fault.New(fault.Invalid, "the two halves of the %s key do not belong together", privatePrefix)
	}
	return Secret{Ed25519, func() []byte { return whole }}, nil
}

func parseHMAC(encoded string) ([]byte, error) {
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(key) < minKey || len(key) > maxKey { // not the decoder's error, which quotes from the secret
		return nil, fault.New(fault.Invalid, "want %s and the base64 of %d to %d bytes", hmacPrefix, minKey, maxKey)
	}
	return key, nil
}

// NewSecret draws a secret of the kind and returns it as ParseSecret reads it. An unknown kind is a fault.Invalid.
func NewSecret(kind Kind) (string, error) {
	switch kind {
	case HMAC:
		return encode(hmacPrefix, random(drawnKey)), nil
	case Ed25519:
		return encode(privatePrefix, ed25519.NewKeyFromSeed(random(ed25519.SeedSize))), nil
	}
	return "", fault.New(fault.Invalid, "the kind of a signing secret is %s or %s", HMAC, Ed25519)
}

// Sign returns the signature of the webhook: its version, a comma and base64. at is cut to the second, as in the header
// webhook-timestamp. The id must not hold a dot: as dots part what is signed, its signature would be another webhook's, too.
func (s Secret) Sign(id string, at time.Time, body []byte) string {
	return s.sign(content(id, timestamp(at), body))
}

func (s Secret) sign(content []byte) string {
	if s.kind == Ed25519 {
		return encode(ed25519Version+",", ed25519.Sign(s.key(), content))
	}
	return signHMAC(s.key(), content)
}

func signHMAC(key, content []byte) string {
	mac := hmac.New(sha256.New, key)
	mac.Write(content)
	return encode(hmacVersion+",", mac.Sum(nil))
}

// Kind returns the scheme that the secret signs by.
func (s Secret) Kind() Kind { return s.kind }

// Verifier returns what the merchant verifies with, as ParseVerifier reads it: for HMAC the secret itself, to be shown to
// nobody else, and for ed25519 whpk_ and the public key.
func (s Secret) Verifier() string {
	if s.kind == Ed25519 {
		return encode(publicPrefix, s.key()[ed25519.SeedSize:])
	}
	return encode(hmacPrefix, s.key())
}

// String implements fmt.Stringer.
func (Secret) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// Header returns the header webhook-signature: one signature for each secret, in their order, parted by a space, so that
// a merchant verifies with any of them while one replaces another. It is empty without secrets.
func Header(secrets []Secret, id string, at time.Time, body []byte) string {
	signed := content(id, timestamp(at), body)
	signatures := make([]string, len(secrets))
	for i, secret := range secrets {
		signatures[i] = secret.sign(signed)
	}
	return strings.Join(signatures, " ")
}

func content(id, timestamp string, body []byte) []byte {
	signed := make([]byte, 0, len(id)+1+len(timestamp)+1+len(body))
	signed = append(signed, id...)
	signed = append(signed, '.')
	signed = append(signed, timestamp...)
	signed = append(signed, '.')
	return append(signed, body...)
}

func timestamp(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

func encode(prefix string, raw []byte) string { return prefix + base64.StdEncoding.EncodeToString(raw) }

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails: see its documentation
	return b
}
