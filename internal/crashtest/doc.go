// Package crashtest breaks a running stack under load and proves what came of it. Its verdict rests on four sets of ids
// (acknowledged by the API, committed in PostgreSQL, received by the merchants, and in the ledger) and on the contents
// of each webhook, never on counts: a webhook that came twice must not stand in for one that never came.
package crashtest
