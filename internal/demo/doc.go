// Package demo shows the pipeline at work: it creates payments and watches their webhooks arrive.
package demo
