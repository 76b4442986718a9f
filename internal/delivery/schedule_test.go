package delivery_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
)

func TestDefaultScheduleIsTenAttemptsOverThreeDays(t *testing.T) {
	t.Parallel()
	var total time.Duration
	number := 1
	for {
		delay, more := delivery.DefaultSchedule().After(number)
		if !more {
			break
		}
		total += delay
		number++
	}
	require.Equal(t, 10, number, "attempts until it is dead")
	require.Equal(t, 75*time.Hour+35*time.Minute+5*time.Second, total)
}

func TestScheduleReadsWhatItPrints(t *testing.T) {
	t.Parallel()
	var s delivery.Schedule
	require.NoError(t, s.UnmarshalText([]byte("5s, 1m,2h")))
	require.Equal(t, delivery.Schedule{5 * time.Second, time.Minute, 2 * time.Hour}, s)
	var again delivery.Schedule
	require.NoError(t, again.UnmarshalText([]byte(s.String())))
	require.Equal(t, s, again)
}

func TestScheduleThatCannotBeReadNamesThePiece(t *testing.T) {
	t.Parallel()
	for bad, want := range map[string]string{
		"":                               `delay 1, "", is not a duration`,
		"5":                              `delay 1, "5", is not a duration`,
		"5s,,1m":                         `delay 2, "", is not a duration`,
		"5s,soon":                        `delay 2, "soon", is not a duration such as 30s, 5m or 2h; want a list of those, or one of day, minutes, standard`,
		"-1s":                            `delay 1, "-1s", is not positive`,
		"5s,0s":                          `delay 2, "0s", is not positive`,
		"500h,500h":                      `with delay 2, "500h", it lasts longer than 30 days`,
		"2540400h,1s":                    `with delay 1, "2540400h", it lasts longer than 30 days`,
		strings.Repeat("1s,", 50) + "1s": "it has more than 50 delays",
	} {
		s := delivery.Schedule{time.Hour}
		require.ErrorContains(t, s.UnmarshalText([]byte(bad)), want, bad)
		require.Equal(t, delivery.Schedule{time.Hour}, s, "what was there stays")
	}
}

func TestPresetsAreSchedulesWithAName(t *testing.T) {
	t.Parallel()
	for name, want := range delivery.Presets() {
		var s, again delivery.Schedule
		require.NoError(t, s.UnmarshalText([]byte(name)))
		require.Equal(t, want, s)
		require.NoError(t, again.UnmarshalText([]byte(s.String())), "a preset is within the bounds")
	}
	require.Equal(t, delivery.DefaultSchedule(), delivery.Presets()["standard"])
}
