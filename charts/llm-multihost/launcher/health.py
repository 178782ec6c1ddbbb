"""The leader's view of its engine: first answer, health, requests, progress."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import json
import os
import ssl
import threading
import time
from typing import Any

from settings import Settings, flag_value


@dataclasses.dataclass
class Sample:
    """What one reading of the engine's metrics said."""

    at: float
    running: float
    waiting: float
    progress: tuple[float, ...]


PROGRESS = (
    "vllm:iteration_tokens_total_count",  # moves with every step, a chunk of a prefill too
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
)


def parse_metrics(text: str, at: float) -> Sample:
    """Sum the few series needed over engines and labels."""
    sums: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.partition("{")
        if not rest:
            name, _, rest = line.partition(" ")
        if name in PROGRESS or name in ("vllm:num_requests_running", "vllm:num_requests_waiting"):
            with contextlib.suppress(ValueError):
                sums[name] = sums.get(name, 0.0) + float(rest.rpartition(" ")[2])
    return Sample(
        at,
        sums.get("vllm:num_requests_running", 0.0),
        sums.get("vllm:num_requests_waiting", 0.0),
        tuple(sums.get(name, 0.0) for name in PROGRESS),
    )


class Health(threading.Thread):
    """Watches one attempt's HTTP server: first answer, then health and progress.

    A refused connection or a 503 is a fact about the engine; a timeout only says that it is busy.
    """

    def __init__(self, settings: Settings, flags: list[str]) -> None:
        super().__init__(daemon=True)
        self.settings = settings
        self.poll = settings.beat / 2
        self.tls = any(flag.startswith("--ssl-certfile") for flag in flags)
        key = os.environ.get("VLLM_API_KEY") or flag_value(flags, "--api-key")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.stopped = threading.Event()
        self.answered = False
        self.failure = ""  # why the first request got no token
        self.hopeless = False
        self.last_ok = 0.0
        self.bad_since = 0.0  # since when the answer is a refusal or not 200; 0 = it is not
        self.heard = 0.0  # any HTTP answer
        self.progress_at = 0.0
        self.sample: Sample | None = None

    def run(self) -> None:
        """Poll until stopped."""
        while not self.stopped.wait(self.poll):
            self.check_health()
            if self.answered:
                self.read_metrics()
            elif self.last_ok and not self.bad_since:
                self.ask_first()
                if self.failure:
                    return

    def request(self, path: str, timeout: float, body: Any = None) -> tuple[int, bytes]:
        """One HTTP exchange with the local server."""
        kind: Any = http.client.HTTPConnection
        more: dict[str, Any] = {}
        if self.tls:
            kind = http.client.HTTPSConnection
            # The certificate names the public address; this is the loopback of one container.
            more = {"context": ssl._create_unverified_context()}  # noqa: S323
        link = kind("127.0.0.1", self.settings.http_port, timeout=timeout, **more)
        try:
            if body is None:
                link.request("GET", path, headers=self.headers)
            else:
                headers = {**self.headers, "Content-Type": "application/json"}
                link.request("POST", path, json.dumps(body), headers)
            answer = link.getresponse()
            data = answer.read()
        finally:
            link.close()
        self.heard = time.monotonic()
        return answer.status, data

    def check_health(self) -> None:
        """Note whether /health is well, unwell, or too busy to say."""
        try:
            status, _ = self.request("/health", timeout=self.poll * 5)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException):
            status = 0
        now = time.monotonic()
        if status == 200:
            self.last_ok, self.bad_since = now, 0.0
        else:
            self.bad_since = self.bad_since or now

    def ask_first(self) -> None:
        """Ask for one token; an error is the attempt's failure, a timeout is the budget's affair."""
        try:
            status, data = self.request("/v1/models", timeout=30)
            if status == 200:
                model = json.loads(data)["data"][0]["id"]
                body = {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0}
                status, data = self.request("/v1/completions", self.settings.startup, body)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException, ValueError, KeyError, IndexError) as error:
            self.failure = f"first request failed: {error!r}"
            return
        if status == 200:
            self.answered = True
            self.progress_at = time.monotonic()
        else:
            self.failure = f"first request answered {status}: {data[:200].decode(errors='replace')}"
            self.hopeless = 400 <= status < 500

    def read_metrics(self) -> None:
        """Note requests in flight and when a token counter last moved."""
        try:
            status, data = self.request("/metrics", timeout=self.poll * 10)
        except (OSError, http.client.HTTPException):
            return
        if status != 200:
            return
        now = time.monotonic()
        sample = parse_metrics(data.decode(errors="replace"), now)
        if self.sample is None or sample.running == 0 or sample.progress != self.sample.progress:
            self.progress_at = now
        self.sample = sample

    def well(self) -> bool:
        """/health is 200 now, or was within the stall limit and the server is merely busy."""
        return not self.bad_since and time.monotonic() - self.last_ok < self.settings.stall

    def stalled(self) -> str:
        """Why the engine makes no progress, or nothing."""
        if not self.answered:
            return ""
        still = self.sample.at - self.progress_at if self.sample else 0.0
        if still > self.settings.stall:
            return f"requests are running and no token counter moved for {still:.0f} s"
        silent = time.monotonic() - self.heard
        if silent > 5 * self.settings.stall:
            return f"the HTTP server answered nothing for {silent:.0f} s"
        return ""
