// Package load puts payments into a running stack and accounts for what came of them: by event id, never by count, so
// that a webhook that came twice does not stand in for one that never came.
package load
