package main

import (
	"context"
	"encoding/base64"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/stack"
	"github.com/hookline/hookline/internal/svix/svixtest"
)

func TestASvixServerIsSeededOnce(t *testing.T) { //nolint:paralleltest // the environment is everybody's
	jwt := func(subject string) string {
		return "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"`+subject+`"}`)) + ".c2ln"
	}
	ours, management := jwt("org_1"), jwt("org_00000000000SvixManagement00")
	server := svixtest.New(context.Background(), svixtest.Options{Tokens: []string{ours, management}})
	listening := httptest.NewServer(server)
	t.Cleanup(func() {
		listening.Close()
		server.Close()
	})
	seeding := []string{"seed-svix", "--url", "http://127.0.0.1:1/webhooks", "--operational", "http://127.0.0.1:1/callbacks/svix"}
	for _, name := range []string{envSvixURL, stack.EnvSvixToken, envWebhookSecret, envSvixManagement, stack.EnvSvixNews} {
		t.Setenv(name, "")
	}
	for name, value := range map[string]string{
		envSvixURL: listening.URL, stack.EnvSvixToken: ours, envWebhookSecret: "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
		envSvixManagement: management, stack.EnvSvixNews: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
	} {
		got := hookline(t, seeding...)
		require.Equal(t, exitUsage, got.code)
		require.Contains(t, got.stderr, "is not set")
		t.Setenv(name, value)
	}
	require.Equal(t, exitUsage, hookline(t, "seed-svix").code)
	for range 2 {
		got := hookline(t, seeding...)
		require.Equal(t, exitOK, got.code, got.stderr)
	}
	require.Equal(t, []string{stack.DemoMerchant, "org_1"}, server.Applications())
	require.Equal(t, 2, server.Requests("POST /api/v1/app/{app_id}/endpoint"))

	t.Setenv(stack.EnvSvixToken, "testsk_cloud")
	server.SetTokens("testsk_cloud", management)
	got := hookline(t, seeding...)
	require.Equal(t, exitUsage, got.code)
	require.Contains(t, got.stderr, "no token of a self-hosted Svix server")
}
