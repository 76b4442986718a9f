// Package reconcile finds by itself what is missing: events that were committed and never planned, and deliveries that
// nobody will ever attempt. It is a loop of its own, never a durable handler: it must live when Restate's volume, the
// topic or the replication slot is gone, because it is what makes up for that.
//
// It compares data-service's feed with the plans, and the ledger's open deliveries with Restate's invocations. Whatever
// it drives goes the ordinary way and meets the ordinary keys and epochs, so driving too much costs time and sends
// nothing twice.
package reconcile
