// Package conformance holds the two ways from PostgreSQL to Kafka, cdc-relay and Sequin, to one record and one set of names.
package conformance
