"""The result of a benchmark, as it is kept: a run, its measurements, and a summary of each point.

docs/reference/benchmark.schema.json is generated from these types. Within manyhost.benchmark/v1 new fields
may come; what goes or changes its meaning makes a new version. Beside each measurement lies a report of the
field's own schema (llmd_report.py), for other tools.

The modules of these shapes have no `from __future__ import annotations`, as in the catalog.
"""

from typing import Annotated, Any, Literal

import msgspec

from manyhost.benchmark.evidence import Answer, Calibration, Counters, Latencies, Requests, Series, Server
from manyhost.catalog.struct import Positive

SCHEMA = "manyhost.benchmark/v1"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one measurement sends.

    Attributes:
        input_tokens: Prompt tokens of a request.
        output_tokens: Answer tokens of a request.
        spread: Both vary evenly by this share around these.
        ignore_eos: Answers end at their length alone.
        requests: How many.
        concurrency: In flight at most; 0 sends all at once.
        rate: Requests a second that arrive by chance; 0 is as fast as concurrency lets them.
        prefix_count: Different beginnings that prompts share; 0 for none.
        prefix_tokens: Tokens of such a beginning, part of input_tokens.
    """

    input_tokens: int
    output_tokens: int
    spread: float
    ignore_eos: bool
    requests: int
    concurrency: int
    rate: float
    prefix_count: int
    prefix_tokens: int


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """What a request must keep to count as good, milliseconds; e2e_ms 0 asks for nothing."""

    ttft_ms: int
    tpot_ms: int
    e2e_ms: int


class Reason(msgspec.Struct, frozen=True):
    """Why numbers are withheld.

    Attributes:
        check: The check of the gate that failed.
        message: What it has seen, one sentence.
    """

    check: str
    message: str


class Error(msgspec.Struct, frozen=True, kw_only=True):
    """How far the client is from the truth in one metric, by its calibration; milliseconds.

    Attributes:
        mean: What the client says less the truth, of the mean.
        p50: Of the median.
        p90: Of the 90th percentile.
        p99: Of the 99th percentile.
        budget: What it may be: 1 ms, or 2 % of the metric's measured median where that is more. A statistic
            that is off by more is withheld, and all numbers when the median is.
    """

    mean: float
    p50: float
    p90: float
    p99: float
    budget: float


class ClientError(msgspec.Struct, frozen=True, kw_only=True):
    """The client's own error; None where nothing was measured."""

    ttft_ms: Error | None = None
    tpot_ms: Error | None = None
    itl_ms: Error | None = None


class Truth(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the fixed questions.

    Attributes:
        trained: Whether the model can be right; a model of random weights must only repeat itself.
        asked: Questions, the second asking of an untrained model left out.
        right: Answers that were right, or the same twice.
        floor: Least share of the graded ones that must be right.
        answers: Each answer.
    """

    trained: bool
    asked: int
    right: int
    floor: float
    answers: tuple[Answer, ...]


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The numbers.

    Attributes:
        sent: Requests.
        completed: That ended well.
        input_tokens: Of the completed ones, as the server counts them.
        output_tokens: Likewise.
        seconds: From the first request's start to the last one's end.
        request_rate: Completed requests a second.
        output_token_rate: Output tokens a second.
        total_token_rate: Input and output tokens a second.
        goodput: Requests a second that kept the SLO.
        good_share: Their share of all that were sent.
        peak_output_token_rate: Most chunks with tokens in one second.
        peak_concurrency: Most requests in flight at one moment.
        tokens_per_chunk: Output tokens for each chunk; where it is not 1, itl_ms are gaps between chunks.
        latencies: Distributions of the times, without the statistics in which the client is too far off.
    """

    sent: int
    completed: int
    input_tokens: int
    output_tokens: int
    seconds: float
    request_rate: float
    output_token_rate: float
    total_token_rate: float
    goodput: float
    good_share: float
    peak_output_token_rate: float
    peak_concurrency: float
    tokens_per_chunk: float
    latencies: Latencies


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """What sent the load.

    Attributes:
        tool: vllm, ...
        version: Its version.
        commands: What was run, one command a process.
        place: job (a pod in the cluster), pod (a CPU pod of RunPod) or here (this machine).
        node: The pod's host; this machine's name otherwise.
        processors: Cores that it may use.
        cpu: Most processor time of one process while its requests ran, as a share of a core.
        skew_seconds: Between the first requests of its processes.
    """

    tool: str
    version: str
    commands: list[list[str]]
    place: Literal["job", "pod", "here"]
    node: str
    processors: int
    cpu: float
    skew_seconds: float


class ServerSide(msgspec.Struct, frozen=True, kw_only=True):
    """What the engines count themselves.

    Attributes:
        server: What the server says of itself.
        before: Counters before the load.
        after: Counters after it.
        series: During it.
    """

    server: Server | None
    before: Counters | None
    after: Counters | None
    series: Series


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """What a Prometheus has seen of the GPUs during the load, the mean over them.

    Attributes:
        name: gpu_busy, tensor_cores_busy, gpu_memory_busy, ...
        unit: share (of the time), GiB, W, GB/s.
        mean: Over the load.
        max: Likewise.
    """

    name: str
    unit: str
    mean: float
    max: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """One measurement of one point.

    Attributes:
        key: Of the point: changes with everything that the numbers depend on.
        scenario: The scenario.
        point: Place of the point in the scenario, from 0.
        repetition: From 0.
        started: ISO 8601, UTC.
        finished: ISO 8601, UTC.
        load: What was sent.
        slo: For goodput.
        passed: Whether the gate has let the numbers through.
        reasons: Why not; empty when it has.
        metrics: The numbers; null when they are withheld.
        client_error: The client's own error, beside them.
        client: What sent the load.
        truth: What became of the fixed questions.
        server: What the engines count.
        calibration: How the client's error was found.
        requests: Each request. Of a measurement whose numbers are withheld too, to find out why.
        errors: Some of what failed requests said.
        gpus: What a Prometheus has seen of them; empty where none was asked.
    """

    key: str
    scenario: str
    point: int
    repetition: int
    started: str
    finished: str
    load: Load
    slo: Slo
    passed: bool
    reasons: list[Reason]
    metrics: Metrics | None
    client_error: ClientError
    client: Client
    truth: Truth
    server: ServerSide
    calibration: Calibration | None
    requests: Requests
    errors: list[str]
    gpus: list[Figure] = []


class CostInputs(msgspec.Struct, frozen=True, kw_only=True):
    """What the hosts cost, for the cost of a token.

    Attributes:
        usd_per_hour: At the recipe's capacity mode; null where nobody publishes it.
        usd_per_hour_by_rate: At every rate of the list.
        mode: The recipe's capacity mode.
        region: That the prices are for.
        date: The day on which the list was read.
        source: Where it is.
        verified: Whether it is the seller's own.
        cold_start_seconds: Paid before the first answer.
    """

    usd_per_hour: float | None
    usd_per_hour_by_rate: dict[str, float]
    mode: str
    region: str
    date: str
    source: str
    verified: bool
    cold_start_seconds: int


class ColdStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a cold start.

    Attributes:
        name: schedule, image, weights, load, ... (`manyhost status --timeline`).
        seconds: How long it took.
        planned: What the plan says, seconds; null for what it does not foresee.
    """

    name: str
    seconds: float
    planned: float | None


class ColdStart(msgspec.Struct, frozen=True, kw_only=True):
    """The start of a group that was measured later: of its leader, up to the first answer.

    Attributes:
        seconds: All of it.
        planned: What the plan says, seconds.
        usd: List price of the group's hosts for it; null where nobody publishes one.
        steps: In their order.
    """

    seconds: float
    planned: float
    usd: float | None
    steps: list[ColdStep]


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """Hosts that do one thing.

    Attributes:
        name: What they do.
        groups: How many groups.
        hosts: Of one group.
        tensor: GPUs that share a layer.
        pipeline: Stages.
        data: Data parallel ranks.
        arguments: Flags of the engine.
    """

    name: Literal["serve", "prefill", "decode"]
    groups: Positive
    hosts: Positive
    tensor: Positive
    pipeline: Positive
    data: Positive
    arguments: dict[str, Any]


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        recipe: <environment>/<recipe>.
        environment: The kind of place.
        model: The LLM.
        engine: Version of vLLM.
        image: The engine's image.
        executor: What starts the ranks.
        roles: Of its hosts.
        hosts: Of all groups.
        gpus: Of all groups.
        gpu: Their name.
        machine_type: Of the hosts.
        interconnect: How GPUs of different hosts talk.
        context: Longest request, tokens.
        values_sha256: Of the Helm values; of the plan where there are none.
        release: Name of the release; empty when a URL was measured.
        namespace: Its namespace.
        url: The URL that was measured; empty for a release.
        cold_start: How the first group that answers has started; null where nobody could look.
    """

    recipe: str
    environment: str
    model: str
    engine: str
    image: str
    executor: str
    roles: Annotated[list[Role], msgspec.Meta(min_length=1)]
    hosts: int
    gpus: int
    gpu: str
    machine_type: str
    interconnect: str
    context: int
    values_sha256: str
    release: str
    namespace: str
    url: str
    cold_start: ColdStart | None = None


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A mean of repetitions with its 95 % interval (Student's t).

    Attributes:
        mean: Of the repetitions.
        low: Lower end; null with one repetition.
        high: Upper end; null with one repetition.
    """

    mean: float
    low: float | None
    high: float | None


class PointSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All measurements of a point together.

    Attributes:
        key: Of the point.
        point: Place in the scenario, from 0.
        load: What was sent.
        measured: Measurements that were made.
        passed: Those that the gate has let through; only they count below.
        skipped: The point was left out: throughput had stopped growing before it.
        reasons: Why others were withheld, each once.
        metrics: By name: request_rate, output_token_rate, total_token_rate, goodput, good_share, and for each
            of ttft, tpot, itl and e2e <metric>_<mean|p50|p90|p99>_ms.
        client_error_ms: Largest error of the client in mean, P50 or P99, by metric.
    """

    key: str
    point: int
    load: Load
    measured: int
    passed: int
    skipped: bool
    reasons: list[Reason]
    metrics: dict[str, Interval]
    client_error_ms: dict[str, float]


class Run(msgspec.Struct, frozen=True, kw_only=True, tag_field="schema", tag=SCHEMA):
    """A scenario measured on one deployment: run.json, written anew after every measurement.

    Attributes:
        id: Its folder's name.
        scenario: The scenario.
        program: Version of manyhost.
        started: ISO 8601, UTC.
        updated: ISO 8601, UTC.
        complete: Whether every point has been measured, or left out.
        deployment: What is measured.
        cost: What it costs.
        points: In the order in which they are measured; the files of a measurement are
            <point>-<repetition>.json and <point>-<repetition>.report.json.
    """

    id: str
    scenario: str
    program: str
    started: str
    updated: str
    complete: bool
    deployment: Deployment
    cost: CostInputs
    points: list[PointSummary]
