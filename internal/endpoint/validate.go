package endpoint

import (
	"context"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/signing"
)

// Bounds of an endpoint.
const (
	maxURLBytes         = 2048
	maxDescriptionBytes = 1000
	maxEventTypes       = 50
	maxHeaders          = 20
	maxHeaderBytes      = 4 << 10 // of all values
	minTimeout          = time.Second
	maxTimeout          = 30 * time.Second
	maxRateLimit        = 1000 // the pacer of one endpoint hands out slots one list after the other
)

// Rules are what others know about what an endpoint may be. Each returns what is wrong, in words for whoever asked for it.
type Rules struct {
	URL    func(ctx context.Context, url string) error // where webhooks may go
	Filter func(filter string) error                   // which event types there are
	Header func(name, value string) error              // which headers may be sent

	anyMerchant bool // the merchant's id is that of an endpoint that is there, and stays
}

// check names every part of the spec that is wrong, by the name of its field.
func (r Rules) check(ctx context.Context, s Spec) error {
	problems := maps.Clone(s.Wrong)
	if problems == nil {
		problems = map[string]string{}
	}
	if !r.anyMerchant && !payment.ValidMerchantID(s.MerchantID) { // no event could be of such a merchant
		problems["merchant_id"] = fmt.Sprintf("want 1 to %d characters of A-Z, a-z, 0-9, dot, dash and underscore", payment.MaxMerchantIDLength)
	}
	if problem := r.checkURL(ctx, s.URL); problem != "" {
		problems["url"] = problem
	}
	if len(s.Description) > maxDescriptionBytes {
		problems["description"] = fmt.Sprintf("want at most %d bytes", maxDescriptionBytes)
	}
	if problem := r.checkFilters(s.EventTypes, s.UnknownTypes); problem != "" {
		problems["event_types"] = problem
	}
	if problem := r.checkHeaders(s.Headers); problem != "" {
		problems["headers"] = problem
	}
	if s.Timeout < minTimeout || s.Timeout > maxTimeout {
		problems["timeout"] = fmt.Sprintf("want %s to %s", minTimeout, maxTimeout)
	}
	if s.RateLimit < 0 || s.RateLimit > maxRateLimit {
		problems["rate_limit"] = fmt.Sprintf("want 1 to %d webhooks a second, or 0 for no limit", maxRateLimit)
	}
	if s.Ordering != Parallel && s.Ordering != PerObject {
		problems["ordering"] = fmt.Sprintf("want %s or %s", Parallel, PerObject)
	}
	if s.Secret != "" {
		if _, err := signing.ParseSecret(s.Secret); err != nil {
			problems["secret"] = err.Error()
		}
	}
	if problem := checkKind(s.SecretKind); problem != "" {
		problems["secret_kind"] = problem
	}
	return fault.InvalidFields(problems)
}

func checkKind(kind signing.Kind) string {
	if kind != signing.HMAC && kind != signing.Ed25519 {
		return fmt.Sprintf("want %s or %s", signing.HMAC, signing.Ed25519)
	}
	return ""
}

func (r Rules) checkURL(ctx context.Context, raw string) string {
	u, err := url.Parse(raw)
	switch {
	case err != nil || !u.IsAbs() || u.Hostname() == "":
		return "want an absolute URL such as https://example.com/webhooks"
	case len(raw) > maxURLBytes:
		return fmt.Sprintf("want at most %d bytes", maxURLBytes)
	case u.Fragment != "":
		return "must not hold a fragment: no server ever sees it"
	}
	if err := r.URL(ctx, raw); err != nil {
		return err.Error()
	}
	return ""
}

func (r Rules) checkFilters(filters []string, unknown bool) string {
	if len(filters) > maxEventTypes {
		return fmt.Sprintf("want at most %d", maxEventTypes)
	}
	for i, filter := range filters {
		switch {
		case filter == "":
			return "an event type must not be empty"
		case slices.Contains(filters[:i], filter):
			return fmt.Sprintf("%q is there twice", filter)
		case unknown:
			continue
		}
		if err := r.Filter(filter); err != nil {
			return err.Error()
		}
	}
	return ""
}

func (r Rules) checkHeaders(headers map[string]string) string {
	if len(headers) > maxHeaders {
		return fmt.Sprintf("want at most %d", maxHeaders)
	}
	total := 0
	seen := map[string]bool{}
	for name, value := range headers {
		total += len(value)
		folded := strings.ToLower(name)
		if seen[folded] {
			return fmt.Sprintf("%q is there twice", name)
		}
		seen[folded] = true
		if err := r.Header(name, value); err != nil {
			return err.Error()
		}
	}
	if total > maxHeaderBytes {
		return fmt.Sprintf("want values of at most %d bytes together", maxHeaderBytes)
	}
	return ""
}
