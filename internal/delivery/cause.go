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
	CauseOpen         Cause = "open"            // handed over while the endpoint had not answered yet
	CausePhantom      Cause = "phantom"         // the event's transaction ended without the event's row
	CauseNoEndpoint   Cause = "endpoint_gone"   // the endpoint was removed after the plan
	CauseDisabled     Cause = "endpoint_paused" // the endpoint was disabled after the plan
	CauseDropped      Cause = "dropped"         // parked, and dropped when the endpoint was enabled again
	CauseSealed       Cause = "sealed"          // the worker lacks the key that opens the endpoint: no attempt was made
	CauseNoSecret     Cause = "no_secret"       // the endpoint has no live secret to sign with
	CauseBodyTooLarge Cause = "body_too_large"
	CauseRecorded     Cause = "recorded" // an earlier execution of the invocation wrote the outcome
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
	CauseOpen:         {What: "the endpoint is still answering"},
	CausePhantom:      {What: "the event was never committed"},
	CauseNoEndpoint:   {What: "the endpoint was removed"},
	CauseDisabled:     {"the endpoint is disabled", "enable it; what is parked can be sent or dropped then"},
	CauseDropped:      {What: "parked while the endpoint was disabled, and dropped when it was enabled"},
	CauseSealed:       {"the worker lacks the key that opens the endpoint's secrets", "the operator adds the key that the worker's readiness names to ENCRYPTION_KEYS"},
	CauseNoSecret:     {"the endpoint has no secret that could sign", "rotate its secret"},
	CauseBodyTooLarge: {"the webhook would be larger than 1 MiB", "shorten the data of the event"},
	CauseRecorded:     {What: "the outcome is in an earlier attempt"},
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
	case CauseInternal, CauseSealed, CauseNoSecret, CauseNotVisible, CauseNotStarted, CauseOpen, CausePhantom, CauseNoEndpoint, CauseDisabled,
		CauseDropped, CauseBodyTooLarge, CauseRecorded, CauseOK:
		return false
	default:
		return true
	}
}
