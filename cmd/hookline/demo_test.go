package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/demo"
)

func TestAScenarioThatIsAskedForWronglyStartsNothing(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--scenario calm":                   `there is no scenario "calm"; there are: ` + demo.ScenarioNames(),
		"--scenario flaky --refunds 2":      "--refunds does not go with --scenario",
		"--plot x.svg":                      "--plot goes with --scenario",
		"--scenario flaky --payments 0":     "1 to 20,000 payments, not 0",
		"--payments 0":                      "1 to 20,000 payments, not 0",
		"--payments 3 --refunds 4":          "0 to all 3 payments can be refunded, not 4",
		"--scenario flaky --payments -1":    "not -1",
		"--deliverer pigeon":                `--deliverer is inhouse or svix, not "pigeon"`,
		"--deliverer svix --scenario flaky": "--deliverer svix does not go with --scenario",
	} {
		dir := t.TempDir()
		got := hookline(t, append([]string{"demo", "--dir", dir + "/none"}, strings.Fields(args)...)...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want, args)
		require.NoDirExists(t, dir+"/none")
	}
}
