package stack

import (
	"os/exec"
	"path/filepath"

	"github.com/hookline/hookline/internal/callback"
)

// Variables by which the stack's Svix server gets what is secret: arguments are for everybody to see.
const (
	EnvSvixToken = "SVIX_TOKEN"
	// EnvSvixNews is what operational webhooks are signed with.
	EnvSvixNews = "SVIX_OPERATIONAL_SECRET"
)

// svix is a Svix server in memory. Its news goes through the door of callbacks.
func (s *stack) svix() *part {
	return &part{command: func() (*exec.Cmd, error) {
		cmd := exec.Command(filepath.Join(s.BinDir, "hookline"), "svix", "--listen", s.address(Svix),
			"--operational", s.url(PaymentsAPI)+"/callbacks/"+callback.Svix)
		cmd.Env = append(s.surroundings(), EnvSvixToken+"="+s.secrets.SvixToken, EnvSvixNews+"="+s.secrets.SvixNews)
		return cmd, nil
	}}
}
