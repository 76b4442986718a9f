package seal_test

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/seal"
)

func ring(t require.TestingT, keys ...string) seal.Keyring {
	var k seal.Keyring
	require.NoError(t, k.UnmarshalText([]byte(strings.Join(keys, ","))))
	return k
}

func TestWhatIsSealedOpensInItsPlaceOnly(t *testing.T) {
	t.Parallel()
	k := ring(t, seal.NewKey("k1"))
	rapid.Check(t, func(t *rapid.T) {
		plain, place, other := rapid.String().Draw(t, "plain"), rapid.String().Draw(t, "place"), rapid.String().Draw(t, "other")
		sealed, err := k.Seal(plain, place)
		require.NoError(t, err)
		opened, err := k.Open(sealed, place)
		require.NoError(t, err)
		require.Equal(t, plain, opened)
		if other != place {
			_, err = k.Open(sealed, other)
			require.Error(t, err)
		}
	})
}

func TestOneTextSealedTwiceLooksDifferent(t *testing.T) {
	t.Parallel()
	k := ring(t, seal.NewKey("k1"))
	first, err := k.Seal("whsec_abc", "endpoint")
	require.NoError(t, err)
	second, err := k.Seal("whsec_abc", "endpoint")
	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.NotContains(t, first, "whsec_abc")
}

func TestAChangedTextDoesNotOpen(t *testing.T) {
	t.Parallel()
	k := ring(t, seal.NewKey("k1"))
	sealed, err := k.Seal("whsec_abc", "endpoint")
	require.NoError(t, err)
	for i := range sealed {
		changed := []byte(sealed)
		changed[i] ^= 1
		_, err := k.Open(string(changed), "endpoint")
		// The last character of a base64 text may carry bits that count for nothing.
		if i < len(sealed)-1 {
			require.Error(t, err, "character %d", i)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	t.Parallel()
	old, next := seal.NewKey("2025"), seal.NewKey("2026")
	sealed, err := ring(t, old).Seal("secret", "here")
	require.NoError(t, err)
	require.Equal(t, "2025", seal.KeyID(sealed))

	both := ring(t, next, old)
	opened, err := both.Open(sealed, "here")
	require.NoError(t, err)
	require.Equal(t, "secret", opened)
	resealed, err := both.Seal(opened, "here")
	require.NoError(t, err)
	require.Equal(t, "2026", seal.KeyID(resealed), "the first key seals")

	_, err = ring(t, next).Open(sealed, "here")
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	require.ErrorContains(t, err, "2025", "it names the key that is missing")
}

func TestBadKeysAreNamedAndNotQuoted(t *testing.T) {
	t.Parallel()
	good := seal.NewKey("k1")
	_, key, _ := strings.Cut(good, ":")
	for text, want := range map[string]string{
		"":                                  "key 1 of the list",
		key:                                 "key 1 of the list",
		good + ",":                          "key 2 of the list",
		good + "," + good:                   "k1 is twice",
		"K1:" + key:                         "key 1 of the list",
		"k.1:" + key:                        "key 1 of the list",
		strings.Repeat("k", 33) + ":" + key: "key 1 of the list",
		"k2:" + key[:20]:                    "key k2: want the base64 of 32 bytes",
		"k2:!" + key[1:]:                    "key k2: want the base64 of 32 bytes",
	} {
		var k seal.Keyring
		err := k.UnmarshalText([]byte(text))
		require.ErrorContains(t, err, want, text)
		require.NotContains(t, err.Error(), key[:20])
	}
}

func TestAKeyringDoesNotPrintItsKeys(t *testing.T) {
	t.Parallel()
	one := seal.NewKey("k1")
	_, key, _ := strings.Cut(one, ":")
	k := ring(t, one)
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).LogAttrs(t.Context(), slog.LevelInfo, "keys", slog.Any("keys", k))
	for _, printed := range []string{fmt.Sprint(k), fmt.Sprintf("%v %+v %s", k, k, k), log.String()} {
		require.NotContains(t, printed, key)
		require.Contains(t, printed, "k1")
	}
}

func TestWithoutAKeyNothingIsSealedOrOpened(t *testing.T) {
	t.Parallel()
	var none seal.Keyring
	_, err := none.Seal("secret", "here")
	require.Error(t, err)
	sealed, err := ring(t, seal.NewKey("k1")).Seal("secret", "here")
	require.NoError(t, err)
	_, err = none.Open(sealed, "here")
	require.ErrorIs(t, err, seal.ErrUnknownKey)
	_, err = none.Open("whsec_plain", "here")
	require.EqualError(t, err, "not a sealed text")
	require.Empty(t, seal.KeyID("whsec_plain"))
}

func FuzzOpen(f *testing.F) {
	k := ring(f, seal.NewKey("k1"))
	sealed, err := k.Seal("secret", "here")
	require.NoError(f, err)
	f.Add(sealed)
	f.Add("k1.")
	f.Add("k1.AAAA")
	f.Fuzz(func(t *testing.T, text string) {
		opened, err := k.Open(text, "here")
		if err == nil {
			require.Equal(t, "secret", opened, "nothing else was ever sealed")
		}
	})
}
