package stack

// Status is what `hookline status --json` prints.
type Status struct {
	Components []Component `json:"components"`
	// DSN may read the business tables and the ledger.
	DSN string `json:"dsn"`
}

// Component is one process of the embedded stack.
type Component struct {
	Name    string `json:"name"` // postgres, kafka, restate, data-service, ...
	PID     int    `json:"pid"`  // leader of its own process group; 0 when it does not run
	State   string `json:"state"`
	Address string `json:"address"` // host:port of its main port
}

// States of a component.
const (
	StateReady    = "ready"
	StateStarting = "starting" // it runs, and does not answer yet
	StateStopped  = "stopped"
)
