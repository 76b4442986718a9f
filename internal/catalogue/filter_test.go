package catalogue_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/fault"
)

func TestCheckFilterTakesWhatCanMatch(t *testing.T) {
	t.Parallel()
	for _, each := range catalogue.All() {
		require.NoError(t, catalogue.CheckFilter(each.Name))
		prefix, _, _ := strings.Cut(each.Name, ".")
		require.NoError(t, catalogue.CheckFilter(prefix+".*"))
	}
}

func TestCheckFilterSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const words = "want words of a-z, 0-9 and _ with dots between, such as payment.succeeded, or a prefix such as payment.*"
	for filter, want := range map[string]string{
		"payment.suceeded":          `unknown event type "payment.suceeded": did you mean "payment.succeeded"?`,
		"payment.cancelled":         `unknown event type "payment.cancelled": did you mean "payment.canceled"?`,
		"payments.*":                `unknown event type "payments.*": did you mean "payment.*"?`,
		"payment":                   `unknown event type "payment": did you mean "payment.*"?`,
		"endpoint.disable":          `unknown event type "endpoint.disable": did you mean "endpoint.disabled"?`,
		"order.shipped":             `unknown event type "order.shipped"`,
		"order.*":                   `unknown event type "order.*"`,
		"payment.succeeded.*":       `unknown event type "payment.succeeded.*": did you mean "payment.succeeded"?`,
		"":                          "an event type must not be empty",
		"*":                         "an endpoint without event types takes every type: leave * out",
		".*":                        `".*" is no event type: ` + words,
		"payment*":                  `"payment*" is no event type: ` + words,
		"payment.*.*":               `"payment.*.*" is no event type: ` + words,
		"*.succeeded":               `"*.succeeded" is no event type: ` + words,
		"payment.":                  `"payment." is no event type: ` + words,
		"payment..x":                `"payment..x" is no event type: ` + words,
		"Payment.Succeeded":         `"Payment.Succeeded" is no event type: ` + words,
		"payment. succeeded":        `"payment. succeeded" is no event type: ` + words,
		"payment.succeeded\n":       `"payment.succeeded\n" is no event type: ` + words,
		strings.Repeat("a", 100000): `unknown event type "` + strings.Repeat("a", 100) + `"`,
	} {
		err := catalogue.CheckFilter(filter)
		require.EqualError(t, err, want)
		require.Equal(t, fault.Invalid, fault.ClassOf(err))
	}
}

func TestNearestFindsWhatWasMeant(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"payment.succeeded": "payment.succeeded", "payment.success": "payment.succeeded", "invoices.paid": "invoice.paid",
		"subscription_canceled": "subscription.canceled", "Payout.Paid": "payout.paid",
		"": "", "a.b": "", "customer.created": "", "payment.*": "",
	} {
		require.Equal(t, want, catalogue.Nearest(name), name)
	}
}

func TestNearestForgivesASlip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(r *rapid.T) {
		name := rapid.SampledFrom(catalogue.All()).Draw(r, "type").Name
		at := rapid.IntRange(0, len(name)-1).Draw(r, "at")
		put := rapid.SampledFrom([]string{"", "x", "_", name[at:at+1] + "y"}).Draw(r, "put")
		require.Equal(r, name, catalogue.Nearest(name[:at]+put+name[at+1:]))
	})
}
