// Package intake takes pointers to events from Kafka and hands them to the durable dispatcher in batches.
//
// What is not delivered yet stays in Kafka: an offset is marked when the batch of its record has ended, and only as
// far as everything before it has. Whatever is handed over twice, after a crash or a rebalance, meets the ledger's
// key.
package intake
