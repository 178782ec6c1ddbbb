//go:build tools

// Package tools names the S3 gateway, so that `go mod tidy` keeps it in go.mod.
package tools

import _ "github.com/versity/versitygw/cmd/versitygw"
