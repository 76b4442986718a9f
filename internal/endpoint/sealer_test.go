package endpoint_test

import (
	"errors"
	"net/url"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/hookline/hookline/internal/endpoint"
	"github.com/hookline/hookline/internal/testkit/endpointtest"
)

func TestWhatIsSealedOpensInItsPlaceOnly(t *testing.T) {
	t.Parallel()
	mine := endpoint.Sealer{Keys: endpointtest.Keys(t), ID: uuid.New()}
	other := endpoint.Sealer{Keys: mine.Keys, ID: uuid.New()}
	secret, err := mine.SealSecret(endpointtest.Secret)
	require.NoError(t, err)
	headers, err := mine.SealHeaders(map[string]string{"X-Api-Key": "k3y"})
	require.NoError(t, err)
	_, whole, err := mine.SealURL("https://a:b@shop.example/")
	require.NoError(t, err)

	opened, err := mine.OpenSecret(secret)
	require.NoError(t, err)
	require.Equal(t, endpointtest.Secret, opened)
	// Whoever may write the database must not make one endpoint send, or sign by, what is another's or another thing.
	for name, open := range map[string]func() error{
		"another's secret":  func() error { _, err := other.OpenSecret(secret); return err },
		"another's headers": func() error { _, err := other.OpenHeaders(headers); return err },
		"another's URL":     func() error { _, err := other.OpenURL("https://shop.example/", whole); return err },
		"headers as a URL":  func() error { _, err := mine.OpenURL("https://shop.example/", headers); return err },
		"a secret as a URL": func() error { _, err := mine.OpenURL("https://shop.example/", &secret); return err },
		"a URL as a secret": func() error { _, err := mine.OpenSecret(*whole); return err },
	} {
		require.ErrorContains(t, open(), "it was changed, or belongs elsewhere", name)
	}
}

func TestASecretOfBeforeSealingIsOpenedAsItIs(t *testing.T) {
	t.Parallel()
	sealer := endpoint.Sealer{Keys: endpointtest.Keys(t), ID: uuid.New()}
	opened, err := sealer.OpenSecret(endpointtest.Secret)
	require.NoError(t, err)
	require.Equal(t, endpointtest.Secret, opened)

	for text, keyID := range map[string]string{"whsec_c2hvcnQ=": "", "hunter2": "", "lost.hunter2": "lost"} {
		_, err := sealer.OpenSecret(text)
		failed, ok := errors.AsType[*endpoint.OpenError](err)
		require.True(t, ok, err)
		require.Equal(t, []any{sealer.ID, "secret", keyID}, []any{failed.ID, failed.What, failed.KeyID})
		require.ErrorContains(t, err, sealer.ID.String())
		require.NotContains(t, err.Error(), "c2hvcnQ")
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestAURLIsShownWithoutWhatIsSecretAndOpenedWhole(t *testing.T) {
	t.Parallel()
	sealer := endpoint.Sealer{Keys: endpointtest.Keys(t), ID: uuid.New()}
	rapid.Check(t, func(t *rapid.T) {
		u := url.URL{Scheme: "https", Host: "shop.example", Path: "/" + rapid.StringMatching(`[a-z0-9/ ]{0,20}`).Draw(t, "path")}
		credentials := rapid.Bool().Draw(t, "user info")
		if credentials {
			u.User = url.UserPassword(rapid.String().Draw(t, "user"), rapid.String().Draw(t, "password"))
		}
		u.RawQuery = url.PathEscape(rapid.String().Draw(t, "query"))
		u.ForceQuery = u.RawQuery == "" && rapid.Bool().Draw(t, "a question mark alone")
		whole := u.String()

		shown, sealed, err := sealer.SealURL(whole)
		require.NoError(t, err)
		require.Equal(t, credentials || u.RawQuery != "" || u.ForceQuery, sealed != nil)
		parsed, err := url.Parse(shown)
		require.NoError(t, err)
		require.Nil(t, parsed.User)
		require.Empty(t, parsed.RawQuery)
		require.Equal(t, u.Path, parsed.Path)
		opened, err := sealer.OpenURL(shown, sealed)
		require.NoError(t, err)
		require.Equal(t, whole, opened)
	})
}
