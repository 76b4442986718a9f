package egress_test

import (
	"errors"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"code.dny.dev/ssrf"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/egress"
)

var registries = ssrf.New(ssrf.WithAnyPort())

// denied are the prefixes that nothing may pass from, ours and the library's.
var denied = slices.Concat(egress.Special(), ssrf.IPv4DeniedPrefixes, ssrf.IPv6DeniedPrefixes)

// requirePublic checks, by what others know of addresses, that this one is public.
func requirePublic(t require.TestingT, addr netip.Addr) {
	require.NoError(t, registries.SafeAddr(addr))
	require.True(t, addr.IsGlobalUnicast(), addr)
	require.False(t, addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast() || addr.IsUnspecified() || addr.IsMulticast(), addr)
	require.False(t, addr.Is4In6(), addr)
	require.Empty(t, addr.Zone())
	for _, prefix := range denied {
		require.False(t, prefix.Contains(addr), "%s in %s", addr, prefix)
	}
}

// addresses are of both families, as often at and within the borders of what is denied as anywhere.
func addresses() *rapid.Generator[netip.Addr] {
	return rapid.Custom(func(t *rapid.T) netip.Addr {
		var v4 [4]byte
		var v6 [16]byte
		copy(v4[:], rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "v4"))
		copy(v6[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "v6"))
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			return netip.AddrFrom4(v4)
		case 1:
			return netip.AddrFrom16(v6)
		case 2:
			v6[0] = v6[0]&0x1f | 0x20 // global unicast
			return netip.AddrFrom16(v6)
		case 3:
			return netip.AddrFrom16(netip.AddrFrom4(v4).As16()) // IPv4-mapped
		}
		prefix := rapid.SampledFrom(denied).Draw(t, "prefix")
		inside := prefix.Addr().AsSlice()
		noise := append(v4[:], v6[:]...)
		for i := range inside {
			for bit := range 8 {
				if i*8+bit >= prefix.Bits() {
					inside[i] |= noise[i] & (0x80 >> bit)
				}
			}
		}
		addr, _ := netip.AddrFromSlice(inside)
		switch rapid.IntRange(0, 3).Draw(t, "border") {
		case 0:
			if before := prefix.Addr().Prev(); before.IsValid() {
				return before
			}
		case 1:
			return prefix.Addr()
		}
		return addr
	})
}

func TestNothingThatTheLibraryDeniesIsDialled(t *testing.T) {
	t.Parallel()
	guard := egress.New(egress.Config{Ports: usualPorts})
	rapid.Check(t, func(t *rapid.T) {
		addr := addresses().Draw(t, "addr")
		err := guard.CheckDial(addr)
		if err == nil {
			requirePublic(t, addr)
			return
		}
		blocked, ok := errors.AsType[*egress.Blocked](err)
		require.True(t, ok)
		require.NotEmpty(t, blocked.Detail)
		if registries.SafeAddr(addr) == nil {
			require.Equal(t, "168.63.129.16", addr.String(), "nothing else is denied beyond the library")
		}
	})
}

func TestEveryDeniedPrefixIsDeniedFromEndToEnd(t *testing.T) {
	t.Parallel()
	guard := egress.New(egress.Config{Ports: usualPorts})
	for _, prefix := range denied {
		last := prefix.Addr().AsSlice()
		for bit := prefix.Bits(); bit < prefix.Addr().BitLen(); bit++ {
			last[bit/8] |= 0x80 >> (bit % 8)
		}
		end, ok := netip.AddrFromSlice(last)
		require.True(t, ok)
		require.Error(t, guard.CheckDial(prefix.Addr()), prefix)
		require.Error(t, guard.CheckDial(end), prefix)
	}
}

func TestAnAllowListChangesNothingBeyondItself(t *testing.T) {
	t.Parallel()
	bare := egress.New(egress.Config{Ports: usualPorts})
	rapid.Check(t, func(t *rapid.T) {
		listed := rapid.SampledFrom(denied).Draw(t, "listed")
		var list egress.Allowlist
		require.NoError(t, list.UnmarshalText([]byte(listed.String()+",simulator:4001")))
		addr := addresses().Draw(t, "addr")
		got := egress.New(egress.Config{Allow: list, Ports: usualPorts}).CheckDial(addr)
		if listed.Contains(addr) && !addr.Is4In6() {
			require.NoError(t, got)
			return
		}
		require.Equal(t, bare.CheckDial(addr), got)
	})
}

// FuzzCheckURL holds what passes against net/url and against how C reads addresses.
func FuzzCheckURL(f *testing.F) {
	for _, urls := range hostile {
		for _, raw := range urls {
			f.Add(raw)
		}
	}
	for _, raw := range []string{"https://8.8.8.8/", "https://[2606:4700:4700::1111]:8443/", "https://joe:secret@good.example.com./a?b#c"} {
		f.Add(raw)
	}
	guard := egress.NewWithResolver(egress.Config{Ports: usualPorts}, brokenNameServer())
	f.Fuzz(func(t *testing.T, raw string) {
		if err := guard.CheckURL(t.Context(), raw); err != nil {
			blocked, ok := errors.AsType[*egress.Blocked](err)
			require.True(t, ok, "%v", err)
			require.NotEmpty(t, blocked.Reason)
			require.NotEmpty(t, blocked.Detail)
			return
		}
		u, err := url.Parse(raw)
		require.NoError(t, err)
		require.Equal(t, "https", u.Scheme)
		require.Contains(t, []string{"", "443", "8443"}, u.Port())
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
			requirePublic(t, addr)
			return
		}
		require.False(t, isInetAton(u.Hostname()), u.Hostname())
		require.False(t, isInetAton(strings.TrimRight(u.Hostname(), ".")), u.Hostname())
	})
}

// isInetAton reports whether inet_aton reads the text as an address.
func isInetAton(text string) bool {
	parts := strings.Split(text, ".")
	if len(parts) > 4 {
		return false
	}
	for _, part := range parts {
		base := 10
		digits := strings.ToLower(part)
		if hex, found := strings.CutPrefix(digits, "0x"); found {
			base, digits = 16, hex
		} else if strings.HasPrefix(digits, "0") && len(digits) > 1 {
			base = 8
		}
		if _, err := strconv.ParseUint(digits, base, 32); err != nil {
			return false
		}
	}
	return true
}
