// Package egress decides where a webhook may go. Merchants choose the URLs of their endpoints, and our workers stand
// inside our network: without a guard, a merchant's URL is a way into it (server-side request forgery).
//
// A webhook goes by https, to one of the ports of the settings, to a public address. It is judged twice:
//
//   - CheckURL, when an endpoint is made or changed, so that a merchant learns at once what is wrong.
//   - DialContext, on each address that is connected to, between the making of its socket and the connect. This one
//     decides: what a name resolved to before is nothing that an attacker's name server must stick to.
//
// # Addresses
//
// What is public is decided by code.dny.dev/ssrf, which is made from the special-purpose registries of the IANA
// (RFC 6890): whatever it denies is denied, unless the allow-list names it. In IPv6 it takes nothing but global unicast,
// 2000::/3. We add the Azure wire server, 168.63.129.16, which stands in public space, and the reason, so that a
// person need not know the registries:
//
//   - private, loopback, link local, multicast, unspecified: RFC 1918, 4193, 3879, 1122, 4291, 3927, 5771
//   - carrier-grade NAT, whose 100.64.0.0/10 clouds use for themselves: RFC 6598
//   - IPv6 addresses that carry an IPv4 one, behind which anything may stand: 6to4 (RFC 3056, 7526), Teredo (RFC 4380),
//     NAT64 (RFC 6052, 8215), IPv4-mapped, -compatible and -translated (RFC 4291, 2765)
//   - the metadata services of the clouds, which hand out credentials, by address and by name
//   - zones (RFC 4007), which name a network interface of ours
//   - everything else in the registries: reserved
//
// # Names
//
// A host is an IP address in its canonical form or a DNS name in ASCII (RFC 1123, underscores besides). A name whose last
// label is a number is neither: inet_aton, which may resolve it, takes 0177.1, 0x7f000001 and 2130706433 for 127.0.0.1.
// International names are written in Punycode, so that what is checked is what is resolved. Single-label names and
// those under localhost, local, internal, home.arpa and their kind (RFC 6761, 6762 with its appendix G, 8375, ICANN's
// board on 29 July 2024) are answered by the machine or its network, never by public DNS: they are refused, and our
// name server is not even asked unless the allow-list holds addresses that they may have.
//
// # The allow-list
//
// It is empty unless an operator sets it. An entry that is a name lets that name through whatever it resolves to; an
// entry that is an address or a CIDR lets through the addresses, under whatever name. There, and nowhere else, http and
// other ports are permitted too. Two things it cannot permit: zones, and IPv4-mapped addresses, which are another
// spelling of what can be listed as IPv4.
//
// # What it cannot know
//
// Whether what is spoken over a connection is TLS: a dial sees a port, not a scheme. Plain http to a public address
// is refused by CheckURL, and by DialContext only for its port.
//
// Which public addresses are our own: a network with global IPv6 inside, with a NAT64 prefix of its own, or with internal
// services on public IPv4 needs a firewall of its own on the workers' way out. And a proxy that stands between: the
// guard judges whom it connects to.
package egress
