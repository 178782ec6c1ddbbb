"""What the leader sees of its engine over HTTP: first answer, health, requests, what moves, canaries."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

from manyhost_group import Engine
from manyhost_settings import Settings, flag_value

# What the engines call their series (vLLM; SGLang, sglang/srt/observability/metrics_collector.py).
RUNNING = ("vllm:num_requests_running", "sglang:num_running_reqs")
WAITING = ("vllm:num_requests_waiting", "sglang:num_queue_reqs")
# A step of the engine has completed, on all of its ranks. SGLang's gauges are told every 40 steps of decoding
# (decode-log-interval), its tokens at each.
STEPS = (
    "vllm:iteration_tokens_total_count",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "sglang:realtime_tokens_total",
)
# Moves with each chunk of a prefill too, while no step counter does.
CACHE = ("vllm:kv_cache_usage_perc", "sglang:token_usage")
SERIES = {*RUNNING, *WAITING, *STEPS, *CACHE}
OLD_SAMPLE_BEATS = 5  # after which the last metrics say nothing about now


@dataclasses.dataclass(frozen=True)
class Sample:
    """What one reading of the engine's metrics said.

    Attributes:
        busy: Requests run or wait; None when the series are not there.
        steps: Counters that move when a step completes.
        cache: Use of the KV cache.
    """

    at: float
    busy: bool | None
    steps: tuple[float, ...]
    cache: float


def parse_metrics(text: str, at: float) -> Sample:
    """Sum the few series needed over engines and labels. Series that are missing are unknown, not 0."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if not rest:
            name, _, rest = line.partition(" ")
        if name in SERIES:
            with contextlib.suppress(ValueError):
                sums[name] = sums.get(name, 0.0) + float(rest.rpartition(" ")[2])
    steps = tuple(sums.get(name, -1.0) for name in STEPS)
    running, waiting, cache = _first(sums, RUNNING), _first(sums, WAITING), _first(sums, CACHE)
    # Without anything that moves a load could not be told from a stall.
    known = running is not None and (cache is not None or max(steps) >= 0)
    busy = (running or 0.0) + (waiting or 0.0) > 0 if known else None
    return Sample(at, busy, steps, -1.0 if cache is None else cache)


def _first(sums: dict[str, float], names: tuple[str, ...]) -> float | None:
    """The sum of the first series that is there."""
    return next((sums[name] for name in names if name in sums), None)


class Watch:
    """Watches one attempt's HTTP server on threads of its own.

    A refused connection or a status other than 200 is a fact about the engine; a timeout only says that
    it is busy.

    Args:
        settings: The member's.
        flags: The engine's.
        wake: Called when something has changed.
    """

    def __init__(self, settings: Settings, flags: list[str], wake: Callable[[], None]) -> None:
        self._settings = settings
        self._poll = settings.limits.beat / 2
        self._wake = wake
        self._tls = any(flag.startswith("--ssl-certfile") for flag in flags)
        key = os.environ.get("VLLM_API_KEY") or flag_value(flags, "--api-key")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._stopped = threading.Event()
        self._model = ""
        self._sample: Sample | None = None
        self._seen = Engine()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._run, daemon=True).start()

    def stop(self) -> None:
        """Watch no more."""
        self._stopped.set()

    def seen(self) -> Engine:
        """What is known now."""
        seen, sample = self._seen, self._sample
        old = sample is None or time.monotonic() - sample.at > OLD_SAMPLE_BEATS * self._settings.limits.beat
        if old and seen.answered:
            return dataclasses.replace(seen, busy=None, idle_since=0.0)
        return seen

    def canary(self) -> None:
        """Ask for one token, unless requests run."""
        threading.Thread(target=self._ask_canary, daemon=True).start()

    def _set(self, **changes: Any) -> None:
        with self._lock:
            self._seen = dataclasses.replace(self._seen, **changes)
        self._wake()

    def _run(self) -> None:
        while not self._stopped.wait(self._poll):
            self._check_health()
            if self._seen.answered:
                self._read_metrics()
            elif self._seen.well_at and not self._seen.bad_since:
                self._ask_first()
                if self._seen.failure:
                    return

    def _request(self, path: str, timeout: float, body: Any = None) -> tuple[int, bytes]:
        """One HTTP exchange with the local server."""
        kind: Any = http.client.HTTPConnection
        more: dict[str, Any] = {}
        if self._tls:
            kind = http.client.HTTPSConnection
            # The certificate names the public address; this is the loopback of one container.
            more = {"context": ssl._create_unverified_context()}  # noqa: S323
        link = kind("127.0.0.1", self._settings.http_port, timeout=timeout, **more)
        try:
            if body is None:
                link.request("GET", path, headers=self._headers)
            else:
                headers = {**self._headers, "Content-Type": "application/json"}
                link.request("POST", path, json.dumps(body), headers)
            answer = link.getresponse()
            data = answer.read()
        finally:
            link.close()
        self._set(heard=time.monotonic())
        return answer.status, data

    def _check_health(self) -> None:
        """Note whether /health is well, unwell, or too busy to say."""
        try:
            status, _ = self._request("/health", timeout=self._poll * 5)
        except TimeoutError:
            self._set(bad_since=0.0, bad_answers=0)
            return
        except (OSError, http.client.HTTPException):
            status = 0
        now = time.monotonic()
        if status == 200:
            self._set(well_at=now, bad_since=0.0, bad_answers=0)
        else:
            self._set(bad_since=self._seen.bad_since or now, bad_answers=self._seen.bad_answers + 1)

    def _ask(self, timeout: float) -> tuple[int, bytes]:
        """Ask for one token.

        Raises:
            OSError: The server does not answer; TimeoutError when it only takes too long.
            http.client.HTTPException: It answers something else than HTTP.
            ValueError, KeyError, IndexError: It has no list of models.
        """
        if not self._model:
            status, data = self._request("/v1/models", timeout=30)
            if status != 200:
                return status, data
            self._model = json.loads(data)["data"][0]["id"]
        body = {"model": self._model, "prompt": "1", "max_tokens": 1, "temperature": 0}
        return self._request("/v1/completions", timeout, body)

    def _ask_first(self) -> None:
        """An error is the attempt's failure; a timeout is a matter of progress."""
        try:
            status, data = self._ask(max(60.0, self._settings.startup))
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
            self._set(failure=f"first request failed: {error!r}")
            return
        if status == 200:
            now = time.monotonic()
            self._read_metrics()
            self._set(answered=True, moved=now, well_at=now)
        else:
            text = data[:200].decode(errors="replace")
            self._set(failure=f"first request answered {status}: {text}", hopeless=400 <= status < 500)

    def _read_metrics(self) -> None:
        """Note whether requests are in flight and when something last moved."""
        try:
            status, data = self._request("/metrics", timeout=self._poll * 10)
        except (OSError, http.client.HTTPException):
            return
        if status != 200:
            return
        now = time.monotonic()
        sample, before = parse_metrics(data.decode(errors="replace"), now), self._sample
        self._sample = sample
        changes: dict[str, Any] = {"busy": sample.busy}
        if before is None or (sample.steps, sample.cache) != (before.steps, before.cache):
            changes["moved"] = now
        changes["busy_since"] = (self._seen.busy_since or now) if sample.busy else 0.0
        changes["idle_since"] = (self._seen.idle_since or now) if sample.busy is False else 0.0
        self._set(**changes)

    def _ask_canary(self) -> None:
        """One token, in its own connection; what a busy engine would make of it is not asked."""
        self._set(canary_since=time.monotonic())
        try:
            self._read_metrics()
            if self._seen.busy:
                return
            status, _ = self._ask(5 * self._settings.limits.stall)
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError):
            return
        else:
            if status == 200:
                self._set(moved=time.monotonic(), canary_bad=0)
            elif status >= 500:
                self._set(canary_bad=self._seen.canary_bad + 1)
        finally:
            self._set(canary_since=0.0)
