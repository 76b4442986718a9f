package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/hookline/hookline/internal/delivery"
	"github.com/hookline/hookline/internal/endpoint"
)

func listEndpoints(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints list")
	dir := dirFlag(fs)
	merchant := fs.String("merchant", "", "only those of the merchant with this `id`")
	asJSON := fs.Bool("json", false, "print one JSON object on the last line")
	if _, err := parse(fs, args, 0, "endpoints list [flags]", "Lists the endpoints"+ofEndpoints); err != nil {
		return err
	}
	opened, err := openEndpoints(ctx, *dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	all, err := opened.List(ctx, *merchant)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(stdout, struct {
			Endpoints []endpoint.Endpoint `json:"endpoints"`
		}{all})
	}
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	for _, e := range all {
		state := "enabled"
		switch {
		case !e.Enabled:
			state = "disabled"
		case e.Circuit.State != delivery.CircuitClosed:
			state = "circuit " + strings.ReplaceAll(string(e.Circuit.State), "_", "-")
		case e.FailingSince != nil:
			state = "failing"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", e.ID, clean(e.MerchantID, 0), state, clean(e.URL, 0), clean(e.Description, 60))
	}
	return tw.Flush()
}

// tallied is how some deliveries stand, with what their last cause means.
type tallied struct {
	endpoint.Standing
	delivery.Explanation
}

func showEndpoint(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints show")
	dir := dirFlag(fs)
	asJSON := fs.Bool("json", false, "print the endpoint as JSON on the last line")
	opened, id, err := openEndpoint(ctx, fs, args, dir, "endpoints show ID [flags]",
		"Shows all of an endpoint but what is secret, and how its deliveries stand that have not succeeded. One"+ofEndpoints)
	if err != nil {
		return err
	}
	defer opened.Close()
	shown, err := opened.Get(ctx, id)
	if err != nil {
		return err
	}
	counted, err := opened.Standing(ctx, id)
	if err != nil {
		return err
	}
	stand := make([]tallied, len(counted))
	for i, each := range counted {
		stand[i].Standing = each
		if each.LastCause != "" {
			stand[i].Explanation = each.LastCause.Explain()
		}
	}
	if *asJSON {
		out := struct {
			endpoint.Endpoint
			Deliveries []tallied `json:"deliveries"`
			Parked     int64     `json:"parked"`
			// DrainedIn is when the last of them has had its turn, as the drain goes now.
			DrainedIn *float64 `json:"drained_in_s,omitempty"`
		}{Endpoint: shown, Deliveries: stand, Parked: parkedOf(stand)}
		if remaining, known := shown.Drain.Remaining(out.Parked); known {
			seconds := remaining.Seconds()
			out.DrainedIn = &seconds
		}
		return printJSON(stdout, out)
	}
	return printEndpoint(stdout, shown, stand)
}

var disabledReasons = map[string]string{
	endpoint.DisabledByOperator: "by an operator",
	endpoint.DisabledGone:       "it answered 410",
	endpoint.DisabledFailing:    "it failed for days without a success",
}

// printEndpoint prints an endpoint for people.
func printEndpoint(stdout io.Writer, e endpoint.Endpoint, stand []tallied) error {
	tw := tabwriter.NewWriter(stdout, 0, 4, 2, ' ', 0)
	line := func(name, format string, args ...any) {
		fmt.Fprintf(tw, "%s\t%s\n", name, clean(fmt.Sprintf(format, args...), 0))
	}
	line("endpoint", "%s", e.ID)
	line("merchant", "%s", e.MerchantID)
	url := e.URL
	if e.HasCredentials {
		url += " (its user info and query are not shown)"
	}
	line("URL", "%s", url)
	line("description", "%s", e.Description)
	line("enabled", "%s", enabledText(e))
	if e.FailingSince != nil {
		line("failing", "since %s, without a success", e.FailingSince.Format(time.RFC3339))
	}
	line("circuit", "%s", circuitText(e.Circuit))
	if parked := parkedOf(stand); parked > 0 && e.Drain != nil {
		line("drain", "%s", drainText(e.Drain, parked))
	}
	line("events", "%s", orElse(strings.Join(e.EventTypes, ", "), "every type but endpoint.*"))
	line("headers", "%s", orElse(strings.Join(e.HeaderNames, ", "), "none of its own"))
	line("retries", "%s", scheduleText(e.Schedule))
	line("ordering", "%s", e.Ordering)
	line("time-out", "%s", time.Duration(e.TimeoutMS)*time.Millisecond)
	line("rate limit", "%s", rateLimitText(e.RateLimit))
	for _, secret := range e.Secrets {
		line("secret", "%s", secretText(secret))
	}
	line("made", "%s", e.CreatedAt.Format(time.RFC3339))
	line("changed", "%s", e.UpdatedAt.Format(time.RFC3339))
	for _, each := range stand {
		text := fmt.Sprintf("%d %s", each.Deliveries, each.State)
		if each.AtLeast {
			text = "at least " + text
		}
		if each.LastCause != "" {
			text += fmt.Sprintf(", %s: %s", each.LastCause, whatToDo(each.Explanation))
		}
		line("deliveries", "%s", text)
	}
	return tw.Flush()
}

// parkedOf counts the parked deliveries, up to the bound of counting.
func parkedOf(stand []tallied) int64 {
	var n int64
	for _, each := range stand {
		if each.State == delivery.Parked {
			n += each.Deliveries
		}
	}
	return n
}

func circuitText(c endpoint.Circuit) string {
	text := strings.ReplaceAll(string(c.State), "_", "-") + ", since " + c.Since.Format(time.RFC3339)
	if c.ProbeAt != nil && c.State == delivery.CircuitOpen {
		text += ": what is due is parked, and one delivery tries it at " + c.ProbeAt.Format(time.RFC3339)
	}
	if c.State == delivery.CircuitHalfOpen {
		text += ": one delivery tries it"
	}
	if c.Opens > 0 {
		text += fmt.Sprintf("; opened %d times since it was well", c.Opens)
	}
	return text
}

func drainText(d *endpoint.Drain, parked int64) string {
	remaining, known := d.Remaining(parked)
	if !known {
		return fmt.Sprintf("%d wait", parked)
	}
	return fmt.Sprintf("%d wait, %.1f a second, done in about %s", parked, d.PerSecond, remaining)
}

func enabledText(e endpoint.Endpoint) string {
	if e.Enabled {
		return "yes"
	}
	text := "no"
	if e.DisabledAt != nil {
		text += ", since " + e.DisabledAt.Format(time.RFC3339)
	}
	return text + ": " + orElse(disabledReasons[e.DisabledReason], e.DisabledReason)
}

func rateLimitText(limit int) string {
	if limit == 0 {
		return "none"
	}
	return fmt.Sprintf("%d a second, and at most %d in any second", limit, limit+delivery.Burst(limit))
}

func scheduleText(schedule delivery.Schedule) string {
	if schedule == nil {
		return "the deployment's schedule"
	}
	for name, preset := range delivery.Presets() {
		if slices.Equal(preset, schedule) {
			return name + ": " + schedule.String()
		}
	}
	return schedule.String()
}

func secretText(s endpoint.Secret) string {
	text := fmt.Sprintf("%s, %s, of %s", s.ID, orElse(string(s.Kind), "kind unknown here"), s.CreatedAt.Format(time.RFC3339))
	if s.ExpiresAt != nil {
		text += ", until " + s.ExpiresAt.Format(time.RFC3339)
	}
	if s.KeyID == "" {
		return text + ", not sealed yet"
	}
	return text + ", sealed with " + s.KeyID
}

// whatToDo is a cause in one sentence.
func whatToDo(e delivery.Explanation) string {
	if e.Do == "" {
		return e.What
	}
	return e.What + "; " + e.Do
}

func orElse(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
