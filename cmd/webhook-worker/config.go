package main

import (
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/hookline/hookline/internal/callback"
	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/egress"
	"github.com/hookline/hookline/internal/kafka"
	"github.com/hookline/hookline/internal/platform/httpserver"
	"github.com/hookline/hookline/internal/platform/service"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/reconcile"
	"github.com/hookline/hookline/internal/restate"
	"github.com/hookline/hookline/internal/seal"
	"github.com/hookline/hookline/internal/svix"
)

// The ways in. Both use one consumer group, so that a change between them neither skips nor repeats the topic.
const (
	intakeBatches      = "batches"
	intakeSubscription = "subscription"
)

type config struct {
	service.Common
	httpserver.Config
	Kafka kafka.Config
	restate.RegistrarConfig
	restate.HandlerConfig
	Reconcile reconcile.Config
	Egress    egress.Config

	DatabaseURL      string             `env:"DATABASE_URL,required,notEmpty" secret:"true" desc:"the ledger's database, as role hookline_worker"`
	DBPoolSize       int                `env:"DB_POOL_SIZE" envDefault:"16" desc:"connections to the ledger at most"`
	DataServiceURL   string             `env:"DATA_SERVICE_URL" envDefault:"http://127.0.0.1:3002" desc:"where payloads are fetched"`
	DataServiceToken string             `env:"DATA_SERVICE_TOKEN" secret:"true" desc:"data-service's API_TOKEN, where it has one"`
	PaymentsAPIURL   string             `env:"PAYMENTS_API_URL" envDefault:"http://127.0.0.1:3001" desc:"where callbacks change payments, and where events about endpoints, such as endpoint.disabled, are posted to"`
	PaymentsAPIToken string             `env:"PAYMENTS_API_TOKEN" secret:"true" desc:"payments-api's API_TOKEN, where it has one"`
	EncryptionKeys   seal.Keyring       `env:"ENCRYPTION_KEYS,required,notEmpty" secret:"true" unit:"id:key[,id:key]" desc:"open what the ledger keeps of endpoints' secrets; a key is the base64 of 32 random bytes, and the first one seals"`
	CallbackSecrets  callback.Providers `env:"CALLBACK_SECRETS" secret:"true" unit:"provider=secret[,provider=secret]" desc:"who may send callbacks, with the secrets that they sign with; a provider that rotates is there twice"`
	DisableAfter     time.Duration      `env:"ENDPOINT_DISABLE_AFTER" envDefault:"120h" desc:"how long an endpoint may fail without a success until a further failure disables it"`
	MaxOpen          int                `env:"ENDPOINT_MAX_OPEN" envDefault:"32" desc:"how many requests of this worker to one endpoint may be under way at once; what is beyond waits without using an attempt"`
	CircuitOpenAt    float64            `env:"CIRCUIT_OPEN_AT" envDefault:"0.5" unit:"0 to 1" desc:"the share of an endpoint's latest requests that must fail for it to be spared for a while; 0 spares none"`
	CircuitProbe     time.Duration      `env:"CIRCUIT_PROBE_AFTER" envDefault:"2s" desc:"how long an endpoint is spared the first time until one delivery finds out how it is; each time that fails, a quarter longer, up to 5m"`
	IngressURL       string             `env:"RESTATE_INGRESS_URL" envDefault:"http://127.0.0.1:8080" desc:"Restate's ingress"`
	Intake           string             `env:"INTAKE" envDefault:"batches" unit:"batches or subscription" desc:"who reads the topic: this worker, which hands over batches, or Restate's own subscription, one invocation per record"`
	Reconciler       bool               `env:"RECONCILER" envDefault:"true" desc:"whether this worker may be the one that looks for what was lost"`
	KafkaGroup       string             `env:"KAFKA_GROUP" envDefault:"webhook-dispatcher" desc:"the consumer group, of either intake"`
	RetrySchedule    delivery.Schedule  `env:"RETRY_SCHEDULE" envDefault:"5s,5m,30m,2h,5h,10h,14h,20h,24h" unit:"comma-separated durations, or standard, day or minutes" desc:"the wait after each failed attempt, for endpoints without a schedule of their own; then the delivery is dead"`
	RetryJitter      float64            `env:"RETRY_JITTER" envDefault:"0.2" unit:"0 to 0.5" desc:"how far a wait is spread both ways, as a share of it"`
	DefaultRoute     string             `env:"DEFAULT_ROUTE" envDefault:"inhouse" unit:"inhouse or svix" desc:"who delivers the webhooks of merchants without a route of their own: this deployment, or Svix"`
	SvixToken        string             `env:"SVIX_TOKEN" secret:"true" desc:"Svix's API token: without one the events of route svix wait; it must stay the same from one start to the next"`
	SvixURL          string             `env:"SVIX_URL" desc:"where Svix's API is, such as http://svix:8071; empty is Svix Cloud, in the region that the token names"`
	SvixGrace        time.Duration      `env:"SVIX_GRACE" envDefault:"3m" desc:"how long Svix may take to show a first attempt of a message whose acceptance it never answered, until a second message stands in for it"`
	IdlePerHost      int                `env:"IDLE_CONNECTIONS_PER_HOST" envDefault:"256" desc:"connections kept open to one merchant's host between webhooks"`
}

func defaults() config {
	return config{
		// Calls of the intake 10 s, open requests 10 s, exchanges 12 s, one after the other.
		Common: service.Common{ShutdownTimeout: 40 * time.Second},
		Config: httpserver.Config{ListenAddr: "127.0.0.1:9080"},
	}
}

// Validate implements what config.Load asks.
func (c config) Validate() error {
	errs := []error{c.Config.Validate()}
	if err := postgres.CheckDSN(c.DatabaseURL); err != nil {
		errs = append(errs, fmt.Errorf("DATABASE_URL: %w", err))
	}
	if c.Intake != intakeBatches && c.Intake != intakeSubscription {
		errs = append(errs, fmt.Errorf("INTAKE: want batches or subscription, not %q", c.Intake))
	}
	if c.RetryJitter < 0 || c.RetryJitter > 0.5 {
		errs = append(errs, errors.New("RETRY_JITTER: want 0 to 0.5"))
	}
	if c.CircuitOpenAt < 0 || c.CircuitOpenAt > 1 {
		errs = append(errs, errors.New("CIRCUIT_OPEN_AT: want 0 to 1"))
	}
	if c.MaxOpen < 1 {
		errs = append(errs, errors.New("ENDPOINT_MAX_OPEN: want at least 1"))
	}
	if c.DBPoolSize < 1 {
		errs = append(errs, errors.New("DB_POOL_SIZE: want at least 1"))
	}
	for name, d := range map[string]time.Duration{
		"RECONCILE_INTERVAL": c.Reconcile.Interval, "RECONCILE_GRACE": c.Reconcile.Grace, "RECONCILE_OVER_AGE": c.Reconcile.OverAge,
		"ENDPOINT_DISABLE_AFTER": c.DisableAfter, "SVIX_GRACE": c.SvixGrace, "CIRCUIT_PROBE_AFTER": c.CircuitProbe,
	} {
		if d <= 0 {
			errs = append(errs, fmt.Errorf("%s: want a positive duration, not %s", name, d))
		}
	}
	if c.DefaultRoute != delivery.RouteInhouse && c.DefaultRoute != delivery.RouteSvix {
		errs = append(errs, fmt.Errorf("DEFAULT_ROUTE: want inhouse or svix, not %q", c.DefaultRoute))
	}
	if c.DefaultRoute == delivery.RouteSvix && c.SvixToken == "" {
		errs = append(errs, errors.New("SVIX_TOKEN: DEFAULT_ROUTE=svix needs one"))
	}
	if c.SvixToken != "" {
		if client, err := c.svix(); err != nil {
			errs = append(errs, fmt.Errorf("SVIX_TOKEN, SVIX_URL: %w", err))
		} else {
			client.Close()
		}
	}
	if c.Reconcile.Rate < 1 {
		errs = append(errs, errors.New("RECONCILE_RATE: want at least 1"))
	}
	for name, raw := range map[string]string{
		"DATA_SERVICE_URL": c.DataServiceURL, "PAYMENTS_API_URL": c.PaymentsAPIURL, "RESTATE_INGRESS_URL": c.IngressURL, "RESTATE_ADMIN_URL": c.AdminURL, "ADVERTISED_URL": c.AdvertisedURL,
	} {
		if u, err := url.Parse(raw); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			errs = append(errs, fmt.Errorf("%s: want http://host:port, not %q", name, raw))
		}
	}
	return errors.Join(errs...)
}

// svix makes the client that the settings describe. It does not connect.
func (c config) svix() (*svix.Client, error) {
	return svix.New(svix.Options{Token: c.SvixToken, BaseURL: c.SvixURL, Grace: c.SvixGrace})
}
