"""How fast a group serves: an analytic model with few coefficients, set right by measured points.

A decode step reads weights and KV cache once and does a fixed time of work in each layer; between two tokens
of a request the prompts of others are read as well. Every term is the time that the GPU's peaks allow; the
coefficients (values/performance.yaml, fitted by benchmarks/plan) say how much more it takes. An anchor is one
measured point of an engine on a GPU: predictions of its kind are shifted so that they meet it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from manyhost.catalog.model import GqaDense, GqaMoe, MlaMoe, Model
from manyhost.catalog.performance import Anchor, Coefficients, GpuSpeed, PerformanceFacts

_BF16_BYTES = 2
_WIDTH = {"fp8-block": 1, "bf16": 2}
_MICRO = 1e-6

Basis = Literal["anchored", "fitted", "uncalibrated"]


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one group has to do.

    Attributes:
        tensor: GPUs that share each layer.
        pipeline: Stages.
        data: Data parallel ranks, over which the experts lie.
        gpus_per_host: Of its hosts.
        running: Requests that it works on at once.
        input_tokens: Of a prompt.
        output_tokens: Of an answer.
        kv_bytes: Of one token in one layer on one GPU.
        decodes_only: Whether other groups read the prompts.
        link_seconds: What messages between hosts take of the time of one token.
    """

    tensor: int
    pipeline: int
    data: int
    gpus_per_host: int
    running: float
    input_tokens: int
    output_tokens: int
    kv_bytes: int
    decodes_only: bool = False
    link_seconds: float = 0.0

    @property
    def kind(self) -> str:
        """How its GPUs are divided, as far as it makes an engine behave in another way."""
        return _kind(self.tensor > self.gpus_per_host, self.pipeline, self.data)


def _kind(over_hosts: bool, pipeline: int, data: int) -> str:
    if data > 1:
        return "data"
    if pipeline > 1:
        return "pipeline"
    return "tensor over hosts" if over_hosts else "tensor"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds between two tokens of a request if everything ran at its peak, and what is counted in layers.

    The names are those of the coefficients; token, layer and hosts are counts.
    """

    experts: float
    dense: float
    kv: float
    token: float
    layer: float
    hosts: float
    prefill: float


class Prediction(msgspec.Struct, frozen=True, kw_only=True):
    """What a group is expected to do.

    Attributes:
        tpot_ms: Time per output token of a request, mean.
        ttft_ms: Time to the first token, mean, with the wait for a seat.
        tok_s: Output tokens a second of the group.
        basis: Whether an anchor or at least the fit has its engine and GPU.
        error_tpot: Relative; nine of ten held-out rows were nearer. 1 means: may be off by 2x.
        error_tok_s: The same of tok_s.
        anchor: Name of the anchor; empty without one.
    """

    tpot_ms: float
    ttft_ms: float
    tok_s: float
    basis: Basis
    error_tpot: float
    error_tok_s: float
    anchor: str


class _Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a model: of one layer where nothing else is said.

    Attributes:
        copied: Of the attention, on every GPU.
        shared: Of the attention, divided by the tensor parallel ranks.
        absorbed: Of it, read in bfloat16 by decode instead of the weights (MLA).
        width: Bytes of a parameter.
        feed_forward: Of a dense layer.
        expert: Of one expert.
        dense_layers: Layers without experts.
        sparse_layers: Layers with them.
        attention: Multiplications of one pair of tokens.
    """

    copied: int
    shared: int
    absorbed: int
    width: int
    feed_forward: int
    expert: int
    dense_layers: int
    sparse_layers: int
    attention: int


def _shape(model: Model) -> _Shape:
    a, width = model.architecture, _WIDTH[model.weight_format]
    if isinstance(a, MlaMoe):
        query = a.qk_nope_head_dim + a.qk_rope_head_dim
        return _Shape(
            copied=a.hidden * (a.q_lora_rank + a.kv_lora_rank + a.qk_rope_head_dim),
            shared=a.heads * (query * a.q_lora_rank + a.v_head_dim * a.hidden),
            absorbed=a.heads * a.kv_lora_rank * (a.qk_nope_head_dim + a.v_head_dim),
            width=width,
            feed_forward=3 * a.intermediate * a.hidden,
            expert=3 * a.moe_intermediate * a.hidden,
            dense_layers=a.dense_layers,
            sparse_layers=a.layers - a.dense_layers,
            attention=a.heads * (query + a.v_head_dim),
        )
    moe = isinstance(a, GqaMoe)
    return _Shape(
        copied=0,
        shared=2 * (a.heads + a.kv_heads) * a.head_dim * a.hidden,
        absorbed=0,
        width=width,
        feed_forward=3 * a.intermediate * a.hidden if isinstance(a, GqaDense) else 0,
        expert=3 * a.moe_intermediate * a.hidden if isinstance(a, GqaMoe) else 0,
        dense_layers=0 if moe else a.layers,
        sparse_layers=a.layers if moe else 0,
        attention=2 * a.heads * a.head_dim,
    )


def _experts(model: Model) -> tuple[int, int, int]:
    """Return the experts that a layer has, that a token uses, and that every token uses."""
    a = model.architecture
    if isinstance(a, GqaDense):
        return 1, 0, 0
    return a.routed_experts, a.experts_per_token, a.shared_experts if isinstance(a, MlaMoe) else 0


def prompt_seconds(model: Model, gpu: GpuSpeed, gpus: int, tokens: int) -> float:
    """Return how long a number of GPUs computes on one prompt at their peak."""
    s, (_, chosen, always) = _shape(model), _experts(model)
    layers = model.architecture.layers
    active = layers * (s.copied + s.shared + s.absorbed)
    active += s.dense_layers * s.feed_forward + s.sparse_layers * (chosen + always) * s.expert
    operations = 2 * active * tokens + layers * s.attention * tokens**2
    return operations / (gpus * gpu.tflops[model.weight_format] * 1e12)


def terms(model: Model, gpu: GpuSpeed, load: Load) -> Terms:
    """Return what lies between two tokens of a request, by coefficient.

    The batches of a pipeline's stages are disjoint: each stage works on running / pipeline requests, and a
    token passes all stages.
    """
    s, (experts, chosen, always) = _shape(model), _experts(model)
    layers, peak = model.architecture.layers, gpu.memory_tbytes_per_second * 1e12
    step = max(1.0, load.running / load.pipeline)
    own = max(1.0, step / load.data)  # of one data parallel rank
    touched = experts * (1 - (1 - chosen / experts) ** step)
    ranks = load.tensor * load.data
    dense = layers * (s.copied + s.shared / load.tensor) * s.width
    dense += layers * s.absorbed * _BF16_BYTES / load.tensor
    dense += s.dense_layers * s.feed_forward * s.width / load.tensor
    dense += s.sparse_layers * always * s.expert * s.width / load.tensor
    dense += _BF16_BYTES * model.architecture.vocabulary * model.architecture.hidden / load.tensor
    length = load.input_tokens + load.output_tokens / 2
    prompts = 0.0
    if not load.decodes_only:
        seconds = prompt_seconds(model, gpu, ranks * load.pipeline, load.input_tokens)
        prompts = max(0.0, load.running - 1) * seconds / load.output_tokens
    return Terms(
        experts=s.sparse_layers * touched * s.expert * s.width / ranks / peak,
        dense=dense / peak,
        kv=layers * own * length * load.kv_bytes / peak,
        token=layers * own,
        layer=layers,
        hosts=layers if load.tensor > load.gpus_per_host else 0,
        prefill=prompts,
    )


def tpot_seconds(c: Coefficients, engine: str, t: Terms) -> float:
    """Return the time per output token; engines that nobody has fitted count as the slowest one."""
    layer = c.layer_us.get(engine, max(c.layer_us.values()))
    fixed = layer * t.layer + c.token_us * t.token + c.hosts_us * t.hosts
    return c.experts * t.experts + c.dense * t.dense + c.kv * t.kv + c.prefill * t.prefill + fixed * _MICRO


def first_seconds(c: Coefficients, engine: str, prompt: float, in_flight: float) -> float:
    """Return the time to the first token of a request that has a seat.

    Args:
        c: The coefficients.
        engine: Name of the engine; one that nobody has fitted counts as the slowest.
        prompt: What prompt_seconds says of it.
        in_flight: Requests beside it.
    """
    base = c.first_ms.get(engine, max(c.first_ms.values()))
    return base / 1e3 + prompt * (c.first_own + c.first_others * in_flight)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """What one measured point says of all predictions of its kind.

    Attributes:
        shift: Seconds to add to the time per token: the engine's constant, set right.
        rate: Times the tokens a second: what is lost where requests do not follow each other without a gap.
    """

    shift: float = 0.0
    rate: float = 1.0


def calibrated(
    c: Coefficients, gpu: GpuSpeed, model: Model, engine: str, load: Load, *, tpot: float, rate: float
) -> Calibration:
    """Return what a measured time per token, and tokens a second unless it is 0, say of an engine.

    Args:
        c: The coefficients.
        gpu: Where it was measured.
        model: What was served.
        engine: Name of the engine.
        load: What was measured.
        tpot: Seconds.
        rate: Output tokens a second.
    """
    t = terms(model, gpu, load)
    fixed = c.layer_us.get(engine, max(c.layer_us.values())) * t.layer * _MICRO
    shift = max(tpot - tpot_seconds(c, engine, t), -fixed)
    if not rate:
        return Calibration(shift=shift)
    first = first_seconds(c, engine, load_prompt_seconds(model, gpu, load), load.running)
    served = load.running * load.output_tokens / (first + load.output_tokens * tpot)
    return Calibration(shift=shift, rate=rate / served)


def load_prompt_seconds(model: Model, gpu: GpuSpeed, load: Load) -> float:
    """Return how long all GPUs of a group compute on one prompt of its load."""
    return prompt_seconds(model, gpu, load.tensor * load.pipeline * load.data, load.input_tokens)


def fitted_name(model: Model, engine: str, gpu: str, load: Load) -> str:
    """Return how facts.fitted_on calls a model with an engine on a GPU in one kind of layout."""
    return f"{model.name} by {engine} on {gpu}, {load.kind}"


def predict(
    facts: PerformanceFacts,
    anchors: list[Anchor],
    model: Model,
    *,
    engine: str,
    gpu: str,
    interconnect: str,
    load: Load,
    in_flight: int,
) -> Prediction | None:
    """Return how fast a group is expected to be; None where nobody has written down how fast the GPU is.

    Args:
        facts: Peaks, coefficients and errors.
        anchors: All measured points.
        model: What it serves.
        engine: Name of the engine.
        gpu: Name of the GPU.
        interconnect: Between the hosts of the group; empty within one host.
        load: What it has to do.
        in_flight: Requests that clients have open; those beyond load.running wait for a seat.
    """
    if gpu not in facts.gpus:
        return None
    c, speed = facts.coefficients, facts.gpus[gpu]
    own = _anchor(anchors, model, engine, gpu, interconnect, load)
    found = Calibration()
    if own:
        at = msgspec.structs.replace(
            load,
            tensor=own.tensor,
            pipeline=own.pipeline,
            data=own.data,
            running=own.concurrency,
            input_tokens=own.input_tokens,
            output_tokens=own.output_tokens,
        )
        found = calibrated(c, speed, model, engine, at, tpot=own.tpot_ms / 1e3, rate=own.tok_s)
    tpot = tpot_seconds(c, engine, terms(model, speed, load)) + load.link_seconds + found.shift
    first = first_seconds(c, engine, load_prompt_seconds(model, speed, load), load.running)
    rate = found.rate * load.running / (first + load.output_tokens * tpot)
    basis: Basis = "uncalibrated"
    if own:
        basis = "fitted" if own.lacks else "anchored"
    elif fitted_name(model, engine, gpu, load) in facts.fitted_on:
        basis = "fitted"
    bar = facts.errors.get(basis)
    return Prediction(
        tpot_ms=tpot * 1e3,
        ttft_ms=(first + max(0.0, in_flight - load.running) / rate) * 1e3,
        tok_s=rate * load.output_tokens,
        basis=basis,
        error_tpot=bar.tpot if bar else 1.0,
        error_tok_s=bar.throughput if bar else 1.0,
        anchor=own.name if own else "",
    )


def _anchor(
    anchors: list[Anchor], model: Model, engine: str, gpu: str, interconnect: str, load: Load
) -> Anchor | None:
    """Return the anchor of the same engine, GPU, model and kind of layout; one with the link goes first."""
    fitting = [
        a
        for a in anchors
        if (a.engine, a.gpu, a.model) == (engine, gpu, model.name)
        and _kind(a.tensor > load.gpus_per_host, a.pipeline, a.data) == load.kind
        and a.interconnect in ("", interconnect)
    ]
    return max(
        fitting, key=lambda a: (a.interconnect == interconnect, not a.lacks, a.date, a.name), default=None
    )
