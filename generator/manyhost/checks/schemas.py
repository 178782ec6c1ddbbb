"""Every object is of a known kind and has the fields of that kind, and no others.

The Kubernetes schemas are in kubernetes.json (tools/extract_kubernetes_schemas.py), those of a Gateway's
kinds in gateway.json (tools/extract_crd_schemas.py); compiled on first use and kept for the life of the
process.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyhost.checks import computedomain, leaderworkerset
from manyhost.checks.finding import Finding
from manyhost.checks.objects import Object, Pod, place
from manyhost.errors import nearest

if TYPE_CHECKING:
    import jsonschema_rs

_DEFINITIONS = "urn:manyhost:kubernetes"


@cache
def _document() -> dict[str, Any]:
    document = _read("kubernetes.json")
    document["kinds"] |= _read("gateway.json")["kinds"]
    for own in (leaderworkerset, computedomain):
        document["kinds"][f"{own.API}/{own.KIND}"] = own.SCHEMA
    return document


def _read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))
    return document


@cache
def _registry() -> jsonschema_rs.Registry:
    """Return the whole document, read once for the validators of all kinds."""
    import jsonschema_rs  # noqa: PLC0415 - 15 ms that commands without a render do not pay

    return jsonschema_rs.Registry([(_DEFINITIONS, _document())])


@cache
def _validator(pointer: str) -> jsonschema_rs.Draft202012Validator:
    """Return the validator of what is at a JSON pointer in the document."""
    import jsonschema_rs  # noqa: PLC0415 - as in _registry

    return jsonschema_rs.Draft202012Validator({"$ref": f"{_DEFINITIONS}#/{pointer}"}, registry=_registry())


@cache
def _field_names() -> list[str]:
    document = _document()
    bodies = [*document["$defs"].values(), *document["kinds"].values()]
    return sorted({key for body in bodies for key in _keys(body)})


def _keys(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from schema.get("properties", {})
        for value in schema.values():
            yield from _keys(value)


def is_pod(pod: Pod) -> bool:
    """Return whether a pod template inside an object of unknown shape is well formed."""
    parts = {"core.v1.PodSpec": pod.spec, "meta.v1.ObjectMeta": pod.body.get("metadata", {})}
    return all(_validator(f"$defs/{name}").is_valid(part) for name, part in parts.items())


def check_object(item: Object) -> Iterator[Finding]:
    """Yield a finding for an unknown kind, or each unknown field, missing field and wrong type."""
    where = place(item)
    kind = f"{item.get('apiVersion')}/{item.get('kind')}"
    kinds = _document()["kinds"]
    if kind not in kinds:
        yield Finding("schema", where, f"unknown kind {kind}", nearest(kind, kinds))
        return
    validator = _validator(f"kinds/{kind.replace('/', '~1')}")
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
