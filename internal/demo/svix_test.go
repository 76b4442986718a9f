package demo

import (
	"context"
	"encoding/json"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/postgres"
	svixclient "github.com/hookline/hookline/internal/svix"
	"github.com/hookline/hookline/internal/svix/svixtest"
	"github.com/hookline/hookline/internal/testkit/pgtest"
)

func newSvix(t *testing.T) (*svixtest.Server, *svixclient.Client) {
	t.Helper()
	server := svixtest.New(context.Background(), svixtest.Options{Tokens: []string{"testsk_x"}, Retries: []time.Duration{}})
	listening := httptest.NewServer(server)
	t.Cleanup(func() {
		listening.Close()
		server.Close()
	})
	client, err := svixclient.New(svixclient.Options{Token: "testsk_x", BaseURL: listening.URL})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	return server, client
}

func TestBySvixEverythingArrivesAndTheRouteIsGivenBack(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	routes := postgres.NewRouteStore(db.Pool(t, ""))
	server, client := newSvix(t)
	var during []postgres.Route
	r, out := runOn(t, db, &pipeline{svix: client, times: func(n int64) int {
		if n == 1 {
			during, _ = routes.Routes(t.Context(), "") // what is missing is missed below
		}
		return 1
	}}, Options{Payments: 4, Refunds: 1, Routes: routes, Svix: &Svix{Client: client, Secret: secret}})
	require.NoError(t, r.Err())
	require.Equal(t, []int{5, 5, 0, 0}, []int{r.Created, r.Delivered, r.Lost, r.Duplicates})
	require.Equal(t, delivery.RouteSvix, r.Deliverer)
	require.Equal(t, []int{5, 0, 5}, []int{r.Svix.Messages, r.Svix.Replacements, r.Svix.Ledger[delivery.Succeeded]})
	require.NotNil(t, r.Svix.SettledMS)
	require.Len(t, during, 1)
	require.Equal(t, delivery.RouteSvix, during[0].Route)
	require.Contains(t, out, "by Svix: 5 messages there, 0 of them in another's place; in the ledger: 5 succeeded")
	require.Len(t, server.Messages("joes-tshirt-shop"), 5)
	after, err := routes.Routes(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, after)
	line, err := json.Marshal(r)
	require.NoError(t, err)
	require.Contains(t, string(line), `"svix":{"messages":5,"replacements":0,"ledger":{"succeeded":5}`)
}

func TestWhatTheLedgerDoesNotKnowIsAFailure(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	_, client := newSvix(t)
	r, _ := runOn(t, db, &pipeline{times: once}, Options{Payments: 2, Routes: postgres.NewRouteStore(db.Pool(t, "")), Svix: &Svix{Client: client, Secret: secret}})
	require.Zero(t, r.Lost)
	require.EqualError(t, r.Err(), "of 2 webhooks the ledger has nothing")
	require.Zero(t, r.Svix.Messages)
	require.Nil(t, r.Svix.SettledMS)
}

func TestAPlainDemoTakesBackTheRouteOfOneThatWasKilled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	routes := postgres.NewRouteStore(db.Pool(t, ""))
	_, err := routes.Set(t.Context(), "joes-tshirt-shop", delivery.RouteSvix)
	require.NoError(t, err)
	r, out := runOn(t, db, &pipeline{times: once}, Options{Payments: 1, Routes: routes})
	require.NoError(t, r.Err())
	require.Empty(t, r.Deliverer)
	require.Contains(t, out, "joes-tshirt-shop had a route of its own")
	after, err := routes.Routes(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, after)
}
