package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Options are the parts of the engine's command line that matter here; other flags are accepted.
type Options struct {
	Model       string
	Name        string
	Host        string
	Port        int
	MaxModelLen int
	Nodes       int
	Rank        int
	MasterAddr  string
	MasterPort  int
	Headless    bool
	Reasoning   bool
}

func parse(args []string) (Options, error) {
	flags, model := map[string]string{}, ""
	for i := 0; i < len(args); i++ {
		word := args[i]
		if !strings.HasPrefix(word, "--") {
			if model != "" {
				return Options{}, fmt.Errorf("unrecognized arguments: %s", word)
			}
			model = word
			continue
		}
		key, value, given := strings.Cut(strings.TrimPrefix(word, "--"), "=")
		if !given && i+1 < len(args) && !strings.HasPrefix(args[i+1], "--") && !switches[key] {
			i++
			value = args[i]
		}
		flags[strings.ReplaceAll(key, "_", "-")] = value
	}
	if model == "" {
		model = flags["model"]
	}
	if model == "" {
		model = "standin"
	}
	options := Options{Model: model, Name: model, Host: flags["host"], MasterAddr: "127.0.0.1"}
	if name := flags["served-model-name"]; name != "" {
		options.Name = name
	}
	if address := flags["master-addr"]; address != "" {
		options.MasterAddr = address
	}
	_, options.Headless = flags["headless"]
	_, options.Reasoning = flags["reasoning-parser"]
	numbers := []struct {
		flag      string
		target    *int
		otherwise int
	}{
		{"port", &options.Port, 8000},
		{"max-model-len", &options.MaxModelLen, 32768},
		{"nnodes", &options.Nodes, 1},
		{"node-rank", &options.Rank, 0},
		{"master-port", &options.MasterPort, 29501},
	}
	for _, number := range numbers {
		*number.target = number.otherwise
		if text, given := flags[number.flag]; given {
			value, err := strconv.Atoi(text)
			if err != nil {
				return Options{}, fmt.Errorf("argument --%s: invalid int value: %q", number.flag, text)
			}
			*number.target = value
		}
	}
	if options.Nodes > 1 && options.Rank > 0 && !options.Headless {
		return Options{}, errors.New("a rank above 0 needs --headless")
	}
	return options, nil
}

// Flags without a value, where a model name may follow.
var switches = map[string]bool{
	"headless": true, "enforce-eager": true, "trust-remote-code": true,
	"enable-expert-parallel": true, "enable-prefix-caching": true, "no-enable-prefix-caching": true,
	"enable-chunked-prefill": true, "no-enable-chunked-prefill": true,
	"enable-auto-tool-choice": true, "async-scheduling": true, "no-enable-log-requests": true,
	"enable-log-requests": true, "disable-log-stats": true,
}
