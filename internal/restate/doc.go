// Package restate is the door to Restate: the durable handlers that the server invokes, the client that hands it
// batches, and the registration that tells it where the handlers are.
package restate
