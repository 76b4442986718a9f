package restate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/hookline/hookline/internal/platform/logging"
)

// checkEvery is how often the registration is looked at: Restate's volume may be lost with all that it knew.
const checkEvery = 5 * time.Second

// kafkaCluster is the name under which Restate knows our brokers.
const kafkaCluster = "hookline"

// RegistrarConfig says what Restate must know of this worker.
type RegistrarConfig struct {
	AdminURL string `env:"RESTATE_ADMIN_URL" envDefault:"http://127.0.0.1:9070" desc:"Restate's admin API"`
	// AdvertisedURL names a version of the handlers for ever: an upgrade that cannot run the old journals
	// registers a new one.
	AdvertisedURL string `env:"ADVERTISED_URL" envDefault:"http://127.0.0.1:9080" desc:"how Restate reaches this worker"`
}

// Subscription is Restate's own way to read the topic. The zero value wants none.
type Subscription struct {
	Brokers []string
	Topic   string
	Group   string
}

// Registrar keeps the handlers, and the subscription where one is wanted, registered with Restate.
type Registrar struct {
	cfg          RegistrarConfig
	subscription Subscription
	token        string
	told         bool // this process has registered, with its token
	http         *http.Client
	log          *slog.Logger
	state        atomic.Pointer[error] // nil until the first check; then its outcome
}

// NewRegistrar makes a Registrar. The token, where there is one, is what Restate must send to the handlers.
func NewRegistrar(cfg RegistrarConfig, subscription Subscription, token string, log *slog.Logger) *Registrar {
	return &Registrar{cfg: cfg, subscription: subscription, token: token, http: &http.Client{Timeout: 10 * time.Second}, log: log}
}

// Ready returns nil when the last check found everything registered.
func (r *Registrar) Ready() error {
	state := r.state.Load()
	if state == nil {
		return errors.New("not registered with Restate yet")
	}
	return *state
}

// Run checks the registration until ctx ends, and registers what is missing.
func (r *Registrar) Run(ctx context.Context) error {
	pause := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		before := r.state.Load()
		err := r.ensure(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.state.Store(&err)
		pause = checkEvery
		if err != nil {
			pause = 500 * time.Millisecond
			if before == nil || *before == nil || (*before).Error() != err.Error() {
				r.log.LogAttrs(ctx, slog.LevelWarn, "not registered with Restate", logging.Error(err))
			}
		}
	}
}

// ensure looks before it makes anything: a second deployment at one URL is refused or changes nothing, a second
// subscription would be another consumer.
func (r *Registrar) ensure(ctx context.Context) error {
	if err := r.ensureDeployment(ctx); err != nil {
		return fmt.Errorf("registering the handlers: %w", err)
	}
	if r.subscription.Topic == "" {
		return nil
	}
	if err := r.ensureSubscription(ctx); err != nil {
		return fmt.Errorf("subscribing to the topic: %w", err)
	}
	return nil
}

func (r *Registrar) ensureDeployment(ctx context.Context) error {
	var known struct {
		Deployments []struct {
			URI     string            `json:"uri"`
			Headers map[string]string `json:"additional_headers"`
		} `json:"deployments"`
	}
	if err := r.call(ctx, http.MethodGet, "/deployments", nil, &known); err != nil {
		return err
	}
	found, current := false, true
	for _, deployment := range known.Deployments {
		if strings.TrimSuffix(deployment.URI, "/") == strings.TrimSuffix(r.cfg.AdvertisedURL, "/") {
			// A token that Restate does not know yet is told once: it may show what it knows masked.
			found, current = true, r.told || r.token == "" || deployment.Headers["authorization"] == "Bearer "+r.token
		}
	}
	if found && current {
		complete, err := r.knowsHandlers(ctx)
		if err != nil {
			return err
		}
		if complete {
			return nil
		}
	}
	body := map[string]any{
		"uri": r.cfg.AdvertisedURL,
		// A URL that is known with fewer handlers is one of an older build, and one that is known with another
		// token one of other settings: neither changes what the running journals are. Nothing else is forced.
		"force": found,
	}
	if r.token != "" {
		body["additional_headers"] = map[string]string{"authorization": "Bearer " + r.token}
	}
	if err := r.call(ctx, http.MethodPost, "/deployments", body, nil); err != nil {
		return err
	}
	r.told = true
	r.log.LogAttrs(ctx, slog.LevelInfo, "registered with Restate", slog.String("url", r.cfg.AdvertisedURL))
	return nil
}

// ourHandlers are the handlers of this build by service.
func ourHandlers() map[string][]string {
	return map[string][]string{
		DispatcherService: {ProcessHandler, AttemptHandler},
		SequencerService:  {WakeHandler},
		PacerService:      {BookHandler},
		RouterService:     {StripeEventHandler, EventHandler, RedriveHandler},
		TrackerService:    {ApplyHandler, HistoryHandler},
		DrainerService:    {WakeHandler, TickHandler},
	}
}

// knowsHandlers reports whether Restate knows all handlers of this build: another one may have had the URL before.
func (r *Registrar) knowsHandlers(ctx context.Context) (bool, error) {
	var known struct {
		Services []struct {
			Name     string `json:"name"`
			Handlers []struct {
				Name string `json:"name"`
			} `json:"handlers"`
		} `json:"services"`
	}
	if err := r.call(ctx, http.MethodGet, "/services", nil, &known); err != nil {
		return false, err
	}
	missing := ourHandlers()
	for _, service := range known.Services {
		for _, handler := range service.Handlers {
			missing[service.Name] = slices.DeleteFunc(missing[service.Name], func(name string) bool { return name == handler.Name })
		}
	}
	for _, names := range missing {
		if len(names) > 0 {
			return false, nil
		}
	}
	return true, nil
}

func (r *Registrar) ensureSubscription(ctx context.Context) error {
	var clusters struct {
		Clusters []struct {
			Name string `json:"name"`
		} `json:"clusters"`
	}
	if err := r.call(ctx, http.MethodGet, "/kafka-clusters", nil, &clusters); err != nil {
		return err
	}
	known := false
	for _, cluster := range clusters.Clusters {
		known = known || cluster.Name == kafkaCluster
	}
	if !known {
		err := r.call(ctx, http.MethodPost, "/kafka-clusters", map[string]any{
			"name": kafkaCluster, "properties": map[string]string{"bootstrap.servers": strings.Join(r.subscription.Brokers, ",")},
		}, nil)
		if err != nil {
			return err
		}
	}
	source := "kafka://" + kafkaCluster + "/" + r.subscription.Topic
	sink := "service://" + DispatcherService + "/" + ProcessHandler
	var subscriptions struct {
		Subscriptions []struct {
			ID     string `json:"id"`
			Source string `json:"source"`
			Sink   string `json:"sink"`
		} `json:"subscriptions"`
	}
	if err := r.call(ctx, http.MethodGet, "/subscriptions?"+url.Values{"source": {source}, "sink": {sink}}.Encode(), nil, &subscriptions); err != nil {
		return err
	}
	for _, s := range subscriptions.Subscriptions {
		if s.Source == source && s.Sink == sink {
			return nil
		}
	}
	err := r.call(ctx, http.MethodPost, "/subscriptions", map[string]any{
		"source": source, "sink": sink,
		"options": map[string]string{
			"group.id": r.subscription.Group,
			// The library's default is latest, which skips what came before the group's first commit.
			"auto.offset.reset": "earliest",
			// Without it there is no lag metric.
			"statistics.interval.ms": "5000",
			// The default session of 45 s is how long a killed Restate would leave its partitions idle.
			"session.timeout.ms": "6000", "heartbeat.interval.ms": "1500",
		},
	}, nil)
	if err != nil {
		return err
	}
	r.log.LogAttrs(ctx, slog.LevelInfo, "subscribed to the topic through Restate", slog.String("source", source), slog.String("group", r.subscription.Group))
	return nil
}

// errAbsent is in the chain of what call returns where Restate knows no such thing.
var errAbsent = errors.New("Restate does not know it")

// call speaks JSON with the admin API; out may be nil.
func (r *Registrar) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encoding a request: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	request, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.cfg.AdminURL, "/")+path, body)
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "application/json")
	response, err := r.http.Do(request)
	if err != nil {
		return fmt.Errorf("calling Restate's admin API: %w", err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return fmt.Errorf("reading Restate's answer: %w", err)
	}
	if response.StatusCode == http.StatusNotFound {
		return fmt.Errorf("%s %s: %w", method, path, errAbsent)
	}
	if response.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, response.Status, bytes.TrimSpace(answer[:min(len(answer), 500)]))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("decoding Restate's answer to %s %s: %w", method, path, err)
	}
	return nil
}
