// Package simulator is a merchant: it receives webhooks as a careful one would, and misbehaves on demand.
//
// It verifies the signature, writes a receipt to its file and only then answers 2xx, and tells a first delivery from
// a repeated one by webhook-id, or at Svix by the body's event_id. What it has accepted is thereby as durable as the sender may believe: a simulator
// that dies at any moment has a receipt for every 2xx that left it.
package simulator
