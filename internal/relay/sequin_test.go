package relay

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/event"
	"github.com/hookline/hookline/internal/testkit/sequintest"
	"github.com/hookline/hookline/internal/wal"
)

// The record is a contract: whoever writes the topic, its readers see the same.
func TestTheRelayWritesWhatSequinWrites(t *testing.T) {
	t.Parallel()
	for _, golden := range sequintest.Records(t) {
		relation := &wal.Relation{Schema: relayedSchema, Name: relayedTable}
		for _, column := range golden.Columns {
			relation.Columns = append(relation.Columns, wal.Column{Name: column.Name, Type: column.OID})
		}
		r := newEncoder(relation).encode(golden.Texts, 1<<20)
		require.False(t, r.stub, golden.Name)
		require.NoError(t, golden.Differs(r.value), golden.Name)
		require.Equal(t, golden.Key, string(r.key), golden.Name)

		ref, err := event.DecodeRecord(r.value)
		require.Equal(t, golden.Ref, ref, golden.Name)
		require.Equal(t, golden.Undecodable == "", err == nil, "%s: %v", golden.Name, err)
	}
}
