package endpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/signing"
)

// Sealer seals and opens what is secret of one endpoint. What it sealed opens for that endpoint only.
type Sealer struct {
	Keys seal.Keyring
	ID   uuid.UUID
}

func (s Sealer) place(what string) string { return "endpoint " + s.ID.String() + " " + what }

// SealSecret seals a signing secret.
func (s Sealer) SealSecret(secret string) (string, error) {
	return s.seal(secret, "secret")
}

// OpenSecret opens what SealSecret sealed. A signing secret of before secrets were sealed is taken as it is, until Reseal
// seals it: an upgrade holds up no delivery. The error is an *OpenError.
func (s Sealer) OpenSecret(sealed string) (string, error) {
	if _, err := signing.ParseSecret(sealed); err == nil {
		return sealed, nil
	}
	return s.open(sealed, "secret")
}

// SealURL returns the URL as it may be shown, and the whole of it sealed; nil where that is all of it. The URL has been
// parsed before.
func (s Sealer) SealURL(whole string) (string, *string, error) {
	if _, err := url.Parse(whole); err != nil {
		return "", nil, errors.New("parsing the URL of an endpoint") // not the cause, which quotes it
	}
	shown, hides := withoutCredentials(whole)
	if !hides {
		return whole, nil, nil
	}
	sealed, err := s.seal(whole, "url")
	return shown, &sealed, err
}

// withoutCredentials is the URL as it may be shown, and whether that is not all of it.
func withoutCredentials(whole string) (string, bool) {
	u, err := url.Parse(whole)
	if err != nil || u.User == nil && u.RawQuery == "" && !u.ForceQuery {
		return whole, false
	}
	u.User, u.RawQuery, u.ForceQuery = nil, "", false
	return u.String(), true
}

// OpenURL returns the whole URL. The error is an *OpenError.
func (s Sealer) OpenURL(shown string, sealed *string) (string, error) {
	if sealed == nil {
		return shown, nil
	}
	return s.open(*sealed, "url")
}

// SealHeaders seals headers; nil where there are none.
func (s Sealer) SealHeaders(headers map[string]string) (*string, error) {
	if len(headers) == 0 {
		return nil, nil //nolint:nilnil // no headers are nothing to seal
	}
	text, err := json.Marshal(headers)
	if err != nil {
		return nil, fmt.Errorf("encoding headers: %w", err)
	}
	sealed, err := s.seal(string(text), "headers")
	return &sealed, err
}

// OpenHeaders opens what SealHeaders sealed. The error is an *OpenError.
func (s Sealer) OpenHeaders(sealed *string) (map[string]string, error) {
	if sealed == nil {
		return nil, nil //nolint:nilnil // no headers
	}
	text, err := s.open(*sealed, "headers")
	if err != nil {
		return nil, err
	}
	var headers map[string]string
	if err := json.Unmarshal([]byte(text), &headers); err != nil {
		return nil, s.cannotOpen(*sealed, "headers", errors.New("they are no JSON"))
	}
	return headers, nil
}

func (s Sealer) seal(plain, what string) (string, error) {
	sealed, err := s.Keys.Seal(plain, s.place(what))
	if err != nil {
		return "", fmt.Errorf("sealing the %s of endpoint %s: %w", what, s.ID, err)
	}
	return sealed, nil
}

func (s Sealer) open(sealed, what string) (string, error) {
	plain, err := s.Keys.Open(sealed, s.place(what))
	if err != nil {
		return "", s.cannotOpen(sealed, what, err)
	}
	return plain, nil
}

func (s Sealer) cannotOpen(sealed, what string, cause error) error {
	return &OpenError{ID: s.ID, What: what, KeyID: seal.KeyID(sealed), cause: cause}
}

// OpenError is why something of an endpoint cannot be opened. It quotes nothing of it.
type OpenError struct {
	ID    uuid.UUID // of the endpoint
	What  string    // secret, url or headers
	KeyID string    // of the key that it is sealed with; empty where it is no sealed text
	cause error
}

// Error implements error.
func (e *OpenError) Error() string {
	return fmt.Sprintf("opening the %s of endpoint %s: %s", e.What, e.ID, e.cause)
}

// Unwrap returns the cause, which may be seal.ErrUnknownKey.
func (e *OpenError) Unwrap() error { return e.cause }
