package egress

import (
	"net"
	"net/netip"
)

// NewWithResolver makes a Guard that asks a test's own name server.
func NewWithResolver(cfg Config, resolver *net.Resolver) *Guard {
	g := New(cfg)
	g.resolver = resolver
	return g
}

// CheckDial is what the dial asks about each address, for https on a usual port.
func (g *Guard) CheckDial(addr netip.Addr) error { return g.checkAddr(addr, 443, nil) }

// Special is the prefixes that have a reason of their own.
func Special() []netip.Prefix {
	out := make([]netip.Prefix, len(reasons))
	for i, each := range reasons {
		out[i] = each.prefix
	}
	return out
}
