package delivery

import (
	"fmt"
	"maps"
	"slices"
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

// Presets are schedules that have a name. The two short ones are for events that are worth nothing a day later.
func Presets() map[string]Schedule {
	return map[string]Schedule{
		"standard": DefaultSchedule(),
		"day":      {5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 12 * time.Hour},
		"minutes":  {time.Minute, 2 * time.Minute, 4 * time.Minute},
	}
}

// Bounds of a schedule. Events, and the ledger, are kept for longer than any schedule lasts.
const (
	maxDelays   = 50
	maxDuration = 30 * 24 * time.Hour
)

// UnmarshalText reads the name of a preset, or a comma-separated list of durations such as 5s,5m,2h. The error names the
// piece that is wrong.
func (s *Schedule) UnmarshalText(text []byte) error {
	presets := Presets()
	if preset, found := presets[strings.TrimSpace(string(text))]; found {
		*s = preset
		return nil
	}
	var out Schedule
	var total time.Duration
	for part := range strings.SplitSeq(string(text), ",") {
		part = strings.TrimSpace(part)
		delay, err := time.ParseDuration(part)
		switch {
		case err != nil:
			return fmt.Errorf("delay %d, %q, is not a duration such as 30s, 5m or 2h; want a list of those, or one of %s",
				len(out)+1, part, strings.Join(slices.Sorted(maps.Keys(presets)), ", "))
		case delay <= 0:
			return fmt.Errorf("delay %d, %q, is not positive", len(out)+1, part)
		case delay > maxDuration-total:
			return fmt.Errorf("with delay %d, %q, it lasts longer than 30 days", len(out)+1, part)
		case len(out) == maxDelays:
			return fmt.Errorf("it has more than %d delays", maxDelays)
		}
		total += delay
		out = append(out, delay)
	}
	*s = out
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (s Schedule) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// String is the form that UnmarshalText reads.
func (s Schedule) String() string {
	parts := make([]string, len(s))
	for i, delay := range s {
		parts[i] = delay.String()
	}
	return strings.Join(parts, ",")
}
