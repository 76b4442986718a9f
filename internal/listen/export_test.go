package listen

import (
	"context"
	"net"
)

// DialBy makes the receiver reach the local server by dial.
func (r *Receiver) DialBy(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	r.transport.DialContext = dial
}

// ForwardTimeout is how long the local server has.
const ForwardTimeout = forwardTimeout

// Webhook prints what a receiver reported.
func (p *Printer) Webhook(w Webhook) { p.webhook(w) }
