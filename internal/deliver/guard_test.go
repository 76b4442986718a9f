package deliver_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
)

var (
	errTaken = errors.New("somebody else holds the claim")
	discard  = log.New(io.Discard, "", 0)
)

func deny() error { return errTaken }

func readRequest(conn net.Conn) error {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, request.Body)
	return err
}

func answer(conn net.Conn) { conn.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) }

func requireKeptBack(t *testing.T, response deliver.Response) {
	t.Helper()
	require.Equal(t, delivery.CauseNotStarted, response.Cause)
	require.False(t, response.Sent)
	require.Zero(t, response.StatusCode)
}

func TestAGuardThatDeniesLetsNotAByteOut(t *testing.T) {
	t.Parallel()
	received := make(chan []byte, 1)
	addr := listen(t, func(_ int, conn *net.TCPConn) {
		everything, _ := io.ReadAll(conn)
		received <- everything
	})
	response := newClient(t).Post(t.Context(), endpoint("http://"+addr), message(), 1, deny)
	requireKeptBack(t, response)
	require.Empty(t, <-received)
}

func TestTheGuardIsAskedWhenTheConnectionStands(t *testing.T) {
	t.Parallel()
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	t.Cleanup(certificate.Close)
	trust := x509.NewCertPool()
	trust.AddCert(certificate.Certificate())

	for name, guard := range map[string]func() error{"allowed": allow, "denied": deny} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dialled, release, received := make(chan struct{}), make(chan struct{}), make(chan int64, 1)
			var handshaking, asked atomic.Bool
			addr := listen(t, func(_ int, conn *net.TCPConn) {
				close(dialled)
				<-release
				handshaking.Store(true)
				secured := tls.Server(conn, &tls.Config{Certificates: certificate.TLS.Certificates, MinVersion: tls.VersionTLS12})
				defer secured.Close()
				first := make([]byte, 1)
				n, err := secured.Read(first) // the first byte of a request
				if err == nil && !asked.Load() {
					t.Error("a byte came before the guard was asked")
				}
				received <- int64(n)
				answer(secured)
			})
			client := newClient(t)
			client.Trust(trust)
			done := make(chan deliver.Response)
			go func() {
				done <- client.Post(t.Context(), endpoint("https://"+addr), message(), 1, func() error {
					asked.Store(true)
					if !handshaking.Load() {
						t.Error("the guard was asked while the connection was still being made")
					}
					return guard()
				})
			}()
			<-dialled
			require.False(t, asked.Load())
			close(release)
			response := <-done
			if name == "denied" {
				requireKeptBack(t, response)
				require.Zero(t, <-received)
				return
			}
			require.Equal(t, delivery.CauseOK, response.Cause)
			require.EqualValues(t, 1, <-received)
		})
	}
}

func TestTheGuardIsAskedOnAPooledConnectionToo(t *testing.T) {
	t.Parallel()
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests, connections atomic.Int32
			var protocol atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				protocol.Store(int32(r.ProtoMajor))
			}))
			server.Config.ErrorLog = discard
			server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
				if state == http.StateNew {
					connections.Add(1)
				}
			}
			server.EnableHTTP2 = http2
			server.StartTLS()
			t.Cleanup(server.Close)
			trust := x509.NewCertPool()
			trust.AddCert(server.Certificate())
			client := newClient(t)
			client.Trust(trust)
			post := func(guard deliver.Guard) deliver.Response {
				return client.Post(t.Context(), endpoint(server.URL), message(), 1, guard)
			}

			requireKeptBack(t, post(deny)) // on a fresh connection
			require.Equal(t, delivery.CauseOK, post(allow).Cause)
			requireKeptBack(t, post(deny))
			require.Equal(t, delivery.CauseOK, post(allow).Cause)
			require.EqualValues(t, 2, requests.Load(), "what was kept back was never handled")
			if http2 {
				require.EqualValues(t, 2, protocol.Load())
				require.EqualValues(t, 1, connections.Load(), "others go on over the connection of a request that was kept back")
			}
		})
	}
}

func TestAPooledConnectionThatIsDeadIsReplacedWithoutADuplicate(t *testing.T) {
	t.Parallel()
	for name, second := range map[string]func() error{"the guard allows again": allow, "the claim is gone by then": deny} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var handled atomic.Int32
			kill, killed := make(chan struct{}), make(chan struct{})
			addr := listen(t, func(number int, conn *net.TCPConn) {
				if readRequest(conn) != nil {
					return
				}
				handled.Add(1)
				answer(conn)
				if number == 1 { // the server restarts while the client keeps this connection for the next webhook
					<-kill
					conn.SetLinger(0)
					conn.Close()
					close(killed)
				}
			})
			client := newClient(t)
			require.Equal(t, delivery.CauseOK, client.Post(t.Context(), endpoint("http://"+addr), message(), 1, allow).Cause)

			asked := 0
			response := client.Post(t.Context(), endpoint("http://"+addr), message(), 1, func() error {
				asked++
				if asked == 1 { // the connection was taken out of the pool, and dies before anything is written
					close(kill)
					<-killed
					return nil
				}
				return second()
			})
			require.Equal(t, 2, asked, "once for each connection")
			if second() != nil {
				requireKeptBack(t, response)
				require.EqualValues(t, 1, handled.Load())
				return
			}
			require.Equal(t, delivery.CauseOK, response.Cause)
			require.EqualValues(t, 2, handled.Load(), "each webhook once")
		})
	}
}

func TestARequestWhoseTimeIsUpBeforeItLeavesIsNotSent(t *testing.T) {
	t.Parallel()
	received := make(chan []byte, 1)
	addr := listen(t, func(_ int, conn *net.TCPConn) {
		everything, _ := io.ReadAll(conn)
		received <- everything
	})
	e := endpoint("http://" + addr)
	e.Timeout = 50 * time.Millisecond
	response := newClient(t).Post(t.Context(), e, message(), 1, func() error {
		<-time.After(2 * e.Timeout) // the ledger takes its time
		return nil
	})
	requireKeptBack(t, response) // and its endpoint did nothing wrong
	require.Empty(t, <-received)
}
