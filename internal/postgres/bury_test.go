package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
)

func TestBuryTakesWhateverATextSays(t *testing.T) {
	t.Parallel()
	b := newBooks(t)
	for range 2 {
		require.NoError(t, b.Bury(t.Context(), delivery.DeadRecord{
			Topic: "callbacks/st\x00ripe", Partition: -1, Offset: -1, Reason: delivery.ReasonCallbackUnknownType,
			Detail: "the type \"x\u0000\xff\xfe\" says nothing", Key: []byte("{\x00"), Value: []byte("\x00\xff"),
		}))
	}
	records, err := b.DeadRecords(t.Context(), 0, "", true, 10)
	require.NoError(t, err)
	require.Len(t, records, 1)
	require.Equal(t, 2, records[0].Times)
	require.Equal(t, "callbacks/st\uFFFDripe", records[0].Topic)
	require.Equal(t, "the type \"x\uFFFD\uFFFD\" says nothing", records[0].Detail)
	require.Equal(t, []byte("{\x00"), records[0].Key)
	require.Equal(t, []byte("\x00\xff"), records[0].Value)
}
