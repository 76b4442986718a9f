package delivery_test

import (
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
	for _, bad := range []string{"", "5", "5s,,1m", "-1s", "0s", "soon"} {
		require.Error(t, s.UnmarshalText([]byte(bad)), "%q", bad)
	}
}
