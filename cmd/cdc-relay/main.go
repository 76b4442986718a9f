// Command cdc-relay brings every committed row of domain_events from PostgreSQL's WAL to Kafka.
package main

import "github.com/hookline/hookline/internal/platform/service"

func main() {
	service.Service[Config]{
		Name:     "cdc-relay",
		Purpose:  "relays committed events from PostgreSQL's WAL to Kafka, at least once",
		Defaults: defaults(),
		Run:      run,
	}.Main()
}
