// Package plot draws time series one above the other, over one time axis, as an SVG that needs nothing else.
package plot
