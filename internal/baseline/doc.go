// Package baseline is the architecture that Hookline replaces, kept for the comparison: it answers 201 first and
// remembers the webhook in memory, where a pool of goroutines delivers it. It is what a webhook sender looks like on
// its first day, and is an example of what not to do:
//
//   - what is in memory when the process ends is lost, and nobody can tell what it was;
//   - a webhook that fails more often than its few attempts is lost too;
//   - a request that is repeated, because its answer got lost, makes a second payment.
package baseline
