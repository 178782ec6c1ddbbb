//go:build tools

// Package tools names the Cloud Storage emulator, so that `go mod tidy` keeps it in go.mod.
package tools

import _ "github.com/fsouza/fake-gcs-server"
