package deliver

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// MaxRetryAfter bounds what an endpoint may ask for with Retry-After. It is the longest wait of the default retry schedule:
// asking puts a delivery off no further than failing does. The RFC sets no bound.
const MaxRetryAfter = 24 * time.Hour

// retryAfter reads Retry-After (RFC 9110, section 10.2.3), a number of seconds or a date, and returns how long to wait from
// now, in whole seconds, rounded up, at most MaxRetryAfter. It is 0 where there is none that can be understood or is ahead.
func retryAfter(header http.Header, now time.Time) time.Duration {
	value := strings.TrimSpace(header.Get("Retry-After"))
	seconds, err := strconv.ParseUint(value, 10, 64)
	switch {
	case err == nil:
		return time.Duration(min(seconds, uint64(MaxRetryAfter/time.Second))) * time.Second
	case errors.Is(err, strconv.ErrRange):
		return MaxRetryAfter
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	// The date is by the endpoint's clock, and so is Date. One that is further from ours than any wait is no clock's.
	if date, err := http.ParseTime(header.Get("Date")); err == nil && date.Sub(now).Abs() <= MaxRetryAfter {
		now = date
	}
	wait := min(max(at.Sub(now), 0), MaxRetryAfter)
	return (wait + time.Second - 1).Truncate(time.Second)
}
