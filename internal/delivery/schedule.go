package delivery

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Schedule is how long to wait after each failed attempt: after the first, the second, and so on. A delivery
// whose attempt fails when the schedule is used up is dead.
type Schedule []time.Duration

// DefaultSchedule spreads ten attempts over three days, as Standard Webhooks' operational advice and the
// schedules of the large payment providers do.
func DefaultSchedule() Schedule {
	return Schedule{
		5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
		10 * time.Hour, 14 * time.Hour, 20 * time.Hour, 24 * time.Hour,
	}
}

// After returns how long to wait after the failure of attempt number (1 is the first), and false when there is
// no further attempt.
func (s Schedule) After(number int) (time.Duration, bool) {
	if number < 1 || number > len(s) {
		return 0, false
	}
	return s[number-1], true
}

// UnmarshalText reads a comma-separated list of durations such as 5s,5m,2h.
func (s *Schedule) UnmarshalText(text []byte) error {
	var out Schedule
	for part := range strings.SplitSeq(string(text), ",") {
		delay, err := time.ParseDuration(strings.TrimSpace(part))
		if err != nil {
			return fmt.Errorf("reading %q as a duration: %w", part, err)
		}
		if delay <= 0 {
			return errors.New("a delay of the schedule must be positive")
		}
		out = append(out, delay)
	}
	*s = out
	return nil
}

// String is the form that UnmarshalText reads.
func (s Schedule) String() string {
	parts := make([]string, len(s))
	for i, delay := range s {
		parts[i] = delay.String()
	}
	return strings.Join(parts, ",")
}
