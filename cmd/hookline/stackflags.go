package main

import (
	"flag"
	"os"

	"github.com/hookline/hookline/internal/stack"
)

// stackFlags adds the flags that say which stack a verb is about. The options start from the environment
// and are valid once the flags are parsed.
func stackFlags(fs *flag.FlagSet) (*stack.Options, error) {
	o, err := stack.OptionsFromEnv(os.Environ())
	if err != nil {
		return nil, wrongUsage("%s", err)
	}
	fs.StringVar(&o.Dir, "dir", o.Dir, "state `directory` ("+stack.EnvDir+"; default .hookline)")
	fs.IntVar(&o.PortOffset, "port-offset", o.PortOffset, "`number` added to every port ("+stack.EnvPortOffset+")")
	return &o, nil
}

// runFlags adds those of the verbs that bring a stack up.
func runFlags(fs *flag.FlagSet) (*stack.Options, error) {
	o, err := stackFlags(fs)
	if err != nil {
		return nil, err
	}
	fs.StringVar(&o.Intake, "intake", o.Intake, "way from Kafka into Restate: batches or subscription ("+stack.EnvIntake+"; default batches)")
	fs.StringVar(&o.Kafka, "kafka", o.Kafka, "kfake, or apache for a real broker, which needs Java 17 and Maven ("+stack.EnvKafka+"; default kfake)")
	return o, nil
}
