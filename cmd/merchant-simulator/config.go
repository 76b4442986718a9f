package main

import (
	"fmt"

	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/service"
	"github.com/hookline/hookline/internal/simulator"
)

// settings of the merchant. It has no API_TOKEN: a webhook carries its signature, and nothing else.
type settings struct {
	service.Common

	ListenAddr           string   `env:"LISTEN_ADDR" unit:"host:port" desc:"where the merchant listens"`
	AllowUnauthenticated bool     `env:"ALLOW_UNAUTHENTICATED" envDefault:"false" desc:"listen beyond loopback: whoever reaches the merchant may then reset it and change its behaviour"`
	WebhookSecrets       []string `env:"WEBHOOK_SECRETS" secret:"true" unit:"comma-separated whsec_… or whpk_…" desc:"live signing secrets and public keys: a webhook whose signature is good by any of them is good (required)"`
	ReceiptsFile         string   `env:"RECEIPTS_FILE" unit:"path" desc:"where receipts are appended, one JSON line each; empty keeps them in memory only"`
}

func defaults() settings { return settings{ListenAddr: "127.0.0.1:4001"} }

func (s settings) server() httpserver.Config {
	return httpserver.Config{ListenAddr: s.ListenAddr, AllowUnauthenticated: s.AllowUnauthenticated}
}

// Validate implements the check of config.Load.
func (s settings) Validate() error {
	if err := simulator.CheckSecrets(s.WebhookSecrets); err != nil {
		return fmt.Errorf("WEBHOOK_SECRETS: %w", err)
	}
	return s.server().Validate()
}
