package deliver

import (
	"crypto/tls"
	"crypto/x509"
)

// Sign is for tests of the signature alone.
var Sign = sign

// RetryAfter is for tests of the header alone.
var RetryAfter = retryAfter

// Trust makes the client take certificates of a test's own authority.
func (c *Client) Trust(roots *x509.CertPool) {
	c.transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}
