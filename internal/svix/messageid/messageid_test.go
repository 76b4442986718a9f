package messageid_test

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/svix/messageid"
)

func TestEveryMessageIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		m := messageid.Message{
			EventID:     uuid.UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "event")),
			Generation:  rapid.Int64Min(0).Draw(t, "generation"),
			Replacement: rapid.IntRange(0, 9).Draw(t, "replacement"),
		}
		read, err := messageid.Parse(m.String())
		require.NoError(t, err)
		require.Equal(t, m, read)
	})
}

func TestWhatOthersCalledTheirMessagesIsNoEvent(t *testing.T) {
	t.Parallel()
	const id = "01900000-0000-7000-8000-000000000001"
	_, err := messageid.Parse(id)
	require.NoError(t, err)
	for _, text := range []string{
		"", "order-17", id + ".", id + ".g", id + ".g0", id + ".r0", id + ".g01", id + ".g-1", id + ".r-1", id + ".r1.g2", id + ".g1.g2", id + ".x1", id + ".g1.",
		id + ".g99999999999999999999", "{" + id + "}", "0190000000007000800000000000000a", "urn:uuid:" + id, "01900000-0000-7000-8000-00000000000A",
	} {
		_, err := messageid.Parse(text)
		require.Error(t, err, text)
	}
}
