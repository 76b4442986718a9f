package callback

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/signing"
)

const stripeHeader = "Stripe-Signature"

// stripeSecret is an endpoint's secret as Stripe shows it; the whole text is the key.
// https://docs.stripe.com/webhooks#verify-manually
type stripeSecret string

func (s stripeSecret) verify(header http.Header, body []byte, now time.Time) error {
	text := header.Get(stripeHeader)
	if text == "" {
		return errors.New("the header Stripe-Signature is required")
	}
	var stamp string
	var signatures []string
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		switch strings.TrimSpace(name) {
		case "t":
			if stamp != "" {
				return errors.New("Stripe-Signature has two times")
			}
			stamp = value
		case "v1": // v0 is for test events, and no proof
			signatures = append(signatures, value)
		}
	}
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || strconv.FormatInt(seconds, 10) != stamp {
		return errors.New("the time in Stripe-Signature is not a Unix time in seconds")
	}
	if at := time.Unix(seconds, 0); !now.IsZero() && (now.Sub(at) > Tolerance || at.Sub(now) > Tolerance) {
		return errors.New("the time in Stripe-Signature is more than " + Tolerance.String() + " from now")
	}
	want := s.sign(stamp, body)
	for _, each := range signatures {
		got, err := hex.DecodeString(each)
		if err == nil && hmac.Equal(got, want) { // in constant time
			return nil
		}
	}
	return errors.New("no signature is good")
}

func (s stripeSecret) sign(stamp string, body []byte) []byte {
	mac := hmac.New(sha256.New, []byte(s))
	mac.Write([]byte(stamp + "."))
	mac.Write(body)
	return mac.Sum(nil)
}

// StripeSignature returns the header Stripe-Signature of a body, for who plays the provider.
func StripeSignature(secret string, at time.Time, body []byte) string {
	stamp := strconv.FormatInt(at.Unix(), 10)
	return "t=" + stamp + ",v1=" + hex.EncodeToString(stripeSecret(secret).sign(stamp, body))
}

// standard verifies as Standard Webhooks says.
type standard struct{ signing.Verifier }

func (s standard) verify(header http.Header, body []byte, now time.Time) error {
	if now.IsZero() {
		stamp := header.Get("Webhook-Timestamp")
		if header.Get("Svix-Id") != "" && header.Get("Svix-Signature") != "" && header.Get("Svix-Timestamp") != "" {
			stamp = header.Get("Svix-Timestamp") // what the verifier looks at then
		}
		seconds, err := strconv.ParseInt(stamp, 10, 64)
		if err != nil {
			return errors.New("webhook-timestamp is not a Unix time in seconds")
		}
		now = time.Unix(seconds, 0)
	}
	return s.Verify(header, body, now)
}
