package svix

import (
	"context"
	"net"
)

// Dial replaces how the client makes connections.
func (c *Client) Dial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.transport.dial = dial
}
