package config_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/platform/config"
)

type part struct {
	Addr string `env:"ADDR" unit:"host:port" desc:"where it listens"`
}

type settings struct {
	part

	URL   string        `env:"URL,required,notEmpty" secret:"true" desc:"the database"`
	Size  int           `env:"SIZE" envDefault:"8" unit:"connections" desc:"how many"`
	Wait  time.Duration `env:"WAIT" envDefault:"5s" desc:"how long"`
	Names []string      `env:"NAMES" desc:"who"`
	On    bool          `env:"ON" desc:"whether"`
	Plain string        // no setting
}

func (s *settings) Validate() error {
	var errs []error
	if s.Size < 1 {
		errs = append(errs, errors.New("SIZE: want 1 or more"))
	}
	if s.Wait < 0 {
		errs = append(errs, errors.New("WAIT: want 0s or more"))
	}
	return errors.Join(errs...)
}

var defaults = settings{part: part{Addr: "127.0.0.1:1"}}

func TestLoad(t *testing.T) {
	t.Parallel()
	got, err := config.Load(defaults, []string{"URL=postgres://x", "SIZE=9", "NAMES=a,b", "OTHER=1"})
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(settings{
		part: part{Addr: "127.0.0.1:1"}, URL: "postgres://x", Size: 9, Wait: 5 * time.Second, Names: []string{"a", "b"},
	}, got, cmp.AllowUnexported(settings{})))
	require.Empty(t, defaults.URL, "the defaults are copied, not filled in")
}

func TestLoadNamesEveryBadVariable(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		environ []string
		want    []string
	}{
		"missing":      {nil, []string{"URL"}},
		"empty":        {[]string{"URL="}, []string{"URL"}},
		"not a number": {[]string{"URL=x", "SIZE=many"}, []string{"SIZE (connections)"}},
		"several":      {[]string{"SIZE=many", "WAIT=5", "ON=perhaps"}, []string{"URL", "SIZE (connections)", "WAIT (duration)", "ON (true or false)"}},
		"refused":      {[]string{"URL=x", "SIZE=0", "WAIT=-1s"}, []string{"SIZE: want 1 or more; WAIT: want 0s or more"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := config.Load(defaults, test.environ)
			for _, want := range test.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestUsageListsEverySetting(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	config.Usage(&out, "thing", "does things", defaults)
	require.Equal(t, `thing: does things

Usage: thing [--help | --version | --check | --healthcheck]
  --check        reads the settings, says whether they are valid, and exits
  --healthcheck  asks the service that runs with these settings whether it is ready, and exits

Settings come from the environment:
  ADDR   host:port             127.0.0.1:1  where it listens
  URL    text                  (required)   the database
  SIZE   connections           8            how many
  WAIT   duration              5s           how long
  NAMES  comma-separated list  -            who
  ON     true or false         -            whether
`, out.String())
}

func TestAttrsKeepSecrets(t *testing.T) {
	t.Parallel()
	cfg := defaults
	cfg.URL = "postgres://user:secret@host/db"
	require.Empty(t, cmp.Diff(map[string]string{
		"ADDR": "127.0.0.1:1", "URL": "set=true", "SIZE": "0", "WAIT": "0s", "NAMES": "[]", "ON": "false",
	}, config.Attrs(cfg)))
}

type layered struct {
	Listen   string        `env:"LISTEN_ADDR"`
	Deadline time.Duration `env:"DEADLINE" envDefault:"20s"`
	Level    string        `env:"LEVEL" envDefault:"INFO"`
	Key      string        `env:"KEY,required"`
}

// The environment beats the service's own defaults, and those beat the shared ones of the tags.
func TestLoadTakesTheMostSpecificOfThreeLayers(t *testing.T) {
	t.Parallel()
	own := layered{Listen: "127.0.0.1:1", Deadline: 40 * time.Second}
	got, err := config.Load(own, []string{"KEY=k"})
	require.NoError(t, err)
	require.Equal(t, layered{Listen: "127.0.0.1:1", Deadline: 40 * time.Second, Level: "INFO", Key: "k"}, got)
	got, err = config.Load(own, []string{"KEY=k", "LISTEN_ADDR=127.0.0.1:2", "DEADLINE=5s", "LEVEL=WARN"})
	require.NoError(t, err)
	require.Equal(t, layered{Listen: "127.0.0.1:2", Deadline: 5 * time.Second, Level: "WARN", Key: "k"}, got)
	_, err = config.Load(own, nil)
	require.ErrorContains(t, err, "KEY")
}
