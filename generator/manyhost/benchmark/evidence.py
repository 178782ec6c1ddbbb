"""What a measurement's client reports (charts/llm-benchmark/client/measure.py), as it leaves the pod.

The modules of these shapes have no `from __future__ import annotations`, as in the catalog.
"""

import base64
import hashlib
import re
import zlib
from collections.abc import Iterable

import msgspec

from manyhost.errors import Failed

VERSION = 1
PROGRESS = "manyhost-bench: "  # before what the client says on its way
_LINE = re.compile(r"^manyhost-evidence (\d+|end) (\S+)(?: ([0-9a-f]{64}))?$")
_MOST_BYTES = 1 << 28  # unpacked: 200,000 requests are a tenth of it


class Statistic(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution; percentiles by linear interpolation, as vLLM's own benchmark has them.

    A statistic in which the client's own error is too large is null; the others stand.
    """

    count: float
    mean: float | None
    stddev: float | None
    min: float | None
    p0p1: float | None
    p1: float | None
    p5: float | None
    p10: float | None
    p25: float | None
    p50: float | None
    p75: float | None
    p90: float | None
    p95: float | None
    p99: float | None
    p99p9: float | None
    max: float | None


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Times in milliseconds; None where there is nothing to tell.

    Attributes:
        ttft_ms: From sending a request to its first chunk.
        tpot_ms: (last chunk - first chunk) / (output tokens - 1), of each request with more than one token.
        itl_ms: Gaps between chunks of all requests; between tokens only where each chunk has one.
        e2e_ms: From sending a request to its last chunk.
    """

    ttft_ms: Statistic | None = None
    tpot_ms: Statistic | None = None
    itl_ms: Statistic | None = None
    e2e_ms: Statistic | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One calibration of the client.

    Attributes:
        processes: Over which it was spread.
        requests: Sent.
        failed: Of them.
        truth: What the steady server knows of its own times.
        measured: What the client says of them.
        cpu: Most processor time of one of the processes, as a share of a core.
        error: Why there is no result; empty otherwise.
    """

    processes: int
    requests: int
    failed: int
    truth: Latencies
    measured: Latencies
    cpu: float
    error: str


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """How far the client is from the truth on the pod that measures.

    Attributes:
        streams: Requests in flight.
        ttft_ms: Of the steady server, as the engine's in the warm-up.
        tpot_ms: Likewise.
        attempts: Over one process, then over more.
        chosen: Index of the attempt that was nearest to the truth: the load is spread alike.
    """

    streams: int
    ttft_ms: float
    tpot_ms: float
    attempts: tuple[Attempt, ...]
    chosen: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer to one of the fixed questions.

    Attributes:
        prompt: The question.
        answer: Without its reasoning.
        reasoning: Characters of the reasoning.
        finish_reason: Why it ended.
        tokens: Output tokens, the reasoning's included.
        error: Why there is none.
    """

    prompt: str
    answer: str
    reasoning: int
    finish_reason: str
    tokens: int
    error: str


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """The engines' own counters at one moment, all engines together."""

    prompt_tokens: float
    generation_tokens: float
    preemptions: float
    prefix_cache_queries: float
    prefix_cache_hits: float
    running: float
    waiting: float
    kv_usage: float
    resident_bytes: float
    finished: dict[str, float]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """What the server says of itself."""

    version: str
    model: str
    context: int
    cache_config: dict[str, str]


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Requests before the measurement, which count nowhere."""

    requests: int
    failed: int
    ttft_ms: float
    tpot_ms: float


class Requests(msgspec.Struct, frozen=True, kw_only=True):
    """Each request, as columns of one length; microseconds, start from the first request's.

    Attributes:
        start_us: When it was sent.
        ttft_us: See Latencies.
        e2e_us: See Latencies.
        input: Prompt tokens, as the server counts them.
        output: Output tokens, as the server counts them.
        chunks: Chunks with tokens.
        ok: 1 when it ended well.
        empty: 1 when it ended well without any text.
    """

    start_us: list[int] = []
    ttft_us: list[int] = []
    e2e_us: list[int] = []
    input: list[int] = []
    output: list[int] = []
    chunks: list[int] = []
    ok: list[int] = []
    empty: list[int] = []


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """The engines' counters and gauges during the load, as columns; seconds from the first request on."""

    seconds: list[float] = []
    running: list[float] = []
    waiting: list[float] = []
    kv_usage: list[float] = []
    preemptions: list[float] = []
    generation_tokens: list[float] = []
    prompt_tokens: list[float] = []
    resident_bytes: list[float] = []


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that a measurement's client knows; no verdict.

    Attributes:
        version: Of this shape.
        key: The point that was asked for.
        started: When it began, seconds since the epoch.
        finished: When it was done.
        error: Why it was not done; empty otherwise.
        runner_version: Version of the tool.
        processors: Cores that the client may use.
        server: What the server says of itself.
        answers: To the fixed questions.
        warm_up: Before the measurement.
        calibration: Of the client.
        before: Counters before the load.
        after: Counters after it.
        commands: What was run, one command a process.
        seconds: From the first request's start to the last one's end.
        load_finished: When the tool was done, seconds since the epoch.
        skew: Seconds between the first requests of the client's processes.
        cpu: Most processor time of one of the processes while its requests ran, as a share of a core.
        latencies: Statistics.
        peak_tokens: Most chunks with tokens in one second.
        peak_requests: Most requests in flight.
        errors: Some of what failed requests said.
        series: During the load.
        requests: Each of them.
    """

    version: int
    key: str
    started: float
    finished: float
    error: str
    runner_version: str
    processors: int
    server: Server | None = None
    answers: tuple[Answer, ...] = ()
    warm_up: WarmUp | None = None
    calibration: Calibration | None = None
    before: Counters | None = None
    after: Counters | None = None
    commands: list[list[str]] = []
    seconds: float = 0.0
    load_finished: float = 0.0
    skew: float = 0.0
    cpu: float = 0.0
    latencies: Latencies = Latencies()
    peak_tokens: float = 0.0
    peak_requests: float = 0.0
    errors: list[str] = []
    series: Series = Series()
    requests: Requests = Requests()


def complete(line: str) -> bool:
    """Whether a line of a client's output is the last one of its evidence."""
    match = _LINE.match(line.rstrip())
    return bool(match and match[1] == "end")


def unpack(lines: Iterable[str]) -> Evidence | None:
    """Return the evidence in a client's output; None when its end is not there.

    Raises:
        Failed: It is there and is not whole, or a client of another version wrote it.
    """
    parts: dict[int, str] = {}
    for line in lines:
        match = _LINE.match(line.rstrip())
        if not match:
            continue
        if match[1] != "end":
            parts[int(match[1])] = match[2]
            continue
        text = "".join(parts.get(number, "") for number in range(int(match[2])))
        if hashlib.sha256(text.encode()).hexdigest() != match[3]:
            raise Failed("the client's evidence arrived in part: lines of its log are missing")
        return _decode(text)
    return None


def _decode(text: str) -> Evidence:
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(base64.b64decode(text), _MOST_BYTES)
        found = msgspec.json.decode(data, type=Evidence)
    except (ValueError, zlib.error, msgspec.DecodeError) as error:
        raise Failed(f"the client's evidence cannot be read: {error}") from None
    if found.version != VERSION:
        raise Failed(f"the client's evidence is of version {found.version}, not {VERSION}")
    return found
