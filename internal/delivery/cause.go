package delivery

// Cause says in a word how an attempt, or what stood before it, ended. Explain says it in a sentence.
type Cause string

// How an attempt ends.
const (
	CauseOK Cause = "ok" // 2xx

	CauseDNS             Cause = "dns"
	CauseRefused         Cause = "refused"
	CauseReset           Cause = "reset"       // the connection broke before there was an answer
	CauseUnreachable     Cause = "unreachable" // no route, or another failure of the network
	CauseTLSExpired      Cause = "tls_expired"
	CauseTLSHost         Cause = "tls_wrong_host"
	CauseTLSAuthority    Cause = "tls_unknown_ca"
	CauseTLS             Cause = "tls"             // any other failure of the handshake
	CauseTimeoutConnect  Cause = "timeout_connect" // in the lookup of the name, or in TCP
	CauseTimeoutTLS      Cause = "timeout_tls"
	CauseTimeoutAnswer   Cause = "timeout_answer" // connected, and the request sent as far as it went
	CauseProtocol        Cause = "protocol"       // what came is no HTTP, or has headers beyond 64 KiB
	CauseBlocked         Cause = "blocked"        // the guard of addresses lets nothing go there
	CauseRedirect        Cause = "redirect"       // 3xx
	CauseUnauthorized    Cause = "unauthorized"   // 401, 403
	CauseNotFound        Cause = "not_found"
	CauseGone            Cause = "gone" // 410: the endpoint is disabled
	CausePayloadTooLarge Cause = "payload_too_large"
	CauseRateLimited     Cause = "rate_limited"
	CauseHTML            Cause = "html" // a page for people, where the status says nothing better: see internal/deliver
	CauseServerError     Cause = "server_error"
	CauseStatus          Cause = "status" // any other answer that is not 2xx
)

// What ends, or postpones, a delivery without an answer of its endpoint.
const (
	CauseInternal     Cause = "internal"        // a defect, a setting or the end of this process
	CauseNotVisible   Cause = "not_visible"     // the event's row cannot be seen yet: no attempt was made
	CauseNotStarted   Cause = "not_started"     // the batch's time was up before its turn: no attempt was made
	CausePaced        Cause = "paced"           // the endpoint has a rate limit, and it was not the delivery's turn: no attempt was made
	CauseOpen         Cause = "open"            // handed over while the endpoint had not answered yet
	CausePhantom      Cause = "phantom"         // the event's transaction ended without the event's row
	CauseNoEndpoint   Cause = "endpoint_gone"   // the endpoint was removed after the plan
	CauseDisabled     Cause = "endpoint_paused" // the endpoint was disabled after the plan
	CauseDropped      Cause = "dropped"         // parked, and dropped when the endpoint was enabled again
	CauseSealed       Cause = "sealed"          // the worker lacks the key that opens the endpoint: no attempt was made
	CauseNoSecret     Cause = "no_secret"       // the endpoint has no live secret to sign with
	CauseBodyTooLarge Cause = "body_too_large"
	CauseRecorded     Cause = "recorded"     // an earlier execution of the invocation wrote the outcome
	CauseCircuitOpen  Cause = "circuit_open" // the endpoint is spared: no attempt was made
	CauseBulkhead     Cause = "bulkhead"     // as many requests to the endpoint are open as may be: no attempt was made
	CauseDrained      Cause = "drained"      // it was parked, and has its turn now
)

// How a hand-over to Svix ends, and what becomes of the delivery there. None of them is the endpoint's own.
const (
	CauseSvixAccepted     Cause = "svix_accepted"     // Svix has it
	CauseSvixUnconfirmed  Cause = "svix_unconfirmed"  // Svix has it, and has not shown yet that it is queued
	CauseSvixUnreachable  Cause = "svix_unreachable"  // no connection, or it broke
	CauseSvixTimeout      Cause = "svix_timeout"      // the detail says in which phase
	CauseSvixBusy         Cause = "svix_busy"         // 408, 429
	CauseSvixServerError  Cause = "svix_error"        // 5xx
	CauseSvixAnswer       Cause = "svix_answer"       // the answer makes no sense
	CauseSvixUnauthorized Cause = "svix_unauthorized" // the token is wrong, or may not do this
	CauseSvixAddress      Cause = "svix_address"      // what answers at the address is not Svix's API
	CauseSvixRefused      Cause = "svix_refused"      // Svix finds the message wrong
	CauseSvixTooLarge     Cause = "svix_too_large"
	CauseSvixConflict     Cause = "svix_conflict"    // another event has the id
	CauseSvixOff          Cause = "svix_off"         // this worker has no settings for Svix: no attempt was made
	CauseSvixFailing      Cause = "svix_failing"     // an endpoint fails, and Svix tries again
	CauseSvixExhausted    Cause = "svix_exhausted"   // Svix has given up on an endpoint
	CauseSvixUnwanted     Cause = "svix_unwanted"    // no endpoint at Svix wanted it
	CauseSvixNoEndpoint   Cause = "svix_no_endpoint" // the merchant has no endpoint there, or those that want it are disabled
	CauseSvixSilent       Cause = "svix_silent"      // Svix has not said for a week what became of it
	CauseSvixLost         Cause = "svix_lost"        // Svix does not know it any more, or never queued it: handed over again
)

// Explanation is a cause in plain words, for the merchant's engineer who has to do something about it.
type Explanation struct {
	What string `json:"what"`
	// Do is what mends it; empty where nothing has to be done.
	Do string `json:"do,omitempty"`
}

var explanations = map[Cause]Explanation{
	CauseOK:              {What: "the endpoint accepted the webhook"},
	CauseDNS:             {"the endpoint's host name could not be resolved", "check the host name in the URL, and that its DNS record exists and has not expired"},
	CauseRefused:         {"nothing listens at the endpoint's address and port", "start the server, or check the port in the URL and the firewall"},
	CauseReset:           {"the connection was closed before an answer came", "look for a crash, a request size limit or a proxy that drops connections"},
	CauseUnreachable:     {"the endpoint's network could not be reached", "check routing and firewall of the endpoint's host"},
	CauseTLSExpired:      {"the endpoint's TLS certificate has expired or is not valid yet", "renew the certificate, and check the server's clock"},
	CauseTLSHost:         {"the endpoint's TLS certificate is for another host name", "issue a certificate that names the URL's host"},
	CauseTLSAuthority:    {"the endpoint's TLS certificate is signed by an authority that is not trusted", "use a certificate of a public authority, and send the intermediate certificates with it"},
	CauseTLS:             {"the TLS handshake broke", "allow TLS 1.2 or newer with current cipher suites, ask for no client certificate, and check that the port speaks TLS"},
	CauseTimeoutConnect:  {"no connection within the time-out", "check that the host name resolves quickly, and that the firewall lets our addresses in: it seems to drop packets"},
	CauseTimeoutTLS:      {"the TLS handshake did not end within the time-out", "check the load of the server or proxy that ends TLS"},
	CauseTimeoutAnswer:   {"the endpoint did not answer within the time-out", "answer 2xx first and do the work afterwards, or raise the endpoint's time-out"},
	CauseProtocol:        {"what answered does not speak HTTP, or sends more than 64 KiB of headers", "check the port in the URL"},
	CauseBlocked:         {"the URL leads to where webhooks must not go", "use https and a public address"},
	CauseRedirect:        {"the endpoint redirects, and webhooks follow no redirect", "set the URL to where the redirect leads"},
	CauseUnauthorized:    {"the endpoint refused the webhook as unauthorized", "check that it verifies with the present secret, and that no login stands before it"},
	CauseNotFound:        {"there is nothing at the URL's path", "check the path, and that the route takes POST"},
	CauseGone:            {"the endpoint answered 410, so it has been disabled", "enable it when it should get webhooks again; what was parked meanwhile can be sent or dropped then"},
	CausePayloadTooLarge: {"the endpoint takes no body of this size", "raise the server's limit to 1 MiB"},
	CauseRateLimited:     {"the endpoint asked to slow down", "raise its limit; Retry-After is honoured"},
	CauseHTML:            {"a web page answered, as a firewall's challenge or a login would", "let webhooks through without a challenge"},
	CauseServerError:     {"the endpoint failed with a 5xx", "look into the server's log at the time of the attempt"},
	CauseStatus:          {"the endpoint answered something other than 2xx", "answer 2xx when the webhook has been stored"},

	CauseInternal:     {"the attempt could not be made, for a reason that is not the endpoint's", "the operator finds the reason in the worker's log"},
	CauseNotVisible:   {What: "the event's row cannot be read yet"},
	CauseNotStarted:   {What: "there was no time left in the batch; it has a turn of its own"},
	CausePaced:        {What: "the endpoint has a rate limit, and this is not its turn yet"},
	CauseOpen:         {What: "the endpoint is still answering"},
	CausePhantom:      {What: "the event was never committed"},
	CauseNoEndpoint:   {What: "the endpoint was removed"},
	CauseDisabled:     {"the endpoint is disabled", "enable it; what is parked can be sent or dropped then"},
	CauseDropped:      {What: "parked while the endpoint was disabled, and dropped when it was enabled"},
	CauseSealed:       {"the worker lacks the key that opens the endpoint's secrets", "the operator adds the key that the worker's readiness names to ENCRYPTION_KEYS"},
	CauseNoSecret:     {"the endpoint has no secret that could sign", "rotate its secret"},
	CauseBodyTooLarge: {"the webhook would be larger than 1 MiB", "shorten the data of the event"},
	CauseRecorded:     {What: "the outcome is in an earlier attempt"},
	CauseCircuitOpen:  {"most of the endpoint's latest webhooks failed, so that it is spared for now; this one waits", "mend the endpoint; one webhook at a time finds out when it is back, and all that wait follow"},
	CauseBulkhead:     {"the endpoint, or Svix, has left as many webhooks unanswered as may be under way at once; this one waits", "answer sooner: 2xx first, and the work afterwards"},
	CauseDrained:      {What: "it waited for the endpoint, and has its turn now"},

	CauseSvixAccepted:     {What: "Svix has the webhook; whether the merchant got it is not known yet"},
	CauseSvixUnconfirmed:  {What: "Svix has the webhook, and has not shown yet that it is on its way"},
	CauseSvixUnreachable:  {"Svix could not be reached", "the operator checks SVIX_URL and the network between the worker and Svix"},
	CauseSvixTimeout:      {"Svix did not answer in time", "the operator looks at Svix's load"},
	CauseSvixBusy:         {"Svix asked to slow down", "the operator looks at the rate limit of the Svix account"},
	CauseSvixServerError:  {"Svix failed with a 5xx", "the operator looks into Svix's log, or at its status page"},
	CauseSvixAnswer:       {"Svix's answer made no sense", "the operator checks what stands between the worker and Svix"},
	CauseSvixUnauthorized: {"Svix refused the token", "the operator mends SVIX_TOKEN; what waits is handed over then"},
	CauseSvixAddress:      {"what answers is not Svix's API", "the operator mends SVIX_URL; what waits is handed over then"},
	CauseSvixRefused:      {"Svix refused the webhook", "the detail of the attempt says why"},
	CauseSvixTooLarge:     {"the webhook is larger than Svix takes", "shorten the data of the event"},
	CauseSvixConflict:     {"another event has this one's id at Svix", "the operator finds out who else hands webhooks to the merchant's application"},
	CauseSvixOff:          {"the worker has no settings for Svix", "the operator sets SVIX_TOKEN; what waits is handed over then"},
	CauseSvixFailing:      {"an endpoint at Svix has not accepted the webhook yet; Svix tries again", "look at the message in Svix"},
	CauseSvixExhausted:    {"Svix has used up its attempts at an endpoint", "look at the message in Svix, mend the endpoint, and retry the delivery"},
	CauseSvixUnwanted:     {What: "no endpoint at Svix wanted the webhook"},
	CauseSvixNoEndpoint:   {"the merchant has no endpoint at Svix, or those that want the webhook are disabled there", "add an endpoint, or enable it, and retry the delivery with hookline deliveries retry"},
	CauseSvixSilent:       {"Svix has not said for a week what became of the webhook", "look at the message in Svix, and retry the delivery if the merchant did not get it"},
	CauseSvixLost:         {What: "Svix lost the webhook; it is handed over again"},
}

// Explain returns the cause in plain words. It knows every cause of this package; another one is explained as it is.
func (c Cause) Explain() Explanation {
	if e, found := explanations[c]; found {
		return e
	}
	return Explanation{What: string(c)}
}

// OfEndpoint reports whether a failure by this cause is the endpoint's own: only those count towards its being disabled.
func (c Cause) OfEndpoint() bool {
	switch c {
	case CauseInternal, CauseSealed, CauseNoSecret, CauseNotVisible, CauseNotStarted, CausePaced, CauseOpen, CausePhantom, CauseNoEndpoint, CauseDisabled,
		CauseDropped, CauseBodyTooLarge, CauseRecorded, CauseCircuitOpen, CauseBulkhead, CauseDrained, CauseOK:
		return false
	case CauseSvixAccepted, CauseSvixUnconfirmed, CauseSvixUnreachable, CauseSvixTimeout, CauseSvixBusy, CauseSvixServerError, CauseSvixAnswer,
		CauseSvixUnauthorized, CauseSvixAddress, CauseSvixRefused, CauseSvixTooLarge, CauseSvixConflict, CauseSvixOff, CauseSvixFailing,
		CauseSvixExhausted, CauseSvixUnwanted, CauseSvixNoEndpoint, CauseSvixSilent, CauseSvixLost:
		return false
	default:
		return true
	}
}
