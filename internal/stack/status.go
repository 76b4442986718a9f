package stack

import "github.com/hookline/hookline/internal/seal"

// Status is what `hookline status --json` prints.
type Status struct {
	Components []Component `json:"components"`
	// DSN may read the business tables and the ledger.
	DSN string `json:"dsn"`
	// Keys seal what the ledger keeps of merchants' secrets.
	Keys seal.Keyring `json:"-"`
	// CallbackSecret is what the demo's payment provider signs with, as Stripe does.
	CallbackSecret string `json:"-"`
	// WebhookSecret signs what the demo merchant gets.
	WebhookSecret string `json:"-"`
	// SvixToken is what the stack's Svix server takes.
	SvixToken string `json:"-"`
	// Intake and Kafka are the ways that the stack was last brought up with.
	Intake string `json:"intake"`
	Kafka  string `json:"kafka"`
	// Workers is how many webhook-workers it was brought up with.
	Workers int `json:"workers"`
}

// Component is one process of the embedded stack.
type Component struct {
	Name    string `json:"name"` // postgres, kafka, restate, data-service, ...
	PID     int    `json:"pid"`  // leader of its own process group; 0 when it does not run
	State   string `json:"state"`
	Address string `json:"address"` // host:port of its main port
	// Admin is where Restate's admin API and UI are.
	Admin string `json:"admin,omitempty"`
}

// States of a component.
const (
	StateReady    = "ready"
	StateStarting = "starting" // it runs, and does not answer yet
	StateStopped  = "stopped"
)

// Names of the components, in the order in which they start.
const (
	Postgres          = "postgres"
	Kafka             = "kafka"
	Restate           = "restate"
	MerchantSimulator = "merchant-simulator"
	Svix              = "svix" // only where it is wanted
	DataService       = "data-service"
	CDCRelay          = "cdc-relay"
	WorkerProxy       = "worker-proxy"   // only in front of several workers
	WebhookWorker     = "webhook-worker" // the first one; Status.WorkerNames has all
	PaymentsAPI       = "payments-api"
)

// Address returns the host:port of the component; empty where the status has none of that name.
func (s Status) Address(name string) string { return s.component(name).Address }

// WorkerNames returns the names of the webhook-workers: each has an address of its own.
func (s Status) WorkerNames() []string {
	var names []string
	for _, c := range s.Components {
		if isWorker(c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// RestateAdmin returns the host:port of Restate's admin API and UI.
func (s Status) RestateAdmin() string { return s.component(Restate).Admin }

// State returns the component's state; empty where the status has none of that name.
func (s Status) State(name string) string { return s.component(name).State }

// Ready reports whether every component is.
func (s Status) Ready() bool {
	for _, c := range s.Components {
		if c.State != StateReady {
			return false
		}
	}
	return true
}

func (s Status) component(name string) Component {
	for _, c := range s.Components {
		if c.Name == name {
			return c
		}
	}
	return Component{}
}
