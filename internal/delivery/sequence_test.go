package delivery_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/delivery"
)

func TestTheKeyOfASequenceIsReadAsItWasMade(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := delivery.Sequence{EndpointID: uuid.New(), ObjectType: rapid.String().Draw(t, "type"), ObjectID: rapid.String().Draw(t, "id")}
		got, err := delivery.ParseSequence(s.Key())
		require.NoError(t, err)
		require.Equal(t, s, got)
		require.Equal(t, 2, strings.Count(s.Key(), "/"))
	})
}

func TestWhatIsNoKeyOfASequenceIsRefused(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "a/b/c", uuid.NewString() + "/payment", uuid.NewString() + "/payment/x/y", uuid.NewString() + "/%zz/x", uuid.NewString() + "/payment/%"} {
		_, err := delivery.ParseSequence(key)
		require.Error(t, err, key)
	}
}
