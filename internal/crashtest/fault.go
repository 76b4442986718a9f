package crashtest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hookline/hookline/internal/stack"
)

// Fault is what is done to the stack.
type Fault struct {
	Kind   string `json:"kind"`   // one of the constants
	Target string `json:"target"` // a component, or what the kind says; empty where it needs none
}

// The kinds.
const (
	kindNone        = "none"             // nothing: what the load looks like by itself
	kindKill        = "kill"             // SIGKILL, and a restart at once
	kindFreeze      = "freeze"           // SIGSTOP, and SIGCONT later
	kindTerm        = "term"             // SIGTERM and a restart: a deploy
	kindDown        = "down"             // SIGKILL, and a restart only after a while
	kindCrashLoop   = "crashloop"        // killed again and again, with a backlog and a slow merchant
	kindRestart     = "restart"          // every component one after the other, as kindTerm
	kindSlot        = "slot-dropped"     // the replication slot is made anew: what was committed meanwhile is not in the topic
	kindVolume      = "restate-volume"   // Restate's data directory is removed, with retries waiting in it
	kindKillWaiting = "kill-waiting"     // SIGKILL while hundreds of retries wait and nothing is in flight, and a restart at once
	kindGroupReset  = "group-reset"      // the consumer group's offsets are moved
	kindLongTx      = "long-transaction" // another database's transaction is held open, and a record kept out of the topic
)

// Targets that are no component.
const (
	everything = "all"
	earliest   = "earliest"
	latest     = "latest"
)

// components are what a fault can hit, in the order in which a matrix hits them.
var components = []string{
	stack.WebhookWorker, stack.PaymentsAPI, stack.DataService, stack.CDCRelay,
	stack.Kafka, stack.Restate, stack.Postgres, stack.MerchantSimulator,
}

// isWorker tells a webhook-worker: where there are several, each has a name of its own that begins with the first one's.
func isWorker(component string) bool { return strings.HasPrefix(component, stack.WebhookWorker) }

// targets of each kind; nil where it takes none.
var targets = map[string][]string{
	kindNone: nil, kindKill: append([]string{everything}, components...), kindFreeze: components, kindTerm: components, kindDown: components,
	kindCrashLoop: {stack.WebhookWorker}, kindRestart: {everything}, kindSlot: nil, kindVolume: nil,
	kindKillWaiting: {stack.WebhookWorker},
	kindGroupReset:  {earliest, latest}, kindLongTx: nil,
}

// ParseFault reads kind:target, such as kill:webhook-worker, or the kind alone where it has no target.
func ParseFault(text string) (Fault, error) {
	kind, target, _ := strings.Cut(text, ":")
	allowed, known := targets[kind]
	switch {
	case !known:
		return Fault{}, fmt.Errorf("there is no fault %q; there are %s", text, strings.Join(Names(), ", "))
	case len(allowed) == 0 && target != "":
		return Fault{}, fmt.Errorf("fault %s takes no target, not %q", kind, target)
	case len(allowed) > 0 && !slices.Contains(allowed, target) && (!isWorker(target) || !slices.Contains(allowed, stack.WebhookWorker)):
		return Fault{}, fmt.Errorf("fault %s hits %s, not %q", kind, strings.Join(allowed, ", "), target)
	}
	return Fault{Kind: kind, Target: target}, nil
}

func (f Fault) String() string {
	if f.Target == "" {
		return f.Kind
	}
	return f.Kind + ":" + f.Target
}

// deploy tells a fault in which nothing may be sent twice: everything that stops is given the time to stop well.
func (f Fault) deploy() bool {
	return f.Kind == kindTerm || f.Kind == kindRestart || f.Kind == kindNone
}

// Names lists every kind with its targets, for people.
func Names() []string {
	var names []string
	for kind, allowed := range targets {
		name := kind
		switch {
		case len(allowed) == len(components):
			name += ":COMPONENT"
		case len(allowed) > len(components):
			name += ":COMPONENT|" + everything
		case len(allowed) > 0:
			name += ":" + strings.Join(allowed, "|")
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
