"""A recipe for another version of the engine: which flags it keeps, and what changes in its plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import msgspec

from manyhost.catalog import Engine, yaml_editor, yaml_reader
from manyhost.catalog.engine import TITLES, GoneFlag
from manyhost.catalog.environment import Environment, RunPod
from manyhost.catalog.merge import merge
from manyhost.catalog.paths import at, nested
from manyhost.checks import FlagTable
from manyhost.plan import Plan, image

# Where a recipe has engine flags.
_ARGUMENTS = ("arguments", "roles.prefill.arguments", "roles.decode.arguments")
_IMAGE = ("engine.image", "engine.tag", "engine.digest")


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of one key of the recipe.

    Attributes:
        key: The key.
        value: Its value.
        action: Whether it stays, another one takes its place, or it goes.
        became: The key that takes its place, the same one where only the value changes; empty for others.
        becomes: Its value there.
        reason: Why it does not stay as it is.
    """

    key: str
    value: Any
    action: Literal["kept", "replaced", "dropped"]
    became: str = ""
    becomes: Any = None
    reason: str = ""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a plan that is not the same any more."""

    what: str
    before: str
    after: str


def steps(
    document: Mapping[str, Any],
    engine: Engine,
    table: FlagTable,
    gone: Mapping[str, GoneFlag],
    environment: Environment,
) -> Iterator[Step]:
    """Yield what becomes of each flag of a recipe, and of what it says of its engine.

    Args:
        document: The recipe as it is written.
        engine: The engine to be.
        table: Its flags.
        gone: What stands in place of flags that newer versions no longer have.
        environment: Where the recipe runs.
    """
    version = at(document, "engine.version")
    if version != engine.version:
        yield _replaced("engine.version", version, "engine.version", engine.version, "asked for")
    executor = at(document, "engine.executor")
    rented = isinstance(environment.platform, RunPod)  # Ray is part of the engine's environment there
    able = engine.executors if rented else engine.stock_image_executors
    if executor not in able:
        reason = f"{engine if rented else f'the stock image of {engine.version}'} has {' and '.join(able)}"
        yield _replaced("engine.executor", executor, "engine.executor", able[0], reason)
    for key in _IMAGE:
        if (value := at(document, key)) and version != engine.version:
            yield Step(
                key=key,
                value=value,
                action="dropped",
                reason=f"it is an image of {TITLES[engine.name]} {version}",
            )
    if (release := at(document, "network.release")) and version != engine.version:
        nccl = engine.image_lock[engine.tag].nccl if engine.tag in engine.image_lock else ""
        reason = f"whether it suits NCCL {nccl or 'of the new image'} is for you to look up"
        yield Step(key="network.release", value=release, action="kept", reason=reason)
    for where in _ARGUMENTS:
        for name, value in (at(document, where) or {}).items():
            yield _flag(where, name, value, table, gone)


def _flag(where: str, name: str, value: Any, table: FlagTable, gone: Mapping[str, GoneFlag]) -> Step:
    key, plain = f"{where}.{name}", name.partition(".")[0]  # --hf-overrides.rope_theta is of hf-overrides
    if f"--{plain}" in table.spellings:
        return Step(key=key, value=value, action="kept")
    known = gone.get(plain)
    if value is None:
        reason = f"{table} has no such flag to remove"
    elif known is None:
        reason = f"{table} has no such flag"
    elif known.now and f"--{known.now}" in table.spellings:
        became = value if known.value is None else known.value
        return _replaced(
            key, value, f"{where}.{known.now}", {known.key: became} if known.key else became, known.why
        )
    elif known.now:
        reason = f"{table} has neither it nor {known.now}"
    else:
        reason = known.why
    return Step(key=key, value=value, action="dropped", reason=reason)


def _replaced(key: str, value: Any, became: str, becomes: Any, reason: str) -> Step:
    return Step(key=key, value=value, action="replaced", became=became, becomes=becomes, reason=reason)


def rewritten(text: str, taken: list[Step], where: str) -> str:
    """Return the text of a recipe with steps taken; comments, order and every other key stay.

    Args:
        text: The recipe's file.
        taken: What `steps` returned of it.
        where: How errors name the file.

    Raises:
        InvalidInput: The file is written in a way that cannot be edited safely.
    """
    for step in taken:
        if step.action == "kept":
            continue
        keys, new = _path(step.key), None
        if step.action == "replaced":
            there = _path(step.became)
            present = _value(yaml_reader.parse(text, where), there)
            merged = isinstance(present, dict) and isinstance(step.becomes, dict)
            becomes = {**step.becomes, **present} if merged else step.becomes
            if keys == there or present is None:
                new = (there[-1], becomes)
            elif merged:  # one that the recipe has already wins
                text = yaml_editor.edit(text, nested(there, becomes), where, whole=(there[-1],))
        text = yaml_editor.replace(text, keys, new, where)
    return text


def chosen(taken: list[Step], document: dict[str, Any]) -> dict[str, Any]:
    """Return what a rewritten recipe has that its owner has not written.

    Args:
        taken: What `steps` returned of it.
        document: The recipe with these steps taken.
    """
    found: dict[str, Any] = {}
    for step in taken:
        if step.action == "replaced":
            path = _path(step.became)
            found = merge(found, nested(path, _value(document, path)))
    return found


def _path(key: str) -> list[str]:
    """Return the keys that lead to one; the name of a flag stays whole."""
    above = next((f"{where}." for where in _ARGUMENTS if key.startswith(f"{where}.")), "")
    return [*above.split(".")[:-1], key.removeprefix(above)] if above else key.split(".")


def _value(document: Any, keys: list[str]) -> Any:
    for key in keys:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def changes(before: Plan, after: Plan) -> list[Change]:
    """Return what is not the same in two plans of a recipe, by what someone looks at before an upgrade."""
    old, new = _facts(before), _facts(after)
    return [
        Change(what=what, before=old.get(what, "-"), after=new.get(what, "-"))
        for what in {**old, **new}
        if old.get(what) != new.get(what)
    ]


def _facts(plan: Plan) -> dict[str, str]:
    """Return the lines of a plan that an engine changes."""
    lock = image.lock(plan.settings, plan.engine)
    found = {
        "engine": str(plan.engine),
        "executor": plan.settings.engine.executor,
        "image": str(plan.image),
        "CUDA": lock.cuda or "unknown",
        "oldest driver": str(lock.minimum_driver or "unknown"),
        "NCCL": lock.nccl or "unknown",
    }
    for role in plan.roles:
        if fits := role.memory:
            of = "" if role.name == "serve" else f"{role.name}: "
            found |= {
                f"{of}utilization": f"{fits.utilization:g}",
                f"{of}weights": f"{max(fits.weights_gib):.1f} GiB a GPU",
                f"{of}activations, graphs and NCCL": f"~{fits.overhead_gib:.1f} GiB a GPU",
                f"{of}KV cache": f"{fits.kv_tokens:,} tokens",
                f"{of}seats": f"{role.seats} at once",
            }
    found["cold start"] = f"~{sum(seconds for _, seconds in plan.cold_start)}s"
    return found
