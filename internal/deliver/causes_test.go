package deliver_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
)

func TestTheStatusIsTheOutcome(t *testing.T) {
	t.Parallel()
	var strayed atomic.Int32
	elsewhere := merchant(t, func(http.ResponseWriter, *http.Request) { strayed.Add(1) })
	const page = "text/html; charset=utf-8"
	for _, test := range []struct {
		status    int
		location  string
		mediaType string
		cause     delivery.Cause
	}{
		{status: 200, cause: delivery.CauseOK},
		{status: 200, mediaType: page, cause: delivery.CauseOK},
		{status: 204, cause: delivery.CauseOK},
		{status: 299, cause: delivery.CauseOK},
		{status: 301, location: elsewhere.URL, cause: delivery.CauseRedirect},
		{status: 302, location: "http://[broken", cause: delivery.CauseRedirect},
		{status: 303, location: elsewhere.URL, mediaType: page, cause: delivery.CauseRedirect},
		{status: 304, cause: delivery.CauseRedirect},
		{status: 307, location: elsewhere.URL, cause: delivery.CauseRedirect},
		{status: 308, location: elsewhere.URL, cause: delivery.CauseRedirect},
		{status: 400, cause: delivery.CauseStatus},
		{status: 400, mediaType: "application/json", cause: delivery.CauseStatus},
		{status: 400, mediaType: page, cause: delivery.CauseHTML},
		{status: 405, mediaType: "Application/XHTML+XML", cause: delivery.CauseHTML},
		{status: 401, cause: delivery.CauseUnauthorized},
		{status: 401, mediaType: page, cause: delivery.CauseUnauthorized},
		{status: 403, cause: delivery.CauseUnauthorized},
		{status: 403, mediaType: page, cause: delivery.CauseHTML},
		{status: 404, mediaType: page, cause: delivery.CauseNotFound},
		{status: 410, cause: delivery.CauseGone},
		{status: 410, mediaType: page, cause: delivery.CauseGone},
		{status: 413, mediaType: page, cause: delivery.CausePayloadTooLarge},
		{status: 429, mediaType: page, cause: delivery.CauseRateLimited},
		{status: 500, cause: delivery.CauseServerError},
		{status: 502, mediaType: page, cause: delivery.CauseServerError},
		{status: 599, cause: delivery.CauseServerError},
		{status: 600, cause: delivery.CauseStatus},
		{status: 999, mediaType: page, cause: delivery.CauseHTML},
	} {
		var requests atomic.Int32
		server := merchant(t, func(w http.ResponseWriter, _ *http.Request) {
			requests.Add(1)
			if test.location != "" {
				w.Header().Set("Location", test.location)
			}
			if test.mediaType != "" {
				w.Header().Set("Content-Type", test.mediaType)
			}
			w.WriteHeader(test.status)
		})
		response := newClient(t).Post(t.Context(), endpoint(server.URL), message(), 1, allow)
		require.Equal(t, test.cause, response.Cause, test)
		require.Equal(t, test.status, response.StatusCode)
		require.True(t, response.Sent)
		require.Positive(t, response.Latency)
		require.Zero(t, response.RetryAfter)
		require.EqualValues(t, 1, requests.Load(), test.status)
	}
	require.Zero(t, strayed.Load(), "a redirect was followed")
}

func TestFailuresOfTheConnectionAreValues(t *testing.T) {
	t.Parallel()
	_, closed := bound(t)
	says := func(answer string) string {
		return "http://" + listen(t, func(_ int, conn *net.TCPConn) {
			readRequest(conn)
			conn.Write([]byte(answer))
		})
	}
	reset := listen(t, func(_ int, conn *net.TCPConn) {
		conn.Read(make([]byte, 1))
		conn.SetLinger(0)
	})
	flood := listen(t, func(_ int, conn *net.TCPConn) {
		readRequest(conn)
		for {
			if _, err := conn.Write([]byte("HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n")); err != nil {
				return
			}
		}
	})
	huge := func(http2 bool) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for n := range 100 {
				w.Header().Set("X-Huge-"+strconv.Itoa(n), strings.Repeat("x", 1<<10))
			}
		}))
		server.Config.ErrorLog = discard
		server.EnableHTTP2 = http2
		server.TLS = &tls.Config{Certificates: []tls.Certificate{authority.issue(t, nil)}, MinVersion: tls.VersionTLS12}
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.URL
	}
	for name, test := range map[string]struct {
		url   string
		cause delivery.Cause
		sent  bool
	}{
		"no such name":            {url: "https://merchant.example", cause: delivery.CauseDNS},
		"refused":                 {url: "http://" + closed, cause: delivery.CauseRefused},
		"no route to a broadcast": {url: "http://255.255.255.255", cause: delivery.CauseUnreachable},
		"reset":                   {url: "http://" + reset, cause: delivery.CauseReset, sent: true},
		"hung up":                 {url: says(""), cause: delivery.CauseReset, sent: true},
		"hung up early":           {url: says("HTTP/1.1 200"), cause: delivery.CauseReset, sent: true},
		"a mail server":           {url: says("220 smtp.example.com ESMTP\r\n"), cause: delivery.CauseProtocol, sent: true},
		"no such version":         {url: says("HTTP/x.1 200 OK\r\n\r\n"), cause: delivery.CauseProtocol, sent: true},
		"no header":               {url: says("HTTP/1.1 200 OK\r\nnonsense\r\n\r\n"), cause: delivery.CauseProtocol, sent: true},
		"huge headers":            {url: huge(false), cause: delivery.CauseProtocol, sent: true},
		"huge HTTP/2 headers":     {url: huge(true), cause: delivery.CauseProtocol, sent: true},
		"a flood of 1xx":          {url: "http://" + flood, cause: delivery.CauseProtocol, sent: true},
		"no TLS":                  {url: "https://" + strings.TrimPrefix(merchant(t, nil).URL, "http://"), cause: delivery.CauseTLS},
		"hung up on TLS":          {url: "https://" + reset, cause: delivery.CauseTLS},
		"no such scheme":          {url: "gopher://127.0.0.1:1", cause: delivery.CauseInternal},
		"no host":                 {url: "http://", cause: delivery.CauseInternal},
		"no URL":                  {url: "http://[::1", cause: delivery.CauseInternal},
		"a header that is none":   {url: "http://127.0.0.1:1/header", cause: delivery.CauseInternal},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := clientOver(t, &network{Dialer: net.Dialer{Resolver: resolver(t, nameServer(t, refuse))}})
			client.Trust(authority.pool)
			e := endpoint(test.url)
			if strings.HasSuffix(test.url, "/header") {
				e.Headers = map[string]string{"x-broken": "a\nb"}
			}
			response := client.Post(t.Context(), e, message(), 1, allow)
			require.Equal(t, test.cause, response.Cause)
			require.Zero(t, response.StatusCode)
			require.Equal(t, test.sent, response.Sent)
		})
	}
}

func TestAResetInTheHeadersIsNoBadHTTP(t *testing.T) {
	t.Parallel()
	read := make(chan struct{}, 1)
	addr := listen(t, func(_ int, conn *net.TCPConn) {
		readRequest(conn)
		conn.Write([]byte("HTTP/1.1 200 OK\r\nServer: short\r\n"))
		<-read // a reset takes along what was not read yet
		conn.SetLinger(0)
	})
	client := clientOver(t, dials(func(ctx context.Context, kind, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, kind, addr)
		return tellingConn{conn, read}, err
	}))
	response := client.Post(t.Context(), endpoint("http://merchant.example"), message(), 1, allow)
	require.Equal(t, delivery.CauseReset, response.Cause)
	require.True(t, response.Sent)
}

// tellingConn tells that something was read.
type tellingConn struct {
	net.Conn
	read chan<- struct{}
}

func (c tellingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.read <- struct{}{}
	}
	return n, err
}

// net/http lets a request have a connection that another one gives back, while its own goes on being made.
func TestADialThatIsNotNeededAnyMoreSaysNothingAboutItsRequest(t *testing.T) {
	t.Parallel()
	giveBack, dialled, shaking := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var requests, dialling atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			<-giveBack
			return
		}
		io.Copy(io.Discard, r.Body) // so that the end of the connection is seen
		close(dialled)
		<-r.Context().Done()
	}))
	server.Config.ErrorLog = discard
	server.StartTLS()
	t.Cleanup(server.Close)
	silent := listen(t, func(_ int, conn *net.TCPConn) {
		conn.Read(make([]byte, 1))
		close(shaking)
		io.Copy(io.Discard, conn)
	})
	waiting := make(chan struct{})
	client := clientOver(t, dials(func(ctx context.Context, kind, addr string) (net.Conn, error) {
		if dialling.Add(1) == 2 {
			close(waiting)
			<-dialled
			addr = silent
		}
		return (&net.Dialer{}).DialContext(ctx, kind, addr)
	}))
	client.Trust(pool(server.Certificate()))
	e := endpoint(server.URL)
	first := make(chan deliver.Response, 1)
	begun := make(chan struct{})
	go func() {
		first <- client.Post(t.Context(), e, message(), 1, func() error {
			close(begun)
			return nil
		})
	}()
	<-begun
	go func() {
		<-waiting
		close(giveBack)
	}()
	e.Timeout = time.Second
	response := client.Post(t.Context(), e, message(), 1, allow)
	require.Equal(t, delivery.CauseOK, (<-first).Cause)
	require.Equal(t, delivery.CauseTimeoutAnswer, response.Cause)
	<-shaking
}

func TestFailuresThatAreOursAreNotTheEndpoints(t *testing.T) {
	t.Parallel()
	for _, code := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS} {
		client := clientOver(t, dials(func(context.Context, string, string) (net.Conn, error) {
			return nil, &net.OpError{Op: "dial", Err: os.NewSyscallError("socket", code)}
		}))
		response := client.Post(t.Context(), endpoint("http://merchant.example"), message(), 1, allow)
		require.Equal(t, delivery.CauseInternal, response.Cause, code)
		require.False(t, response.Cause.OfEndpoint())
	}
}

func TestWhatIsWrongWithACertificateIsSaid(t *testing.T) {
	t.Parallel()
	stranger := newAuthority()
	for name, test := range map[string]struct {
		of     *certificateAuthority
		change func(*x509.Certificate)
		client tls.ClientAuthType
		newest uint16
		cause  delivery.Cause
		sent   bool
	}{
		"good":                      {of: authority, cause: delivery.CauseOK, sent: true},
		"expired":                   {of: authority, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, cause: delivery.CauseTLSExpired},
		"not valid yet":             {of: authority, change: func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }, cause: delivery.CauseTLSExpired},
		"of another host":           {of: authority, change: func(c *x509.Certificate) { c.IPAddresses = []net.IP{{192, 0, 2, 1}} }, cause: delivery.CauseTLSHost},
		"of an unknown authority":   {of: stranger, cause: delivery.CauseTLSAuthority},
		"not for servers":           {of: authority, change: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection} }, cause: delivery.CauseTLS},
		"by an old version of TLS":  {of: authority, newest: tls.VersionTLS11, cause: delivery.CauseTLS},
		"TLS 1.3 that wants ours":   {of: authority, client: tls.RequireAnyClientCert, cause: delivery.CauseTLS, sent: true},
		"TLS 1.2 that wants one":    {of: authority, client: tls.RequireAnyClientCert, newest: tls.VersionTLS12, cause: delivery.CauseTLS},
		"TLS 1.2 that takes any":    {of: authority, client: tls.RequestClientCert, newest: tls.VersionTLS12, cause: delivery.CauseOK, sent: true},
		"expired, of a stranger":    {of: stranger, change: func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }, cause: delivery.CauseTLSExpired},
		"another host, a strangers": {of: stranger, change: func(c *x509.Certificate) { c.IPAddresses = nil }, cause: delivery.CauseTLSHost},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			server.Config.ErrorLog = discard
			server.TLS = &tls.Config{
				Certificates: []tls.Certificate{test.of.issue(t, test.change)}, ClientAuth: test.client,
				MinVersion: tls.VersionTLS10, MaxVersion: test.newest,
			}
			server.StartTLS()
			t.Cleanup(server.Close)
			client := newClient(t)
			client.Trust(authority.pool)
			response := client.Post(t.Context(), endpoint(server.URL), message(), 1, allow)
			require.Equal(t, test.cause, response.Cause)
			require.Equal(t, test.sent, response.Sent)
		})
	}
}

// certificateAuthority issues certificates for 127.0.0.1.
type certificateAuthority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pool        *x509.CertPool
}

var authority = newAuthority()

func newAuthority() *certificateAuthority {
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "an authority of a test"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	certificate, parseErr := x509.ParseCertificate(raw)
	if err := errors.Join(err, parseErr); err != nil {
		panic(err)
	}
	return &certificateAuthority{certificate: certificate, key: key, pool: pool(certificate)}
}

func (a *certificateAuthority) issue(t *testing.T, change func(*x509.Certificate)) tls.Certificate {
	t.Helper()
	key := newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), IPAddresses: []net.IP{{127, 0, 0, 1}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	if change != nil {
		change(template)
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}
}

func newKey() *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

func pool(certificates ...*x509.Certificate) *x509.CertPool {
	out := x509.NewCertPool()
	for _, each := range certificates {
		out.AddCert(each)
	}
	return out
}

// resolver asks the name server at addr alone, until the test ends.
func resolver(t *testing.T, addr string) *net.Resolver {
	t.Helper()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		if err := t.Context().Err(); err != nil {
			return nil, err
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "udp", addr)
		if err == nil {
			context.AfterFunc(t.Context(), func() { conn.Close() })
		}
		return conn, err
	}}
}

// nameServer gives each question to answer; it stays silent where that is nil.
func nameServer(t *testing.T, answer func(question []byte) []byte) string {
	t.Helper()
	conn, err := (&net.ListenConfig{}).ListenPacket(t.Context(), "udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer != nil {
				conn.WriteTo(answer(buffer[:n]), from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// refuse answers that there is no such name (RFC 1035, section 4.1.1: QR, RD, RA and the response code 3).
func refuse(question []byte) []byte {
	question[2], question[3] = 0x81, 0x83
	return question
}

// bound is a socket at an address of its own that refuses connections, and the address.
func bound(t *testing.T) (int, string) {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(socket) })
	require.NoError(t, syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(socket)
	require.NoError(t, err)
	return socket, "127.0.0.1:" + strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
}

// full is the address of a listener that drops what would connect, as its queue is full.
func full(t *testing.T) string {
	t.Helper()
	socket, addr := bound(t)
	require.NoError(t, syscall.Listen(socket, 0))
	for {
		conn, err := (&net.Dialer{Timeout: 100 * time.Millisecond}).DialContext(t.Context(), "tcp", addr)
		if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
			return addr
		}
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
	}
}
