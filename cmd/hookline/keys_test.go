package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/stack"
)

func TestANewKeyIsAsTheSettingWantsIt(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{"prod-2": {"keys", "new", "prod-2"}, "k2": {"keys", "new"}} {
		got := hookline(t, args...)
		require.Equal(t, exitOK, got.code, got.stderr)
		var ring seal.Keyring
		require.NoError(t, ring.UnmarshalText([]byte(strings.TrimSpace(got.stdout))))
		require.Len(t, ring.IDs(), 1)
		require.True(t, strings.HasPrefix(ring.IDs()[0], want), got.stdout)
		require.NotEqual(t, got.stdout, hookline(t, args...).stdout)
	}
}

func TestKeysAreRotatedInTheOrderThatTheHelpTells(t *testing.T) {
	outside(t)
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	t.Setenv("ENCRYPTION_KEYS", old)
	for _, url := range []string{"https://1.1.1.1/?token=t", "https://1.1.1.1/"} {
		did[shownEndpoint](t, "endpoints", "add", "--merchant", "m", "--url", url)
	}

	// A key that is missing is named, and nothing is changed.
	t.Setenv("ENCRYPTION_KEYS", fresh)
	got := hookline(t, "keys", "rotate")
	require.Equal(t, exitFailed, got.code)
	require.Equal(t, "hookline keys: ENCRYPTION_KEYS lacks old, which endpoints are sealed with: nothing was changed\n", got.stderr)
	require.Equal(t, "fresh  0 endpoints  seals\nold    2 endpoints  not in ENCRYPTION_KEYS\n", hookline(t, "keys", "list").stdout)

	// Last in the list, the new key opens nothing yet, and seals nothing.
	t.Setenv("ENCRYPTION_KEYS", old+","+fresh)
	require.Equal(t, stack.KeyRotation{Key: "old", Endpoints: 2, Unused: []string{"fresh"}}, did[stack.KeyRotation](t, "keys", "rotate"))

	t.Setenv("ENCRYPTION_KEYS", fresh+","+old)
	got = hookline(t, "keys", "rotate")
	require.Equal(t, exitOK, got.code, got.stderr)
	require.Equal(t, "sealed with fresh: 2 endpoints, of which 2 anew\nnot used any more: old\n", got.stdout)
	require.Equal(t, "2 of 2 endpoints\n", got.stderr)
	require.Zero(t, did[stack.KeyRotation](t, "keys", "rotate").Changed, "again, it has nothing to do")

	t.Setenv("ENCRYPTION_KEYS", fresh)
	require.Equal(t, []usedKey{{ID: "fresh", Endpoints: 2, Known: true, Seals: true}}, did[struct{ Keys []usedKey }](t, "keys", "list").Keys)
	opened, err := openEndpoints(t.Context(), "")
	require.NoError(t, err)
	defer opened.Close()
	all, err := opened.List(t.Context(), "")
	require.NoError(t, err)
	for i, want := range []string{"https://1.1.1.1/?token=t", "https://1.1.1.1/"} {
		to, err := opened.Recipient(t.Context(), all[i].ID)
		require.NoError(t, err)
		require.Equal(t, want, to.URL)
	}
}

func TestARotationNamesTheEndpointsThatItCannotOpen(t *testing.T) {
	db, _ := outside(t)
	old, fresh := seal.NewKey("old"), seal.NewKey("fresh")
	t.Setenv("ENCRYPTION_KEYS", old)
	var ids []string
	for range 3 {
		ids = append(ids, did[shownEndpoint](t, "endpoints", "add", "--merchant", "m", "--url", "http://127.0.0.1:9/").ID.String())
	}
	pool := db.Pool(t, "")
	_, err := pool.Exec(t.Context(), "update delivery.endpoint_secrets set sealed = 'old.Y2hhbmdlZA' where endpoint_id = any($1::uuid[])", ids[:2])
	require.NoError(t, err)

	t.Setenv("ENCRYPTION_KEYS", fresh+","+old)
	got := hookline(t, "keys", "rotate")
	require.Equal(t, exitFailed, got.code)
	require.Empty(t, got.stdout, "it does not say that a key is not used any more")
	for _, id := range ids[:2] {
		require.Contains(t, got.stderr, "opening the secret of endpoint "+id+": key old does not open the text: it was changed, or belongs elsewhere; "+
			"give it a new secret with --overlap 0, or remove it and add it again\n")
	}
	require.Contains(t, got.stderr, "3 of 3 endpoints\n")
	require.Contains(t, got.stderr, "hookline keys: 2 endpoints could not be opened, and are sealed as they were; keep every key until they can\n")
	require.NotContains(t, got.stderr, "Y2hhbmdlZA")
	require.NotContains(t, got.stderr, ids[2])

	require.Equal(t, exitOK, hookline(t, "endpoints", "rotate-secret", ids[0], "--overlap", "0").code)
	require.Equal(t, exitOK, hookline(t, "endpoints", "remove", ids[1]).code)
	require.Equal(t, stack.KeyRotation{Key: "fresh", Endpoints: 2, Unused: []string{"old"}}, did[stack.KeyRotation](t, "keys", "rotate"))
}
