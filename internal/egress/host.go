package egress

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// metadataNames are the names of the clouds' metadata services that public or cloud DNS answers.
var metadataNames = []string{
	"metadata", "instance-data", "rancher-metadata",
	"metadata.google.internal", "metadata.goog",
	"instance-data.ec2.internal",
	"metadata.azure.internal",
	"metadata.tencentyun.com",
	"metadata.packet.net", "metadata.platformequinix.com",
	"api.metadata.cloud.ibm.com",
}

// localDomains are never delegated in public DNS.
var localDomains = []string{
	"localhost", "localdomain", // RFC 6761, and what /etc/hosts makes of it
	"local", "intranet", "private", "corp", "home", "lan", // RFC 6762 and its appendix G
	"internal",  // reserved by ICANN's board on 29 July 2024
	"home.arpa", // RFC 8375
}

// place is where a webhook wants to go: a name or an address, and a port.
type place struct {
	name string // in lower case, without a trailing dot; empty where addr is valid
	addr netip.Addr
	port uint16
	// objection is what is wrong with name, port or scheme, unless the allow-list names the place.
	objection *Blocked
}

// readPlace reads a host, without brackets, and a port.
func (g *Guard) readPlace(host, port string) (place, *Blocked) {
	var p place
	var blocked *Blocked
	if addr, err := netip.ParseAddr(host); err == nil {
		p.addr = addr
	} else if p.name, blocked = readName(host); blocked != nil {
		return place{}, blocked
	}
	if p.port, blocked = readPort(port); blocked != nil {
		return place{}, blocked
	}
	p.objection = objectionToName(p.name)
	if p.objection == nil && !slices.Contains(g.ports, p.port) {
		p.objection = &Blocked{ReasonPort, "webhooks do not go to port " + port + "; permitted: " + g.portList()}
	}
	return p, nil
}

func objectionToName(name string) *Blocked {
	switch {
	case name == "":
		return nil
	case slices.Contains(metadataNames, name):
		return because(ReasonMetadata)
	case !strings.Contains(name, "."):
		return &Blocked{ReasonHost, "the host has a single label: want a name of public DNS"}
	case slices.ContainsFunc(localDomains, func(domain string) bool { return strings.HasSuffix("."+name, "."+domain) }):
		return &Blocked{ReasonHost, "the host is a name of a local network: want one of public DNS"}
	}
	return nil
}

// Limits of RFC 1035, in bytes and without a trailing dot.
const (
	maxName  = 253
	maxLabel = 63
)

// readName returns the name in lower case, without a trailing dot.
func readName(host string) (string, *Blocked) {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if name == "" {
		return "", &Blocked{ReasonHost, "the host is missing"}
	}
	if len(name) > maxName {
		return "", &Blocked{ReasonHost, "the host is longer than a name can be"}
	}
	var last string
	for label := range strings.SplitSeq(name, ".") {
		if !isLabel(label) {
			return "", &Blocked{ReasonHost, "the host is not a name: want letters, digits, hyphens and dots, an international name in Punycode (xn--)"}
		}
		last = label
	}
	if isNumber(last) {
		return "", &Blocked{ReasonHost, "the host ends in a number, and is not an IP address in its usual form"}
	}
	return name, nil
}

func isLabel(label string) bool {
	if label == "" || len(label) > maxLabel || label[0] == '-' || label[len(label)-1] == '-' {
		return false
	}
	for _, c := range []byte(label) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// isNumber reports whether inet_aton would take the label for a number: decimal, octal or hexadecimal. No top-level
// domain is one. The rule is that of the URL standard (ends in a number).
func isNumber(label string) bool {
	if digits, found := strings.CutPrefix(label, "0x"); found {
		return strings.Trim(digits, "0123456789abcdef") == ""
	}
	return strings.Trim(label, "0123456789") == ""
}

// readPort takes one spelling of each port only.
func readPort(text string) (uint16, *Blocked) {
	number, err := strconv.ParseUint(text, 10, 16)
	if err != nil || number == 0 || strconv.FormatUint(number, 10) != text {
		return 0, &Blocked{ReasonPort, "want a port from 1 to 65535"}
	}
	return uint16(number), nil
}
