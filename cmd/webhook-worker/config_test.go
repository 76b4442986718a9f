package main

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSettingsOfSvixAreRefusedBeforeAnythingStarts(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(c *config)
		refuse string // empty where it is fine
	}{
		"in-house without a token": {func(*config) {}, ""},
		"in-house with a token":    {func(c *config) { c.SvixToken = "testsk_1" }, ""},
		"by Svix":                  {func(c *config) { c.DefaultRoute, c.SvixToken = "svix", "testsk_1" }, ""},
		"self-hosted":              {func(c *config) { c.SvixToken, c.SvixURL = "testsk_1", "http://svix:8071/" }, ""},
		"by Svix without a token":  {func(c *config) { c.DefaultRoute = "svix" }, "DEFAULT_ROUTE=svix needs one"},
		"another route":            {func(c *config) { c.DefaultRoute = "pigeon" }, "DEFAULT_ROUTE: want inhouse or svix"},
		"a token with a blank":     {func(c *config) { c.SvixToken = "testsk 1" }, "SVIX_TOKEN, SVIX_URL: the Svix token"},
		"an address without a host": {
			func(c *config) { c.SvixToken, c.SvixURL = "testsk_1", "svix" }, "SVIX_TOKEN, SVIX_URL: the address of Svix",
		},
		"no grace": {func(c *config) { c.SvixGrace = 0 }, "SVIX_GRACE: want a positive duration"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := config{DefaultRoute: "inhouse", SvixGrace: time.Minute}
			test.change(&c)
			err := c.Validate() // of much else that is missing
			require.Error(t, err)
			if test.refuse == "" {
				for _, each := range []string{"SVIX", "DEFAULT_ROUTE"} {
					require.NotContains(t, err.Error(), each)
				}
				return
			}
			require.ErrorContains(t, err, test.refuse)
			require.NotContains(t, err.Error(), "testsk")
		})
	}
}
