// Command payments-api takes payments and events over HTTP and writes them to PostgreSQL, where a trigger
// makes every change an event.
package main

import "github.com/hookline/hookline/internal/platform/service"

func main() {
	service.Service[config]{
		Name:     name,
		Purpose:  "takes payments and events over HTTP and writes them to PostgreSQL",
		Defaults: defaults(),
		Run:      run,
	}.Main()
}
