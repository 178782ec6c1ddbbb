"""The pinned engine has the executor, and every argument exists in it and has a value of its type.

The tables are values/engines/<engine>/<version>.flags.yaml (tools/extract_engine_flags.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from manyhost.checks.finding import Finding
from manyhost.checks.flag_table import FlagTable
from manyhost.checks.objects import Container, Context
from manyhost.errors import nearest

# Set by launch.sh, which knows the role of the pod; a second value would win or contradict.
RESERVED = frozenset(
    {
        "model",
        "host",
        "port",
        "nnodes",
        "node-rank",
        "master-addr",
        "master-port",
        "headless",
        "distributed-executor-backend",
    }
)

# The same of SGLang alone.
_OF_SGLANG = frozenset({"model-path", "dist-init-addr"})

LAUNCH_SCRIPT = "launch.sh"
_DIRECT = ["vllm", "serve"]

_INTEGER = re.compile(r"[+-]?\d+")
_HUMAN = re.compile(r"[+-]?\d+|\d+[KMGT]|\d+(\.\d+)?[kmgt]")  # 1K is 1024, 1k and 25.6k are decimal
_SI = re.compile(r"[+-]?\d+|\d+(\.\d+)?[kMGT]|\d+[KMGT]i")  # sglang/srt/utils/common.py


class Argument(msgspec.Struct, frozen=True):
    """One flag as it was given."""

    position: int
    spelling: str
    values: tuple[str, ...]


def launched(container: Container) -> bool:
    """Return whether the container's args are engine flags: it runs launch.sh, all of it, or `vllm serve`."""
    if container.value("MANYHOST_STEP"):
        return False
    first = _first_words(container)
    return any(word.endswith(f"/{LAUNCH_SCRIPT}") for word in first) or first == _DIRECT


def _first_words(container: Container) -> list[str]:
    return [*(container.body.get("command") or []), *container.arguments][:2]


def arguments(container: Container) -> list[Argument]:
    """Split the container's args into flags and what follows each of them.

    Words before the first flag (such as `serve MODEL`) belong to an argument without spelling.
    """
    found: list[Argument] = []
    spelling, position, values = "", 0, list[str]()
    for index, escaped in enumerate(container.arguments):
        word = escaped.replace("$$", "$")  # Kubernetes' own escape
        if word.startswith("-") and not _is_number(word):
            if spelling or values:
                found.append(Argument(position, spelling, tuple(values)))
            spelling, equals, value = word.partition("=")
            position, values = index, [value] if equals else []
        else:
            values.append(word)
    if spelling or values:
        found.append(Argument(position, spelling, tuple(values)))
    return found


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each argument that the engine would refuse at start."""
    if context.flags is None:
        return
    for pod in context.pods:
        for container in pod.containers:
            if launched(container):
                yield from _check_executor(container, context.flags)
                yield from _check_container(container, context.flags)


def _check_executor(container: Container, table: FlagTable) -> Iterator[Finding]:
    executor = container.value("MANYHOST_EXECUTOR")
    if executor and table.executors and executor not in table.executors:
        able = " or ".join(table.executors)
        yield Finding(
            "engine-executor",
            f"{container.where}.env[MANYHOST_EXECUTOR]",
            f"{table} starts several hosts with {able}, not with {executor}",
            f"render a recipe for it, or set the executor to {able}",
        )


def _check_container(container: Container, table: FlagTable) -> Iterator[Finding]:
    seen: set[str] = set()
    direct = _first_words(container) == _DIRECT
    for argument in arguments(container):
        where = f"{container.where}.args[{argument.position}]"
        if not argument.spelling:
            if not direct:
                yield _finding(where, f"{argument.values[0]!r} is not a flag", "remove it")
            continue
        # A JSON flag may be given key by key: --hf-overrides.rope_theta 1e6.
        spelling, dot, _ = argument.spelling.partition(".")
        known = table.spellings.get(spelling)
        if known is None:
            yield _unknown(where, argument.spelling, table)
            continue
        name, off = known
        flag = table.flags[name]
        if dot:
            if not flag["type"].startswith("json"):
                yield _unknown(where, argument.spelling, table)
            continue
        if name in RESERVED | _OF_SGLANG and not direct:
            yield _finding(where, f"--{name} is set by the launch script", "remove it", argument.spelling)
        if name in seen and not flag.get("repeat"):
            yield _finding(where, f"--{name} is given twice", "keep one of them", argument.spelling)
        seen.add(name)
        message = _wrong(flag, argument.values, off)
        if message:
            advice = f"see {table}"
            yield _finding(where, f"{argument.spelling} {message}", advice, argument.spelling)


def _wrong(flag: Mapping[str, Any], values: tuple[str, ...], off: bool) -> str:
    """Return what is wrong with a flag's values, or an empty string."""
    kind, optional = flag["type"], flag.get("optional", False)
    message = ""
    if off or (kind == "bool" and not optional):
        message = f"takes no value, {values[0]!r} was given" if values else ""
    elif not values and not optional:
        message = f"needs a value ({kind})"
    elif len(values) > 1 and not flag.get("list"):
        message = f"takes one value, {len(values)} were given"
    else:
        message = next(filter(None, (_wrong_value(flag, value) for value in values)), "")
    return message


def _wrong_value(flag: Mapping[str, Any], value: str) -> str:
    choices = [str(choice) for choice in flag.get("choices", ())]
    if choices and value not in choices:
        hint = nearest(value, choices)
        return f"cannot be {value!r}: {hint}"
    if flag["type"] in _TYPES:
        words, accepts = _TYPES[flag["type"]]
        if not accepts(value):
            return f"takes {words}, {value!r} was given"
    return ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# Type in the table -> what it takes in words, and whether a text is that. `str` takes anything.
_TYPES: dict[str, tuple[str, Callable[[str], bool]]] = {
    "int": ("a whole number", lambda text: _INTEGER.fullmatch(text) is not None),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda text: text.lower() in ("true", "false")),
    "json": ("JSON", _is_json),
    "json_or_str": (
        "JSON or a word",
        lambda text: not text.lstrip().startswith("{") or _is_json(text),
    ),
    "si_int": (
        "a whole number such as 32768, 32k or 32Ki",
        lambda text: _SI.fullmatch(text) is not None,
    ),
    "human_int": (
        "a whole number such as 32768 or 32k",
        lambda text: _HUMAN.fullmatch(text) is not None,
    ),
    "human_int_or_auto": (
        "a whole number such as 32768 or 32k, or auto",
        lambda text: text.lower() == "auto" or _HUMAN.fullmatch(text) is not None,
    ),
}


def _finding(where: str, message: str, fix: str, spelling: str = "") -> Finding:
    return Finding("engine-flag", where, message, fix, flag=spelling.removeprefix("--"))


def _unknown(where: str, spelling: str, table: FlagTable) -> Finding:
    positive = "--" + spelling.removeprefix("--no-")
    if spelling.startswith("--no-") and positive in table.spellings:
        message = f"{positive} cannot be switched off with {spelling}"
        return _finding(where, f"{message} in {table}", "leave the flag out", spelling)
    hint = nearest(spelling.replace("_", "-"), table.spellings, "remove it")
    return _finding(where, f"{spelling} is no flag of {table}", hint, spelling)
