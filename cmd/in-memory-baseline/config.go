package main

import (
	"errors"
	"fmt"
	"net/url"

	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/service"
)

const name = "in-memory-baseline"

type settings struct {
	service.Common
	httpserver.Config

	MerchantURL   string `env:"MERCHANT_URL" envDefault:"http://127.0.0.1:4000/webhooks" desc:"where every webhook goes"`
	WebhookSecret string `env:"WEBHOOK_SECRET,required,notEmpty" secret:"true" unit:"whsec_…" desc:"signs the webhooks"`
}

func defaults() settings {
	return settings{Config: httpserver.Config{ListenAddr: "127.0.0.1:3000"}}
}

// Validate implements the check of config.Load.
func (s settings) Validate() error {
	errs := []error{s.Config.Validate()}
	if u, err := url.Parse(s.MerchantURL); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		errs = append(errs, fmt.Errorf("MERCHANT_URL: want http://host:port/path, not %q", s.MerchantURL))
	}
	return errors.Join(errs...)
}
