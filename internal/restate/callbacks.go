package restate

// Names under which Restate knows the handlers of callbacks.
const (
	RouterService      = "WebhookCallbackRouter"
	StripeEventHandler = "OnStripeEvent"
	EventHandler       = "OnEvent"
	TrackerService     = "PaymentTracker"
	HistoryHandler     = "History"
)

// headerProvider names the provider of an OnEvent. Nobody has to believe it: the signature is the provider's, or it is not.
const headerProvider = "x-hookline-provider"
