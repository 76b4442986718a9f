// Package e2e tests the built commands as a user runs them.
package e2e
