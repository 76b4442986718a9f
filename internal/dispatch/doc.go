// Package dispatch is the durable workflow's work: it plans events, makes attempts and writes their outcomes.
// It knows nothing of Restate: the package restate journals what these methods return.
//
// The ledger carries the exactness. An execution owns a delivery by the epoch that its claim raised, sends only
// while nobody has claimed it since, and writes outcomes that count only then. So any step may be executed
// again, here or in another process, at any time.
package dispatch
