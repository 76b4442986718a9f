// Package paymentsapi is the HTTP face of payments-api: where payments, and events that are not about one,
// enter the pipeline, and where payment providers call back. A 2xx means that the payment and its event are committed, or
// the callback is kept; whatever is not durable is answered with a problem document.
package paymentsapi
