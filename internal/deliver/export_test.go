package deliver

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/url"
)

// Sign is for tests of the signature alone.
var Sign = sign

// Trust makes the client take certificates of a test's own authority.
func (c *Client) Trust(roots *x509.CertPool) {
	c.transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

// Proxy is what the client asks for the proxy of a request.
func (c *Client) Proxy() func(*http.Request) (*url.URL, error) { return c.transport.Proxy }
