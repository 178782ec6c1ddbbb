"""Every fact under values/ is used: changed, it changes a plan, its values or its picture, or is refused.

A fact that only commands on a cluster read is listed with the file that reads it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.plan import make_plan, table
from manyhost.render.topology import topology_svg
from manyhost.render.values import values_text

from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
SOURCE = ROOT / "generator/manyhost"

# Field -> the file that reads it, and how.
ELSEWHERE = {
    "description": ("cli/list_.py", ".description"),
    "default_recipe": ("catalog/loader.py", ".default_recipe"),
    "daemonsets[].name": ("cluster/doctor/fabric.py", "entry.name"),
    "daemonsets[].manifest": ("cluster/doctor/fabric.py", ".manifest"),
    "daemonsets[].installs_plugin": ("cluster/doctor/fabric.py", ".installs_plugin"),
    "releases[].nccl": ("cluster/doctor/fabric.py", ".nccl"),
    "releases[].date": ("render/values.py", ".date"),  # of the first; the others tell pairs apart
    "releases[].plugin": ("cluster/doctor/fabric.py", ".plugin"),
    "releases[].daemon": ("cluster/doctor/fabric.py", ".daemon"),
    "host.nics[].mode": ("cluster/doctor/fabric.py", "nic.mode"),
    "bandwidth.collective": ("cluster/nccl.py", ".collective"),
    "bandwidth.points[].bytes": ("cluster/nccl.py", ".bytes"),
    "bandwidth.points[].gbytes_per_second": ("cluster/nccl.py", ".gbytes_per_second"),
    "bandwidth.minimum_gbytes_per_second": ("cluster/nccl.py", "bandwidth.minimum_gbytes_per_second"),
    "violations[].reason": ("plan/security.py", ".reason"),
    "violations[].violation": ("plan/security.py", ".violation"),
    "violations[].when": ("plan/security.py", ".when"),
    "kv_handover.supported": ("plan/roles.py", "kv_handover.supported"),
    "kv_handover.reason": ("plan/roles.py", "kv_handover.reason"),
    "kv_handover.buffer": ("render/templates/values.yaml.j2", "kv_handover.buffer"),
    "kv_handover.variables": ("render/templates/values.yaml.j2", "kv_handover.variables"),
    "kv_handover.gbytes_per_second": ("plan/roles.py", "kv_handover.gbytes_per_second"),
    "gated": ("cluster/doctor/names.py", ".gated"),
    "weights_files": ("weights/verify.py", ".weights_files"),
    "sglang_reasoning_parser": ("catalog/settings.py", ".sglang_reasoning_parser"),
    "command": ("catalog/settings.py", "chosen.command"),
    "flag_names.context": ("plan/arguments.py", "flag_names.context"),
    "flag_names.utilization": ("plan/arguments.py", "flag_names.utilization"),
    "flag_names.seats": ("plan/arguments.py", "flag_names.seats"),
    "unplanned": ("plan/arguments.py", "engine.unplanned"),
    "reasoning_parser": ("catalog/settings.py", ".reasoning_parser"),
    "architecture.mtp_layers": ("plan/memory_flags.py", "architecture.mtp_layers"),
    "architecture.experts_per_token": ("plan/performance.py", ".experts_per_token"),
    "host.memory_gib": ("plan/sizing.py", "host.memory_gib"),
    "nixl": ("plan/roles.py", ".nixl"),
    "kv_block_tokens_fp8": ("plan/memory.py", "engine.kv_block_tokens_fp8"),
    "memory.batched_tokens": ("plan/overhead.py", "facts.batched_tokens"),
    "memory.whole_prompt_context": ("plan/overhead.py", "facts.whole_prompt_context"),
    "memory.runner": ("plan/overhead.py", "facts.runner]"),
    "memory.runners": ("plan/overhead.py", "facts.runners"),
    "memory.activations.context_tokens": ("plan/overhead.py", "facts.context_tokens"),
    "memory.activations.attention_bytes_per_head": ("plan/overhead.py", "facts.attention_bytes_per_head"),
    "memory.activations.gathered_bytes_per_hidden": ("plan/overhead.py", "facts.gathered_bytes_per_hidden"),
    "image_lock": ("plan/image.py", ".image_lock"),
    "trained": ("benchmark/spec.py", "model.trained"),
    "bench_serve": ("benchmark/job.py", "engine.bench_serve"),
    "default_arguments": ("catalog/settings.py", ".default_arguments"),
    "flags": ("catalog/loader.py", "engine.flags"),
    "spans_hosts": ("plan/plan.py", ".spans_hosts"),
    "platform.gpu_drivers": ("cluster/doctor/image_lock.py", "platform.gpu_drivers"),
    "platform.pod_security": ("plan/security.py", "platform.pod_security"),
    "price.default_region": ("plan/cost.py", ".default_region"),
    "price.usd_per_host_hour": ("plan/cost.py", ".usd_per_host_hour"),
}
# What names a file, and what says which kind of struct it is.
NAMES = {"name", "kind", "transport", "version"}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, list[Any], Any]]:
    """Yield each leaf of a struct: its dotted name, the steps that lead to it, and a changed value."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            for key, steps, other in leaves(getattr(value, name), f"{path}.{name}".lstrip(".")):
                yield key, [name, *steps], other
    elif isinstance(value, list) and value and isinstance(value[0], msgspec.Struct):
        for index, item in enumerate(value):
            for key, steps, other in leaves(item, f"{path}[]"):
                yield key, [index, *steps], other
    else:
        for other in _others(value):
            yield path, [], other


def _others(value: Any) -> list[Any]:
    """Return other values of the same type; a fact may only decide beyond some bound."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value + 1, value * 1000 + 1, 1, 16]
    if isinstance(value, str):
        return [f"{value}x", "", "v0", "bf16"]
    if isinstance(value, list):
        return [[], [*value, {"key": "x"} if value and isinstance(value[0], dict) else "x"]]
    if isinstance(value, dict):
        return [{**value, "x": next(iter(value.values()), "x")}]
    return [1]


def put(value: Any, steps: list[Any], other: Any) -> Any:
    """Return a struct with one leaf changed."""
    if not steps:
        return other
    step, *rest = steps
    if isinstance(value, list):
        return [put(item, rest, other) if index == step else item for index, item in enumerate(value)]
    return msgspec.structs.replace(value, **{step: put(getattr(value, step), rest, other)})


def outcome(catalog: Catalog, recipe: str, settings: tuple[str, ...]) -> Any:
    """Return all that a render says without Helm, or why it fails."""
    try:
        plan = make_plan(resolve(catalog, recipe, assignments=settings), catalog)
        return table.rows(plan), table.to_json(plan), values_text(plan), topology_svg(plan)
    except Exception as error:
        return str(error)


GPUS = "a3mega/deepseek-r1-671b"
ENTRIES = [
    ("environments", "a3mega", GPUS, ()),
    ("environments", "local", "local/tiny-r1", ()),
    ("interconnects", "tcpxo", GPUS, ()),
    ("interconnects", "none", "local/tiny-r1-disaggregated", ()),
    ("models", "deepseek-r1-671b", GPUS, ()),
    ("models", "tiny-r1", "local/tiny-r1", ()),
    ("engines/vllm", "v0.33.0", GPUS, ("utilization=0", "arguments.max-num-seqs=null")),
    ("engines/vllm", "v0.7.3", f"{GPUS}-published", ("utilization=0",)),
]


@pytest.mark.parametrize(("folder", "name", "recipe", "settings"), ENTRIES)
def test_every_fact_is_used(folder: str, name: str, recipe: str, settings: tuple[str, ...]) -> None:
    resolve(CATALOG, recipe)  # reads its entries
    make_plan(resolve(CATALOG, recipe, assignments=settings), CATALOG)
    before = outcome(CATALOG, recipe, settings)
    entry = CATALOG._kept[(folder, name)]
    used, idle = set(), set()
    for key, steps, other in leaves(entry):
        if (key.rpartition(".")[2] in NAMES and key not in ("name",)) or key in NAMES or key in ELSEWHERE:
            continue
        try:
            CATALOG._kept[(folder, name)] = put(entry, steps, other)
            same = outcome(CATALOG, recipe, settings) == before
            (idle if same else used).add(key)
        finally:
            CATALOG._kept[(folder, name)] = entry
    if name == "v0.7.3":  # nothing that it takes grows with seats
        idle.discard("memory.seats")
    if name in ("local", "tiny-r1"):  # nobody plans the memory of hosts without GPUs
        idle -= {"host.gpu_memory_gib", "host.gpu", "host.local_ssd_gib", "weight_format"}
        idle = {key for key in idle if not key.startswith("architecture.")}
    assert not sorted(idle - used)


@pytest.mark.parametrize("key", sorted(ELSEWHERE))
def test_what_only_a_cluster_needs_is_read_there(key: str) -> None:
    file, words = ELSEWHERE[key]
    assert words in (SOURCE / file).read_text()
