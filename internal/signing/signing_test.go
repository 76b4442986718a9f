package signing_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/fault"
	"github.com/hookline/hookline/internal/signing"
)

// The message of the published vectors. The HMAC one is in the tests of every library of Standard Webhooks and of Svix
// (libraries/go/webhook_test.go, TestWebhookSign), the ed25519 one in those of the Svix server
// (server/svix-server/src/worker.rs, test_asymmetric_key_signing); its keys are also in the Svix server's README, and its
// signature is the v1a of the specification's example of headers.
const (
	vectorID      = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	vectorBody    = `{"test": 2432232314}`
	hmacSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	hmacVector    = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	privateKey    = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
	publicKey     = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
	ed25519Vector = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
	// otherSecret and strangersKey are of nobody who signs here.
	otherSecret  = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
	strangersKey = "whpk_GB3C2tEN6alVuzwvAzPYxAxKMM4OTkkYyYO3ugqjY38="
)

var vectorTime = time.Unix(1_614_265_330, 0)

func secret(t require.TestingT, text string) signing.Secret {
	s, err := signing.ParseSecret(text)
	require.NoError(t, err)
	return s
}

func verifier(t require.TestingT, text string) signing.Verifier {
	v, err := signing.ParseVerifier(text)
	require.NoError(t, err)
	return v
}

func headers(id, timestamp, signature string) http.Header {
	return http.Header{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {signature}}
}

func seconds(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }

func TestPublishedVectors(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ secret, verifier, signature string }{
		{hmacSecret, hmacSecret, hmacVector},
		{privateKey, publicKey, ed25519Vector},
	} {
		s := secret(t, c.secret)
		require.Equal(t, c.signature, s.Sign(vectorID, vectorTime, []byte(vectorBody)))
		require.Equal(t, c.verifier, s.Verifier())
		header := headers(vectorID, seconds(vectorTime), c.signature)
		require.NoError(t, verifier(t, c.verifier).Verify(header, []byte(vectorBody), vectorTime))
	}
	both := signing.Header([]signing.Secret{secret(t, hmacSecret), secret(t, privateKey)}, vectorID, vectorTime, []byte(vectorBody))
	require.Equal(t, hmacVector+" "+ed25519Vector, both)
	require.Empty(t, signing.Header(nil, vectorID, vectorTime, nil))
}

func TestTheMomentIsSignedInSeconds(t *testing.T) {
	t.Parallel()
	late := vectorTime.Add(999 * time.Millisecond).In(time.FixedZone("east", 3600))
	require.Equal(t, hmacVector, secret(t, hmacSecret).Sign(vectorID, late, []byte(vectorBody)))
}

func TestSecretsAndVerifiersAreChecked(t *testing.T) {
	t.Parallel()
	key := func(n int) string { return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("k"), n)) }
	half := strings.TrimPrefix(privateKey, "whsk_")[:43] + "=" // the seed, and four bits of the public key
	strange := base64.StdEncoding.EncodeToString(append(bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)...))
	for text, good := range map[string]struct{ secret, verifier bool }{
		hmacSecret:                          {true, true},
		"whsec_" + key(24):                  {true, true},
		"whsec_" + key(64):                  {true, true},
		privateKey:                          {true, false},
		"whsk_" + key(32):                   {true, false},
		"whsk_" + half:                      {true, false},
		publicKey:                           {false, true},
		"":                                  {},
		"whsec_":                            {},
		"whsec_" + key(23):                  {},
		"whsec_" + key(65):                  {},
		"whsec_hunter2!":                    {},
		strings.TrimSuffix(key(25), "="):    {},
		key(32):                             {}, // which of the kinds?
		"WHSEC_" + key(32):                  {},
		" " + hmacSecret:                    {},
		"whsec_" + hmacSecret:               {},
		"whsec_-_" + key(30):                {}, // base64 of URLs
		"whsk_":                             {},
		"whsk_" + key(31):                   {},
		"whsk_" + key(33):                   {},
		"whsk_" + key(63):                   {},
		"whsk_" + key(96):                   {},
		"whsk_" + strange:                   {}, // its halves are of two pairs
		"whsk_hunter2!":                     {},
		strings.TrimSuffix(privateKey, "="): {},
		"whpk_":                             {},
		"whpk_" + key(31):                   {},
		"whpk_" + key(64):                   {},
		"whpk_hunter2!":                     {},
		"v1," + key(32):                     {},
	} {
		_, err := signing.ParseSecret(text)
		requireRefusal(t, text, good.secret, err)
		_, err = signing.ParseVerifier(text)
		requireRefusal(t, text, good.verifier, err)
	}
}

func requireRefusal(t *testing.T, text string, good bool, err error) {
	t.Helper()
	if good {
		require.NoError(t, err, text)
		return
	}
	require.Error(t, err, text)
	require.Equal(t, fault.Invalid, fault.ClassOf(err))
	for at := range len(text) - 7 { // whsec_ and the like are no secret
		require.NotContains(t, err.Error(), text[at:at+8])
	}
}

func TestTheSeedAloneIsTheSameKey(t *testing.T) {
	t.Parallel()
	whole, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(privateKey, "whsk_"))
	require.NoError(t, err)
	s := secret(t, "whsk_"+base64.StdEncoding.EncodeToString(whole[:32]))
	require.Equal(t, publicKey, s.Verifier())
	require.Equal(t, ed25519Vector, s.Sign(vectorID, vectorTime, []byte(vectorBody)))
}

func TestNewSecretsAreFreshAndOfTheirKind(t *testing.T) {
	t.Parallel()
	for kind, form := range map[signing.Kind]struct {
		prefix string
		bytes  int
	}{signing.HMAC: {"whsec_", 32}, signing.Ed25519: {"whsk_", 64}} {
		one, err := signing.NewSecret(kind)
		require.NoError(t, err)
		other, err := signing.NewSecret(kind)
		require.NoError(t, err)
		require.NotEqual(t, one, other)
		encoded, found := strings.CutPrefix(one, form.prefix)
		require.True(t, found)
		raw, err := base64.StdEncoding.DecodeString(encoded)
		require.NoError(t, err)
		require.Len(t, raw, form.bytes)
		s := secret(t, one)
		require.Equal(t, kind, s.Kind())
		header := headers("e1", seconds(vectorTime), s.Sign("e1", vectorTime, nil))
		require.NoError(t, verifier(t, s.Verifier()).Verify(header, nil, vectorTime))
	}
	_, err := signing.NewSecret("rsa")
	require.Equal(t, fault.Invalid, fault.ClassOf(err))
}

func TestNothingPrintsOrLogsAKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, encoded string }{
		{hmacSecret, strings.TrimPrefix(hmacSecret, "whsec_")},
		{privateKey, strings.TrimPrefix(privateKey, "whsk_")},
	} {
		raw, err := base64.StdEncoding.DecodeString(c.encoded)
		require.NoError(t, err)
		s := secret(t, c.text)
		values := []any{s, &s, []signing.Secret{s}, struct{ S signing.Secret }{s}, struct{ s signing.Secret }{s}}
		if s.Kind() == signing.HMAC {
			v := verifier(t, c.text)
			values = append(values, v, &v, struct{ V signing.Verifier }{v}, struct{ v signing.Verifier }{v})
		}
		var out strings.Builder
		for _, value := range values {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o"} {
				fmt.Fprintf(&out, verb+"\n", value)
			}
			for _, log := range []*slog.Logger{slog.New(slog.NewTextHandler(&out, nil)), slog.New(slog.NewJSONHandler(&out, nil))} {
				log.LogAttrs(t.Context(), slog.LevelInfo, "a key", slog.Any("value", value))
			}
		}
		require.Contains(t, out.String(), "[hidden]")
		for _, told := range []string{
			c.encoded[:8], fmt.Sprintf("%x", raw[:4]), fmt.Sprintf("%X", raw[:4]), strings.Trim(fmt.Sprintf("%d", raw[:4]), "[]"),
			strings.Trim(fmt.Sprintf("%o", raw[:4]), "[]"), strings.Trim(fmt.Sprintf("%#v", raw[:4]), "[]byte{}"), string(raw[:4]),
		} {
			require.NotContains(t, out.String(), told)
		}
	}
}

func TestWebhooksOfARotationSatisfyTheSvixLibrary(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[a-zA-Z0-9_-]{1,40}`).Draw(t, "id")
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		oldKey, newKey := drawn(t, signing.HMAC), drawn(t, signing.HMAC)
		now := time.Now()
		secrets := []signing.Secret{secret(t, oldKey), secret(t, drawn(t, signing.Ed25519)), secret(t, newKey)}
		header := headers(id, seconds(now), signing.Header(rapid.Permutation(secrets).Draw(t, "secrets"), id, now, body))
		require.Len(t, strings.Split(header.Get("Webhook-Signature"), " "), 3)
		for _, key := range []string{oldKey, newKey} {
			require.NoError(t, library(t, key).Verify(body, header))
			require.Error(t, library(t, key).Verify(append([]byte("x"), body...), header))
		}
		require.Error(t, library(t, otherSecret).Verify(body, header))
		for _, s := range secrets {
			require.NoError(t, verifier(t, s.Verifier()).Verify(header, body, now))
		}
		require.Error(t, verifier(t, otherSecret).Verify(header, body, now))
		require.Error(t, verifier(t, strangersKey).Verify(header, body, now))
	})
}

func TestWebhooksOfTheSvixLibraryAreVerified(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		id := rapid.StringMatching(`[a-zA-Z0-9_-]{1,40}`).Draw(t, "id")
		at := time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "at"), 0)
		body := rapid.SliceOf(rapid.Byte()).Draw(t, "body")
		signature, err := library(t, hmacSecret).Sign(id, at, body)
		require.NoError(t, err)
		require.NoError(t, verifier(t, hmacSecret).Verify(headers(id, seconds(at), signature), body, at))
	})
}

func drawn(t require.TestingT, kind signing.Kind) string {
	text, err := signing.NewSecret(kind)
	require.NoError(t, err)
	return text
}

func library(t require.TestingT, secret string) *svix.Webhook {
	webhook, err := svix.NewWebhook(secret)
	require.NoError(t, err)
	return webhook
}

func TestHeadersAreRead(t *testing.T) {
	t.Parallel()
	const stamp = "1614265330"
	for name, c := range map[string]struct {
		header http.Header
		wrong  string // empty is good by both keys
	}{
		"both signatures":          {headers(vectorID, stamp, hmacVector+" "+ed25519Vector), ""},
		"in the other order":       {headers(vectorID, stamp, ed25519Vector+" "+hmacVector), ""},
		"among unknown ones":       {headers(vectorID, stamp, "v2,x v1 v1,AAAA v1a,BBBB , v1a, "+hmacVector+"  "+ed25519Vector+" v3,"), ""},
		"in Svix's names":          {svixNames(headers(vectorID, stamp, hmacVector+" "+ed25519Vector)), ""},
		"nothing":                  {nil, "are required"},
		"no id":                    {headers("", stamp, hmacVector+" "+ed25519Vector), "are required"},
		"no timestamp":             {headers(vectorID, "", hmacVector+" "+ed25519Vector), "are required"},
		"no signature":             {headers(vectorID, stamp, ""), "are required"},
		"a dot in the id":          {headers("msg.1", stamp, hmacVector), "a dot"},
		"another id":               {headers(vectorID+"x", stamp, hmacVector+" "+ed25519Vector), "no signature"},
		"words for a timestamp":    {headers(vectorID, "yesterday", hmacVector), "Unix time"},
		"an RFC 3339 timestamp":    {headers(vectorID, "2021-02-25T15:02:10Z", hmacVector), "Unix time"},
		"milliseconds":             {headers(vectorID, stamp+"000", hmacVector), "5m0s from now"},
		"a fraction":               {headers(vectorID, stamp+".0", hmacVector), "Unix time"},
		"a sign":                   {headers(vectorID, "+"+stamp, hmacVector), "Unix time"},
		"leading zeros":            {headers(vectorID, "0"+stamp, hmacVector), "Unix time"},
		"space around it":          {headers(vectorID, " "+stamp, hmacVector), "Unix time"},
		"hexadecimal":              {headers(vectorID, "0x6037bbb2", hmacVector), "Unix time"},
		"the largest timestamp":    {headers(vectorID, "9223372036854775807", hmacVector), "5m0s from now"},
		"the smallest":             {headers(vectorID, "-9223372036854775808", hmacVector), "5m0s from now"},
		"one too large":            {headers(vectorID, "9223372036854775808", hmacVector), "Unix time"},
		"a second more":            {headers(vectorID, "1614265331", hmacVector+" "+ed25519Vector), "no signature"},
		"no versions":              {headers(vectorID, stamp, hmacVector[3:]+" "+ed25519Vector[4:]), "no signature"},
		"versions exchanged":       {headers(vectorID, stamp, "v1a,"+hmacVector[3:]+" v1,"+ed25519Vector[4:]), "no signature"},
		"versions in capitals":     {headers(vectorID, stamp, "V1,"+hmacVector[3:]+" V1A,"+ed25519Vector[4:]), "no signature"},
		"commas for spaces":        {headers(vectorID, stamp, hmacVector+","+ed25519Vector), "no signature"},
		"tabs for spaces":          {headers(vectorID, stamp, "v0,\t"+hmacVector+"\t"+ed25519Vector), "no signature"},
		"cut off":                  {headers(vectorID, stamp, hmacVector[:40]+" "+ed25519Vector[:80]), "no signature"},
		"without padding":          {headers(vectorID, stamp, strings.Trim(hmacVector, "=")+" "+strings.Trim(ed25519Vector, "=")), "no signature"},
		"with loose bits":          {headers(vectorID, stamp, strings.Replace(hmacVector, "1OE=", "1OF=", 1)+" "+strings.Replace(ed25519Vector, "BAg==", "BAh==", 1)), "no signature"},
		"a line end within":        {headers(vectorID, stamp, hmacVector[:20]+"\n"+hmacVector[20:]+" "+ed25519Vector[:20]+"\r\n"+ed25519Vector[20:]), "no signature"},
		"Svix's are wrong":         {add(headers(vectorID, stamp, hmacVector), svixNames(headers(vectorID, stamp, "v1,AAAA"))), "no signature"},
		"in a second header line":  {http.Header{"Webhook-Id": {vectorID}, "Webhook-Timestamp": {stamp}, "Webhook-Signature": {"v1,AAAA", hmacVector}}, "no signature"},
		"very many that are wrong": {headers(vectorID, stamp, strings.Repeat("v1,AAAA v1a,AAAA ", 5000)), "no signature"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, key := range []string{hmacSecret, publicKey} {
				err := verifier(t, key).Verify(c.header, []byte(vectorBody), vectorTime)
				if c.wrong == "" {
					require.NoError(t, err)
					continue
				}
				require.ErrorContains(t, err, c.wrong)
				if c.wrong == "are required" {
					require.ErrorIs(t, err, signing.ErrUnsigned)
				}
			}
		})
	}
}

func svixNames(header http.Header) http.Header {
	renamed := http.Header{}
	for name, values := range header {
		renamed[strings.Replace(name, "Webhook-", "Svix-", 1)] = values
	}
	return renamed
}

func add(header, more http.Header) http.Header {
	for name, values := range more {
		header[name] = values
	}
	return header
}

func TestTheIDIsTheOneThatIsVerified(t *testing.T) {
	t.Parallel()
	standard := headers("standard", "1", "v1,AAAA")
	require.Equal(t, "standard", signing.ID(standard))
	require.Equal(t, "svix", signing.ID(svixNames(headers("svix", "1", "v1,AAAA"))))
	require.Equal(t, "svix", signing.ID(add(svixNames(headers("svix", "1", "v1,AAAA")), standard)))
	require.Equal(t, "standard", signing.ID(add(svixNames(headers("svix", "1", "")), standard)), "Svix's are not complete")
	require.Equal(t, "claimed", signing.ID(http.Header{"Webhook-Id": {"claimed"}}))
	require.Empty(t, signing.ID(nil))
}

func TestTheClockMayBeFiveMinutesOff(t *testing.T) {
	t.Parallel()
	for off, good := range map[time.Duration]bool{
		5 * time.Minute:                   true,
		-5 * time.Minute:                  true,
		5*time.Minute + time.Millisecond:  false,
		-5*time.Minute - time.Millisecond: false,
		100 * 365 * 24 * time.Hour:        false,
		-100 * 365 * 24 * time.Hour:       false,
	} {
		err := verifier(t, hmacSecret).Verify(headers(vectorID, seconds(vectorTime), hmacVector), []byte(vectorBody), vectorTime.Add(off))
		require.Equal(t, good, err == nil, off)
	}
}

// A signature is good if, and only if, everything is as it was signed. What is changed is drawn: nothing, where the
// second id, timestamp and body are the first and the mask is 0.
func FuzzVerifiesWhatIsUnchanged(f *testing.F) {
	f.Add(false, "e1", int64(1_614_265_330), []byte("{}"), "e1", "1614265330", []byte("{}"), uint16(0), byte(0))
	f.Add(true, "e1", int64(1_614_265_330), []byte("{}"), "e1", "1614265330", []byte("{}"), uint16(0), byte(0))
	f.Add(true, "e1", int64(-1), []byte("{}"), "e1", "-1", []byte("{}"), uint16(87), byte(1))
	f.Add(false, "e1", int64(7), []byte("{}"), "e1", "7", []byte("{}"), uint16(2), byte(' '^','))
	f.Add(false, "e1", int64(7), []byte("8.{}"), "e1.7", "8", []byte("{}"), uint16(0), byte(0))
	f.Add(true, "e1", int64(7), []byte("8.{}"), "e1.7", "8", []byte("{}"), uint16(0), byte(0))
	f.Add(false, "e1", int64(7), []byte("{}"), "e1", "+7", []byte("{}"), uint16(0), byte(0))
	f.Add(false, "", int64(7), []byte{}, "", "7", []byte{}, uint16(0), byte(0))
	f.Fuzz(func(t *testing.T, public bool, id string, at int64, body []byte, id2, timestamp2 string, body2 []byte, place uint16, mask byte) {
		id = strings.ReplaceAll(id, ".", "-") // no dot, says Sign
		private, key := hmacSecret, hmacSecret
		if public {
			private, key = privateKey, publicKey
		}
		signature := []byte(secret(t, private).Sign(id, time.Unix(at, 0), body))
		signature[int(place)%len(signature)] ^= mask
		header := headers(id2, timestamp2, string(signature))
		err := verifier(t, key).Verify(header, body2, time.Unix(at, 0))
		unchanged := id == id2 && strconv.FormatInt(at, 10) == timestamp2 && bytes.Equal(body, body2) && mask == 0
		require.Equal(t, unchanged && id != "", err == nil, err)
		if err == nil && !public {
			require.NoError(t, library(t, key).VerifyIgnoringTimestamp(body2, header))
		}
	})
}
