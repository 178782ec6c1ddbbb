"""Whether a model on the hub is what the catalog says, before anything is paid: lists and headers alone."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from manyhost.catalog import Model
from manyhost.catalog.model import Architecture
from manyhost.errors import InvalidInput
from manyhost.weights import safetensors
from manyhost.weights.hub import Hub, Snapshot, is_commit
from manyhost.weights.safetensors import Header, Tensor
from manyhost.weights.stage import read_header

_READERS = 16
_BLOCK = 128
# Our names of an architecture's dimensions → those of config.json (transformers' configurations).
_CONFIG = {
    "layers": ("num_hidden_layers",),
    "hidden": ("hidden_size",),
    "heads": ("num_attention_heads",),
    "vocabulary": ("vocab_size",),
    "dense_layers": ("first_k_dense_replace",),
    "mtp_layers": ("num_nextn_predict_layers",),
    "q_lora_rank": ("q_lora_rank",),
    "kv_lora_rank": ("kv_lora_rank",),
    "qk_nope_head_dim": ("qk_nope_head_dim",),
    "qk_rope_head_dim": ("qk_rope_head_dim",),
    "v_head_dim": ("v_head_dim",),
    "intermediate": ("intermediate_size",),
    "moe_intermediate": ("moe_intermediate_size",),
    "routed_experts": ("n_routed_experts", "num_experts"),
    "experts_per_token": ("num_experts_per_tok",),
    "shared_experts": ("n_shared_experts",),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "tied_embeddings": ("tie_word_embeddings",),
}
# Any of these sets is a tokenizer.
_TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"}, {"tekken.json"})


class Finding(msgspec.Struct, frozen=True):
    """What one check says.

    Attributes:
        check: Its name.
        status: ok, warning or failed.
        text: What was found.
        fix: What to do; empty when nothing is wrong.
    """

    check: str
    status: str
    text: str
    fix: str = ""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What a model on the hub is.

    Attributes:
        model: Its name on the hub.
        revision: The commit that was looked at.
        files: Files that serving needs.
        bytes: Their bytes.
        shards: Weight files among them.
        tensor_bytes: Bytes of all tensors.
        seconds: How long the look took.
        findings: What the checks say.
    """

    model: str
    revision: str
    files: int
    bytes: int
    shards: int
    tensor_bytes: int
    seconds: float
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> list[Finding]:
        """What must be mended first."""
        return [finding for finding in self.findings if finding.status == "failed"]


def verify(hub: Hub, model: Model, revision: str = "") -> tuple[Verified, Snapshot]:
    """Look at a model on the hub; nothing but lists, headers and small files is read.

    Args:
        hub: Where it is.
        model: What the catalog says of it.
        revision: A commit or a branch; the catalog's, or else main, by default.

    Raises:
        InvalidInput: There is no such model or revision.
        NotReady: It needs a token.
        RemoteError: The hub fails.
    """
    started = time.monotonic()
    wanted = revision or model.revision
    snapshot = hub.snapshot(model.hub_id, wanted or "main")
    findings = [_pinned(model, wanted, snapshot)]
    headers: dict[str, Header] = {}
    findings += _read_headers(hub, snapshot, headers)
    config = _json(hub, snapshot, "config.json")
    tensors = {name: tensor for header in headers.values() for name, tensor in header.tensors.items()}
    findings += [
        _shards(model, snapshot),
        _index(hub, snapshot, headers),
        _size(model, snapshot, headers),
        _format(model, config, tensors),
        _architecture(model, config),
        _tokenizer(snapshot),
    ]
    return (
        Verified(
            model=snapshot.model,
            revision=snapshot.revision,
            files=len(snapshot.files),
            bytes=snapshot.bytes,
            shards=len(snapshot.shards),
            tensor_bytes=sum(header.tensor_bytes for header in headers.values()),
            seconds=round(time.monotonic() - started, 2),
            findings=tuple(findings),
        ),
        snapshot,
    )


def _pinned(model: Model, wanted: str, snapshot: Snapshot) -> Finding:
    if is_commit(wanted):
        return Finding("revision", "ok", f"commit {snapshot.revision}")
    return Finding(
        "revision",
        "failed",
        f"{wanted or 'main'} is no commit: today it means {snapshot.revision}, tomorrow perhaps another one",
        f"write revision: {snapshot.revision} into values/models/{model.name}.yaml, "
        f"or give --revision {snapshot.revision}",
    )


def _read_headers(hub: Hub, snapshot: Snapshot, headers: dict[str, Header]) -> list[Finding]:
    """Read the first bytes of every shard."""

    def one(number: int) -> str:
        file = snapshot.shards[number]
        try:
            headers[file.name] = read_header(
                lambda start, size: hub.read(snapshot, file, start, size), file.name, file.size
            )
        except InvalidInput as error:
            return f"{file.name} {error.message}"
        return ""

    with ThreadPoolExecutor(_READERS) as pool:
        problems = [text for text in pool.map(one, range(len(snapshot.shards))) if text]
    if problems:
        return [Finding("headers", "failed", _some(problems), _TELL)]
    return [Finding("headers", "ok", f"{len(headers)} headers agree with the sizes of their files")]


_TELL = "take another revision, or tell the model's makers"


def _shards(model: Model, snapshot: Snapshot) -> Finding:
    have, want = len(snapshot.shards), model.weights_files
    if want and have != want:
        fix = f"correct weights_files in values/models/{model.name}.yaml, or take another revision"
        return Finding("shards", "failed", f"{have} weight files, the catalog says {want}", fix)
    return Finding("shards", "ok", f"{have} weight files")


def _index(hub: Hub, snapshot: Snapshot, headers: dict[str, Header]) -> Finding:
    file = snapshot.find(safetensors.INDEX)
    try:
        known = safetensors.weight_map(hub.read(snapshot, file, 0, file.size)) if file else None
        problems = safetensors.contradictions(known, headers)
    except safetensors.Broken as error:
        problems = [f"{safetensors.INDEX} {error}"]
    if problems:
        return Finding("index", "failed", _some(problems), _TELL)
    tensors = sum(len(header.tensors) for header in headers.values())
    return Finding("index", "ok", f"{tensors:,} tensors, each where the index says")


def _size(model: Model, snapshot: Snapshot, headers: dict[str, Header]) -> Finding:
    files = sum(file.size for file in snapshot.shards)
    tensors = sum(header.tensor_bytes for header in headers.values())
    if model.weights_bytes in (files, tensors):
        return Finding("size", "ok", f"{model.weights_bytes:,} bytes of weights, as the planner reckons")
    return Finding(
        "size",
        "failed",
        f"{files:,} bytes of weight files ({tensors:,} of tensors), the planner reckons with "
        f"{model.weights_bytes:,}",
        f"correct weights_bytes in values/models/{model.name}.yaml, or take another revision",
    )


def _format(model: Model, config: dict[str, Any], tensors: dict[str, Tensor]) -> Finding:
    quantization = config.get("quantization_config") or {}
    types = {tensor.dtype for tensor in tensors.values()}
    if model.weight_format == "bf16":
        if quantization or types - {"BF16", "F32"}:
            text = f"{quantization.get('quant_method') or ', '.join(sorted(types))}, the catalog says bf16"
            return Finding("format", "failed", text, _FORMAT.format(model.name))
        return Finding("format", "ok", "BF16")
    wanted = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [_BLOCK, _BLOCK]}
    differs = [f"{key} is {quantization.get(key)}" for key in wanted if quantization.get(key) != wanted[key]]
    if differs:
        text = f"config.json: quantization_config: {', '.join(differs)}; the engine wants FP8 e4m3 in blocks"
        return Finding("format", "failed", text, _FORMAT.format(model.name))
    quantized = {name: tensor for name, tensor in tensors.items() if tensor.dtype.startswith("F8_")}
    bad = [
        name
        for name, tensor in quantized.items()
        if not _has_scales(tensor, tensors.get(f"{name}_scale_inv"))
    ]
    if bad or not quantized:
        text = f"{bad[0][:120]} and {len(bad) - 1} others have no FP8 scales" if bad else "no tensor is FP8"
        return Finding("format", "failed", text, _FORMAT.format(model.name))
    return Finding("format", "ok", f"FP8 e4m3: {len(quantized):,} matrices, each with its scales")


_FORMAT = "take a revision in this format, or correct weight_format in values/models/{}.yaml"


def _has_scales(tensor: Tensor, scales: Tensor | None) -> bool:
    """Whether there is a scale for each block of 128 x 128."""
    if tensor.dtype != "F8_E4M3" or scales is None or scales.dtype != "F32":
        return False
    return scales.shape == tuple(-(-size // _BLOCK) for size in tensor.shape)


def _architecture(model: Model, config: dict[str, Any]) -> Finding:
    if not config:
        return Finding("config", "failed", "there is no config.json that can be read", _TELL)
    differs = [
        f"{key} is {config[key]!r}, {name} in the catalog {value!r}"
        for name, key, value in _known(model.architecture, config)
        if config[key] != value
    ]
    if differs:
        fix = f"correct architecture in values/models/{model.name}.yaml, or take another model"
        return Finding("config", "failed", _some(differs), fix)
    return Finding("config", "ok", "config.json has the catalog's architecture")


def _known(architecture: Architecture, config: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Return our name, config.json's and our value of each dimension that both have."""
    return [
        (name, key, value)
        for name, value in msgspec.structs.asdict(architecture).items()
        for key in _CONFIG[name]
        if key in config
    ]


def _tokenizer(snapshot: Snapshot) -> Finding:
    names = {file.name for file in snapshot.files}
    missing = {"tokenizer_config.json"} - names
    if not any(wanted <= names for wanted in _TOKENIZERS):
        missing.add("tokenizer.json")
    if missing:
        return Finding("tokenizer", "failed", f"there is no {' and no '.join(sorted(missing))}", _TELL)
    return Finding("tokenizer", "ok", "the tokenizer is there")


def _json(hub: Hub, snapshot: Snapshot, name: str) -> dict[str, Any]:
    file = snapshot.find(name)
    try:
        found = json.loads(hub.read(snapshot, file, 0, file.size)) if file else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _some(problems: list[str]) -> str:
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"{problems[0]}{more}"
