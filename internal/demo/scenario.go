package demo

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Scenario is a demo of something in particular.
type Scenario struct {
	// About says in a line what it shows.
	About string
	// Payments is how many there are of each merchant where nobody says.
	Payments int
	// Run shows it on the stack of the options. Its error is about the demo itself: see Outcome.Err for the pipeline's.
	Run func(ctx context.Context, o Options) (Outcome, error)
}

// Outcome is what came of a scenario. As JSON it is one object.
type Outcome interface {
	// Print writes it for a person to read.
	Print(out io.Writer)
	// Err says what makes it a failure; nil where everything came as it was to.
	Err() error
}

// Plotter is an Outcome that can also be seen.
type Plotter interface {
	// Plot writes it as an SVG.
	Plot(w io.Writer) error
}

// Scenarios are all there are, by name.
func Scenarios() map[string]Scenario {
	return map[string]Scenario{
		"flaky": {
			About:    "Merchants that fail, ask to wait, hang or behave, and how each gets all of its webhooks",
			Payments: 5, Run: runFlaky,
		},
		"callbacks": {
			About:    "A payment provider that tells everything three times and in any order, while the worker is killed, and what each payment becomes",
			Payments: 30, Run: runCallbacks,
		},
		"ordered": {
			About:    "Payments with many changes of status at two merchants that fail now and then, one of whom wants them in order",
			Payments: 20, Run: runOrdered,
		},
		"outage": {
			About:    "A merchant that is down for 20 s of steady traffic: its circuit, its backlog, and what others notice",
			Payments: 1500, Run: runOutage,
		},
		"hanging": {
			About:    "A fifth of the merchants never answer for 30 s: how often they are tried, and what the others notice",
			Payments: 800, Run: runHanging,
		},
		"flood": {
			About:    "A merchant that creates 20,000 payments at once, and what the others' webhooks have to wait for it",
			Payments: 20_000, Run: runFlood,
		},
	}
}

// ScenarioNames lists the scenarios for people.
func ScenarioNames() string {
	return strings.Join(slices.Sorted(maps.Keys(Scenarios())), ", ")
}

// FindScenario returns the scenario of the name; where there is none, its error names those that there are.
func FindScenario(name string) (Scenario, error) {
	scenario, found := Scenarios()[name]
	if !found {
		return Scenario{}, fmt.Errorf("there is no scenario %q; there are: %s", name, ScenarioNames())
	}
	return scenario, nil
}
