package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/service"
	"github.com/hookline/hookline/internal/postgres"
)

const name = "data-service"

type config struct {
	service.Common
	httpserver.Config

	DatabaseURL    string        `env:"DATABASE_URL,required,notEmpty" secret:"true" unit:"postgres:// URL" desc:"the business database; connect as the role hookline_reader"`
	DBPoolSize     int           `env:"DB_POOL_SIZE" envDefault:"16" unit:"connections" desc:"connections to the database at most"`
	WaitForVisible time.Duration `env:"WAIT_FOR_VISIBLE" envDefault:"100ms" desc:"how long a request for payloads waits for rows that their records outran; at most 2s"`
}

func defaults() config {
	return config{Config: httpserver.Config{ListenAddr: "127.0.0.1:3002"}}
}

// maxWait keeps a request within the time that its client waits for an answer.
const maxWait = 2 * time.Second

// Validate names every setting that is wrong.
func (c *config) Validate() error {
	errs := []error{c.Config.Validate()}
	if err := postgres.CheckDSN(c.DatabaseURL); err != nil {
		errs = append(errs, fmt.Errorf("DATABASE_URL: %w", err))
	}
	if c.DBPoolSize < 1 || c.DBPoolSize > 1000 {
		errs = append(errs, fmt.Errorf("DB_POOL_SIZE: want 1 to 1000, not %d", c.DBPoolSize))
	}
	if c.WaitForVisible < 0 || c.WaitForVisible > maxWait {
		errs = append(errs, fmt.Errorf("WAIT_FOR_VISIBLE: want 0 to %s, not %s", maxWait, c.WaitForVisible))
	}
	return errors.Join(errs...)
}
