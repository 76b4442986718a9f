package delivery_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
)

func TestATimeBoundsTheIdsOfItsEvents(t *testing.T) {
	t.Parallel()
	before := time.Now()
	id := uuid.Must(uuid.NewV7())
	at := delivery.EventTime(id)
	require.WithinRange(t, at, before.Truncate(time.Millisecond), time.Now().Add(time.Millisecond))

	within := func(f delivery.Filter) bool {
		first, last := f.EventRange()
		return first.String() <= id.String() && id.String() <= last.String()
	}
	require.True(t, within(delivery.Filter{}))
	require.True(t, within(delivery.Filter{Since: at, Until: at}), "both ends are included")
	require.False(t, within(delivery.Filter{Since: at.Add(time.Millisecond)}))
	require.False(t, within(delivery.Filter{Until: at.Add(-time.Millisecond)}))
	require.True(t, within(delivery.Filter{Since: time.Unix(-1, 0)}), "before there were ids")
	require.True(t, within(delivery.Filter{EventID: id, Since: at.Add(time.Hour)}), "an event is its own range")
	require.False(t, within(delivery.Filter{EventID: uuid.Must(uuid.NewV7())}))
}
