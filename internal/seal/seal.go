// Package seal encrypts what the ledger keeps of merchants' secrets: signing secrets, header values, and URLs that hold
// credentials. Whoever reads the database, a backup of it or its log reads none of them.
//
// A sealed text names the key that it is sealed with, so that keys can be replaced while both are in use.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// keyBytes make it AES-256-GCM, with a random nonce of 96 bits. NIST SP 800-38D allows 2^32 texts under one such key.
const keyBytes = 32

const maxKeyID = 32

// ErrUnknownKey is why a text cannot be opened whose key is not in the ring.
var ErrUnknownKey = errors.New("sealed with a key that is not known here")

// Keyring seals with its first key and opens with all of them. The zero value has none, and does neither. It is safe for
// concurrent use, and prints as the ids of its keys.
type Keyring struct {
	ids  []string // the first one seals
	keys map[string]cipher.AEAD
}

// UnmarshalText reads "id:key,id:key", the key that seals first. A key is the base64 of 32 random bytes. The error never
// quotes a key.
func (k *Keyring) UnmarshalText(text []byte) error {
	next := Keyring{keys: map[string]cipher.AEAD{}}
	for i, part := range strings.Split(string(text), ",") {
		id, encoded, found := strings.Cut(strings.TrimSpace(part), ":")
		if !found || !validID(id) {
			return fmt.Errorf("key %d of the list: want id:key, the id of a-z, 0-9, - and _, %d characters at most", i+1, maxKeyID)
		}
		if next.keys[id] != nil {
			return fmt.Errorf("key %s is twice in the list", id)
		}
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil || len(raw) != keyBytes {
			return fmt.Errorf("key %s: want the base64 of %d bytes", id, keyBytes)
		}
		block, err := aes.NewCipher(raw)
		if err != nil {
			return fmt.Errorf("key %s cannot be used", id)
		}
		if next.keys[id], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return fmt.Errorf("key %s cannot be used", id)
		}
		next.ids = append(next.ids, id)
	}
	*k = next
	return nil
}

func validID(id string) bool {
	if id == "" || len(id) > maxKeyID {
		return false
	}
	return !strings.ContainsFunc(id, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '_'
	})
}

// NewKey draws a key and returns it as UnmarshalText reads it.
func NewKey(id string) string {
	key := make([]byte, keyBytes)
	rand.Read(key) // never fails: see its documentation
	return id + ":" + base64.StdEncoding.EncodeToString(key)
}

// IDs are the ids of the keys; the first one seals.
func (k Keyring) IDs() []string { return slices.Clone(k.ids) }

// String implements fmt.Stringer, without the keys.
func (k Keyring) String() string { return "keys " + strings.Join(k.ids, ", ") }

// Seal encrypts plain. The place is what the text belongs to, such as the row that keeps it: it opens only there.
func (k Keyring) Seal(plain, place string) (string, error) {
	if len(k.ids) == 0 {
		return "", errors.New("there is no key to seal with")
	}
	id := k.ids[0]
	sealed := k.keys[id].Seal(nil, nil, []byte(plain), []byte(id+"\x00"+place)) //nolint:gosec // it draws the nonce itself
	return id + "." + base64.RawURLEncoding.EncodeToString(sealed), nil
}

// Open decrypts what Seal made for the same place. ErrUnknownKey says that the key is missing; any other error that the
// text was not made by Seal for this place. Neither quotes the text.
func (k Keyring) Open(sealed, place string) (string, error) {
	id, encoded, found := strings.Cut(sealed, ".")
	if !found || !validID(id) {
		return "", errors.New("not a sealed text")
	}
	key := k.keys[id]
	if key == nil {
		return "", fmt.Errorf("key %s: %w", id, ErrUnknownKey)
	}
	raw, err := base64.RawURLEncoding.DecodeString(encoded)
	if err != nil {
		return "", errors.New("not a sealed text")
	}
	plain, err := key.Open(nil, nil, raw, []byte(id+"\x00"+place))
	if err != nil {
		return "", fmt.Errorf("key %s does not open the text: it was changed, or belongs elsewhere", id)
	}
	return string(plain), nil
}

// KeyID is the id of the key that a text is sealed with; empty where it is not sealed.
func KeyID(sealed string) string {
	id, _, found := strings.Cut(sealed, ".")
	if !found || !validID(id) {
		return ""
	}
	return id
}
