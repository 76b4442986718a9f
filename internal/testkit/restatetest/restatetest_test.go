package restatetest_test

import (
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/testkit/restatetest"
)

func TestMain(m *testing.M) {
	code := m.Run()
	restatetest.Stop()
	os.Exit(code)
}

func TestServerIsReadyAndShared(t *testing.T) {
	t.Parallel()
	ingress, admin := restatetest.Start(t)
	again, _ := restatetest.Start(t)
	require.Equal(t, ingress, again)

	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, admin+"/query",
		strings.NewReader(`{"query":"select count(*) as n from sys_invocation"}`))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.JSONEq(t, `{"rows":[{"n":0}]}`, string(body))
}
