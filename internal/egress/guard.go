package egress

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// Config are the settings of a Guard. The zero value lets nothing through.
type Config struct {
	Allow Allowlist `env:"ENDPOINT_ALLOW" unit:"comma-separated host, host:port, IP, CIDR or CIDR:port" desc:"where webhooks may go although it is not public; http and any port are permitted there. IPv6 before a port stands in brackets"`
	Ports []uint16  `env:"ENDPOINT_PORTS" envDefault:"443,8443" unit:"comma-separated ports" desc:"the ports that https endpoints may use"`
}

const (
	// maxURL is in bytes; the store of endpoints takes no longer one either.
	maxURL = 2048
	// lookupTimeout bounds a lookup at the making of an endpoint: a person waits.
	lookupTimeout = 3 * time.Second
	dialTimeout   = 10 * time.Second
	keepAlive     = 15 * time.Second
)

// Guard decides where webhooks may go. It is safe for concurrent use.
type Guard struct {
	allow    Allowlist
	ports    []uint16
	resolver *net.Resolver // nil is the machine's
}

// New makes a Guard.
func New(cfg Config) *Guard { return &Guard{allow: cfg.Allow, ports: cfg.Ports} }

// Describe says in one line what the allow-list lets through; it is empty where there is none.
func (g *Guard) Describe() string {
	if len(g.allow) == 0 {
		return ""
	}
	return "webhooks may go to " + g.allow.String() + ", by http and on any port too"
}

// LogAllowlist warns of an allow-list, where there is one. Services call it at their start: what is open is said.
func (g *Guard) LogAllowlist(ctx context.Context, log *slog.Logger) {
	if len(g.allow) > 0 {
		log.LogAttrs(ctx, slog.LevelWarn, "webhooks may go to what is not public", slog.String("endpoint_allow", g.allow.String()))
	}
}

// CheckURL says whether a webhook may go to the URL, as far as can be known now, and if not returns a *Blocked. A name
// is looked up, and every address of it must pass; one that does not resolve passes, as it may come to exist. Where
// only addresses on the allow-list would do (http, other ports, local names), a name must resolve to them. User
// info is not the guard's business. The error is the context's where that ends during the lookup.
func (g *Guard) CheckURL(ctx context.Context, raw string) error {
	p, blocked := g.readURL(raw)
	if blocked != nil {
		return blocked
	}
	if decided, err := g.judge(p); decided {
		return err
	}
	lookup, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	addrs, err := g.resolver.LookupNetIP(lookup, "ip", p.name)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil || len(addrs) == 0 {
		return asError(p.objection)
	}
	for _, addr := range addrs {
		// The resolver has an IPv4 address in either form.
		if err := g.checkAddr(addr.Unmap(), p.port, p.objection); err != nil {
			return err
		}
	}
	return nil
}

// DialContext connects to addr, host:port, as net.Dialer's does, but to no address that a webhook may not go to: each is
// checked when its socket exists and is not connected yet, after the lookup, so what is checked is what is
// connected to. The error for one that may not be is a *Blocked within a *net.OpError. It waits 10 s at most. It
// is for http.Transport.DialContext, with no Proxy: the guard would judge the proxy.
func (g *Guard) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil { // not told: it quotes the address
		return nil, refuse(network, &Blocked{ReasonHost, "want a host and a port"})
	}
	p, blocked := g.readPlace(host, port)
	if blocked != nil {
		return nil, refuse(network, blocked)
	}
	decided, err := g.judge(p)
	if err != nil {
		return nil, refuse(network, err)
	}
	dialer := net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive, Resolver: g.resolver}
	if byName := decided && p.name != ""; !byName {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			concrete, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return g.checkAddr(concrete.Addr(), concrete.Port(), p.objection)
		}
	}
	return dialer.DialContext(ctx, network, addr)
}

// refuse puts a reason where net.Dialer puts those of its ControlContext.
func refuse(network string, reason error) error {
	return &net.OpError{Op: "dial", Net: network, Err: reason}
}

// judge decides what can be decided before a lookup.
func (g *Guard) judge(p place) (decided bool, err error) {
	switch {
	case p.addr.IsValid():
		return true, g.checkAddr(p.addr, p.port, p.objection)
	case g.allow.hasName(p.name, p.port):
		return true, nil
	case p.objection != nil && !g.allow.hasAnyAddr(p.port):
		return true, p.objection // and our name server is not asked
	}
	return false, nil
}

// checkAddr judges one address, which what it is called or how it is spoken to may speak against.
func (g *Guard) checkAddr(addr netip.Addr, port uint16, objection *Blocked) error {
	switch {
	case addr.Zone() != "":
		return because(ReasonZone)
	case addr.Is4In6():
		return because(ReasonTransition)
	case g.allow.hasAddr(addr, port):
		return nil
	}
	if blocked := special(addr); blocked != nil {
		return blocked
	}
	return asError(objection)
}

// portList is for people.
func (g *Guard) portList() string {
	if len(g.ports) == 0 {
		return "none"
	}
	parts := make([]string, len(g.ports))
	for i, port := range g.ports {
		parts[i] = strconv.Itoa(int(port))
	}
	return strings.Join(parts, ", ")
}

// asError keeps a nil *Blocked from being an error.
func asError(blocked *Blocked) error {
	if blocked == nil {
		return nil
	}
	return blocked
}

// readURL takes only what every reader of URLs reads alike.
func (g *Guard) readURL(raw string) (place, *Blocked) {
	if len(raw) > maxURL {
		return place{}, &Blocked{ReasonURL, "the URL has more than " + strconv.Itoa(maxURL) + " bytes"}
	}
	// A backslash is a slash to browsers; tabs and line breaks are nothing to them.
	if !utf8.ValidString(raw) || strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\\' }) {
		return place{}, &Blocked{ReasonURL, "the URL has a space, a backslash or a control character"}
	}
	u, err := url.Parse(raw)
	if err != nil { // not told: it quotes the URL
		return place{}, &Blocked{ReasonURL, "the URL cannot be read"}
	}
	var port string
	switch u.Scheme {
	case "https":
		port = "443"
	case "http":
		port = "80"
	default:
		return place{}, &Blocked{ReasonScheme, "want an https URL"}
	}
	if u.Opaque != "" {
		return place{}, &Blocked{ReasonURL, "want two slashes after the scheme"}
	}
	_, authority, _ := strings.Cut(raw, "//")
	if end := strings.IndexAny(authority, "/?#"); end >= 0 {
		authority = authority[:end]
	}
	if strings.Count(authority, "@") > 1 { // readers differ on which of them ends the user info
		return place{}, &Blocked{ReasonURL, "an @ in a user's name or password is written %40"}
	}
	if given := u.Port(); given != "" || strings.HasSuffix(u.Host, ":") {
		port = given
	}
	p, blocked := g.readPlace(u.Hostname(), port)
	if blocked != nil {
		return place{}, blocked
	}
	if p.objection == nil && u.Scheme == "http" {
		p.objection = &Blocked{ReasonScheme, "want an https URL: http is for the allow-list only"}
	}
	return p, nil
}
