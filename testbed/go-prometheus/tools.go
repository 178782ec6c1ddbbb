//go:build tools

// Package tools names Prometheus and promtool, so that `go mod tidy` keeps them in go.mod.
package tools

import (
	_ "github.com/prometheus/prometheus/cmd/prometheus"
	_ "github.com/prometheus/prometheus/cmd/promtool"
)
