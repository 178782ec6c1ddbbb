"""Engines at their versions (values/engines/)."""

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from manyhost.catalog.struct import Amount, Count, Positive, Struct


class ImageLock(Struct, frozen=True):
    """What is inside an image. What nobody has read is left out, and no check is made on it.

    Attributes:
        digest: What its tag names; of the list of its architectures where it is built for several.
        architectures: What it is built for.
        cuda: Version of the CUDA runtime that its PyTorch brings, major and minor.
        minimum_driver: Oldest branch of NVIDIA's driver that runs it; 0 where nobody has read it.
        nccl: Version of NCCL that its PyTorch brings.
    """

    digest: Annotated[str, Meta(pattern=r"^(sha256:[0-9a-f]{64})?$")] = ""
    architectures: list[Literal["amd64", "arm64"]] = []
    cuda: Annotated[str, Meta(pattern=r"^([0-9]+\.[0-9]+)?$")] = ""
    minimum_driver: Count = 0
    nccl: Annotated[str, Meta(pattern=r"^([0-9]+\.[0-9]+\.[0-9]+)?$")] = ""


class Linear(Struct, frozen=True):
    """GiB on one GPU: a constant, and what each layer, each attention head and each seat of a head adds."""

    gib: Amount = 0
    gib_per_layer: Amount = 0
    gib_per_head: Amount = 0
    gib_per_head_seat: Amount = 0


class Communication(Struct, frozen=True):
    """Buffers on a GPU that talks to others, in GiB.

    Attributes:
        gib_per_tensor_peer: For each other GPU of a tensor parallel group: NCCL's and the all-reduce's.
        other_gib: Of pipeline stages and data parallel ranks.
    """

    gib_per_tensor_peer: Amount = 0
    other_gib: Amount = 0


class Activations(Struct, frozen=True):
    """What the largest step needs while the engine measures itself; the larger of its two peaks counts.

    Attributes:
        gib: In any case.
        bytes_per_hidden: Of each batched token, for each element of the hidden state.
        bytes_per_head: Of each batched token, for each attention head of the rank.
        gathered_bytes_per_hidden: Of each token of another data parallel rank, gathered for the experts.
        context_tokens: Tokens of earlier chunks whose latent entries are unpacked at once; 0 if none.
        attention_bytes_per_head: Of each batched token, for each head, beside those.
    """

    gib: Amount = 0
    bytes_per_hidden: Amount = 0
    bytes_per_head: Amount = 0
    gathered_bytes_per_hidden: Amount = 0
    context_tokens: Count = 0
    attention_bytes_per_head: Amount = 0


class Runner(Struct, frozen=True):
    """What a model runner takes beside weights, activations and KV cache.

    Attributes:
        graphs: CUDA graphs as far as the engine leaves them room in its share of the memory.
        outside: What it takes under load beside its share; None where nobody has measured it.
    """

    graphs: Linear = Linear()
    outside: Linear | None = None


class GpuMemory(Struct, frozen=True):
    """GPU memory of an engine beside weights and KV cache: values/memory-points.yaml has what was measured.

    Attributes:
        batched_tokens: max-num-batched-tokens where nobody sets it.
        seats: max-num-seqs where nobody sets it; 0 where seats change nothing.
        whole_prompt_context: Longest context at which it is the context itself: prompts are not cut.
        non_torch_gib: CUDA's context and libraries.
        communication: Buffers between GPUs.
        activations: Of the largest step.
        runner: The model runner that it takes by itself.
        runners: All that it has, by name; VLLM_USE_V2_MODEL_RUNNER chooses.
    """

    batched_tokens: Count
    non_torch_gib: Amount
    communication: Communication
    activations: Activations
    runner: str
    runners: Annotated[dict[str, Runner], Meta(min_length=1)]
    whole_prompt_context: Count = 0
    seats: Count = 0


class GoneFlag(Struct, frozen=True):
    """A flag that newer versions of an engine no longer have.

    Attributes:
        why: What that means for who has it in a recipe.
        now: The flag that takes its value over; empty where none does.
        key: Where in that flag, which is JSON, the value stands; empty where it is the value itself.
        value: What the new flag is set to; None takes the old one's value.
    """

    why: Annotated[str, Meta(min_length=1)]
    now: str = ""
    key: str = ""
    value: str | int | None = None


class FlagNames(Struct, frozen=True):
    """What an engine calls the flags that manyhost sets or reads itself; by default as vLLM does.

    Attributes:
        context: Longest request in tokens.
        utilization: Its share of GPU memory.
        seats: Most requests that run at once.
    """

    context: str = "max-model-len"
    utilization: str = "gpu-memory-utilization"
    seats: str = "max-num-seqs"


EngineName = Literal["vllm", "sglang"]
# What people call it.
TITLES: dict[str, str] = {"vllm": "vLLM", "sglang": "SGLang"}


class Engine(Struct, frozen=True):
    """An engine at one version: image, executors, memory behaviour, and the file with its flags.

    Attributes:
        name: vllm or sglang: the folder of its file.
        version: Its file's name.
        image: The stock image, without tag.
        tag: Its tag.
        device: What it computes on.
        image_lock: What is inside the stock image, by tag.
        flags: File with the command-line flags, beside this one.
        executors: What can start the ranks of several hosts.
        stock_image_executors: Those of them that the stock image contains.
        nixl: Whether it has the NIXL connector and its image the library: two engines can then exchange KV
            caches.
        image_gib: Size of the image as it is pulled.
        kv_entry_alignment_bytes: Padding of one token's KV entry in a layer (MLA).
        kv_block_tokens: Tokens of one KV block.
        kv_block_tokens_fp8: The same for a latent (MLA) cache in FP8; 0 where it makes no difference.
        kv_dtypes: Data types of the KV cache that it can serve on GPUs.
        mla_absorbed: Which absorbed MLA matrices it keeps beside the weights.
        memory: GPU memory beside weights and KV cache; None for what does not run on GPUs, and where nobody
            has measured it: a plan then says no more than whether the weights fit.
        default_arguments: Flags that every recipe of this version wants.
        default_utilization: Its own share of GPU memory.
        compile_seconds: Between the loaded weights and the first answer.
        bench_serve: Whether it has `vllm bench serve` with the options that a benchmark needs.
        command: Words that start it.
        flag_names: What it calls the flags that are set or read here.
        unplanned: Flags that change ranks or weights in a way that the plan does not know, with the reason.
    """

    name: EngineName
    version: Annotated[str, Meta(pattern=r"^v[0-9]+\.[0-9]+\.[0-9]+(-[a-z0-9]+)?$")]
    image: str
    tag: str
    device: Literal["cuda", "cpu"]
    image_lock: dict[str, ImageLock]
    flags: str
    executors: Annotated[list[Literal["mp", "ray"]], Meta(min_length=1)]
    stock_image_executors: list[Literal["mp", "ray"]]
    nixl: bool
    image_gib: Amount
    kv_entry_alignment_bytes: Positive
    kv_block_tokens: Positive
    kv_dtypes: list[str]
    mla_absorbed: Literal["v0", "v1"]
    default_arguments: dict[str, Any]
    default_utilization: Amount
    compile_seconds: Positive
    memory: GpuMemory | None = None
    kv_block_tokens_fp8: Count = 0
    bench_serve: bool = True
    command: Annotated[list[str], Meta(min_length=1)] = msgspec.field(default_factory=lambda: ["vllm"])
    flag_names: FlagNames = FlagNames()
    unplanned: dict[str, str] = {}

    def __str__(self) -> str:
        """Return what people call it: vLLM v0.26.0."""
        return f"{TITLES[self.name]} {self.version}"


def version_in(tag: str) -> str:
    """Return the version that a tag begins with, written v1.2.3; empty when it looks like none."""
    match = re.match(r"v?([0-9]+\.[0-9]+\.[0-9]+)", tag)
    return f"v{match[1]}" if match else ""


def numbers(version: str) -> list[int]:
    """Return the three numbers of a version such as v0.31.0 or v0.26.0-cpu."""
    return [int(part) for part in version.removeprefix("v").partition("-")[0].split(".")]


def known_version(tag: str, known: Collection[str]) -> str:
    """Return the known version that an image with this tag holds; empty when none does.

    Args:
        tag: The whole version, or the version and more (v0.26.0-cu129).
        known: Versions of the catalog.
    """
    return next((name for name in (tag, f"v{tag}", version_in(tag)) if name in known), "")
