"""Every object is of a known kind and has the fields of that kind, and no others.

The Kubernetes schemas are in kubernetes.json (tools/extract_kubernetes_schemas.py), compiled on
first use and kept for the life of the process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhost.checks import leaderworkerset
from manyhost.checks.finding import Finding
from manyhost.checks.objects import Context, Object, place
from manyhost.errors import nearest

if TYPE_CHECKING:
    import jsonschema_rs

_DEFINITIONS = "urn:manyhost:kubernetes"


@cache
def _document() -> dict[str, Any]:
    source = Path(__file__).with_name("kubernetes.json")
    document: dict[str, Any] = json.loads(source.read_text(encoding="utf-8"))
    document["$defs"][leaderworkerset.KIND] = leaderworkerset.SCHEMA
    document["kinds"][f"{leaderworkerset.API}/{leaderworkerset.KIND}"] = leaderworkerset.KIND
    return document


@cache
def _registry() -> jsonschema_rs.Registry:
    """Return all definitions, read once for the validators of all kinds."""
    import jsonschema_rs  # noqa: PLC0415 - 15 ms that commands without a render do not pay

    return jsonschema_rs.Registry([(_DEFINITIONS, {"$defs": _document()["$defs"]})])


@cache
def _validator(api_kind: str) -> jsonschema_rs.Draft202012Validator | None:
    import jsonschema_rs  # noqa: PLC0415 - as in _registry

    definition = _document()["kinds"].get(api_kind)
    if definition is None:
        return None
    reference = {"$ref": f"{_DEFINITIONS}#/$defs/{definition}"}
    return jsonschema_rs.Draft202012Validator(reference, registry=_registry())


@cache
def _field_names() -> list[str]:
    return sorted({key for body in _document()["$defs"].values() for key in _keys(body)})


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from _keys(value)


def check(context: Context) -> Iterator[Finding]:
    """Yield a finding for each unknown kind, unknown field, missing field and wrong type."""
    for item in context.objects:
        yield from check_object(item)


def check_object(item: Object) -> Iterator[Finding]:
    """Yield the schema findings of one object."""
    where = place(item)
    kind = f"{item.get('apiVersion')}/{item.get('kind')}"
    validator = _validator(kind)
    if validator is None:
        yield Finding(
            "schema",
            where,
            f"unknown kind {kind}",
            nearest(kind, _document()["kinds"]),
        )
        return
    if validator.is_valid(item):
        return
    from jsonschema_rs import ValidationErrorKind  # noqa: PLC0415 - as in _registry

    for error in validator.iter_errors(item):
        path = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.instance_path
        ).lstrip(".")
        at = f"{where} {path}".strip()
        if isinstance(error.kind, ValidationErrorKind.AdditionalProperties):
            for field in error.kind.unexpected:
                fix = nearest(field, _field_names(), "remove it")
                yield Finding("schema", at, f"unknown field {field}", fix)
        elif isinstance(error.kind, ValidationErrorKind.Required):
            yield Finding("schema", at, f"field {error.kind.property} is missing", "add it")
        else:
            yield Finding("schema", at, error.message[:200], "see the Kubernetes API reference")
