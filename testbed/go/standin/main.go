// Command standin behaves like one process of an LLM engine, without a model: it takes the engine's
// command line (`serve MODEL --flags`), starts like it, answers like it and fails when it is told to.
//
// The environment says how it starts; POST /control, on the API port and on a port of its own that
// is there from the first moment and on workers too, changes it while it runs. See control.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

const version = "0.0.0-standin"

func main() {
	args := os.Args[1:]
	if len(args) > 0 && (args[0] == "--version" || args[0] == "-v") {
		fmt.Println(version)
		return
	}
	if len(args) > 0 && args[0] == "serve" {
		args = args[1:]
	}
	options, err := parse(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(2)
	}
	argv, _ := json.Marshal(os.Args)
	fmt.Printf("standin argv=%s uid=%d\n", argv, os.Getuid())
	if err := run(options, newEngine(options)); err != nil {
		fmt.Fprintln(os.Stderr, "standin:", err)
		os.Exit(1)
	}
}

func run(options Options, engine *Engine) error {
	if listener, err := net.Listen("tcp", ":"+variable("STANDIN_CONTROL_PORT", "9009")); err != nil {
		fmt.Println("standin: no control port:", err) // two of us on one network: not worth dying
	} else {
		go http.Serve(listener, http.HandlerFunc(engine.control))
	}
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, syscall.SIGINT)
	failed := make(chan error, 3)
	joined := make(chan struct{})
	go func() {
		if err := join(options, joined); err != nil {
			failed <- err
		}
	}()
	server := &http.Server{Handler: engine.routes()}
	go func() {
		<-joined
		<-engine.loaded()
		if options.Headless {
			fmt.Println("standin: worker joined")
			return
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(options.Host, strconv.Itoa(options.Port)))
		if err != nil {
			failed <- err
			return
		}
		fmt.Println("INFO:     Application startup complete.")
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-end:
		fmt.Println("INFO:     Shutting down")
		limit, cancel := context.WithTimeout(context.Background(), seconds("STANDIN_DRAIN_SECONDS", 300))
		defer cancel()
		return server.Shutdown(limit) // requests in flight may finish
	}
}

func variable(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func seconds(name string, otherwise float64) time.Duration {
	value, err := strconv.ParseFloat(variable(name, ""), 64)
	if err != nil {
		value = otherwise
	}
	return time.Duration(value * float64(time.Second))
}
