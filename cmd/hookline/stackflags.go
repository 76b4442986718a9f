package main

import (
	"flag"
	"os"

	"github.com/hookline/hookline/internal/stack"
)

// dirFlag adds the flag of the verbs that take a stack as it is.
func dirFlag(fs *flag.FlagSet) *string {
	return fs.String("dir", os.Getenv(stack.EnvDir), "state `directory` ("+stack.EnvDir+"; default .hookline)")
}

// runFlags adds the flags of the verbs that bring a stack up. The options start from the environment; call
// their Complete once the flags are parsed.
func runFlags(fs *flag.FlagSet) (*stack.Options, error) {
	o, err := stack.OptionsFromEnv(os.Environ())
	if err != nil {
		return nil, wrongUsage("%s", err)
	}
	fs.StringVar(&o.Dir, "dir", o.Dir, "state `directory` ("+stack.EnvDir+"; default .hookline)")
	fs.IntVar(&o.PortOffset, "port-offset", o.PortOffset, "`number` added to every port ("+stack.EnvPortOffset+")")
	fs.StringVar(&o.Intake, "intake", o.Intake, "way from Kafka into Restate: batches or subscription ("+stack.EnvIntake+"; default batches)")
	fs.StringVar(&o.Kafka, "kafka", o.Kafka, "kfake, or apache for a real broker, which needs Java 17 and Maven ("+stack.EnvKafka+"; default kfake)")
	fs.IntVar(&o.Workers, "workers", o.Workers, "`number` of webhook-workers, 1 to 4 ("+stack.EnvWorkers+"; default 1)")
	fs.BoolVar(&o.Svix, "svix", o.Svix, "run a Svix server beside, which keeps everything in memory, and give its address to the workers")
	return &o, nil
}
