package egress

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Allowlist are the destinations that the rules for all others do not hold for. The zero value has none.
type Allowlist []entry

// entry is a name or a prefix, on one port or, where that is 0, on all.
type entry struct {
	name   string
	prefix netip.Prefix
	port   uint16
}

// UnmarshalText reads a comma-separated list of host, host:port, IP, CIDR, IP:port and CIDR:port. IPv6 with a port
// stands in brackets: [fd00::1]:8080, [fd00::/8]:8080. It refuses the whole list where a piece is bad, and names it.
func (a *Allowlist) UnmarshalText(text []byte) error {
	var out Allowlist
	if strings.TrimSpace(string(text)) != "" {
		for piece := range strings.SplitSeq(string(text), ",") {
			piece = strings.TrimSpace(piece)
			e, err := readEntry(piece)
			if err != nil {
				return fmt.Errorf("reading %q: %w", piece, err)
			}
			out = append(out, e)
		}
	}
	*a = out
	return nil
}

func readEntry(piece string) (entry, error) {
	host, port := piece, ""
	bracketed := strings.HasPrefix(piece, "[")
	_, addrErr := netip.ParseAddr(piece)
	_, prefixErr := netip.ParsePrefix(piece)
	switch {
	case bracketed && strings.HasSuffix(piece, "]"):
		host = piece[1 : len(piece)-1]
	case strings.Contains(piece, ":") && addrErr != nil && prefixErr != nil:
		var err error
		if host, port, err = net.SplitHostPort(piece); err != nil {
			return entry{}, errors.New("want host, host:port, IP, CIDR or CIDR:port, with IPv6 in brackets before a port")
		}
	}
	var e entry
	if port != "" || strings.HasSuffix(piece, ":") {
		number, blocked := readPort(port)
		if blocked != nil {
			return entry{}, errors.New(blocked.Detail)
		}
		e.port = number
	}
	var err error
	if e.prefix, err = readPrefix(host); err != nil {
		return entry{}, err
	}
	if bracketed && !e.prefix.Addr().Is6() {
		return entry{}, errors.New("only IPv6 stands in brackets")
	}
	if e.prefix.IsValid() {
		return e, nil
	}
	name, blocked := readName(host)
	if blocked != nil {
		return entry{}, errors.New(blocked.Detail)
	}
	e.name = name
	return e, nil
}

// readPrefix reads an address or a CIDR; the result is not valid where text is neither, but may be a name.
func readPrefix(text string) (netip.Prefix, error) {
	var prefix netip.Prefix
	if addr, err := netip.ParseAddr(text); err == nil {
		if addr.Zone() != "" {
			return prefix, errors.New("a zone cannot be allowed")
		}
		prefix = netip.PrefixFrom(addr, addr.BitLen())
	} else if strings.Contains(text, "/") {
		if prefix, err = netip.ParsePrefix(text); err != nil {
			return prefix, errors.New("want a CIDR such as 10.1.0.0/16 or fd00::/8, and not a URL")
		}
	}
	switch {
	case prefix.IsValid() && prefix.Addr().Is4In6():
		return prefix, errors.New("write an IPv4-mapped address as IPv4")
	case prefix != prefix.Masked():
		return prefix, fmt.Errorf("has bits beyond its mask: did you mean %s?", prefix.Masked())
	}
	return prefix, nil
}

// String is a form that UnmarshalText reads. IPv6 stands in brackets, so that a port does not look like a part of it.
func (a Allowlist) String() string {
	parts := make([]string, len(a))
	for i, e := range a {
		text := e.name
		if e.prefix.IsValid() {
			text = e.prefix.String()
			if e.prefix.IsSingleIP() {
				text = e.prefix.Addr().String()
			}
			if e.prefix.Addr().Is6() {
				text = "[" + text + "]"
			}
		}
		if e.port != 0 {
			text += ":" + strconv.Itoa(int(e.port))
		}
		parts[i] = text
	}
	return strings.Join(parts, ",")
}

func (e entry) on(port uint16) bool { return e.port == 0 || e.port == port }

// hasName reports whether the name, which must not be empty, is allowed whatever it resolves to.
func (a Allowlist) hasName(name string, port uint16) bool {
	return slices.ContainsFunc(a, func(e entry) bool { return e.name == name && e.on(port) })
}

// hasAddr reports whether the address is allowed whatever it is called.
func (a Allowlist) hasAddr(addr netip.Addr, port uint16) bool {
	return slices.ContainsFunc(a, func(e entry) bool { return e.prefix.Contains(addr) && e.on(port) })
}

// hasAnyAddr reports whether any address at all is allowed on the port.
func (a Allowlist) hasAnyAddr(port uint16) bool {
	return slices.ContainsFunc(a, func(e entry) bool { return e.prefix.IsValid() && e.on(port) })
}
