package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/hookline/hookline/internal/catalogue"
	"github.com/hookline/hookline/internal/deliver"
	"github.com/hookline/hookline/internal/delivery"
)

func testEndpoint(ctx context.Context, args []string, stdout, _ io.Writer) error {
	fs := newFlags("endpoints test")
	dir := dirFlag(fs)
	eventType := fs.String("type", "", "`type` of the event (default: one that the endpoint gets)")
	asJSON := fs.Bool("json", false, "print the exchange as JSON on the last line")
	rest, err := parse(fs, args, 1, "endpoints test ID [flags]",
		"Sends a signed example of an event from this machine to an endpoint, also to one that is disabled, and prints the\n"+
			"exchange. Exits 1 where the answer is not 2xx. No delivery is made of it. One"+ofEndpoints)
	if err != nil {
		return err
	}
	id, err := endpointID(rest)
	if err != nil {
		return err
	}
	if *eventType != "" {
		if _, known := catalogue.Lookup(*eventType); !known {
			return wrongUsage("--type: %s", unknownType(*eventType))
		}
	}
	opened, err := openEndpoints(ctx, *dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	shown, err := opened.Get(ctx, id)
	if err != nil {
		return err
	}
	to, err := opened.Recipient(ctx, id)
	if err != nil {
		return err
	}
	kind, _ := catalogue.Lookup(orElse(*eventType, typeFor(shown.EventTypes)))
	done, err := tryEndpoint(ctx, opened.Guard, to, kind)
	if err != nil {
		return err
	}
	if *asJSON {
		err = printJSON(stdout, done)
	} else {
		done.print(stdout)
	}
	if err == nil && done.Cause != delivery.CauseOK {
		err = fmt.Errorf("the endpoint did not accept the webhook: %s", done.Cause)
	}
	return err
}

func unknownType(name string) string {
	if near := catalogue.Nearest(name); near != "" {
		return fmt.Sprintf("unknown event type %.100q: did you mean %q?", name, near)
	}
	return fmt.Sprintf("unknown event type %.100q", name)
}

// typeFor is a type of the catalogue that the filter takes. One that takes none gets what an empty one does.
func typeFor(filter []string) string {
	for _, each := range filter {
		prefix, isPrefix := strings.CutSuffix(each, "*")
		for _, known := range catalogue.All() {
			if known.Name == each || isPrefix && strings.HasPrefix(known.Name, prefix) {
				return known.Name
			}
		}
	}
	return "payment.succeeded"
}

// exchange is a webhook that was tried, and its answer.
type exchange struct {
	EndpointID string `json:"endpoint_id"`
	EventType  string `json:"event_type"`
	Request    struct {
		URL string `json:"url"` // without user info and query
		// Headers are ours. Of the endpoint's own, which may be credentials, HiddenHeaders has the names.
		Headers       map[string]string `json:"headers"`
		HiddenHeaders []string          `json:"hidden_headers"`
		Body          json.RawMessage   `json:"body"`
	} `json:"request"`
	Response struct {
		StatusCode  int    `json:"status_code"` // 0 without an answer
		ContentType string `json:"content_type,omitempty"`
		LatencyMS   int64  `json:"latency_ms"`
		RetryAfterS int64  `json:"retry_after_s,omitempty"`
		Body        string `json:"body"` // its first bytes
	} `json:"response"`
	Cause delivery.Cause `json:"cause"`
	// Detail is why nothing was sent.
	Detail string `json:"detail,omitempty"`
	delivery.Explanation
}

// shownHeaders are those of a request that hold nothing of an endpoint's own.
var shownHeaders = []string{"Content-Type", "User-Agent", "Webhook-Attempt", "Webhook-Id", "Webhook-Signature", "Webhook-Timestamp"}

// tryEndpoint makes one attempt of an example of the type.
func tryEndpoint(ctx context.Context, network deliver.Network, to delivery.Endpoint, kind catalogue.Type) (exchange, error) {
	var out exchange
	eventID, err := uuid.NewV7()
	if err != nil {
		return out, fmt.Errorf("drawing an event's id: %w", err)
	}
	body, err := kind.Example(eventID, to.MerchantID, time.Now())
	if err != nil {
		return out, err
	}
	client := deliver.NewClient(1, network)
	defer client.Close()
	sent, answer := client.Try(ctx, to, deliver.Message{EventID: eventID, Body: body, Hash: sha256.Sum256(body)})

	out.EndpointID, out.EventType = to.ID.String(), kind.Name
	out.Request.URL, out.Request.Body = withoutCredentials(to.URL), body
	out.Request.Headers, out.Request.HiddenHeaders = map[string]string{}, []string{}
	for _, name := range slices.Sorted(maps.Keys(sent)) {
		if slices.Contains(shownHeaders, http.CanonicalHeaderKey(name)) {
			out.Request.Headers[strings.ToLower(name)] = sent.Get(name)
		} else {
			out.Request.HiddenHeaders = append(out.Request.HiddenHeaders, strings.ToLower(name))
		}
	}
	out.Response.StatusCode, out.Response.ContentType = answer.StatusCode, answer.ContentType
	out.Response.LatencyMS, out.Response.RetryAfterS = answer.Latency.Milliseconds(), int64(answer.RetryAfter.Seconds())
	out.Cause, out.Explanation = answer.Cause, answer.Cause.Explain()
	if out.Cause == delivery.CauseGone { // which a test is no delivery for
		out.Explanation = delivery.Explanation{What: "the endpoint answered 410, which disables it when a delivery gets it", Do: "answer otherwise where it should get webhooks"}
	}
	text := strings.ToValidUTF8(string(answer.Answer), string(utf8.RuneError))
	if answer.StatusCode == 0 {
		out.Detail = text
	} else {
		out.Response.Body = text
	}
	return out, nil
}

// withoutCredentials is the URL as it may be shown. It has been parsed before.
func withoutCredentials(whole string) string {
	u, err := url.Parse(whole)
	if err != nil {
		return ""
	}
	u.User, u.RawQuery, u.ForceQuery = nil, "", false
	return u.String()
}

func (e exchange) print(stdout io.Writer) {
	fmt.Fprintf(stdout, "POST %s\n", clean(e.Request.URL, 0))
	for _, name := range slices.Sorted(maps.Keys(e.Request.Headers)) {
		fmt.Fprintf(stdout, "%s: %s\n", name, e.Request.Headers[name])
	}
	for _, name := range e.Request.HiddenHeaders {
		fmt.Fprintf(stdout, "%s: [hidden]\n", name)
	}
	fmt.Fprintf(stdout, "\n%s\n\n", e.Request.Body)
	if e.Response.StatusCode == 0 {
		fmt.Fprintf(stdout, "no answer after %d ms\n", e.Response.LatencyMS)
	} else {
		fmt.Fprintf(stdout, "%d %s after %d ms\n", e.Response.StatusCode, http.StatusText(e.Response.StatusCode), e.Response.LatencyMS)
	}
	if e.Response.ContentType != "" {
		fmt.Fprintf(stdout, "content-type: %s\n", clean(e.Response.ContentType, 0))
	}
	if e.Response.RetryAfterS > 0 {
		fmt.Fprintf(stdout, "retry-after: %d\n", e.Response.RetryAfterS)
	}
	if e.Response.Body != "" {
		fmt.Fprintf(stdout, "\n%s\n", terminalSafe(e.Response.Body))
	}
	fmt.Fprintf(stdout, "\n%s: %s\n", e.Cause, e.What)
	if e.Detail != "" {
		fmt.Fprintf(stdout, "reason: %s\n", clean(e.Detail, 0))
	}
	if e.Do != "" {
		fmt.Fprintf(stdout, "to do: %s\n", e.Do)
	}
}

// terminalSafe keeps the lines of a text, and nothing that a terminal would obey.
func terminalSafe(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, strings.ReplaceAll(strings.TrimRight(text, "\r\n"), "\r\n", "\n"))
}
