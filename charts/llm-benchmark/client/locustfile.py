"""Streaming users for Locust 2.47: TTFT and ITL as events of their own, beside Locust's.

As `manyhost bench --runner locust` starts it, headless and once a process; by hand, with the web interface:

    locust -f locustfile.py --host http://127.0.0.1:8000 --model NAME --input-tokens 1000

or spread over processes (--processes 4) or machines (--master, and --worker --master-host on each). Prompts
are random token ids of the exact length, so no tokenizer is needed. With --requests it ends after so many, of
all workers together; with --result the master writes what happened to each, in the form of `vllm bench serve
--save-detailed`. A start is of the monotonic clock of the machine that sent it.
"""

from __future__ import annotations

import json
import logging
import random
import time
from typing import Any

import completions
import engine
import gevent
from locust import FastHttpUser, events, task
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, Runner, WorkerRunner

_ROWS: list[tuple[Any, ...]] = []
_LEFT = 0  # requests that this process may still send

events.init_command_line_parser.add_listener(completions.options)


@events.init.add_listener
def _listen(environment: Environment, runner: Runner | None, **_: Any) -> None:
    if isinstance(runner, WorkerRunner):
        runner.register_message("share", lambda msg, **_: _begin(msg.data))
    elif isinstance(runner, MasterRunner):
        events.worker_report.add_listener(lambda data, **_: _receive(environment, data))


@events.test_start.add_listener
def _divide(environment: Environment, **_: Any) -> None:
    """Divide the requests among the workers."""
    runner, total = environment.runner, environment.parsed_options.requests
    if isinstance(runner, WorkerRunner):
        return  # its share came before
    _begin(total)
    if isinstance(runner, MasterRunner):
        workers = [client.id for client in runner.clients.ready]
        if total and runner.target_user_count < len(workers):
            logging.error("locustfile: a worker without a user would keep its requests: set more --users")
            environment.process_exit_code = 1
            gevent.spawn(runner.quit)
        for number, worker in enumerate(workers):
            share = total // len(workers) + (number < total % len(workers))
            runner.send_message("share", share, worker)


def _begin(requests: int) -> None:
    global _LEFT  # noqa: PLW0603  one process, one loop: gevent switches at reads and writes alone
    _LEFT = requests
    _ROWS.clear()


@events.report_to_master.add_listener
def _send(data: dict[str, Any], **_: Any) -> None:
    data["rows"] = _ROWS[:]
    _ROWS.clear()


def _receive(environment: Environment, data: dict[str, Any]) -> None:
    _ROWS.extend(data["rows"])
    _end(environment)


def _end(environment: Environment) -> None:
    """End the run when every request has been; with the web interface, which goes on, the test alone."""
    runner = environment.runner
    if runner and len(_ROWS) == environment.parsed_options.requests:
        gevent.spawn(runner.stop if environment.web_ui else runner.quit)  # it ends the users too


@events.quitting.add_listener
def _write(environment: Environment, **_: Any) -> None:
    """Write every request; failures are no failure of the tool."""
    if environment.parsed_options.result and not isinstance(environment.runner, WorkerRunner):
        completions.write(environment.parsed_options.result, _ROWS)
        environment.process_exit_code = environment.process_exit_code or 0


class Streaming(FastHttpUser):
    """Asks, reads the answer token by token, asks again."""

    network_timeout = 900.0
    connection_timeout = 900.0

    def on_start(self) -> None:
        """Draw prompts of its own."""
        options = self.environment.parsed_options
        worker = getattr(self.environment.runner, "worker_index", 0)  # processes that were forked are alike
        self.chance = random.Random(f"{options.seed}-{worker}-{id(self)}")  # noqa: S311  no secret

    @task
    def ask(self) -> None:
        """Send one request, if there is one left to send."""
        global _LEFT  # noqa: PLW0603
        options = self.environment.parsed_options
        if options.requests:
            if not _LEFT:
                raise StopUser
            _LEFT -= 1
        _ROWS.append(self._stream(completions.body(options, self.chance)))
        if not isinstance(self.environment.runner, WorkerRunner):
            _end(self.environment)

    def _stream(self, body: dict[str, Any]) -> tuple[Any, ...]:
        told = {"json": body, "headers": engine.headers(), "stream": True, "catch_response": True}
        ttft, gaps, text, error, usage = 0.0, [], "", "", {}
        start = before = time.perf_counter()
        with self.client.post("/v1/completions", **told) as answer:
            try:
                if answer.status_code != 200:
                    raise OSError(f"HTTP status {answer.status_code}")
                while line := answer.stream.readline(b"\n"):
                    if line.startswith(b"data: [DONE]"):
                        break
                    if not line.startswith(b"data: "):
                        continue
                    event = json.loads(line[6:])
                    now = time.perf_counter()
                    usage = event.get("usage") or usage
                    if not event["choices"]:
                        continue
                    text += event["choices"][0]["text"]
                    if ttft:
                        gaps.append(now - before)
                        self._tell("ITL", now - before)
                    else:
                        ttft = now - start
                        self._tell("TTFT", ttft)
                    before = now
                answer.stream.read()
                answer.success()
            except (OSError, ValueError, KeyError, IndexError) as problem:
                error = f"{type(problem).__name__}: {problem}"
                answer.failure(error)
        return (
            start,
            ttft,
            gaps,
            usage.get("prompt_tokens", 0),
            usage.get("completion_tokens", 0),
            error,
            text,
        )

    def _tell(self, name: str, seconds: float) -> None:
        self.environment.events.request.fire(
            request_type="stream", name=name, response_time=seconds * 1000, response_length=0, context={}
        )
