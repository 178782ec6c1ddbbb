"""Runs the field's load generators and reads what they say of each request.

A command is a list of words with {names} in it; a reader turns the tool's file into Requests. Each process
has a share of the requests, so that a client that cannot keep up alone is spread over several.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

_TAIL = 2000  # characters of a failed tool's output that leave with the evidence
_LOOK_SECONDS = 0.25
_READY_SECONDS = 0.01
_FAMILY_SECONDS = 2.0  # to look at every process of a machine takes some milliseconds


@dataclasses.dataclass
class Requests:
    """What happened to each request, in equally long columns; seconds on this machine's monotonic clock."""

    start: list[float] = dataclasses.field(default_factory=list)
    ttft: list[float] = dataclasses.field(default_factory=list)
    e2e: list[float] = dataclasses.field(default_factory=list)
    input: list[int] = dataclasses.field(default_factory=list)
    output: list[int] = dataclasses.field(default_factory=list)
    chunks: list[int] = dataclasses.field(default_factory=list)
    ok: list[bool] = dataclasses.field(default_factory=list)
    empty: list[bool] = dataclasses.field(default_factory=list)
    gaps: list[float] = dataclasses.field(default_factory=list)
    tokens_at: list[float] = dataclasses.field(default_factory=list)
    errors: list[str] = dataclasses.field(default_factory=list)

    def extend(self, other: Requests) -> None:
        """Add another process's requests."""
        for field in dataclasses.fields(self):
            getattr(self, field.name).extend(getattr(other, field.name))

    def tpots(self) -> list[float]:
        """Seconds per output token after the first, of each answer with more than one."""
        rows = zip(self.ttft, self.e2e, self.output, self.ok, strict=True)
        return [(e2e - ttft) / (output - 1) for ttft, e2e, output, ok in rows if ok and output > 1]

    def good(self, column: str) -> list[Any]:
        """One column, of the requests that succeeded."""
        return [value for value, ok in zip(getattr(self, column), self.ok, strict=True) if ok]


@dataclasses.dataclass
class Ran:
    """One run of a tool.

    Attributes:
        requests: What it measured, of all its processes.
        commands: Each process's words.
        seconds: From the first request's start to the last one's end.
        skew: Seconds between the processes' first requests.
        cpu: Most processor time that a process needed, as a share of one core, while its requests ran.
        error: Why there is no result; empty otherwise.
    """

    requests: Requests = dataclasses.field(default_factory=Requests)
    commands: list[list[str]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    skew: float = 0.0
    cpu: float = 0.0
    error: str = ""


def read_requests(path: Path) -> Requests:
    """Read the file of `vllm bench serve --save-detailed`; our users for Locust write the same."""
    found = json.loads(path.read_text())
    read = Requests()
    columns = zip(
        found["start_times"],
        found["ttfts"],
        found["itls"],
        found["input_lens"],
        found["output_lens"],
        found["errors"],
        found["generated_texts"],
        strict=True,
    )
    for start, ttft, gaps, size, tokens, error, text in columns:
        ok = not error and tokens > 0
        read.start.append(start)
        read.ttft.append(ttft)
        read.e2e.append(ttft + math.fsum(gaps))
        read.input.append(size)
        read.output.append(tokens)
        read.chunks.append(1 + len(gaps) if ok else 0)
        read.ok.append(ok)
        read.empty.append(ok and not text)
        if ok:
            at = start + ttft
            read.tokens_at.append(at)
            for gap in gaps:
                at += gap
                read.tokens_at.append(at)
            read.gaps += gaps
        else:
            read.errors.append((error or "no token").strip().splitlines()[-1][:300])
    return read


def read_aiperf(path: Path) -> Requests:
    """Read AIPerf's records (profile_export.jsonl).

    It looks at chunks with text alone, and an answer without any is a failure to it.
    """
    read = Requests()
    # Its starts are of the wall clock.
    shift = time.perf_counter() - time.time()
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found = {name: metric["value"] for name, metric in row["metrics"].items()}
        gaps = [gap / 1000 for gap in found.get("inter_chunk_latency", [])]
        ttft, tokens = found.get("time_to_first_token", 0.0) / 1000, found.get("usage_completion_tokens", 0)
        error = row.get("error") or {}
        ok = not error and tokens > 0
        start = row["metadata"]["request_start_ns"] / 1e9 + shift
        read.start.append(start)
        read.ttft.append(ttft)
        read.e2e.append(ttft + math.fsum(gaps))
        read.input.append(found.get("usage_prompt_tokens", 0))
        read.output.append(tokens)
        read.chunks.append(1 + len(gaps) if ok else 0)
        read.ok.append(ok)
        read.empty.append(False)
        if ok:
            read.tokens_at += itertools.accumulate(gaps, initial=start + ttft)
            read.gaps += gaps
        else:
            # What a server says beside its status may be a page of HTML.
            said = f"{error['code']} {error['type']}" if error.get("code") else error.get("message")
            read.errors.append((said or "no token")[:300])
    return read


READERS = {"manyhost": read_requests, "vllm": read_requests, "locust": read_requests, "aiperf": read_aiperf}


def share(total: int, processes: int) -> list[int]:
    """Divide a number into parts that differ by one at most."""
    return [total // processes + (number < total % processes) for number in range(processes)]


def fill(words: list[str], values: dict[str, str]) -> list[str]:
    """Return a command with its {names} replaced; a word that is left empty goes, with the flag before it."""
    found: list[str] = []
    for word in words:
        text = word
        for name, value in values.items():
            text = text.replace(f"{{{name}}}", value)
        if text:
            found.append(text)
        else:
            found.pop()
    return found


def family(pids: list[int]) -> list[int]:
    """Return processes and all below them (Linux's /proc): a tool may have some of its own."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            children.setdefault(int(_stat(int(path.name))[1]), []).append(int(path.name))
    found = list(pids)
    for pid in found:  # which grows
        found += children.get(pid, [])
    return found


def _stat(pid: int) -> list[str]:
    """Return /proc/PID/stat from the third field on: the second one, in brackets, may have blanks."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


class Processor(threading.Thread):
    """Notes how much processor time processes and those below them have used, time after time."""

    def __init__(self, pids: list[int]) -> None:
        super().__init__(daemon=True)
        self.stopped = threading.Event()
        self.pids = pids
        self.samples: dict[int, list[tuple[float, float]]] = {}

    def run(self) -> None:
        """Look until stopped."""
        tick = os.sysconf("SC_CLK_TCK")
        known = -math.inf
        while not self.stopped.wait(_LOOK_SECONDS):
            if time.monotonic() - known > _FAMILY_SECONDS:
                known = time.monotonic()
                for pid in family(self.pids):
                    self.samples.setdefault(pid, [])
            for pid, seen in self.samples.items():
                with contextlib.suppress(OSError, IndexError, ValueError):
                    fields = _stat(pid)
                    seen.append((time.perf_counter(), (int(fields[11]) + int(fields[12])) / tick))

    def most(self, begin: float, end: float) -> float:
        """Return the busiest process's share of one core between two moments."""
        shares = [0.0]
        for seen in self.samples.values():
            inside = [sample for sample in seen if begin <= sample[0] <= end]
            if len(inside) > 1 and inside[-1][0] > inside[0][0]:
                shares.append((inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0]))
        return max(shares)


def _ready(result: Path) -> Path:
    """Return the file with which a process says that it is ready (client/load.py)."""
    return result.with_name(f"{result.name}.ready")


def _let_go(go: Path, started: list[tuple[subprocess.Popen[bytes], Path]], end: float) -> None:
    """Let processes begin once all are ready; when one has ended, at once: it says why."""
    while time.monotonic() < end and not all(ready.exists() for _, ready in started):
        if any(process.poll() is not None for process, _ in started):
            break
        time.sleep(_READY_SECONDS)
    go.touch()


def _read(tool: str, started: list[tuple[subprocess.Popen[bytes], Path, Path]], ran: Ran) -> list[float]:
    """Read what the processes wrote; return each one's first start."""
    first: list[float] = []
    for process, result, log in started:
        if process.returncode or not result.exists():
            said = log.read_text(errors="replace")[-_TAIL:].strip()
            ran.error = ran.error or f"{tool} ended with exit code {process.returncode}: {said}"
            continue
        try:
            read = READERS[tool](result)
        except (KeyError, ValueError, TypeError) as error:
            ran.error = ran.error or f"what {tool} wrote cannot be read: {type(error).__name__}: {error}"
            continue
        first.append(min(read.start, default=0.0))
        ran.requests.extend(read)
    return first


def run(
    tool: str,
    words: list[str],
    *,
    values: dict[str, str],
    requests: int,
    concurrency: int,
    processes: int,
    seed: int,
    folder: Path,
    limit: float,
) -> Ran:
    """Run a tool, spread over some processes, and read what it measured.

    Args:
        tool: One of READERS.
        words: Its command; {requests} {concurrency} {rate} {seed} {result} are filled in for each process.
            With {go} all begin when that file is there, which is made once each has said that it is ready.
        values: What else is filled in.
        requests: Of all processes together.
        concurrency: In flight, of all together; 0 sends all at once.
        processes: How many.
        seed: Each process gets one of its own from it.
        folder: Where the files go.
        limit: Seconds for all of it.
    """
    ran = Ran()
    started: list[tuple[subprocess.Popen[bytes], Path, Path]] = []
    # `vllm bench serve` takes the key from OpenAI's variable.
    env = {**os.environ, "OPENAI_API_KEY": os.environ.get("VLLM_API_KEY", "none")}
    rate = float(values.get("rate") or 0)
    go = folder / "go"
    go.unlink(missing_ok=True)
    parts = zip(share(requests, processes), share(concurrency, processes), strict=True)
    for number, (count, streams) in enumerate(parts):
        result, log = folder / f"{tool}-{number}.json", folder / f"{tool}-{number}.log"
        for old in (result, _ready(result)):
            old.unlink(missing_ok=True)
        own = {
            "python": sys.executable,
            "client": str(Path(__file__).parent),
            "go": str(go),
            "measurement": str(seed),
            "users": str(streams or count),
            "requests": str(count),
            "concurrency": str(streams) if concurrency else "",
            "rate": repr(rate / processes) if rate else "inf",
            "seed": str(seed * 64 + number),
            "folder": str(folder),
            "result": str(result),
        }
        command = fill(words, {**values, **own})
        ran.commands.append(command)
        with log.open("wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder, env=env)
            started.append((process, result, log))
    processor = Processor([process.pid for process, _, _ in started])
    processor.start()
    end = time.monotonic() + limit
    if "{go}" in words:
        _let_go(go, [(process, _ready(result)) for process, result, _ in started], end)
    try:
        for process, _, _ in started:
            process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        ran.error = f"not done after {limit:.0f} s"
    finally:
        processor.stopped.set()
        processor.join()
        left = [process.pid for process, _, _ in started if process.poll() is None]
        for pid in family(left) if left else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for process, _, _ in started:
            process.wait()
    first = _read(tool, started, ran)
    if ran.requests.start:
        begin = min(ran.requests.start)
        over = max(at + took for at, took in zip(ran.requests.start, ran.requests.e2e, strict=True))
        ran.seconds, ran.skew = over - begin, max(first) - min(first)
        ran.cpu = processor.most(begin, over)
    return ran
