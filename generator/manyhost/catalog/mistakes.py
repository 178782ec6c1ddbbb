"""What is wrong with the keys and types of settings: every mistake at once, each where it was written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import msgspec

from manyhost.catalog import passthrough, yaml_reader
from manyhost.catalog.keys import OPEN, Layer, is_block, known_keys
from manyhost.catalog.loader import Catalog
from manyhost.catalog.paths import within
from manyhost.catalog.recipe import Recipe
from manyhost.catalog.written import WRITTEN, written
from manyhost.errors import InvalidInput, nearest

_FLAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def unknown(layers: list[Layer], catalog: Catalog) -> list[InvalidInput]:
    """Return every key that no recipe has, and every name that no flag or variable can have."""
    return [
        error
        for origin, layer in layers
        for key, value in layer.items()
        for error in _unknown(origin, key, value, Recipe, "", catalog)
    ]


def wrong(layers: list[Layer]) -> list[InvalidInput]:
    """Return every value that is of another type than its key, or out of bounds."""
    return [error for origin, layer in layers for error in _wrong(origin, layer, Recipe, "")]


def _unknown(
    origin: str, name: str, value: Any, kind: type[msgspec.Struct], prefix: str, catalog: Catalog
) -> Iterator[InvalidInput]:
    key = f"{prefix}{name}"
    known = _types(kind).get(name)
    if known is None:
        yield _unknown_key(origin, key, value, catalog)
    elif is_block(known):
        for below, inner in value.items() if isinstance(value, dict) else ():
            yield from _unknown(origin, below, inner, known, f"{key}.", catalog)
    elif key in OPEN:
        for below in value if isinstance(value, dict) else ():
            yield from _bad_name(origin, key, below)
    elif isinstance(value, dict) and not _takes_mapping(known):
        path = _leaf(key, value)
        if fix := _helm(path, catalog):
            yield InvalidInput("is a value of the Helm chart", where=f"{origin}: {path[:200]}", fix=fix)


@cache
def _types(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in msgspec.structs.fields(kind)}


def _takes_mapping(kind: Any) -> bool:
    plain = getattr(kind, "__origin__", kind)
    return getattr(plain, "__origin__", plain) is dict


def _unknown_key(origin: str, key: str, value: Any, catalog: Catalog) -> InvalidInput:
    path = _leaf(key, value)
    names = known_keys()
    top = {name.partition(".")[0] for name in names}
    if "token" in path.lower():
        fix = "secrets are never settings; create the Kubernetes Secret hf-secret instead"
    elif helm := _helm(path, catalog):
        where = f"{origin}: {path[:200]}"
        return InvalidInput("is a value of the Helm chart", where=where, fix=helm)
    elif key in names:
        fix = f"write it nested: {_nested(key)}"
    else:
        fix = nearest(key, names if "." in key else top)
    shown = key if len(key) <= 200 else f"{key[:80]}..."
    return InvalidInput("unknown key", where=f"{origin}: {shown}", fix=fix[:300])


def _nested(key: str) -> str:
    *above, last = key.split(".")
    return f"{': {'.join(above)}: {{{last}: ...{'}' * len(above)}"


def _leaf(key: str, value: Any) -> str:
    """Return a key with those below it, as long as there is one."""
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        key = f"{key}.{name}"
    return key


def _helm(path: str, catalog: Catalog) -> str:
    """Return which setting writes a value of the chart, or how a recipe sets it; empty when it is none."""
    plain = re.sub(r"\[[^\]]*\]", "", path)
    if entry := written(plain):
        below = plain[len(entry) :] if entry.endswith("serverArgs") else ""
        settings = [f"{name}{below}" for name in WRITTEN[entry]]
        return f"set {' or '.join(settings)}" if settings else "leave it out"
    values = passthrough.leaves(catalog.chart(passthrough.CHART).schema)
    if any(within(plain, name) for name in values):
        return f"set chart.{path[:200]}"
    return ""


def _bad_name(origin: str, key: str, name: str) -> Iterator[InvalidInput]:
    where = f"{origin}: {key}.{name[:80]}"
    if key.endswith("arguments") and not _FLAG.fullmatch(name):
        plain = name.strip("- ")
        fix = f"write {key}.{plain}" if _FLAG.fullmatch(plain) else "write one such as max-num-seqs"
        yield InvalidInput("flags are written without dashes before them", where=where, fix=fix)
    elif key in ("variables", "network.nccl") and not _VARIABLE.fullmatch(name):
        yield InvalidInput("is no name of a variable: letters, digits and _, no digit first", where=where)


def _wrong(
    origin: str, layer: dict[str, Any], kind: type[msgspec.Struct], prefix: str
) -> Iterator[InvalidInput]:
    types = _types(kind)
    for name, value in layer.items():
        key, known = f"{prefix}{name}", types[name]
        if value is None:
            continue  # takes the key away
        if is_block(known) and isinstance(value, dict):
            yield from _wrong(origin, value, known, f"{key}.")
        elif key in OPEN and isinstance(value, dict):
            inner: Any = Any if key.endswith("arguments") else str
            for below, text in value.items():
                if text is not None:
                    yield from _mismatch(origin, f"{key}.{below}", text, inner)
        else:
            yield from _mismatch(origin, key, value, known)


def _mismatch(origin: str, key: str, value: Any, kind: Any) -> Iterator[InvalidInput]:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        below, message = yaml_reader.explain(error)
        place = f"{key}{below if below.startswith('[') or not below else f'.{below}'}"
        fix = ""
        if message.startswith("expected text, got ") and not isinstance(value, (dict, list)):
            fix = f"quote it: '{place}=\"...\"'" if origin == "--set" else "put the value in quotes"
        if "is none of its words" in message:
            choices = get_args(getattr(kind, "__origin__", kind)) or get_args(kind)
            fix = f"choose one of: {', '.join(map(str, choices))}"
        yield InvalidInput(message, where=f"{origin}: {place[:200]}", fix=fix)
