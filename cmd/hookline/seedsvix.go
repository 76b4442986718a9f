package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/svix"
)

const (
	envSvixURL = "SVIX_URL"
	// envSvixManagement is a token of the organization in which a self-hosted Svix keeps where its news goes.
	envSvixManagement = "SVIX_MANAGEMENT_TOKEN"
)

// seedSvix gives a self-hosted Svix server what the embedded stack's demo gives its own. Run again, it changes nothing.
func seedSvix(ctx context.Context, args []string, _, stderr io.Writer) error {
	fs := newFlags("seed-svix")
	url := fs.String("url", "", "`URL` of the simulator's webhooks, which SVIX_WHITELIST_SUBNETS must allow where it is not public")
	operational := fs.String("operational", "", "`URL` that operational webhooks go to: /callbacks/svix of payments-api")
	if _, err := parse(fs, args, 0, "seed-svix --url URL [--operational URL]",
		"Makes the demo merchant's application at the Svix server at "+envSvixURL+", with "+stack.EnvSvixToken+", and its endpoint, with "+envWebhookSecret+"\nas its secret. "+
			"With --operational it also makes the endpoint of operational webhooks, with "+envSvixManagement+"\nand with "+stack.EnvSvixNews+" as its secret."); err != nil {
		return err
	}
	needed := []string{envSvixURL, stack.EnvSvixToken, envWebhookSecret}
	if *operational != "" {
		needed = append(needed, envSvixManagement, stack.EnvSvixNews)
	}
	for _, name := range needed {
		if os.Getenv(name) == "" {
			return wrongUsage("%s is not set", name)
		}
	}
	if *url == "" {
		return wrongUsage("--url is missing")
	}
	token := os.Getenv(stack.EnvSvixToken)
	err := provisionSvix(ctx, token, stack.DemoMerchant, svix.Target{UID: "merchant-simulator", URL: *url, Secret: os.Getenv(envWebhookSecret)})
	if err != nil {
		return err
	}
	fmt.Fprintf(stderr, "the application of %s is there, with its endpoint\n", stack.DemoMerchant)
	if *operational == "" {
		return nil
	}
	organization, err := organizationOf(token)
	if err != nil {
		return err
	}
	err = provisionSvix(ctx, os.Getenv(envSvixManagement), organization, svix.Target{UID: "hookline", URL: *operational, Secret: os.Getenv(stack.EnvSvixNews)})
	if err != nil {
		return err
	}
	fmt.Fprintln(stderr, "the endpoint of operational webhooks is there")
	return nil
}

func provisionSvix(ctx context.Context, token, application string, target svix.Target) error {
	client, err := svix.New(svix.Options{Token: token, BaseURL: os.Getenv(envSvixURL)})
	if err != nil {
		return err
	}
	defer client.Close()
	return client.Provision(ctx, application, target)
}

// organizationOf is whose token it is, by its own word: Svix's server checks it.
func organizationOf(token string) (string, error) {
	parts := strings.Split(token, ".")
	var claims struct {
		Subject string `json:"sub"`
	}
	if len(parts) == 3 {
		if text, err := base64.RawURLEncoding.DecodeString(parts[1]); err == nil {
			_ = json.Unmarshal(text, &claims) // without a subject it is none
		}
	}
	if !strings.HasPrefix(claims.Subject, "org_") {
		return "", wrongUsage("%s is no token of a self-hosted Svix server: Svix Cloud has pages of its own for operational webhooks", stack.EnvSvixToken)
	}
	return claims.Subject, nil
}
