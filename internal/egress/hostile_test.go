package egress_test

import (
	"cmp"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/egress"
)

// hostile are URLs that no webhook may go to, by the reason for it. None needs a lookup to be refused.
var hostile = map[egress.Reason][]string{
	egress.ReasonURL: {
		"https://good.example.com\\@127.0.0.1/",
		"https://127.0.0.1\\@good.example.com/",
		"https:\\\\127.0.0.1\\",
		"https://good.example.com/\\..\\",
		"https://127.0.0.1@evil@good.example.com/",
		"https://good.example.com@evil@127.0.0.1/",
		"https://127.0.\t0.1/",
		"https://good.example.com/\r\nHost: 127.0.0.1",
		"https://good.example.com\n.evil.example.com/",
		" https://127.0.0.1/",
		"https://127.0.0.1 /",
		"https://good.example.com/a path",
		"https://good.example.com\x00.evil.example.com/",
		"https://good.example.com/\x7f",
		"https://good.example.com/#\x7f",
		"https://good.example.com/#\n",
		"https://\xff\xfe/",
		"https://%31%32%37.0.0.1/",
		"https://127%2e0%2e0%2e1/",
		"https://good.example.com%00/",
		"https://good.example.com%2f@127.0.0.1%2f/",
		"https://[127.0.0.1]/",
		"https://[::1/",
		"https://::1/",
		"https://[::1]evil.example.com/",
		"https://[v1.fe80::a]/",
		"https://[fe80::1%eth0]/",
		"https://good.example.com:https/",
		"https://good.example.com:-443/",
		"https://good.example.com:443:22/",
		"https://good.example.com:443@127.0.0.1:x/",
		"https:good.example.com/",
		"https:127.0.0.1",
		"://127.0.0.1/",
		"https://good.example.com/%zz",
		"https://good.example.com/?" + strings.Repeat("a", 2048),
	},
	egress.ReasonScheme: {
		"",
		"good.example.com",
		"//127.0.0.1/",
		"/etc/passwd",
		"file:///etc/passwd",
		"ftp://good.example.com/",
		"gopher://127.0.0.1:6379/_FLUSHALL",
		"dict://127.0.0.1:11211/stat",
		"ws://good.example.com/",
		"javascript:alert(1)",
		"data:text/plain,hello",
		"jar:https://good.example.com!/",
		"unix:///var/run/docker.sock",
		"http+unix:///var/run/docker.sock",
		"httpss://good.example.com/",
		"HTTP://8.8.8.8:443/",
		"http://8.8.8.8:8443/",
		"http://good.example.com:443/",
	},
	egress.ReasonPort: {
		"https://8.8.8.8:22/",
		"https://good.example.com:6379/",
		"https://good.example.com:80/",
		"https://good.example.com:0/",
		"https://good.example.com:65536/",
		"https://good.example.com:99999999999999999999/",
		"https://good.example.com:0443/",
		"https://good.example.com:/",
		"https://[2606:4700::1111]:9000/",
		"http://good.example.com/",
		"http://8.8.8.8/",
	},
	egress.ReasonZone: {
		"https://[fe80::1%25eth0]/",
		"https://[::1%251]/",
		"https://[2606:4700::1111%25lo]/",
		"https://[::ffff:8.8.8.8%25eth0]/",
	},
	egress.ReasonHost: {
		"https:///path",
		"https://",
		"https://:443/",
		"https://@/",
		"https://user:password@/",
		"https://./",
		"https://../",
		"https://localhost/",
		"https://LocalHost/",
		"https://localhost./",
		"https://foo.localhost/",
		"https://localhost.localdomain/",
		"https://ip6-loopback/",
		"http://localhost:4001/",
		"https://vault/",
		"https://kubernetes/",
		"https://printer.local/",
		"https://db.INTERNAL/",
		"https://router.home.arpa/",
		"https://home.arpa/",
		"https://nas.lan/",
		"https://git.corp/",
		"https://2130706433/",
		"https://017700000001/",
		"https://0x7f000001/",
		"https://0X7F.1/",
		"https://0177.0.0.1/",
		"https://0x7f.0x0.0x0.0x1/",
		"https://127.1/",
		"https://127.0.1/",
		"https://127.0.0.1./",
		"https://127.0.0.01/",
		"https://127.0.0.1.2/",
		"https://256.256.256.256/",
		"https://1.2.3.999/",
		"https://0/",
		"https://0x/",
		"https://good.example.com.0x7f/",
		"https://good.example.com.127/",
		"https://127。0。0。1/",
		"https://１２７.0.0.1/",
		"https://①②⑦.⓪.⓪.①/",
		"https://%E2%91%A0%E2%91%A1%E2%91%A6.0.0.1/",
		"https://ｅｘａｍｐｌｅ.com/",
		"https://ⓔxample.com/",
		"https://exämple.com/",
		"https://good.example.com\u200b/",
		"https://good..example.com/",
		"https://.example.com/",
		"https://-good.example.com/",
		"https://good-.example.com/",
		"https://good.example.com../",
		"https://good*.example.com/",
		"https://good.example.com,127.0.0.1/",
		"https://good.example.com;127.0.0.1/",
		"https://good.example.com&127.0.0.1/",
		"https://a%25b.example.com/",
		"https://" + strings.Repeat("a", 64) + ".example.com/",
		"https://" + strings.Repeat("a.", 127) + "com/",
	},
	egress.ReasonLoopback: {
		"https://127.0.0.1/",
		"https://127.0.0.1:8443/",
		"https://127.0.0.1:22/",
		"http://127.0.0.1/",
		"http://127.0.0.1:9070/deployments",
		"https://127.255.255.254/",
		"https://good.example.com@127.0.0.1/",
		"https://good.example.com:443@127.0.0.1/",
		"https://good.example.com%40127.0.0.1:x@127.0.0.1/",
		"https://user:pass%2fword@127.0.0.1/",
		"https://127.0.0.1?@good.example.com/",
		"https://127.0.0.1#@good.example.com/",
		"HTTPS://127.0.0.1/",
		"https://[::1]/",
		"https://[0:0:0:0:0:0:0:1]/",
		"https://[0000::0001]:8443/",
	},
	egress.ReasonUnspecified: {
		"https://0.0.0.0/",
		"https://0.1.2.3/",
		"https://[::]/",
		"https://[::0.0.0.0]/",
	},
	egress.ReasonPrivate: {
		"https://10.0.0.1/",
		"https://10.255.255.255/",
		"https://172.16.0.1/",
		"https://172.31.255.255/",
		"https://192.168.1.1/",
		"https://[fc00::1]/",
		"https://[fd12:3456:789a::1]/",
		"https://[fec0::1]/",
	},
	egress.ReasonLinkLocal: {
		"https://169.254.1.1/",
		"https://169.254.169.253/",
		"https://[fe80::1]/",
		"https://[febf::1]/",
	},
	egress.ReasonMetadata: {
		"http://169.254.169.254/latest/meta-data/iam/security-credentials/",
		"https://169.254.169.254/",
		"https://169.254.170.2/v2/credentials",
		"https://100.100.100.200/latest/meta-data",
		"https://168.63.129.16/machine?comp=goalstate",
		"https://192.0.0.192/",
		"https://[fd00:ec2::254]/latest/meta-data",
		"https://[fd20:ce::254]/",
		"https://metadata.google.internal/computeMetadata/v1/",
		"https://Metadata.Google.Internal./",
		"https://metadata/",
		"https://metadata.goog/",
		"https://instance-data/",
		"https://metadata.tencentyun.com/",
	},
	egress.ReasonCGNAT: {
		"https://100.64.0.1/",
		"https://100.127.255.255/",
	},
	egress.ReasonMulticast: {
		"https://224.0.0.1/",
		"https://239.255.255.250/",
		"https://[ff02::1]/",
		"https://[ff0e::1]/",
	},
	egress.ReasonTransition: {
		"https://[::ffff:127.0.0.1]/",
		"https://[::ffff:7f00:1]/",
		"https://[0:0:0:0:0:ffff:169.254.169.254]/",
		"https://[::ffff:8.8.8.8]/",
		"https://[::127.0.0.1]/",
		"https://[::a9fe:a9fe]/",
		"https://[::ffff:0:127.0.0.1]/",
		"https://[64:ff9b::7f00:1]/",
		"https://[64:ff9b::169.254.169.254]/",
		"https://[64:ff9b::8.8.8.8]/",
		"https://[64:ff9b:1::10.0.0.1]/",
		"https://[2002:7f00:1::]/",
		"https://[2002:a00:1::1]/",
		"https://[2001::1]/",
		"https://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/",
		"https://192.88.99.1/",
	},
	egress.ReasonReserved: {
		"https://192.0.0.1/",
		"https://192.0.2.1/",
		"https://198.18.0.1/",
		"https://198.51.100.1/",
		"https://203.0.113.1/",
		"https://192.31.196.1/",
		"https://240.0.0.1/",
		"https://255.255.255.255/",
		"https://[100::1]/",
		"https://[2001:db8::1]/",
		"https://[2001:20::1]/",
		"https://[2620:4f:8000::1]/",
		"https://[3fff::1]/",
		"https://[4000::1]/",
		"https://[5f00::1]/",
	},
}

var usualPorts = []uint16{443, 8443}

func TestHostileURLsAreBlockedForTheirReason(t *testing.T) {
	t.Parallel()
	for reason, urls := range hostile {
		for _, raw := range urls {
			t.Run(string(reason)+" "+raw, func(t *testing.T) {
				t.Parallel()
				guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, noNameServer(t))
				err := guard.CheckURL(t.Context(), raw)
				blocked, ok := errors.AsType[*egress.Blocked](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, reason, blocked.Reason, blocked.Detail)
				require.NotEmpty(t, blocked.Detail)
			})
		}
	}
}

// What an endpoint's URL says may have been stored before there was a guard, or past it.
func TestHostilePlacesAreBlockedAgainWhenDialled(t *testing.T) {
	t.Parallel()
	for reason, urls := range hostile {
		for _, raw := range urls {
			u, err := url.Parse(raw)
			if err != nil || (u.Scheme != "http" && u.Scheme != "https") || reason == egress.ReasonURL || reason == egress.ReasonScheme {
				continue // never comes as far as a dial, or is as good as any other when it does
			}
			t.Run(string(reason)+" "+raw, func(t *testing.T) {
				t.Parallel()
				guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, noNameServer(t))
				port := cmp.Or(u.Port(), map[string]string{"http": "80", "https": "443"}[u.Scheme])
				if strings.HasSuffix(u.Host, ":") && u.Hostname() != "" {
					port = ""
				}
				conn, err := guard.DialContext(t.Context(), "tcp", net.JoinHostPort(u.Hostname(), port))
				require.Nil(t, conn)
				dial, ok := errors.AsType[*net.OpError](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, "dial", dial.Op)
				blocked, ok := errors.AsType[*egress.Blocked](err)
				require.True(t, ok, "%v", err)
				require.Equal(t, reason, blocked.Reason, blocked.Detail)
			})
		}
	}
}

func TestWhatIsSaidHoldsNothingOfTheURL(t *testing.T) {
	t.Parallel()
	const secret = "hunter2"
	for reason, urls := range hostile {
		for _, raw := range urls {
			withUser := strings.Replace(raw, "://", "://joe:"+secret+"@", 1)
			for _, raw := range []string{withUser, raw + "/" + secret, raw + "?" + secret, raw + "#" + secret, strings.Replace(raw, "://", "://"+secret, 1)} {
				guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, brokenNameServer())
				if err := guard.CheckURL(t.Context(), raw); err != nil {
					require.NotContains(t, err.Error(), secret, "%s: %s", reason, raw)
				}
			}
		}
	}
}
