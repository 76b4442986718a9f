package main

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/service"
	"github.com/hookline/hookline/internal/postgres"
)

type config struct {
	service.Common
	httpserver.Config

	// DatabaseURL should be of the role hookline_api, which can write nothing but payments.
	DatabaseURL string `env:"DATABASE_URL,required,notEmpty" secret:"true" unit:"PostgreSQL URL" desc:"the database of the business tables, as the role hookline_api"`
	// DBPoolSize decides how many commits share one flush of the WAL: with 32 connections a burst took .62 ms
	// of CPU per event, with 16 it took .70, with 8 .88.
	DBPoolSize int `env:"DB_POOL_SIZE" envDefault:"32" unit:"connections" desc:"connections to the database at most"`
	// DBConnectTimeout is for one connection; DBTimeout ends the wait of the request that asked for it.
	DBConnectTimeout time.Duration `env:"DB_CONNECT_TIMEOUT" envDefault:"3s" desc:"how long making a connection to the database may take"`
	// DBTimeout is below the 15 s that the server has for a request, so that the client gets a 503 and not
	// a cut connection.
	DBTimeout time.Duration `env:"DB_TIMEOUT" envDefault:"5s" desc:"how long one request may wait for the database before it is answered with 503; at most 10s"`
	// MerchantRate is what two cores can take on beside others' traffic without its being felt: see docs/operations.md.
	MerchantRate int `env:"MERCHANT_RATE" envDefault:"150" unit:"creations/s" desc:"how many payments and events one merchant may create while others do, where that is far more than theirs; further ones wait for their turn; 0 lets everybody through"`
	// CallbackSecrets also say for whom POST /callbacks/{provider} is there at all.
	CallbackSecrets callback.Providers `env:"CALLBACK_SECRETS" secret:"true" unit:"provider=secret[,provider=secret]" desc:"payment providers that may call back, and what they sign with: stripe=whsec_… as Stripe shows it, others as Standard Webhooks writes it; a provider that rotates its secret is there twice; empty means none"`
	// IngressURL is where callbacks are kept.
	IngressURL string `env:"RESTATE_INGRESS_URL" envDefault:"http://127.0.0.1:8080" unit:"URL" desc:"Restate's ingress, which keeps callbacks and knows their history"`
	// RequireSlot guards the first start: what commits before there is a slot is in no stream.
	RequireSlot bool `env:"REQUIRE_SLOT" envDefault:"true" desc:"be ready only once the database has a logical replication slot"`
}

func defaults() config {
	return config{Config: httpserver.Config{ListenAddr: "127.0.0.1:3001"}}
}

const maxDBTimeout = 10 * time.Second

// Validate names every setting that is wrong.
func (c *config) Validate() error {
	var problems []error
	if err := c.Config.Validate(); err != nil {
		problems = append(problems, err)
	}
	if err := postgres.CheckDSN(c.DatabaseURL); err != nil {
		problems = append(problems, fmt.Errorf("DATABASE_URL: %w", err))
	}
	if c.DBPoolSize < 1 || c.DBPoolSize > 1000 {
		problems = append(problems, errors.New("DB_POOL_SIZE: want 1 to 1000"))
	}
	if c.MerchantRate < 0 || c.MerchantRate > 1_000_000 {
		problems = append(problems, errors.New("MERCHANT_RATE: want 0 to 1,000,000"))
	}
	if c.DBConnectTimeout <= 0 {
		problems = append(problems, errors.New("DB_CONNECT_TIMEOUT: want more than 0s"))
	}
	if c.DBTimeout <= 0 || c.DBTimeout > maxDBTimeout {
		problems = append(problems, fmt.Errorf("DB_TIMEOUT: want more than 0s and at most %s", maxDBTimeout))
	}
	if u, err := url.Parse(c.IngressURL); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		problems = append(problems, errors.New("RESTATE_INGRESS_URL: want http://host:port"))
	}
	return errors.Join(problems...)
}
