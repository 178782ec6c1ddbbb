"""How fast GPUs and engines are (values/performance.yaml, values/anchors/)."""

from typing import Annotated, Literal

from msgspec import Meta

from manyhost.catalog.struct import Amount, Count, Date, Name, Positive, Struct


class GpuSpeed(Struct, frozen=True):
    """Peaks of one GPU, as its maker's data sheet has them.

    Attributes:
        memory_tbytes_per_second: Bandwidth of its memory.
        tflops: Dense arithmetic, by format of the weights.
    """

    memory_tbytes_per_second: Amount
    tflops: dict[Literal["fp8-block", "bf16"], Amount]


class Coefficients(Struct, frozen=True):
    """What a step takes, beside the peaks of the GPU. Fitted; the engine's time is by its name.

    Attributes:
        experts: Times the time to read the experts that a step touches at peak bandwidth.
        dense: Times the time to read all other weights.
        kv: Times the time to read the KV cache.
        token_us: Of a layer and a token, on its rank.
        layer_us: Of a layer, by engine.
        hosts_us: Of a layer whose tensors lie over several hosts.
        prefill: Times the arithmetic of a prompt at peak.
        first_ms: Before the first token, by engine.
        first_own: Times the arithmetic of the request's own prompt.
        first_others: Times that of one prompt, for each request in flight.
    """

    experts: Amount
    dense: Amount
    kv: Amount
    token_us: Amount
    layer_us: dict[str, Amount]
    hosts_us: Amount
    prefill: Amount
    first_ms: dict[str, Amount]
    first_own: Amount
    first_others: Amount


class ErrorBar(Struct, frozen=True):
    """Relative errors of predictions for rows that were held out of the fit; 0.1 is 10 percent.

    Attributes:
        tpot: Nine of ten were nearer, in time per output token.
        throughput: The same in output tokens a second.
    """

    tpot: Amount
    throughput: Amount


class PerformanceFacts(Struct, frozen=True):
    """The performance model's numbers.

    Attributes:
        fitted: The day of the fit.
        source: What was fitted, and how to do it again.
        gpus: By the name of the GPU.
        coefficients: See there.
        fitted_on: What was fitted: "deepseek-r1-671b by vllm on H100 80GB SXM, pipeline".
        errors: anchored, where a measured point of the same engine, GPU and link was there; fitted, where the
            fit had rows of the model, the engine, the GPU and the kind of layout.
    """

    fitted: Date
    source: str
    gpus: dict[str, GpuSpeed]
    coefficients: Coefficients
    fitted_on: list[str]
    errors: dict[str, ErrorBar]


class Anchor(Struct, frozen=True):
    """One measured point: an engine on a GPU, with what connects the hosts of a group.

    Attributes:
        name: Its file's name.
        engine: Name of the engine.
        version: Its version.
        gpu: Name of the GPU.
        interconnect: Between the hosts; empty within one host, or where the measurement had none.
        model: Name of the model.
        tensor: Of the group that was measured, as in a recipe.
        pipeline: Likewise.
        data: Likewise.
        concurrency: Requests in flight.
        input_tokens: Of a prompt.
        output_tokens: Of an answer.
        tpot_ms: Time per output token.
        tok_s: Output tokens a second; 0 where nobody says.
        lacks: What the measurement left out, for people; empty when nothing.
        date: When it was measured or published.
        source: Where.
    """

    name: Name
    engine: str
    version: str
    gpu: str
    model: str
    tensor: Positive
    pipeline: Positive
    data: Positive
    concurrency: Positive
    input_tokens: Positive
    output_tokens: Positive
    tpot_ms: Annotated[float, Meta(gt=0)]
    date: Date
    source: str
    interconnect: str = ""
    tok_s: Count = 0
    lacks: str = ""
