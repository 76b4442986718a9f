package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// RouteStore keeps who delivers which merchant's webhooks. Its pool needs a role that may write routes, which the worker's
// may not. It is safe for concurrent use.
type RouteStore struct {
	pool *pgxpool.Pool
}

// NewRouteStore makes a store upon the pool, which stays the caller's to close.
func NewRouteStore(pool *pgxpool.Pool) *RouteStore { return &RouteStore{pool: pool} }

// Route is a merchant's.
type Route struct {
	MerchantID string    `json:"merchant_id"`
	Route      string    `json:"route"` // delivery.RouteInhouse or RouteSvix
	SetAt      time.Time `json:"set_at"`
}

// Routes returns those of merchants that have one of their own, by merchant; of one merchant where an id is given.
func (s *RouteStore) Routes(ctx context.Context, merchantID string) ([]Route, error) {
	rows, err := s.pool.Query(ctx,
		"select merchant_id, route, updated_at from delivery.routes where $1 in ('', merchant_id) order by merchant_id", merchantID)
	if err != nil {
		return nil, classify("reading routes", err)
	}
	out, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Route])
	if err != nil {
		return nil, classify("reading routes", err)
	}
	return out, nil
}

const setRoute = `
insert into delivery.routes as r (merchant_id, route) values ($1, $2)
on conflict (merchant_id) do update set route = excluded.route, updated_at = clock_timestamp() where r.route <> excluded.route`

// Set has the merchant's events planned from now on go by the route. Those that were planned before keep theirs. It reports
// whether that was not so already.
func (s *RouteStore) Set(ctx context.Context, merchantID, route string) (bool, error) {
	tag, err := s.pool.Exec(ctx, setRoute, merchantID, route)
	if err != nil {
		return false, classify("setting a route", err)
	}
	return tag.RowsAffected() == 1, nil
}

// Unset gives the merchant the deployment's route. It reports whether there was one of its own.
func (s *RouteStore) Unset(ctx context.Context, merchantID string) (bool, error) {
	tag, err := s.pool.Exec(ctx, "delete from delivery.routes where merchant_id = $1", merchantID)
	if err != nil {
		return false, classify("removing a route", err)
	}
	return tag.RowsAffected() == 1, nil
}
