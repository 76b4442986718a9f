package simulator

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fullDisk takes so many bytes more, and then errs.
type fullDisk struct {
	content []byte
	room    int
	stuck   bool // it cannot be truncated either
}

func (d *fullDisk) Write(p []byte) (int, error) {
	n := min(len(p), d.room)
	d.room -= n
	d.content = append(d.content, p[:n]...)
	if n < len(p) {
		return n, errors.New("no space left")
	}
	return n, nil
}

func (d *fullDisk) Truncate(size int64) error {
	if d.stuck {
		return errors.New("read-only")
	}
	d.content = d.content[:size]
	return nil
}

func (d *fullDisk) Close() error { return nil }

func TestWriteThatStopsHalfWayLeavesNoReceipt(t *testing.T) {
	t.Parallel()
	line, err := json.Marshal(Receipt{ID: "e2", Outcome: Accepted})
	require.NoError(t, err)
	for _, room := range []int{0, 10, len(line)} { // the last lacks nothing but the newline
		disk := &fullDisk{room: len(line) + 1 + room}
		j := &journal{file: disk}
		require.NoError(t, j.append(Receipt{ID: "e1", Outcome: Accepted}))
		require.Error(t, j.append(Receipt{ID: "e2", Outcome: Accepted}))
		disk.room, disk.stuck = 1<<20, room > 0
		if disk.stuck {
			require.Error(t, j.append(Receipt{ID: "e3", Outcome: Accepted}), "behind half a line nothing is safe")
			disk.stuck = false
		}
		require.NoError(t, j.append(Receipt{ID: "e4", Outcome: Accepted}))
		lines := strings.Split(string(disk.content), "\n")
		require.Len(t, lines, 3)
		require.Contains(t, lines[0], `"e1"`)
		require.Contains(t, lines[1], `"e4"`)
	}
}
