// Package docs holds the documentation to the programs it is about.
package docs
