package callback

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/signing"
)

// Stripe is the provider whose callbacks are Stripe's, in form and signature. Every other one signs as Standard Webhooks
// says, which Svix does, too.
const Stripe = "stripe"

// Svix is the provider whose callbacks are the operational webhooks of a Svix server: of webhooks, not of payments.
const Svix = "svix"

// Tolerance is how old a callback may be at the door. Both Stripe's libraries and Standard Webhooks' allow five minutes.
const Tolerance = signing.Tolerance

// Providers are who may send callbacks, with the secrets that they sign with. It is safe for concurrent use, and prints
// as the names.
type Providers struct {
	verifiers map[string][]verifier
}

// verifier checks one provider's signatures by one secret. now is zero where the age is not looked at.
type verifier interface {
	verify(header http.Header, body []byte, now time.Time) error
}

// UnmarshalText reads "provider=secret,provider=secret"; a provider that rotates its secret is there twice. Stripe's
// secrets are taken as they are, the others' as Standard Webhooks writes them: whsec_, or whpk_ for a public key. The error
// quotes no secret.
func (p *Providers) UnmarshalText(text []byte) error {
	next := Providers{verifiers: map[string][]verifier{}}
	for i, part := range strings.Split(string(text), ",") {
		name, secret, found := strings.Cut(strings.TrimSpace(part), "=")
		if !found || !validName(name) || secret == "" {
			return fmt.Errorf("part %d of the list: want provider=secret, the provider of a-z, 0-9 and -", i+1)
		}
		var v verifier = stripeSecret(secret)
		if name != Stripe {
			parsed, err := signing.ParseVerifier(secret)
			if err != nil {
				return fmt.Errorf("part %d of the list, a secret of %s: %w", i+1, name, err)
			}
			v = standard{parsed}
		}
		next.verifiers[name] = append(next.verifiers[name], v)
	}
	*p = next
	return nil
}

func validName(name string) bool {
	return name != "" && len(name) <= 32 && !strings.ContainsFunc(name, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	})
}

// Names are the providers, sorted.
func (p Providers) Names() []string {
	names := make([]string, 0, len(p.verifiers))
	for name := range p.verifiers {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// String implements fmt.Stringer, without the secrets.
func (p Providers) String() string { return strings.Join(p.Names(), ",") }

// Has reports whether the provider may send callbacks.
func (p Providers) Has(provider string) bool { return len(p.verifiers[provider]) > 0 }

// Verify returns nil where the provider signed the body, and signed it within Tolerance of now. The error may be shown to
// the sender.
func (p Providers) Verify(provider string, header http.Header, body []byte, now time.Time) error {
	return p.verify(provider, header, body, now)
}

// VerifyAnyAge is Verify without a look at the clock, for who was handed a callback that may have waited: what a recording
// could do is stopped by its id.
func (p Providers) VerifyAnyAge(provider string, header http.Header, body []byte) error {
	return p.verify(provider, header, body, time.Time{})
}

func (p Providers) verify(provider string, header http.Header, body []byte, now time.Time) error {
	err := fmt.Errorf("%q is no provider of callbacks here", provider)
	for _, each := range p.verifiers[provider] {
		if err = each.verify(header, body, now); err == nil {
			return nil
		}
	}
	return err
}

// SignatureHeaders are the headers that Verify and Parse look at: all that has to travel with a body.
func SignatureHeaders() []string {
	return []string{
		stripeHeader, "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature", "Svix-Id", "Svix-Timestamp", "Svix-Signature",
	}
}
