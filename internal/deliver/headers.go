package deliver

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/platform/metrics"
)

var userAgent = "Hookline/" + metrics.Version()

// Headers that an endpoint does not set, in lower case.
var (
	reserved = []string{
		// What the request itself is made of, or what one connection alone is told (RFC 9110, section 7.6.1).
		"connection", "date", "expect", "host", "http2-settings", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "user-agent",
		// An answer is read as it is, and no cookie belongs to anybody.
		"accept-encoding", "cookie", "set-cookie",
		// net/http takes a request with one of these for one that it may send twice.
		"idempotency-key", "x-idempotency-key",
		// Where a request came from is what proxies say.
		"forwarded", "via", "x-real-ip",
		// What metadata services of clouds ask for before they tell credentials.
		"metadata", "metadata-flavor",
	}
	reservedPrefixes = []string{"webhook-", "svix-", "content-", "proxy-", "x-forwarded-", "x-aws-ec2-metadata-"}
)

// ReservedHeader reports whether an endpoint's own headers may not have the name, in any case: it is ours, the connection's,
// or would change what is sent where.
func ReservedHeader(name string) bool {
	name = strings.ToLower(name)
	return slices.Contains(reserved, name) ||
		slices.ContainsFunc(reservedPrefixes, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// CheckHeader returns a fault.Invalid, which quotes neither of them, where name and value cannot be a header of an endpoint.
// A name is a token, a value printable ASCII with spaces and tabs within (RFC 9110, sections 5.1 and 5.5).
func CheckHeader(name, value string) error {
	switch {
	case !isToken(name):
		return fault.New(fault.Invalid, "the name of a header is letters, digits and any of !#$%%&'*+-.^_`|~")
	case ReservedHeader(name):
		return fault.New(fault.Invalid, "the header is reserved")
	case strings.ContainsFunc(value, func(r rune) bool { return (r < ' ' && r != '\t') || r > '~' }):
		return fault.New(fault.Invalid, "the value of a header is printable ASCII")
	case strings.Trim(value, " \t") != value:
		return fault.New(fault.Invalid, "the value of a header neither begins nor ends with a space")
	}
	return nil
}

func isToken(name string) bool {
	return name != "" && !strings.ContainsFunc(name, func(r rune) bool {
		letterOrDigit := ('a' <= r && r <= 'z') || ('A' <= r && r <= 'Z') || ('0' <= r && r <= '9')
		return !letterOrDigit && !strings.ContainsRune("!#$%&'*+-.^_`|~", r)
	})
}

var errHeader = errors.New("a header of the endpoint cannot be used")

// header returns what an attempt sends: the endpoint's own headers, the user info of its URL, and ours over both. An own
// header that is reserved is left out; one that is none is an error, which does not quote it.
func header(endpoint delivery.Endpoint, user *url.Userinfo, message Message, number int, signature string, at time.Time) (http.Header, error) {
	out := http.Header{}
	if user != nil {
		password, _ := user.Password()
		out.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	for _, name := range slices.Sorted(maps.Keys(endpoint.Headers)) {
		if ReservedHeader(name) {
			continue
		}
		if CheckHeader(name, endpoint.Headers[name]) != nil {
			return nil, errHeader
		}
		out.Set(name, endpoint.Headers[name])
	}
	out.Set("Content-Type", "application/json")
	out.Set("User-Agent", userAgent)
	out.Set("Webhook-Id", message.EventID.String())
	out.Set("Webhook-Timestamp", strconv.FormatInt(at.Unix(), 10))
	out.Set("Webhook-Signature", signature)
	out.Set("Webhook-Attempt", strconv.Itoa(number))
	return out, nil
}
