package main

import (
	"fmt"
	"io"
	"sort"
	"sync"
	"time"
)

var begun = time.Now()

// metrics are the engine's own counters, by its own names, as far as anything reads them.
type metrics struct {
	mutex             sync.Mutex
	running           int
	prompt, produced  int
	finished          map[string]int
	firstToken, whole histogram
}

var bounds = []float64{0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60}

type histogram struct {
	buckets [8]int
	count   int
	sum     float64
}

func (h *histogram) observe(value float64) {
	h.count++
	h.sum += value
	for i, bound := range bounds {
		if value <= bound {
			h.buckets[i]++
		}
	}
}

func (m *metrics) begin(prompt int) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.running++
	m.prompt += prompt
}

func (m *metrics) end(reason string, start time.Time) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.running--
	if m.finished == nil {
		m.finished = map[string]int{}
	}
	m.finished[reason]++
	m.whole.observe(time.Since(start).Seconds())
}

func (m *metrics) token(first bool, start time.Time) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.produced++
	if first {
		m.firstToken.observe(time.Since(start).Seconds())
	}
}

func (m *metrics) write(w io.Writer, model string) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	label := fmt.Sprintf(`engine="0",model_name=%q`, model)
	one := func(name, kind string, value any) {
		fmt.Fprintf(w, "# TYPE vllm:%s %s\nvllm:%s{%s} %v\n", name, kind, name, label, value)
	}
	one("num_requests_running", "gauge", m.running)
	one("num_requests_waiting", "gauge", 0)
	one("kv_cache_usage_perc", "gauge", 0)
	one("num_preemptions_total", "counter", 0)
	one("prompt_tokens_total", "counter", m.prompt)
	one("generation_tokens_total", "counter", m.produced)
	fmt.Fprintln(w, "# TYPE vllm:request_success_total counter")
	reasons := []string{}
	for reason := range m.finished {
		reasons = append(reasons, reason)
	}
	sort.Strings(reasons)
	for _, reason := range reasons {
		fmt.Fprintf(w, "vllm:request_success_total{%s,finished_reason=%q} %d\n", label, reason, m.finished[reason])
	}
	for name, h := range map[string]*histogram{"time_to_first_token_seconds": &m.firstToken, "e2e_request_latency_seconds": &m.whole} {
		fmt.Fprintf(w, "# TYPE vllm:%s histogram\n", name)
		for i, bound := range bounds {
			fmt.Fprintf(w, "vllm:%s_bucket{%s,le=\"%v\"} %d\n", name, label, bound, h.buckets[i])
		}
		fmt.Fprintf(w, "vllm:%s_bucket{%s,le=\"+Inf\"} %d\n", name, label, h.count)
		fmt.Fprintf(w, "vllm:%s_count{%s} %d\nvllm:%s_sum{%s} %v\n", name, label, h.count, name, label, h.sum)
	}
	fmt.Fprintf(w, "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds %d\n", begun.Unix())
}
