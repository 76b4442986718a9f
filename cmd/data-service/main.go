// Command data-service reads the business tables for everyone else: payloads, payments and the event feed.
package main

import "github.com/hookline/hookline/internal/platform/service"

func main() {
	service.Service[config]{
		Name:     name,
		Purpose:  "reads the business tables for the delivery side: payloads, payments, the event feed",
		Defaults: defaults(),
		Run:      run,
	}.Main()
}
