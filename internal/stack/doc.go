// Package stack runs the whole pipeline on one machine without containers: every part is an operating system
// process of its own, so that each can be looked at, stopped and killed.
package stack
