// Command merchant-simulator is a merchant that receives webhooks, keeps receipts, and misbehaves on demand.
package main

import (
	"github.com/hookline/hookline/internal/platform/service"
)

func main() {
	service.Service[settings]{
		Name:     "merchant-simulator",
		Purpose:  "a merchant that verifies, de-duplicates and records webhooks, and misbehaves on demand",
		Defaults: defaults(),
		Run:      run,
	}.Main()
}
