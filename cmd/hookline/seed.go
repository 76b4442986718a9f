package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/hookline/hookline/internal/stack"
)

const envWebhookSecret = "WEBHOOK_SECRET"

// seed gives a ledger outside the embedded stack the demo merchant that the embedded one has. Run again, it changes
// nothing.
func seed(ctx context.Context, args []string, _, stderr io.Writer) error {
	fs := newFlags("seed")
	url := fs.String("url", "", "`URL` of the simulator's webhooks, which ENDPOINT_ALLOW must allow where it is not public")
	if _, err := parse(fs, args, 0, "seed --url URL",
		"Makes the demo merchant's endpoint in the ledger at "+envDatabaseURL+", sealed with ENCRYPTION_KEYS, with "+envWebhookSecret+" as its secret."); err != nil {
		return err
	}
	secret := os.Getenv(envWebhookSecret)
	switch {
	case *url == "":
		return wrongUsage("--url is missing")
	case os.Getenv(envDatabaseURL) == "":
		return wrongUsage("%s is not set", envDatabaseURL)
	case secret == "":
		return wrongUsage("%s is not set", envWebhookSecret)
	}
	endpoints, err := openEndpoints(ctx, "")
	if err != nil {
		return err
	}
	defer endpoints.Close()
	if err := stack.Seed(ctx, endpoints.Manager, *url, secret); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "the endpoint of %s is there\n", stack.DemoMerchant)
	return nil
}
