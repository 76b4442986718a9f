package deliver

import (
	"bytes"
	"cmp"
	"net/http"
	"net/url"
	"slices"

	"github.com/hookline/hookline/internal/delivery"
)

// leastSecret is the length from which a value is taken out of an answer: shorter ones are in any text.
const leastSecret = 4

var redacted = []byte("[redacted]")

// redact takes out of an answer what it repeats of the endpoint's secrets, as the error page of a framework does that prints
// the request: answers are kept in clear. It knows a value as it was sent, and as a query's decoded.
func redact(answer []byte, endpoint delivery.Endpoint, target *url.URL, user *url.Userinfo, sent http.Header) []byte {
	values := []string{sent.Get("Webhook-Signature"), sent.Get("Authorization"), target.RawQuery}
	for _, value := range endpoint.Headers {
		values = append(values, value)
	}
	for _, each := range target.Query() {
		values = append(values, each...)
	}
	if user != nil {
		password, _ := user.Password()
		values = append(values, user.String(), user.Username(), password)
	}
	slices.SortFunc(values, func(a, b string) int { return cmp.Compare(len(b), len(a)) }) // the whole before its parts
	for _, value := range values {
		if len(value) >= leastSecret {
			answer = bytes.ReplaceAll(answer, []byte(value), redacted)
		}
	}
	return answer
}
