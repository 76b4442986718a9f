package relay

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/wal"
)

func TestCheckpointConfirmsOnlyWhatIsAcknowledgedToTheLastRecord(t *testing.T) {
	t.Parallel()
	var c checkpoint
	at := time.Unix(100, 0)
	c.begin(at)
	first := c.add()
	c.commit(10)
	c.begin(at.Add(time.Second))
	second, third := c.add(), c.add()
	require.True(t, c.open())

	c.acknowledge(second)
	require.Zero(t, c.position(), "the second record is not there before the first")
	c.acknowledge(first)
	require.Equal(t, wal.LSN(10), c.position())
	require.Equal(t, at.Add(time.Second), c.oldest())
	c.acknowledge(third)
	require.Equal(t, wal.LSN(10), c.position(), "the transaction can have more records")
	c.commit(20)
	require.Equal(t, wal.LSN(20), c.position())
	require.True(t, c.oldest().IsZero())
	require.False(t, c.open())
}

func TestCheckpointFollowsKeepAlivesOnlyBehindItsOwnTransactions(t *testing.T) {
	t.Parallel()
	var c checkpoint
	c.keepAlive(5)
	require.Equal(t, wal.LSN(5), c.position(), "nothing is under way")
	c.begin(time.Now())
	c.keepAlive(7)
	record := c.add()
	c.keepAlive(8)
	c.commit(10)
	c.keepAlive(15)
	require.Equal(t, wal.LSN(5), c.position(), "a transaction is under way")
	c.acknowledge(record)
	require.Equal(t, wal.LSN(15), c.position(), "with its last record everything that was sent is safe")
	c.keepAlive(12)
	require.Equal(t, wal.LSN(15), c.position())
	c.begin(time.Now())
	c.commit(30) // nothing of ours in it
	require.Equal(t, wal.LSN(30), c.position())
}

// Whatever the order of the acknowledgements, a position is never beyond a record without one, and in the end
// everything is confirmed.
func TestCheckpointHoldsInEveryOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type row struct {
			end         wal.LSN // of its transaction
			transaction *transaction
		}
		var c checkpoint
		var waiting []row
		var end wal.LSN
		acknowledge := func() {
			i := rapid.IntRange(0, len(waiting)-1).Draw(t, "which")
			c.acknowledge(waiting[i].transaction)
			waiting = slices.Delete(waiting, i, i+1)
		}
		check := func() {
			for _, row := range waiting {
				require.Less(t, c.position(), row.end)
			}
		}
		for range rapid.IntRange(0, 12).Draw(t, "transactions") {
			end += wal.LSN(rapid.IntRange(1, 5).Draw(t, "length"))
			c.begin(time.Now())
			for range rapid.IntRange(0, 4).Draw(t, "rows") {
				waiting = append(waiting, row{end: end, transaction: c.add()})
				if rapid.Bool().Draw(t, "acknowledge early") {
					acknowledge()
				}
				check()
			}
			c.commit(end)
			check()
			if rapid.Bool().Draw(t, "keep-alive") {
				end++
				c.keepAlive(end)
				check()
			}
		}
		for len(waiting) > 0 {
			acknowledge()
			check()
		}
		require.Equal(t, end, c.position())
	})
}
