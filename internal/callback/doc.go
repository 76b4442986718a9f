// Package callback says what a payment provider's webhooks are: who may send them, what they say about a payment, and
// when that may become its status. It knows nothing of HTTP servers, Restate or SQL.
package callback
