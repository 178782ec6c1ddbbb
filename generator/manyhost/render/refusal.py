"""The chart's refusals in the words of settings: people wrote those, not Helm values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from manyhost.errors import InvalidInput

# Helm value -> the settings that templates/values.yaml.j2 writes it from; facts of the environment have none.
SETTINGS: dict[str, tuple[str, ...]] = {
    "job.image.repository": ("engine.image", "site.artifact_registry"),
    "job.image.tag": ("engine.tag",),
    "job.image.digest": ("engine.digest",),
    "clusterName": ("site.cluster_name",),
    "model.path": ("weights.path",),
    "model.tp_size": ("parallelism.tensor",),
    "model.pp_size": ("parallelism.pipeline",),
    "model.dp_size": ("parallelism.data",),
    "host.nodeSelector": ("node_selector",),
    "network.interconnect": ("network.interconnect",),
    "network.hostNetwork": ("network.host_network",),
    "network.subnetworks": ("network.subnetworks",),
    "network.ncclSettings": ("network.nccl",),
    "volumes.ssdHostPath": ("ssd_host_path",),
    "volumes.gcsMounts": ("site.gcs_bucket",),
    "volumes.hostMounts": ("host_mounts",),
    "vllm.replicaCount": ("groups",),
    "vllm.executor": ("engine.executor",),
    "vllm.command": ("engine.command",),
    "vllm.serverArgs": ("arguments",),
    "vllm.env": ("variables",),
    "disaggregation.prefillGroups": ("disaggregation.prefill_groups",),
    "lifecycle.startupSeconds": ("startup_seconds",),
    "lifecycle.peerWaitSeconds": ("startup_seconds",),
    "lifecycle.stallSeconds": ("stall_seconds",),
    "lifecycle.drainSeconds": ("drain_seconds",),
    "lifecycle.startAttempts": ("start_attempts",),
}
_PAIRS = ("network.ncclSettings", "vllm.env")  # lists of {name, value} there, maps in settings
_MAPS = (*_PAIRS, "vllm.serverArgs", "host.nodeSelector")
_POINTER = re.compile(r"^at '(?P<pointer>/[^']*)': (?P<text>.*)$", re.S)
_DOTTED = re.compile(r"^(?P<key>[A-Za-z][\w./\[\]-]*): (?P<text>.*)$", re.S)
_MENTION = (  # a text: compiled, it would cost each render 2 ms
    rf"(?<![\w./-])(?:{'|'.join(sorted(map(re.escape, SETTINGS), key=len, reverse=True))})"
    r"(?:\[\d+\])?(?:\.[A-Za-z]\w*)*(?![\w/-])"
)


class ChartRefusal(InvalidInput):
    """The chart does not take the values.

    Attributes:
        problems: One text each: "key: what is wrong; what to do", or a schema's "at '/key': what is wrong".
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), where="chart")
        self.problems = problems


def in_settings(refusal: ChartRefusal, values: dict[str, Any], origin: Callable[[str], str]) -> InvalidInput:
    """Return the same refusal, naming the setting and its origin wherever a value comes from one.

    Args:
        refusal: What the chart said.
        values: The Helm values that it refused.
        origin: Says where the value of a setting came from; "default" when nobody set it.
    """
    first, *others = (_split(problem) for problem in refusal.problems)
    more = ", ".join(dict.fromkeys(" and ".join(_names(key, values, origin)) or key for key, _ in others))
    key, text = first
    text = re.sub(_MENTION, lambda match: " or ".join(_names(match[0], values, origin)), text)
    what, _, fix = text.partition("; ")
    names = _names(key, values, origin)
    if key not in _MAPS:  # their entries come from several places
        names = [f"{origin(name.partition('[')[0])}: {name}" for name in names]
    return InvalidInput(
        f"{what} (and {len(others)} more: {more})" if others else what,
        where=" and ".join(names) or (f"chart: {key}" if key else "chart"),
        fix=fix,
    )


def _split(problem: str) -> tuple[str, str]:
    """Return the Helm value that a problem is about, written a.b[0].c, and the rest of the text."""
    if match := _POINTER.match(problem):
        parts = [part.replace("~1", "/").replace("~0", "~") for part in match["pointer"][1:].split("/")]
        key = "".join(f"[{part}]" if part.isdigit() else f".{part}" for part in parts).lstrip(".")
        return key, match["text"]
    if match := _DOTTED.match(problem):
        return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", match["key"]), match["text"]  # Helm 3 writes list.0
    return "", problem


def _names(key: str, values: dict[str, Any], origin: Callable[[str], str]) -> list[str]:
    """Return the settings behind a Helm value, those that somebody set when there are several; or none."""
    whole = next((item for item in SETTINGS if re.match(rf"{re.escape(item)}($|[.\[])", key)), "")
    if not whole:
        return []
    found = SETTINGS[whole]
    if len(found) > 1:
        return [name for name in found if origin(name) != "default"] or [found[0]]
    below = key[len(whole) :]
    if whole == "volumes.gcsMounts":
        below = ""
    elif whole == "volumes.hostMounts":
        below = re.sub(r"[A-Z]", lambda match: f"_{match[0].lower()}", below)
    elif whole in _PAIRS and (index := re.match(r"\[(\d+)\]", below)):
        group, _, name = whole.partition(".")
        below = f".{values[group][name][int(index[1])]['name']}"
    return [f"{found[0]}{below}"]
