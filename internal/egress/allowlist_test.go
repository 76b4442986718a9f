package egress_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/egress"
)

func TestAnAllowListIsReadAsItIsWritten(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                "",
		" ":                               "",
		"simulator":                       "simulator",
		"Simulator.:4001":                 "simulator:4001",
		"my_host.example.com":             "my_host.example.com",
		"10.1.2.3":                        "10.1.2.3",
		"10.1.2.3/32":                     "10.1.2.3",
		"10.1.2.3:80":                     "10.1.2.3:80",
		"10.0.0.0/8":                      "10.0.0.0/8",
		"10.0.0.0/8:8080":                 "10.0.0.0/8:8080",
		"::1":                             "[::1]",
		"[::1]":                           "[::1]",
		"[::1]:80":                        "[::1]:80",
		"::1:80":                          "[::1:80]", // an address: the start's log shows it
		"fd00::/8":                        "[fd00::/8]",
		"[fd00::/8]":                      "[fd00::/8]",
		"[fd00::/8]:65535":                "[fd00::/8]:65535",
		"simulator:4001 , 10.0.0.0/8,::1": "simulator:4001,10.0.0.0/8,[::1]",
	} {
		var list, again egress.Allowlist
		require.NoError(t, list.UnmarshalText([]byte(text)), text)
		require.Equal(t, want, list.String(), text)
		require.NoError(t, again.UnmarshalText([]byte(want)), text)
		require.Equal(t, list, again, text)
	}
}

func TestABadPieceOfTheAllowListIsNamed(t *testing.T) {
	t.Parallel()
	for _, piece := range []string{
		"http://simulator:4001", "https://simulator", "simulator/path", "simulator:", "simulator:0", "simulator:65536", "simulator:http", "simulator:04001",
		"*", "*.example.com", "exämple.com", "two words", ":4001", "a..b", "-a", "joe@simulator",
		"10.1.2.3/33", "10.1.2.3/", "10.1.2.3/8", "10.0.0.0/8:", "10.0.0.0/8:0", "10.0.0/8", "10.0.0.0/255.0.0.0", "10.1", "0x7f.1", "2130706433", "256.1.1.1", "10.1.2.3:",
		"[::1", "::1]", "[::1]:", "[::1]:0", "[::1]80", "[10.1.2.3]", "[10.0.0.0/8]:80", "[simulator]:80", "[]", "[]:80",
		"fe80::1%eth0", "[fe80::1%eth0]:80", "fe80::%eth0/64", "::ffff:10.0.0.1", "::ffff:10.0.0.0/104", "fd00::1/8", "fd00::/129",
	} {
		list := allowlist(t, "kept")
		err := list.UnmarshalText([]byte("good.example.com," + piece + ",10.0.0.0/8"))
		require.ErrorContains(t, err, `"`+piece+`"`, piece)
		require.Equal(t, "kept", list.String(), "a bad list changes nothing")
	}
	for _, text := range []string{",", "simulator,", ",simulator", "simulator,,10.0.0.0/8"} {
		var list egress.Allowlist
		require.ErrorContains(t, list.UnmarshalText([]byte(text)), `""`, text)
	}
}
