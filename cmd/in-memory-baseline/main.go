// Command in-memory-baseline is the architecture before Hookline, for the comparison: it keeps webhooks in memory, and
// loses them when it is killed.
package main

import (
	"github.com/hookline/hookline/internal/platform/service"
)

func main() {
	service.Service[settings]{
		Name:     name,
		Purpose:  "what not to do: payments whose webhooks wait in memory, and are lost with the process",
		Defaults: defaults(),
		Run:      run,
	}.Main()
}
