package payment_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/payment"
)

func TestMovesBetweenStatuses(t *testing.T) {
	t.Parallel()
	want := map[payment.Status][]payment.Status{
		"pending":    {"processing", "succeeded", "failed", "canceled"},
		"processing": {"succeeded", "failed", "canceled"},
		"succeeded":  {"refunded", "disputed"},
		"disputed":   {"succeeded", "refunded"},
	}
	got := map[payment.Status][]payment.Status{}
	for _, from := range payment.Statuses() {
		for _, to := range payment.Statuses() {
			if from.CanBecome(to) {
				got[from] = append(got[from], to)
			}
			require.Equal(t, from.CanBecome(to), slices.Contains(to.Sources(), from), "%s to %s", from, to)
		}
		require.True(t, from.Known())
		require.False(t, from.CanBecome(from), "%s: staying is not a move", from)
	}
	require.Empty(t, cmp.Diff(want, got))
	require.False(t, payment.Status("paid").Known())
	require.Empty(t, payment.Status("paid").Next())
	require.Empty(t, payment.StatusPending.Sources())
}

func TestValidCurrency(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]bool{
		"USD": true, "EUR": true, "JPY": true, "KWD": true, "XOF": true, "ZWG": true,
		"usd": false, "": false, "US": false, "USDD": false, "HRK": false, "XXX": false, "XTS": false, "XAU": false, "ZZZ": false,
	} {
		require.Equal(t, want, payment.ValidCurrency(code), code)
	}
}

func TestValidMerchantID(t *testing.T) {
	t.Parallel()
	for id, want := range map[string]bool{
		payment.DefaultMerchantID: true, "a": true, "A.b_C-9": true, strings.Repeat("m", 64): true,
		"": false, strings.Repeat("m", 65): false, "a b": false, "a/b": false, "é": false, "a\x00": false,
	} {
		require.Equal(t, want, payment.ValidMerchantID(id), id)
	}
}
