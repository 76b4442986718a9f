package stack

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Options say which stack to run, and how. The zero value of a field means its default.
type Options struct {
	// Dir is the state directory: .hookline in the current directory. Relative paths are made absolute.
	Dir string
	// PortOffset is added to every port.
	PortOffset int
	// Intake is IntakeBatches or IntakeSubscription.
	Intake string
	// Kafka is KafkaFake or KafkaApache.
	Kafka string
	// Workers is how many webhook-workers there are, behind one address: 1 to MaxWorkers.
	Workers int
	// Svix says that the stack has a Svix server, which the workers know. It keeps everything in memory.
	Svix bool
	// BinDir holds the services' binaries: the directory of the running executable.
	BinDir string
	// Environ, in os.Environ's form, is where the services' tunables (RETRY_SCHEDULE, LOG_LEVEL, ...) are
	// taken from: os.Environ().
	Environ []string
}

// Ways from Kafka into Restate.
const (
	IntakeBatches      = "batches"      // the worker's consumer hands batches to Restate
	IntakeSubscription = "subscription" // Restate consumes the topic by itself
)

// Kinds of Kafka.
const (
	KafkaFake   = "kfake"  // franz-go's broker in a process of its own, with its log on disk
	KafkaApache = "apache" // one real broker; needs Java and Maven
)

// Variables of the environment that set the options.
const (
	EnvDir        = "HOOKLINE_DIR"
	EnvPortOffset = "HOOKLINE_PORT_OFFSET"
	EnvKafka      = "HOOKLINE_KAFKA"
	EnvWorkers    = "HOOKLINE_WORKERS"
	EnvIntake     = "INTAKE"
	EnvCache      = "HOOKLINE_CACHE"
)

// OptionsFromEnv reads the options that the environment sets.
func OptionsFromEnv(environ []string) (Options, error) {
	o := Options{
		Dir:     lookup(environ, EnvDir),
		Intake:  lookup(environ, EnvIntake),
		Kafka:   lookup(environ, EnvKafka),
		Environ: environ,
	}
	if text := lookup(environ, EnvPortOffset); text != "" {
		offset, err := strconv.Atoi(text)
		if err != nil {
			return o, fmt.Errorf("%s: want a number, not %q", EnvPortOffset, text)
		}
		o.PortOffset = offset
	}
	if text := lookup(environ, EnvWorkers); text != "" {
		workers, err := strconv.Atoi(text)
		if err != nil {
			return o, fmt.Errorf("%s: want a number, not %q", EnvWorkers, text)
		}
		o.Workers = workers
	}
	return o, nil
}

// Complete fills in the defaults and checks the values.
func (o Options) Complete() (Options, error) {
	if o.Environ == nil {
		o.Environ = os.Environ()
	}
	if o.Dir == "" {
		o.Dir = ".hookline"
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("finding the state directory: %w", err)
	}
	o.Dir = dir
	if o.Intake == "" {
		o.Intake = IntakeBatches
	}
	if !slices.Contains([]string{IntakeBatches, IntakeSubscription}, o.Intake) {
		return o, fmt.Errorf("%s (or --intake) is %s or %s, not %q", EnvIntake, IntakeBatches, IntakeSubscription, o.Intake)
	}
	if o.Kafka == "" {
		o.Kafka = KafkaFake
	}
	if !slices.Contains([]string{KafkaFake, KafkaApache}, o.Kafka) {
		return o, fmt.Errorf("--kafka (or %s) is %s or %s, not %q", EnvKafka, KafkaFake, KafkaApache, o.Kafka)
	}
	if o.Workers == 0 {
		o.Workers = 1
	}
	if o.Workers < 1 || o.Workers > MaxWorkers {
		return o, fmt.Errorf("--workers (or %s) is 1 to %d, not %d", EnvWorkers, MaxWorkers, o.Workers)
	}
	// The highest port of ours is 19093.
	if o.PortOffset < 0 || o.PortOffset > 46000 {
		return o, fmt.Errorf("--port-offset (or %s) is 0 to 46000, not %d", EnvPortOffset, o.PortOffset)
	}
	if o.BinDir == "" {
		executable, err := os.Executable()
		if err != nil {
			return o, fmt.Errorf("finding the directory of the binaries: %w", err)
		}
		o.BinDir = filepath.Dir(executable)
	}
	return o, nil
}

func lookup(environ []string, name string) string {
	for _, entry := range slices.Backward(environ) {
		if value, found := strings.CutPrefix(entry, name+"="); found {
			return value
		}
	}
	return ""
}
