package main

import (
	"encoding/json"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// States of the engine, as /control knows them.
const (
	starting  = "starting"  // the API port is closed (STANDIN_START_SECONDS; "manual": until told)
	ready     = "ready"     // answers
	unhealthy = "unhealthy" // /health says 503, requests 500: the engine behind the API died
	failing   = "failing"   // /health says 200, requests 500
	hanging   = "hanging"   // /health says 200, requests are taken and get no token
	frozen    = "frozen"    // connections are taken, nothing is answered, not even /health
)

// Engine is what the server serves.
type Engine struct {
	options Options
	metrics metrics

	mutex        sync.Mutex
	state        string
	tokenSeconds float64
	tokens       int
	open         chan struct{} // closed when loaded
	changed      chan struct{} // closed and replaced at each change
}

func newEngine(options Options) *Engine {
	engine := &Engine{
		options: options, state: starting,
		tokenSeconds: seconds("STANDIN_TOKEN_SECONDS", 0.002).Seconds(),
		tokens:       16, open: make(chan struct{}), changed: make(chan struct{}),
	}
	if count, err := strconv.Atoi(variable("STANDIN_TOKENS", "")); err == nil {
		engine.tokens = count
	}
	if variable("STANDIN_START_SECONDS", "0") != "manual" {
		time.AfterFunc(seconds("STANDIN_START_SECONDS", 0), func() { engine.begin() })
	}
	if after := seconds("STANDIN_EXIT_SECONDS", 0); after > 0 {
		code, _ := strconv.Atoi(variable("STANDIN_EXIT_CODE", "1"))
		time.AfterFunc(after, func() { os.Exit(code) })
	}
	return engine
}

// begin ends the start, in the state STANDIN_STATE (ready when unset).
func (e *Engine) begin() {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.state == starting {
		e.set(variable("STANDIN_STATE", ready))
	}
}

// set changes the state; the caller holds the mutex.
func (e *Engine) set(state string) {
	if e.state == starting && state != starting {
		close(e.open)
	}
	e.state = state
	close(e.changed)
	e.changed = make(chan struct{})
}

func (e *Engine) loaded() <-chan struct{} { return e.open }

func (e *Engine) now() (state string, token time.Duration, changed <-chan struct{}) {
	e.mutex.Lock()
	defer e.mutex.Unlock()
	return e.state, time.Duration(e.tokenSeconds * float64(time.Second)), e.changed
}

// control answers GET with what this process is and does, and takes POST
// {"state": "...", "token_seconds": 0.1, "tokens": 16, "exit": 1}, each key optional.
func (e *Engine) control(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		var change struct {
			State        string   `json:"state"`
			TokenSeconds *float64 `json:"token_seconds"`
			Tokens       *int     `json:"tokens"`
			Exit         *int     `json:"exit"`
		}
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		known := map[string]bool{"": true, ready: true, unhealthy: true, failing: true, hanging: true, frozen: true}
		if err := decoder.Decode(&change); err != nil || !known[change.State] {
			http.Error(w, "want state ready|unhealthy|failing|hanging|frozen, token_seconds, tokens, exit", http.StatusBadRequest)
			return
		}
		if change.Exit != nil {
			os.Exit(*change.Exit)
		}
		e.mutex.Lock()
		if change.TokenSeconds != nil {
			e.tokenSeconds = *change.TokenSeconds
		}
		if change.Tokens != nil {
			e.tokens = *change.Tokens
		}
		if change.State != "" {
			e.set(change.State)
		}
		e.mutex.Unlock()
	}
	e.mutex.Lock()
	defer e.mutex.Unlock()
	reply(w, http.StatusOK, map[string]any{
		"state": e.state, "token_seconds": e.tokenSeconds, "tokens": e.tokens,
		"argv": os.Args, "uid": os.Getuid(), "rank": e.options.Rank, "environment": os.Environ(),
	})
}
