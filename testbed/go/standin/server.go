package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

func (e *Engine) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/control", e.control)
	mux.HandleFunc("GET /health", e.health)
	mux.HandleFunc("GET /ping", e.health)
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]string{"version": version})
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		e.metrics.write(w, e.options.Name)
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, map[string]any{"object": "list", "data": []any{map[string]any{
			"id": e.options.Name, "object": "model", "created": begun.Unix(), "owned_by": "vllm",
			"root": e.options.Model, "parent": nil, "max_model_len": e.options.MaxModelLen,
		}}})
	})
	mux.HandleFunc("POST /v1/chat/completions", e.complete)
	mux.HandleFunc("POST /v1/completions", e.complete)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.URL.Path != "/control" {
			state, _, changed := e.now()
			if state != frozen {
				break
			}
			select {
			case <-changed:
			case <-r.Context().Done():
				return
			}
		}
		mux.ServeHTTP(w, r)
	})
}

func reply(w http.ResponseWriter, code int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, code int, kind, message string) {
	reply(w, code, map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": code}})
}

func (e *Engine) health(w http.ResponseWriter, _ *http.Request) {
	if state, _, _ := e.now(); state == unhealthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

type request struct {
	Model    string `json:"model"`
	Prompt   any    `json:"prompt"`
	Messages []struct {
		Content any `json:"content"`
	} `json:"messages"`
	MaxTokens           *int `json:"max_tokens"`
	MaxCompletionTokens *int `json:"max_completion_tokens"`
	Stream              bool `json:"stream"`
	StreamOptions       struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
	IgnoreEOS bool `json:"ignore_eos"`
}

var counter atomic.Int64

// complete answers one request of either kind; a token is a word.
func (e *Engine) complete(w http.ResponseWriter, r *http.Request) {
	var ask request
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		refuse(w, http.StatusBadRequest, "BadRequestError", err.Error())
		return
	}
	if ask.Model != "" && ask.Model != e.options.Name {
		refuse(w, http.StatusNotFound, "NotFoundError", fmt.Sprintf("The model `%s` does not exist.", ask.Model))
		return
	}
	chat := strings.HasSuffix(r.URL.Path, "/chat/completions")
	prompt := promptOf(ask, chat)
	if state, _, _ := e.now(); state == failing || state == unhealthy {
		refuse(w, http.StatusInternalServerError, "InternalServerError", "EngineCore encountered an issue.")
		return
	}
	size := len(strings.Fields(prompt))
	answer, reason := e.answer(ask, prompt)
	if size+len(answer) > e.options.MaxModelLen {
		refuse(w, http.StatusBadRequest, "BadRequestError", fmt.Sprintf(
			"This model's maximum context length is %d tokens.", e.options.MaxModelLen))
		return
	}
	out := &writer{w: w, ask: ask, chat: chat, name: e.options.Name, apart: e.options.Reasoning, prompt: size,
		id: fmt.Sprintf("%s-%d", map[bool]string{true: "chatcmpl", false: "cmpl"}[chat], counter.Add(1))}
	start := time.Now()
	e.metrics.begin(size)
	defer func() { e.metrics.end(reason, start) }()
	for i, token := range answer {
		if !e.pace(r) {
			reason = "abort"
			return
		}
		e.metrics.token(i == 0, start)
		if !out.token(token) {
			reason = "abort"
			return
		}
	}
	out.end(reason)
}

// pace waits as long as one token takes; false when the client left or the engine died meanwhile.
func (e *Engine) pace(r *http.Request) bool {
	for {
		state, token, changed := e.now()
		var due <-chan time.Time
		if state == ready {
			due = time.After(token)
		} else if state != hanging && state != frozen {
			return false
		}
		select {
		case <-due:
			return true
		case <-changed:
		case <-r.Context().Done():
			return false
		}
	}
}

func promptOf(ask request, chat bool) string {
	if !chat {
		return fmt.Sprint(ask.Prompt)
	}
	said := ""
	for _, message := range ask.Messages {
		said += fmt.Sprint(message.Content) + " "
	}
	return strings.TrimSpace(said)
}

// answer makes the words of an answer: some thinking, then an echo, then counting.
func (e *Engine) answer(ask request, prompt string) (words []string, reason string) {
	e.mutex.Lock()
	limit := e.tokens
	e.mutex.Unlock()
	reason = "stop"
	for _, given := range []*int{ask.MaxTokens, ask.MaxCompletionTokens} {
		if given == nil {
			continue
		}
		if *given <= limit || ask.IgnoreEOS {
			limit, reason = *given, "length"
		}
	}
	words = append([]string{"<think>", "Let", "me", "see.", "</think>", "You", "said:"}, strings.Fields(prompt)...)
	for i := 1; len(words) < limit; i++ {
		words = append(words, fmt.Sprint(i))
	}
	return words[:max(limit, 0)], reason
}
