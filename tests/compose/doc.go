// Package compose holds docker-compose.yml and sequin.yaml together with what the code knows: settings, names, ports.
package compose
