package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestABenchThatIsAskedForWronglyStartsNothing(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"--rate 10 --hanging 120%":             "a share is less than all",
		"--rate 10 --hanging 60% --failing .5": "fewer than all",
		"--rate 10 --hanging some":             "a share is less than all",
		"--rate 10 --alternate 3":              "nothing to alternate",
		"--rate 10 --hanging 0% --alternate 3": "nothing to alternate",
		"--rate 10 --hanging 5% --alternate 0": "not 0",
		"--hanging 20%":                        "want either a burst or a rate",
	} {
		dir := t.TempDir()
		got := hookline(t, append([]string{"bench", "--dir", dir + "/none"}, strings.Fields(args)...)...)
		require.Equal(t, exitUsage, got.code, args)
		require.Contains(t, got.stderr, want, args)
		require.NoDirExists(t, dir+"/none")
	}
}
