package egress_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/platform/config"
)

const (
	publicIPv4 = "93.184.215.14"
	publicIPv6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"
)

func allowlist(t *testing.T, text string) egress.Allowlist {
	t.Helper()
	var list egress.Allowlist
	require.NoError(t, list.UnmarshalText([]byte(text)))
	return list
}

func requireBlocked(t *testing.T, reason egress.Reason, err error) {
	t.Helper()
	blocked, ok := errors.AsType[*egress.Blocked](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, reason, blocked.Reason, blocked.Detail)
}

// listener counts who connects to it.
type listener struct {
	addr     netip.AddrPort
	accepted atomic.Int32
}

func listen(t *testing.T, addr string) *listener {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	require.NoError(t, err)
	out := &listener{addr: netip.MustParseAddrPort(l.Addr().String())}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			out.accepted.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return out
}

func (l *listener) port() string { return strconv.Itoa(int(l.addr.Port())) }

func TestPublicEndpointsPass(t *testing.T) {
	t.Parallel()
	guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, nameServer(t, zone{
		"good.example.com":      {{publicIPv4}},
		"both.example.com":      {{publicIPv4, publicIPv6}},
		"new.example.com":       {{publicIPv6}},
		"xn--exmple-cua.com":    {{publicIPv4}},
		"a_b.example.com":       {{publicIPv4}},
		"localhost.example.com": {{publicIPv4}},
		"127.0.0.1.example.com": {{publicIPv4}},
		"nothing.example.com":   {{}},
	}))
	for _, raw := range []string{
		"https://good.example.com",
		"https://good.example.com/",
		"https://good.example.com./",
		"HTTPS://Good.Example.COM/hooks",
		"https://good.example.com:443/hooks?key=value&other=a%20b",
		"https://good.example.com:8443/hooks#part",
		"https://good.example.com/hooks@127.0.0.1",
		"https://joe@good.example.com/a@b@c?d@e",
		"https://shop.glocal/",
		"https://good.example.com/?to=http://127.0.0.1/",
		"https://joe:secret@good.example.com/hooks",
		"https://joe%40good:secret@good.example.com/hooks",
		"https://both.example.com/",
		"https://new.example.com/",
		"https://xn--exmple-cua.com/",
		"https://a_b.example.com/",
		"https://localhost.example.com/",
		"https://127.0.0.1.example.com/",
		"https://nothing.example.com/",
		"https://missing.example.com/",
		"https://8.8.8.8/",
		"https://8.8.8.8:8443/",
		"https://172.15.0.1/",
		"https://172.32.0.1/",
		"https://100.128.0.1/",
		"https://168.63.129.17/",
		"https://[2606:4700:4700::1111]/",
		"https://[2606:4700:4700:0:0:0:0:1111]:8443/",
	} {
		require.NoError(t, guard.CheckURL(t.Context(), raw), raw)
	}
}

func TestEveryAddressOfANameIsChecked(t *testing.T) {
	t.Parallel()
	guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, nameServer(t, zone{
		"loopback.example.com":  {{"127.0.0.1"}},
		"mixed.example.com":     {{publicIPv4, "10.0.0.1"}},
		"other.example.com":     {{publicIPv4, "fd00::1"}},
		"cloud.example.com":     {{"169.254.169.254"}},
		"azure.example.com":     {{publicIPv4, "168.63.129.16"}},
		"mapped.example.com":    {{"::ffff:127.0.0.1"}},
		"sixtofour.example.com": {{"2002:7f00:1::"}},
	}))
	for raw, reason := range map[string]egress.Reason{
		"https://loopback.example.com/":  egress.ReasonLoopback,
		"https://mixed.example.com/":     egress.ReasonPrivate,
		"https://other.example.com/":     egress.ReasonPrivate,
		"https://cloud.example.com/":     egress.ReasonMetadata,
		"https://azure.example.com/":     egress.ReasonMetadata,
		"https://mapped.example.com/":    egress.ReasonLoopback,
		"https://sixtofour.example.com/": egress.ReasonTransition,
	} {
		requireBlocked(t, reason, guard.CheckURL(t.Context(), raw))
	}
}

func TestANameServerThatFailsBlocksNoEndpoint(t *testing.T) {
	t.Parallel()
	guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, brokenNameServer())
	require.NoError(t, guard.CheckURL(t.Context(), "https://good.example.com/"))
}

func TestTheEndOfTheCallerEndsTheLookup(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, &net.Resolver{
		PreferGo: true,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	require.ErrorIs(t, guard.CheckURL(ctx, "https://good.example.com/"), context.Canceled)
}

func TestANameThatIsReboundIsBlockedWhenDialled(t *testing.T) {
	t.Parallel()
	inside := listen(t, "127.0.0.1:0")
	guard := egress.NewWithResolver(egress.Config{Ports: []uint16{inside.addr.Port()}}, nameServer(t, zone{
		"rebind.example.com": {{publicIPv4}, {"127.0.0.1"}},
	}))
	require.NoError(t, guard.CheckURL(t.Context(), "https://rebind.example.com:"+inside.port()+"/"))

	conn, err := guard.DialContext(t.Context(), "tcp", "rebind.example.com:"+inside.port())
	require.Nil(t, conn)
	requireBlocked(t, egress.ReasonLoopback, err)
	_, ok := errors.AsType[*net.OpError](err)
	require.True(t, ok)

	requireBlocked(t, egress.ReasonLoopback, guard.CheckURL(t.Context(), "https://rebind.example.com:"+inside.port()+"/"))
	require.Zero(t, inside.accepted.Load())
}

// The address on the allow-list stands for a public one.
func TestOfSeveralAddressesThePrivateOneIsNeverConnectedTo(t *testing.T) {
	t.Parallel()
	inside := listen(t, "127.0.0.1:0")
	outside := listen(t, "127.0.0.2:"+inside.port())
	resolver := nameServer(t, zone{
		"first.example.com":  {{"127.0.0.1", "127.0.0.2"}},
		"last.example.com":   {{"127.0.0.2", "127.0.0.1"}},
		"six.example.com":    {{"::1", "127.0.0.1", "127.0.0.2"}},
		"inside.example.com": {{"127.0.0.1", "::1"}},
	})
	guard := egress.NewWithResolver(egress.Config{Allow: allowlist(t, "127.0.0.2"), Ports: []uint16{inside.addr.Port()}}, resolver)
	for _, name := range []string{"first", "last", "six"} {
		conn, err := guard.DialContext(t.Context(), "tcp", name+".example.com:"+inside.port())
		require.NoError(t, err, name)
		require.Equal(t, outside.addr.String(), conn.RemoteAddr().String(), name)
		require.NoError(t, conn.Close())
		requireBlocked(t, egress.ReasonLoopback, guard.CheckURL(t.Context(), "https://"+name+".example.com:"+inside.port()+"/"))
	}
	_, err := guard.DialContext(t.Context(), "tcp", "inside.example.com:"+inside.port())
	requireBlocked(t, egress.ReasonLoopback, err)
	require.Zero(t, inside.accepted.Load())
}

func TestARedirectLeadsNowhere(t *testing.T) {
	t.Parallel()
	inside := listen(t, "127.0.0.1:0")
	merchant := httptest.NewServer(http.RedirectHandler("http://"+inside.addr.String()+"/", http.StatusFound))
	t.Cleanup(merchant.Close)
	guard := egress.New(egress.Config{Allow: allowlist(t, merchant.Listener.Addr().String()), Ports: usualPorts})
	transport := &http.Transport{DialContext: guard.DialContext}
	t.Cleanup(transport.CloseIdleConnections)
	get := func(client *http.Client) (*http.Response, error) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, merchant.URL, http.NoBody)
		require.NoError(t, err)
		return client.Do(request)
	}

	response, err := get(&http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}})
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusFound, response.StatusCode)

	response, err = get(&http.Client{Transport: transport})
	if response != nil {
		response.Body.Close()
	}
	requireBlocked(t, egress.ReasonLoopback, err)
	require.Zero(t, inside.accepted.Load())
}

func TestTheAllowListPermitsWhatItNamesAndNoMore(t *testing.T) {
	t.Parallel()
	resolver := nameServer(t, zone{
		"simulator":                {{"10.1.2.3"}},
		"simulator.example.com":    {{"10.1.2.3"}},
		"elsewhere.example.com":    {{"10.2.2.3"}},
		"half.example.com":         {{"10.1.2.3", publicIPv4}},
		"good.example.com":         {{publicIPv4}},
		"six.example.com":          {{"fd00::1"}},
		"metadata.google.internal": {{"169.254.169.254"}},
	})
	const permitted = egress.Reason("")
	for _, test := range []struct {
		allow, url string
		want       egress.Reason
	}{
		// By name: whatever it resolves to, if anything, by http and on any port.
		{"simulator:4001", "http://simulator:4001/webhooks", permitted},
		{"simulator:4001", "https://simulator:4001/webhooks", permitted},
		{"simulator:4001", "http://SIMULATOR.:4001/webhooks", permitted},
		{"Simulator.:4001", "http://simulator:4001/webhooks", permitted},
		{"simulator:4001", "http://simulator:4002/webhooks", egress.ReasonHost},
		{"simulator:4001", "http://simulator/webhooks", egress.ReasonHost},
		{"simulator:4001", "http://not-simulator:4001/", egress.ReasonHost},
		{"simulator:4001", "http://a.simulator:4001/", egress.ReasonPort},
		{"simulator:4001", "http://10.1.2.3:4001/", egress.ReasonPrivate},
		{"simulator:4001", "ftp://simulator:4001/", egress.ReasonScheme},
		{"simulator", "http://simulator:1/", permitted},
		{"simulator", "http://simulator/", permitted},
		{"absent.example.com", "http://absent.example.com/", permitted},
		{"localhost", "http://localhost:4001/", permitted},
		{"localhost", "http://127.0.0.1:4001/", egress.ReasonLoopback},
		{"good.example.com", "http://good.example.com:8080/", permitted},
		{"metadata.google.internal", "http://metadata.google.internal/", permitted},
		// By address: under whatever name.
		{"10.1.0.0/16", "https://10.1.2.3/", permitted},
		{"10.1.0.0/16", "http://10.1.2.3/", permitted},
		{"10.1.0.0/16", "http://10.1.2.3:4001/", permitted},
		{"10.1.0.0/16", "http://10.2.2.3/", egress.ReasonPrivate},
		{"10.1.0.0/16", "https://[::ffff:10.1.2.3]/", egress.ReasonTransition},
		{"10.1.0.0/16", "http://simulator:4001/", permitted},
		{"10.1.0.0/16", "http://simulator.example.com/", permitted},
		{"10.1.0.0/16", "https://simulator.example.com:4001/", permitted},
		{"10.1.0.0/16", "http://elsewhere.example.com/", egress.ReasonPrivate},
		{"10.1.0.0/16", "https://half.example.com/", permitted},
		{"10.1.0.0/16", "http://half.example.com:443/", egress.ReasonScheme},
		{"10.1.0.0/16", "http://half.example.com/", egress.ReasonPort},
		{"10.1.0.0/16", "http://good.example.com:443/", egress.ReasonScheme},
		{"10.1.0.0/16", "http://absent.example.com:443/", egress.ReasonScheme},
		{"10.1.0.0/16", "https://absent.example.com/", permitted},
		{"10.1.0.0/16", "https://metadata.google.internal/", egress.ReasonMetadata},
		{"10.1.2.3", "https://simulator.example.com/", permitted},
		{"10.1.2.4", "https://simulator.example.com/", egress.ReasonPrivate},
		{"10.1.2.3:4001", "http://simulator.example.com:4001/", permitted},
		{"10.1.2.3:4001", "https://simulator.example.com/", egress.ReasonPrivate},
		{"10.1.0.0/16:4001", "https://10.1.2.3:4002/", egress.ReasonPrivate},
		{"fd00::1", "http://[fd00::1]:4001/", permitted},
		{"[fd00::1]:4001", "http://six.example.com:4001/", permitted},
		{"[fd00::/8]:4001", "http://[fd00::2]:4001/", permitted},
		{"[fd00::/8]:4001", "http://[fd00::2]:4002/", egress.ReasonPrivate},
		{"fe80::/10", "https://[fe80::1%25eth0]/", egress.ReasonZone},
		{"::/0", "https://[::ffff:127.0.0.1]/", egress.ReasonTransition},
		// Several.
		{"simulator:4001, 127.0.0.0/8", "http://127.0.0.1:4001/", permitted},
		{"simulator:4001, 127.0.0.0/8", "http://simulator:4001/", permitted},
		{"simulator:4001, 127.0.0.0/8", "https://10.1.2.3/", egress.ReasonPrivate},
	} {
		guard := egress.NewWithResolver(egress.Config{Allow: allowlist(t, test.allow), Ports: usualPorts}, resolver)
		err := guard.CheckURL(t.Context(), test.url)
		if test.want == permitted {
			require.NoError(t, err, "%s: %s", test.allow, test.url)
			continue
		}
		blocked, ok := errors.AsType[*egress.Blocked](err)
		require.True(t, ok, "%s: %s: %v", test.allow, test.url, err)
		require.Equal(t, test.want, blocked.Reason, "%s: %s", test.allow, test.url)
	}
}

func TestTheAllowListHoldsWhenDialled(t *testing.T) {
	t.Parallel()
	inside := listen(t, "127.0.0.1:0")
	resolver := nameServer(t, zone{
		"simulator":         {{"127.0.0.1"}},
		"named.example.com": {{"127.0.0.1"}},
		"good.example.com":  {{publicIPv4}},
	})
	for _, test := range []struct {
		allow, host string
		want        egress.Reason // empty: is connected to
	}{
		{"simulator:" + inside.port(), "simulator", ""},
		{"simulator", "Simulator.", ""},
		{"simulator:1", "simulator", egress.ReasonHost},
		{"simulator:" + inside.port(), "named.example.com", egress.ReasonPort},
		{"127.0.0.1", "simulator", ""},
		{"127.0.0.1", "named.example.com", ""},
		{"127.0.0.1", "127.0.0.1", ""},
		{"127.0.0.0/8:" + inside.port(), "named.example.com", ""},
		{"127.0.0.0/8:1", "127.0.0.1", egress.ReasonLoopback},
		{"127.0.0.0/8:1", "named.example.com", egress.ReasonPort},
		{"127.0.0.2", "named.example.com", egress.ReasonLoopback},
		{"127.0.0.1", "::ffff:127.0.0.1", egress.ReasonTransition},
		{"::1", "127.0.0.1", egress.ReasonLoopback},
		{"named.example.com", "127.0.0.1", egress.ReasonLoopback},
		// An address for that port on the list makes others on it no better, public or not.
		{"10.0.0.0/8:" + inside.port(), "good.example.com", egress.ReasonPort},
		{"10.0.0.0/8:" + inside.port(), "named.example.com", egress.ReasonLoopback},
	} {
		guard := egress.NewWithResolver(egress.Config{Allow: allowlist(t, test.allow), Ports: usualPorts}, resolver)
		conn, err := guard.DialContext(t.Context(), "tcp", net.JoinHostPort(test.host, inside.port()))
		if test.want != "" {
			blocked, ok := errors.AsType[*egress.Blocked](err)
			require.True(t, ok, "%s: %s: %v", test.allow, test.host, err)
			require.Equal(t, test.want, blocked.Reason, "%s: %s", test.allow, test.host)
			continue
		}
		require.NoError(t, err, "%s: %s", test.allow, test.host)
		require.NoError(t, conn.Close())
	}
}

func TestOnlyTCPIsDialled(t *testing.T) {
	t.Parallel()
	guard := egress.New(egress.Config{Allow: allowlist(t, "127.0.0.1"), Ports: usualPorts})
	for _, network := range []string{"udp", "unix", "ip4:icmp", ""} {
		_, err := guard.DialContext(t.Context(), network, "127.0.0.1:443")
		require.ErrorIs(t, err, net.UnknownNetworkError(network))
	}
	for _, addr := range []string{"", "8.8.8.8", "::1:443", "[::1", ":443", "good.example.com:https"} {
		_, err := guard.DialContext(t.Context(), "tcp", addr)
		_, ok := errors.AsType[*egress.Blocked](err)
		require.True(t, ok, "%s: %v", addr, err)
	}
}

func TestTheZeroConfigLetsNothingThrough(t *testing.T) {
	t.Parallel()
	guard := egress.NewWithResolver(egress.Config{}, noNameServer(t))
	requireBlocked(t, egress.ReasonPort, guard.CheckURL(t.Context(), "https://8.8.8.8/"))
	requireBlocked(t, egress.ReasonPort, guard.CheckURL(t.Context(), "https://good.example.com/"))
}

func TestAnAllowListIsSaidAtTheStart(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	guard := egress.New(egress.Config{Ports: usualPorts})
	guard.LogAllowlist(t.Context(), log)
	require.Empty(t, out.String())
	require.Empty(t, guard.Describe())

	guard = egress.New(egress.Config{Allow: allowlist(t, "simulator:4001,10.0.0.0/8"), Ports: usualPorts})
	guard.LogAllowlist(t.Context(), log)
	require.Contains(t, out.String(), "level=WARN")
	require.Contains(t, out.String(), "endpoint_allow=simulator:4001,10.0.0.0/8")
	require.Contains(t, guard.Describe(), "simulator:4001,10.0.0.0/8")
}

func TestTheSettingsAreReadFromTheEnvironment(t *testing.T) {
	t.Parallel()
	type settings struct{ egress.Config }
	cfg, err := config.Load(settings{}, nil)
	require.NoError(t, err)
	require.Equal(t, egress.Config{Ports: usualPorts}, cfg.Config)

	cfg, err = config.Load(settings{}, []string{"ENDPOINT_ALLOW=simulator:4001, fd00::/8", "ENDPOINT_PORTS=443"})
	require.NoError(t, err)
	require.Equal(t, egress.Config{Allow: allowlist(t, "simulator:4001,fd00::/8"), Ports: []uint16{443}}, cfg.Config)
	require.Equal(t, map[string]string{"ENDPOINT_ALLOW": "simulator:4001,[fd00::/8]", "ENDPOINT_PORTS": "[443]"}, config.Attrs(cfg))

	_, err = config.Load(settings{}, []string{"ENDPOINT_ALLOW=simulator:4001,*.example.com", "ENDPOINT_PORTS=443,https"})
	require.ErrorContains(t, err, "ENDPOINT_ALLOW")
	require.ErrorContains(t, err, `"*.example.com"`)
	require.ErrorContains(t, err, "ENDPOINT_PORTS")
	require.ErrorContains(t, err, `"https"`)
}
