package egress

// Reason says which rule a destination breaks. It is a short fixed word, fit for a metric's label.
type Reason string

// The reasons.
const (
	ReasonURL         Reason = "url"                 // cannot be read as one URL only
	ReasonScheme      Reason = "scheme"              // not https
	ReasonHost        Reason = "host"                // empty, malformed, or a name of the local network
	ReasonPort        Reason = "port"                // none that webhooks go to
	ReasonZone        Reason = "zone"                // names a network interface of ours
	ReasonPrivate     Reason = "address_private"     // RFC 1918, unique local
	ReasonLoopback    Reason = "address_loopback"    // this machine
	ReasonLinkLocal   Reason = "address_link_local"  // this link
	ReasonMetadata    Reason = "address_metadata"    // a cloud's metadata service, by address or by name
	ReasonCGNAT       Reason = "address_cgnat"       // RFC 6598
	ReasonMulticast   Reason = "address_multicast"   // many
	ReasonUnspecified Reason = "address_unspecified" // which connects to this machine
	ReasonTransition  Reason = "address_transition"  // carries an IPv4 address
	ReasonReserved    Reason = "address_reserved"    // elsewhere in the IANA's registries
)

// details are the words for what is wrong with an address. None names the address: a merchant must not learn from it
// what our resolver answers.
var details = map[Reason]string{
	ReasonPrivate:     "the host's address is private",
	ReasonLoopback:    "the host's address is a loopback address",
	ReasonLinkLocal:   "the host's address is link-local",
	ReasonMetadata:    "the host is the metadata service of a cloud",
	ReasonCGNAT:       "the host's address is in the space of carrier-grade NAT",
	ReasonMulticast:   "the host's address is a multicast address",
	ReasonUnspecified: "the host's address is unspecified",
	ReasonTransition:  "the host's address is IPv6 that carries an IPv4 address: use the IPv4 address itself",
	ReasonReserved:    "the host's address is reserved, and not on the public internet",
	ReasonZone:        "the host's address has a zone",
}

// Blocked is the error for a destination that no webhook may go to.
type Blocked struct { //nolint:errname // a caller reads errors.AsType[*egress.Blocked]
	Reason Reason
	// Detail is for whoever chose the URL. It holds nothing of the URL but its port.
	Detail string
}

// Error implements error.
func (b *Blocked) Error() string { return "blocked (" + string(b.Reason) + "): " + b.Detail }

func because(reason Reason) *Blocked { return &Blocked{Reason: reason, Detail: details[reason]} }
