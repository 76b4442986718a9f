package egress_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// zone is what a name server answers: for each name one list of addresses after the other, the last one for ever.
type zone map[string][][]string

// nameServer answers over UDP, in the few bytes of RFC 1035 that it takes, and returns a resolver that asks it.
func nameServer(t *testing.T, names zone) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		asked := map[string]int{}
		question := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(question)
			if err != nil {
				return
			}
			conn.WriteTo(answer(names, asked, question[:n]), from)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func answer(names zone, asked map[string]int, question []byte) []byte {
	const header, typeA = 12, 1
	var labels []string
	end := header
	for question[end] != 0 {
		size := int(question[end])
		labels = append(labels, string(question[end+1:end+1+size]))
		end += 1 + size
	}
	end += 1 + 4 // the root, type and class
	name, wanted := strings.ToLower(strings.Join(labels, ".")), binary.BigEndian.Uint16(question[end-4:])
	lists, known := names[name]

	out := append([]byte{}, question[:end]...)
	binary.BigEndian.PutUint16(out[2:], 0x8180) // an answer, recursion desired and available
	if !known {
		out[3] |= 3 // NXDOMAIN
	}
	clear(out[6:header])
	if !known {
		return out
	}
	key := name + string(rune(wanted))
	list := lists[min(asked[key], len(lists)-1)]
	asked[key]++
	for _, text := range list {
		addr := netip.MustParseAddr(text)
		if addr.Is4() != (wanted == typeA) {
			continue
		}
		out[7]++
		out = append(out, 0xc0, header) // the name of the question
		out = binary.BigEndian.AppendUint16(out, wanted)
		out = append(out, 0, 1, 0, 0, 0, 0) // class IN, TTL 0
		out = binary.BigEndian.AppendUint16(out, uint16(addr.BitLen()/8))
		out = append(out, addr.AsSlice()...)
	}
	return out
}

var errNoNameServer = errors.New("there is no name server")

// noNameServer resolves nothing, and fails the test where anything is asked.
func noNameServer(t *testing.T) *net.Resolver {
	t.Helper()
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("a name server was asked")
		return nil, errNoNameServer
	}}
}

// brokenNameServer cannot be reached.
func brokenNameServer() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errNoNameServer
	}}
}
