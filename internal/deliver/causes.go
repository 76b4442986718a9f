package deliver

import (
	"context"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/hookline/hookline/internal/delivery"
)

// phase is how far a request has come. net/http tells it by its hooks; most of its errors are texts alone.
type phase int32

const (
	preparing  phase = iota
	connecting       // looking up the name, and TCP
	handshaking
	requesting
	answering // the first byte of the answer is there
)

// progress is the phase of one request. The hooks run in several goroutines.
type progress struct{ now atomic.Int32 }

func (p *progress) enter(next phase) { p.now.Store(int32(next)) }

// trace returns the hooks that keep the progress, but for requesting, which the turnstile opens.
func (p *progress) trace() *httptrace.ClientTrace {
	return &httptrace.ClientTrace{
		GetConn: func(string) { p.enter(connecting) },
		// Only from connecting: a dial goes on when its request has got another connection.
		TLSHandshakeStart:    func() { p.now.CompareAndSwap(int32(connecting), int32(handshaking)) },
		GotFirstResponseByte: func() { p.enter(answering) },
	}
}

// cause says why a request got no answer. ctx has the endpoint's time-out, err is net/http's.
func (p *progress) cause(ctx context.Context, err error) delivery.Cause {
	reached := phase(p.now.Load())
	timeout, isNet := errors.AsType[net.Error](err)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return delivery.CauseInternal // this process ends
	case ctx.Err() != nil, isNet && timeout.Timeout():
		return timeoutCause(reached)
	}
	switch reached {
	case preparing:
		return delivery.CauseInternal
	case connecting:
		return connectCause(err)
	case handshaking:
		return tlsCause(err)
	default:
		return answerCause(reached, err)
	}
}

func timeoutCause(reached phase) delivery.Cause {
	switch reached {
	case requesting, answering:
		return delivery.CauseTimeoutAnswer
	case handshaking:
		return delivery.CauseTimeoutTLS
	default:
		return delivery.CauseTimeoutConnect
	}
}

func connectCause(err error) delivery.Cause {
	if _, ok := errors.AsType[*net.DNSError](err); ok { // first: it may wrap how the name server was not reached
		return delivery.CauseDNS
	}
	code, _ := errors.AsType[syscall.Errno](err)
	switch code {
	case syscall.ECONNREFUSED:
		return delivery.CauseRefused
	case syscall.ECONNRESET:
		return delivery.CauseReset
	case syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM:
		return delivery.CauseInternal // it is this machine that is out of them
	default:
		return delivery.CauseUnreachable
	}
}

func tlsCause(err error) delivery.Cause {
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return delivery.CauseTLSExpired
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return delivery.CauseTLSHost
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return delivery.CauseTLSAuthority
	}
	if _, ok := errors.AsType[x509.SystemRootsError](err); ok {
		return delivery.CauseInternal // this machine trusts nobody
	}
	return delivery.CauseTLS
}

func answerCause(reached phase, err error) delivery.Cause {
	network, isNet := errors.AsType[*net.OpError](err)
	switch {
	case isNet && network.Op == "remote error":
		return delivery.CauseTLS // crypto/tls's name for an alert: TLS 1.3 asks for our certificate when we think that it is done
	case reached == answering && !errors.Is(err, io.ErrUnexpectedEOF):
		return delivery.CauseProtocol
	case strings.HasPrefix(err.Error(), "connection error: "):
		return delivery.CauseProtocol // what breaks the rules of HTTP/2; the type is net/http's own
	default:
		return delivery.CauseReset
	}
}

// statusCause says what an answer means. What its status says comes first. A page instead of an answer is told where the
// status alone would mislead: 403, which the challenge of a firewall has, and a status without a cause of its own. With
// any other, such as the page of a proxy whose server is down, the status says more.
func statusCause(code int, mediaType string) delivery.Cause {
	html := mediaType == "text/html" || mediaType == "application/xhtml+xml"
	switch {
	case code >= 200 && code <= 299:
		return delivery.CauseOK
	case code >= 300 && code <= 399:
		return delivery.CauseRedirect
	case code == http.StatusUnauthorized, code == http.StatusForbidden && !html:
		return delivery.CauseUnauthorized
	case code == http.StatusNotFound:
		return delivery.CauseNotFound
	case code == http.StatusGone:
		return delivery.CauseGone
	case code == http.StatusRequestEntityTooLarge:
		return delivery.CausePayloadTooLarge
	case code == http.StatusTooManyRequests:
		return delivery.CauseRateLimited
	case code >= 500 && code <= 599:
		return delivery.CauseServerError
	case html:
		return delivery.CauseHTML
	default:
		return delivery.CauseStatus
	}
}

// mediaType returns the answer's, without parameters and cut to what one is ever long.
func mediaType(header http.Header) string {
	value, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	value = strings.ToLower(strings.TrimSpace(value))
	return value[:min(len(value), 127)]
}
