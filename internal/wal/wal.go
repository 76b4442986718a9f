// Package wal says what logical replication tells: positions, relations, committed rows. It decodes
// PostgreSQL's pgoutput protocol and knows nothing about connections.
package wal

import (
	"fmt"
	"time"
)

// LSN is a position in the write-ahead log, in bytes. It is no identity: after a failover or a restore LSNs
// go back.
type LSN uint64

// String writes the LSN as PostgreSQL does.
func (l LSN) String() string { return fmt.Sprintf("%X/%X", uint64(l)>>32, uint64(l)&0xFFFFFFFF) }

// Column is a column of a relation.
type Column struct {
	Name string
	Type uint32 // its OID in pg_type
}

// Relation is a published table as it was when the rows that follow were written.
type Relation struct {
	ID      uint32
	Schema  string
	Name    string
	Columns []Column
}

// Kind is what a message is about.
type Kind uint8

// The kinds. A stream of transactions is Begin, Insert ..., Commit, with a KeepAlive anywhere.
const (
	Other Kind = iota // nothing of interest
	Begin
	Insert
	Commit
	KeepAlive
)

// Message is one message of a replication stream.
type Message struct {
	Kind Kind
	// LSN is, of a Commit, where its transaction ends; of a KeepAlive, up to where the server has sent.
	LSN LSN
	// Time is when the transaction committed, by the server's clock: of a Begin and of a Commit.
	Time time.Time
	// Relation and Values are an Insert's row: a text per column, nil for null. The texts are valid until the
	// next message is read.
	Relation *Relation
	Values   [][]byte
	// ReplyRequested says of a KeepAlive that the server wants to hear a position now, or it hangs up.
	ReplyRequested bool
}

// SlotState is what the server says about a replication slot.
type SlotState struct {
	Exists    bool
	Status    string // pg_replication_slots.wal_status: reserved, extended, unreserved or lost
	Current   LSN    // where the server writes now
	Confirmed LSN
	Restart   LSN // the oldest WAL that the slot keeps from being removed
	// Safe is how many bytes can still be written before the slot is in danger of being invalidated, and Keep how many
	// the server keeps for a slot at most: its max_slot_wal_keep_size. Both are negative where there is no limit.
	Safe int64
	Keep int64
}

// Slot is one of the database's logical replication slots, whoever reads it.
type Slot struct {
	Name     string
	Active   bool  // somebody reads it now
	Retained int64 // bytes of WAL that it keeps the server from removing
}
