package bench

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	svix "github.com/svix/svix-webhooks/go"

	"github.com/hookline/hookline/internal/signing"
)

func newTestMerchants(t *testing.T, secret string) *merchants {
	t.Helper()
	m, err := listen(t.Context(), secret, 10, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.close()) })
	return m
}

func webhook(t *testing.T, url, id, secret string, body io.Reader, content string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	require.NoError(t, err)
	signer, err := svix.NewWebhook(secret)
	require.NoError(t, err)
	now := time.Now()
	signature, err := signer.Sign(id, now, []byte(content))
	require.NoError(t, err)
	req.Header.Set("Webhook-Id", id)
	req.Header.Set("Webhook-Timestamp", strconv.FormatInt(now.Unix(), 10))
	req.Header.Set("Webhook-Signature", signature)
	res, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode
}

func newSecret(t *testing.T) string {
	t.Helper()
	secret, err := signing.NewSecret(signing.HMAC)
	require.NoError(t, err)
	return secret
}

func TestMerchantsCountByID(t *testing.T) {
	t.Parallel()
	secret := newSecret(t)
	m := newTestMerchants(t, secret)
	a, b := uuid.New(), uuid.New()
	start := time.Now()
	for _, id := range []uuid.UUID{a, b, a} {
		require.Equal(t, 200, webhook(t, m.url(3), id.String(), secret, strings.NewReader("body"), "body"))
	}
	require.Equal(t, 2, m.unique())
	acks, last := m.acknowledged()
	require.Equal(t, 2, acks[a].Times)
	require.Equal(t, 1, acks[b].Times)
	require.Equal(t, acks[b].First, last, "a repeated one does not make the run longer")
	require.WithinRange(t, acks[a].First, start, acks[b].First)
	require.Equal(t, int64(4), m.meanBody())
	require.Zero(t, m.invalid.Load())
}

func TestMerchantsRefuseWhatIsNotAWebhook(t *testing.T) {
	t.Parallel()
	secret := newSecret(t)
	m := newTestMerchants(t, secret)
	id := uuid.NewString()
	require.Equal(t, 400, webhook(t, m.url(0), "not-an-id", secret, strings.NewReader("body"), "body"))
	require.Equal(t, 413, webhook(t, m.url(0), id, secret, strings.NewReader(strings.Repeat("x", maxWebhook)), ""))
	// The first of every 32 is verified.
	require.Equal(t, 401, webhook(t, m.url(0), id, newSecret(t), strings.NewReader("body"), "body"))
	require.Zero(t, m.unique())
	require.Equal(t, int64(2), m.invalid.Load())
	require.Equal(t, 200, webhook(t, m.url(0), id, secret, io.MultiReader(strings.NewReader("chunked")), "chunked"))
	require.Equal(t, 1, m.unique())
}

func TestMerchantsHangAndFail(t *testing.T) {
	t.Parallel()
	m, err := listen(t.Context(), newSecret(t), 10, []kind{healthy, hanging, failing})
	require.NoError(t, err)
	post := func(ctx context.Context, i int) (*http.Response, error) {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.url(i), strings.NewReader("body"))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			require.NoError(t, res.Body.Close())
		}
		return res, err
	}
	res, err := post(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, 500, res.StatusCode)
	require.Equal(t, 1, m.tallies[2].mostOpen)

	left, leave := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	go func() { _, err := post(left, 1); ended <- err }()
	require.Eventually(t, func() bool { return m.tallies[1].now() == 1 }, 10*time.Second, time.Millisecond)
	leave()
	require.ErrorIs(t, <-ended, context.Canceled)
	require.Eventually(t, func() bool { return m.tallies[1].now() == 0 }, 10*time.Second, time.Millisecond, "it notices")

	go func() { _, err := post(t.Context(), 1); ended <- err }()
	require.Eventually(t, func() bool { return m.tallies[1].now() == 1 }, 10*time.Second, time.Millisecond)
	require.NoError(t, m.close())
	require.Error(t, <-ended)
	require.Len(t, m.tallies[1].came, 2)
	require.Zero(t, m.unique())
}
