// Command webhook-worker takes events from Kafka, runs the durable dispatcher for Restate, and delivers webhooks.
package main

import "github.com/hookline/hookline/internal/platform/service"

func main() {
	service.Service[config]{
		Name:     "webhook-worker",
		Purpose:  "takes events from Kafka, hands them to Restate in batches, and delivers them when Restate calls",
		Defaults: defaults(),
		Run:      run,
	}.Main()
}
