// Package crash is the short crash matrix: one stack of the built commands, of which everything is killed once. The whole
// matrix is `make crash-matrix`.
package crash
