// Package deploy carries the pinned lists of what the embedded stack downloads inside the binary, so that
// it needs no source tree at run time.
package deploy

import "embed"

// Files holds npm/restate, npm/postgres (package.json and package-lock.json each) and kafka (pom.xml and
// SHA256SUMS).
//
//go:embed npm/restate/package.json npm/restate/package-lock.json npm/postgres/package.json npm/postgres/package-lock.json kafka/pom.xml kafka/SHA256SUMS
var Files embed.FS
