package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/payment"
	"github.com/hookline/hookline/internal/postgres"
	"github.com/hookline/hookline/internal/svix"
)

var routeVerbs = []verb{
	{name: "list", summary: "[flags]", run: listRoutes},
	{name: "set", summary: "MERCHANT inhouse|svix|default [flags]", run: setRoute},
}

func routes(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	return runOneOf(ctx, "routes", routeVerbs, args, stdout, stderr)
}

// routeDefault stands for no route of the merchant's own.
const routeDefault = "default"

func listRoutes(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("routes list")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "routes list [flags]",
		"Lists the merchants that have a route of their own"+ofLedger+"\nAll others have the workers' DEFAULT_ROUTE."); err != nil {
		return err
	}
	pool, _, err := openPool(ctx, *dir)
	if err != nil {
		return err
	}
	defer pool.Close()
	found, err := postgres.NewRouteStore(pool).Routes(ctx, "")
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			Routes []postgres.Route `json:"routes"`
		}{append([]postgres.Route{}, found...)})
	}
	if len(found) == 0 {
		fmt.Fprintln(stdout, "no merchant has a route of its own: all have the workers' DEFAULT_ROUTE")
		return nil
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	for _, each := range found {
		fmt.Fprintf(tw, "%s\t%s\tsince %s\n", clean(each.MerchantID, 0), each.Route, each.SetAt.UTC().Format(time.RFC3339))
	}
	return tw.Flush()
}

func setRoute(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("routes set")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	rest, err := parse(fs, args, 2, "routes set MERCHANT inhouse|svix|default [flags]",
		"Says who delivers the merchant's webhooks"+ofLedger+"\n"+
			"It holds for the events that are planned from now on: what was planned keeps its route, so that nothing is sent by both.\n"+
			"default takes the merchant's own route away: then the workers' DEFAULT_ROUTE is its route.\n"+
			"Workers need SVIX_TOKEN before a merchant has the route svix.")
	if err != nil {
		return err
	}
	if len(rest) < 2 {
		return wrongUsage("want the id of a merchant, and inhouse, svix or default")
	}
	merchant, route := rest[0], rest[1]
	if !payment.ValidMerchantID(merchant) {
		return wrongUsage("%q is not the id of a merchant: want 1 to %d letters, digits, dots, dashes and underscores", clean(merchant, 100), payment.MaxMerchantIDLength)
	}
	switch route {
	case delivery.RouteInhouse, routeDefault:
	case delivery.RouteSvix:
		if err := svix.Fit(merchant); err != nil {
			return wrongUsage("merchant %s cannot have the route svix: %s", merchant, err)
		}
	default:
		return wrongUsage("%q is not a route: want inhouse, svix or default", clean(route, 100))
	}
	pool, _, err := openPool(ctx, *dir)
	if err != nil {
		return err
	}
	defer pool.Close()
	changed, err := changeRoute(ctx, postgres.NewRouteStore(pool), merchant, route)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			MerchantID string `json:"merchant_id"`
			Route      string `json:"route"`
			Changed    bool   `json:"changed"`
		}{merchant, route, changed})
	}
	if !changed {
		fmt.Fprintf(stdout, "%s: %s, as it was\n", merchant, route)
		return nil
	}
	fmt.Fprintf(stdout, "%s: %s, for what is planned from now on\n", merchant, route)
	return nil
}

func changeRoute(ctx context.Context, store *postgres.RouteStore, merchant, route string) (bool, error) {
	if route == routeDefault {
		return store.Unset(ctx, merchant)
	}
	return store.Set(ctx, merchant, route)
}
