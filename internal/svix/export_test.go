package svix

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
)

// Dial replaces how the client makes connections.
func (c *Client) Dial(dial func(ctx context.Context, network, address string) (net.Conn, error)) {
	c.transport.dial = dial
}

// Trust makes the certificate's owner an authority.
func (c *Client) Trust(certificate *x509.Certificate) {
	pool := x509.NewCertPool()
	pool.AddCert(certificate)
	c.transport.pool.TLSClientConfig = &tls.Config{RootCAs: pool}
}
