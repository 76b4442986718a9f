// Package provider plays a payment provider: it tells of payments by webhooks of Stripe's form, signs each delivery anew,
// and delivers again what was not accepted.
package provider
