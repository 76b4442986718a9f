package deliver_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
)

func TestRetryAfterIsAsLongAsTheAnswerSays(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 22, 20, 0, 0, 300_000_000, time.UTC)
	for name, test := range map[string]struct {
		value, date string
		want        time.Duration
	}{
		"none":                          {},
		"seconds":                       {value: "120", want: 2 * time.Minute},
		"seconds with spaces":           {value: " 7\t", want: 7 * time.Second},
		"no seconds":                    {value: "0"},
		"a day":                         {value: "86400", want: 24 * time.Hour},
		"more than a day":               {value: "86401", want: 24 * time.Hour},
		"more than a number holds":      {value: "99999999999999999999999", want: 24 * time.Hour},
		"negative":                      {value: "-5"},
		"signed":                        {value: "+5"},
		"a fraction":                    {value: "1.5"},
		"a duration":                    {value: "5s"},
		"two":                           {value: "5, 10"},
		"words":                         {value: "tomorrow"},
		"a date by our clock":           {value: "Sun, 22 Nov 2026 20:00:10 GMT", want: 10 * time.Second},
		"a date of now":                 {value: "Sun, 22 Nov 2026 20:00:01 GMT", want: time.Second},
		"a date that has passed":        {value: "Sun, 22 Nov 2026 19:59:59 GMT"},
		"a date in an old form":         {value: "Sunday, 22-Nov-26 20:01:00 GMT", want: time.Minute},
		"a date of C":                   {value: "Sun Nov 22 20:01:00 2026", want: time.Minute},
		"a date in years":               {value: "Sat, 22 Nov 9999 20:00:00 GMT", want: 24 * time.Hour},
		"by the endpoint's fast clock":  {value: "Sun, 22 Nov 2026 22:00:30 GMT", date: "Sun, 22 Nov 2026 22:00:00 GMT", want: 30 * time.Second},
		"by the endpoint's slow clock":  {value: "Sun, 22 Nov 2026 18:00:30 GMT", date: "Sun, 22 Nov 2026 18:00:00 GMT", want: 30 * time.Second},
		"by a clock that stands still":  {value: "Sun, 22 Nov 2026 20:01:00 GMT", date: "Thu, 01 Jan 1970 00:00:00 GMT", want: time.Minute},
		"by a clock of another century": {value: "Sun, 22 Nov 2026 20:01:00 GMT", date: "Mon, 22 Nov 2126 20:00:00 GMT", want: time.Minute},
		"by no clock":                   {value: "Sun, 22 Nov 2026 20:01:00 GMT", date: "now", want: time.Minute},
		"seconds know no clock":         {value: "60", date: "Sun, 22 Nov 2026 22:00:00 GMT", want: time.Minute},
	} {
		header := http.Header{}
		if test.value != "" {
			header.Set("Retry-After", test.value)
		}
		if test.date != "" {
			header.Set("Date", test.date)
		}
		require.Equal(t, test.want, deliver.RetryAfter(header, now), name)
	}
}

func TestRetryAfterIsReadOfAnyFailure(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		status int
		cause  delivery.Cause
		value  string
		want   time.Duration
	}{
		{status: 429, cause: delivery.CauseRateLimited, value: "30", want: 30 * time.Second},
		{status: 429, cause: delivery.CauseRateLimited, value: time.Now().Add(time.Hour).UTC().Format(http.TimeFormat), want: time.Hour},
		{status: 503, cause: delivery.CauseServerError, value: "1", want: time.Second},
		{status: 302, cause: delivery.CauseRedirect, value: "1", want: time.Second},
		{status: 410, cause: delivery.CauseGone, value: "never"},
		{status: 200, cause: delivery.CauseOK, value: "30"},
	} {
		server := merchant(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", test.value)
			w.WriteHeader(test.status)
		})
		response := newClient(t).Post(t.Context(), endpoint(server.URL), message(), 1, allow)
		require.Equal(t, test.cause, response.Cause)
		require.InDelta(t, test.want, response.RetryAfter, float64(5*time.Second), test) // a machine may be slow, and a date has no fraction
		require.Zero(t, response.RetryAfter%time.Second)
	}
}

func FuzzRetryAfter(f *testing.F) {
	now := time.Date(2026, 11, 22, 20, 0, 0, 1, time.UTC)
	for _, value := range []string{"", "0", "120", "-1", "86401", "99999999999999999999", "Sun, 22 Nov 2026 20:01:00 GMT", "Sunday, 22-Nov-26 20:01:00 GMT", "Sun Nov 22 20:01:00 2026"} {
		f.Add(value, "Sun, 22 Nov 2026 20:00:00 GMT", int64(0))
		f.Add(value, "Fri, 01 Jan 0001 00:00:00 GMT", int64(1)<<62)
	}
	f.Fuzz(func(t *testing.T, value, date string, later int64) {
		wait := deliver.RetryAfter(http.Header{"Retry-After": {value}, "Date": {date}}, now.Add(time.Duration(later)))
		require.GreaterOrEqual(t, wait, time.Duration(0))
		require.LessOrEqual(t, wait, deliver.MaxRetryAfter)
		require.Zero(t, wait%time.Second)
	})
}
