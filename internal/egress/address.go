package egress

import (
	"net/netip"

	"code.dny.dev/ssrf"
)

// library is the authority on what is public. Ports are our own business.
var library = ssrf.New(ssrf.WithAnyPort())

// reasons names what is special about an address; the first match counts. But for what is marked, the library denies
// all of it anyway.
var reasons = []struct {
	prefix netip.Prefix
	reason Reason
}{
	{netip.MustParsePrefix("168.63.129.16/32"), ReasonMetadata}, // Azure's wire server; public space, not the library's
	{netip.MustParsePrefix("169.254.169.254/32"), ReasonMetadata},
	{netip.MustParsePrefix("169.254.170.2/32"), ReasonMetadata},       // AWS ECS: a task's credentials
	{netip.MustParsePrefix("169.254.170.23/32"), ReasonMetadata},      // AWS EKS: a pod's
	{netip.MustParsePrefix("169.254.42.42/32"), ReasonMetadata},       // Scaleway
	{netip.MustParsePrefix("169.254.0.23/32"), ReasonMetadata},        // Tencent
	{netip.MustParsePrefix("100.100.100.200/32"), ReasonMetadata},     // Alibaba
	{netip.MustParsePrefix("192.0.0.192/32"), ReasonMetadata},         // Oracle
	{netip.MustParsePrefix("fd00:ec2::254/128"), ReasonMetadata},      // AWS
	{netip.MustParsePrefix("fd00:ec2::23/128"), ReasonMetadata},       // AWS EKS
	{netip.MustParsePrefix("fd20:ce::254/128"), ReasonMetadata},       // Google
	{netip.MustParsePrefix("fd00:c1::a9fe:a9fe/128"), ReasonMetadata}, // Oracle
	{netip.MustParsePrefix("fd00:a9fe:a9fe::1/128"), ReasonMetadata},  // Linode
	{netip.MustParsePrefix("fd00:42::42/128"), ReasonMetadata},        // Scaleway
	{netip.MustParsePrefix("fe80::a9fe:a9fe/128"), ReasonMetadata},    // OpenStack
	{netip.MustParsePrefix("0.0.0.0/8"), ReasonUnspecified},           // RFC 1122
	{netip.MustParsePrefix("10.0.0.0/8"), ReasonPrivate},              // RFC 1918
	{netip.MustParsePrefix("172.16.0.0/12"), ReasonPrivate},           // RFC 1918
	{netip.MustParsePrefix("192.168.0.0/16"), ReasonPrivate},          // RFC 1918
	{netip.MustParsePrefix("100.64.0.0/10"), ReasonCGNAT},             // RFC 6598
	{netip.MustParsePrefix("127.0.0.0/8"), ReasonLoopback},            // RFC 1122
	{netip.MustParsePrefix("169.254.0.0/16"), ReasonLinkLocal},        // RFC 3927
	{netip.MustParsePrefix("192.88.99.0/24"), ReasonTransition},       // relays of 6to4, RFC 7526
	{netip.MustParsePrefix("224.0.0.0/4"), ReasonMulticast},           // RFC 5771
	{netip.MustParsePrefix("::/128"), ReasonUnspecified},              // RFC 4291
	{netip.MustParsePrefix("::1/128"), ReasonLoopback},                // RFC 4291
	{netip.MustParsePrefix("::/96"), ReasonTransition},                // IPv4-compatible, RFC 4291
	{netip.MustParsePrefix("::ffff:0:0:0/96"), ReasonTransition},      // IPv4-translated, RFC 2765
	{netip.MustParsePrefix("64:ff9b::/96"), ReasonTransition},         // NAT64, RFC 6052
	{netip.MustParsePrefix("64:ff9b:1::/48"), ReasonTransition},       // NAT64, RFC 8215
	{netip.MustParsePrefix("2001::/32"), ReasonTransition},            // Teredo, RFC 4380
	{netip.MustParsePrefix("2002::/16"), ReasonTransition},            // 6to4, RFC 3056
	{netip.MustParsePrefix("fc00::/7"), ReasonPrivate},                // unique local, RFC 4193
	{netip.MustParsePrefix("fec0::/10"), ReasonPrivate},               // site-local, RFC 3879
	{netip.MustParsePrefix("fe80::/10"), ReasonLinkLocal},             // RFC 4291
	{netip.MustParsePrefix("ff00::/8"), ReasonMulticast},              // RFC 4291
}

// special returns why no webhook may go to the address, and nil for a public one.
func special(addr netip.Addr) *Blocked {
	for _, each := range reasons {
		if each.prefix.Contains(addr) {
			return because(each.reason)
		}
	}
	if library.SafeAddr(addr) != nil {
		return because(ReasonReserved)
	}
	return nil
}
