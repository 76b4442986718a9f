package main

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/postgres"
)

func TestMistakesAboutRoutesAreOneLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"want `routes` and one of list, set", []string{"routes"}},
		{"want the id of a merchant, and inhouse, svix or default", []string{"routes", "set", "m"}},
		{`"pigeon" is not a route`, []string{"routes", "set", "m", "pigeon"}},
		{`"a b" is not the id of a merchant`, []string{"routes", "set", "a b", "inhouse"}},
		{"merchant . cannot have the route svix", []string{"routes", "set", ".", "svix"}},
		{"merchant .. cannot have the route svix", []string{"routes", "set", "..", "svix"}},
		{"merchant app_1 cannot have the route svix: Svix takes a merchant id that starts with app_ for one of its own", []string{"routes", "set", "app_1", "svix"}},
		{"unexpected argument", []string{"routes", "set", "m", "svix", "x"}},
		{"unexpected argument", []string{"routes", "list", "m"}},
	} {
		got := hookline(t, c.args...)
		require.Equal(t, exitUsage, got.code, c.args)
		require.Contains(t, got.stderr, c.want, c.args)
		require.Equal(t, 1, strings.Count(got.stderr, "\n"), got.stderr)
		require.Empty(t, got.stdout)
	}
	for _, args := range [][]string{{"routes", "list"}, {"routes", "set", "app_1", "inhouse"}, {"routes", "set", "m", "default"}} {
		got := hookline(t, append(args, "--dir", dir)...)
		require.Equal(t, exitFailed, got.code, args)
		require.Contains(t, got.stderr, "hookline up starts it")
		require.NoDirExists(t, dir)
	}
	for _, v := range routeVerbs {
		require.Contains(t, hookline(t, "routes", v.name, "--help").stdout, "Usage: hookline routes "+v.name)
	}
}

func TestARouteIsSetListedAndTakenBack(t *testing.T) { //nolint:paralleltest // the environment is everybody's
	outside(t)
	type set struct {
		Changed bool
		Route   string
	}
	list := func() []postgres.Route {
		return did[struct{ Routes []postgres.Route }](t, "routes", "list").Routes
	}
	require.Empty(t, list())
	require.Contains(t, hookline(t, "routes", "list").stdout, "all have the workers' DEFAULT_ROUTE")
	require.Equal(t, set{true, "svix"}, did[set](t, "routes", "set", "shop", "svix"))
	require.Equal(t, set{false, "svix"}, did[set](t, "routes", "set", "shop", "svix"))
	require.Equal(t, "shop: svix, as it was\n", hookline(t, "routes", "set", "shop", "svix").stdout)
	require.Equal(t, "app_1: inhouse, for what is planned from now on\n", hookline(t, "routes", "set", "app_1", "inhouse").stdout)
	found := list()
	require.Len(t, found, 2)
	require.Equal(t, []string{"shop", "svix"}, []string{found[1].MerchantID, found[1].Route})
	require.WithinDuration(t, time.Now(), found[1].SetAt, time.Minute)
	require.Regexp(t, `(?m)^shop +svix +since \d{4}-`, hookline(t, "routes", "list").stdout)
	require.Equal(t, set{true, "default"}, did[set](t, "routes", "set", "shop", "default"))
	require.Equal(t, set{false, "default"}, did[set](t, "routes", "set", "shop", "default"))
	require.Len(t, list(), 1)
}
