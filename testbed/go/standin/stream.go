package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// writer turns tokens into the engine's JSON, at once or as server-sent events.
type writer struct {
	w         http.ResponseWriter
	ask       request
	chat      bool
	name, id  string
	apart     bool // --reasoning-parser: thinking goes into a field of its own
	prompt    int
	produced  int
	thinking  bool
	began     bool
	reasoning strings.Builder
	content   strings.Builder
}

// token takes one word; false when the client is gone.
func (o *writer) token(word string) bool {
	o.produced++
	if o.chat && o.apart && (word == "<think>" || word == "</think>") {
		o.thinking = word == "<think>"
		return true
	}
	field, text := "content", &o.content
	if o.thinking {
		field, text = "reasoning", &o.reasoning
	}
	if text.Len() > 0 {
		word = " " + word
	}
	text.WriteString(word)
	if !o.ask.Stream {
		return true
	}
	if !o.began {
		o.began = true
		o.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		if o.chat && !o.event(o.choice(map[string]any{"role": "assistant", "content": ""}, nil)) {
			return false
		}
	}
	if o.chat {
		return o.event(o.choice(map[string]any{field: word}, nil))
	}
	return o.event(o.choice(word, nil))
}

// choice is the one choice of an event: a delta of a chat, or text.
func (o *writer) choice(part, reason any) []any {
	key := map[bool]string{true: "delta", false: "text"}[o.chat]
	return []any{map[string]any{"index": 0, key: part, "logprobs": nil, "finish_reason": reason}}
}

func (o *writer) body(kind string, choices []any) map[string]any {
	return map[string]any{"id": o.id, "object": kind, "created": time.Now().Unix(), "model": o.name, "choices": choices}
}

func (o *writer) usage() map[string]int {
	return map[string]int{"prompt_tokens": o.prompt, "completion_tokens": o.produced, "total_tokens": o.prompt + o.produced}
}

func (o *writer) event(choices []any) bool {
	kind := map[bool]string{true: "chat.completion.chunk", false: "text_completion"}[o.chat]
	return o.send(o.body(kind, choices))
}

func (o *writer) send(body any) bool {
	data, _ := json.Marshal(body)
	if _, err := fmt.Fprintf(o.w, "data: %s\n\n", data); err != nil {
		return false
	}
	o.w.(http.Flusher).Flush()
	return true
}

// end finishes the answer.
func (o *writer) end(reason string) {
	if o.ask.Stream {
		last := any("")
		if o.chat {
			last = map[string]any{}
		}
		o.event(o.choice(last, reason))
		if o.ask.StreamOptions.IncludeUsage {
			body := o.body(map[bool]string{true: "chat.completion.chunk", false: "text_completion"}[o.chat], []any{})
			body["usage"] = o.usage()
			o.send(body)
		}
		fmt.Fprint(o.w, "data: [DONE]\n\n")
		return
	}
	choice := map[string]any{"index": 0, "finish_reason": reason, "logprobs": nil}
	if o.chat {
		message := map[string]any{"role": "assistant", "content": o.content.String()}
		if o.apart {
			message["reasoning"] = o.reasoning.String()
		}
		choice["message"] = message
	} else {
		choice["text"] = o.content.String()
	}
	body := o.body(map[bool]string{true: "chat.completion", false: "text_completion"}[o.chat], []any{choice})
	body["usage"] = o.usage()
	reply(o.w, http.StatusOK, body)
}
