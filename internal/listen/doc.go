// Package listen brings a merchant's webhooks to a developer's machine: a temporary endpoint in the ledger, an HTTP server
// here that it points to, and behind that the server which the developer works on, whose answers go back to Hookline. Nothing
// on the way is special: the webhooks are planned, signed, sent and tried again as everybody's are.
//
// What remains when the process is killed: before the endpoint is added, nothing; after that the endpoint, whose deliveries
// fail as refused until the next Run on this machine removes it. Its description says whose it was.
package listen
