"""Values of the chart that a recipe sets by their own names, below the key `chart`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from manyhost.catalog.chart import Chart
from manyhost.catalog.loader import Catalog
from manyhost.catalog.paths import at, nested, within
from manyhost.catalog.written import WRITTEN, written
from manyhost.errors import InvalidInput, nearest

CHART = "llm-multihost"


def nest(path: str, value: Any, catalog: Catalog) -> dict[str, Any]:
    """Return nested mappings for a dotted path of a chart value.

    Below a map whose keys people choose (annotations, labels) the rest of the path is one key, dots included.
    """
    root = catalog.chart(CHART).schema
    schema = root
    parts: list[str] = []
    rest = path
    while rest:
        properties = schema.get("properties")
        if properties is None and (
            "patternProperties" in schema or isinstance(schema.get("additionalProperties"), dict)
        ):
            parts.append(rest)
            break
        name, _, rest = rest.partition(".")
        parts.append(name)
        schema = _resolved((properties or {}).get(name, {}), root)
    return nested(parts, value)


def check(values: dict[str, Any], origin: Callable[[str], str], catalog: Catalog) -> None:
    """Check chart values that a recipe gives.

    Args:
        values: What stands below `chart`.
        origin: Returns who set a recipe key.
        catalog: Has the chart.

    Raises:
        InvalidInput: When a value is unknown, has another type, is written from a key of its own, or is an
            empty block: it would take the place of what is written there.
    """
    if not values:
        return
    schema = catalog.chart(CHART).schema
    known = list(leaves(schema))
    blocks = {name[:end] for name in known for end, letter in enumerate(name) if letter == "."}
    for path in _paths(values, schema):
        where = f"{origin(f'chart.{path}')}: chart.{path}"
        if entry := written(path):
            if settings := WRITTEN[entry]:
                fix = f"set {' or '.join(settings)}"
                raise InvalidInput(f"is written from {' and '.join(settings)}", where=where, fix=fix)
            raise InvalidInput(
                "is a fact of the environment or its interconnect",
                where=where,
                fix="put an environment of your own into values/environments/ (docs/how-to/extend.md)",
            )
        if path not in blocks and not any(within(path, name) for name in known):
            names = [f"chart.{name}" for name in (*known, *sorted(blocks))]
            fix = nearest(f"chart.{path}", names, "charts/llm-multihost/README.md lists them")
            raise InvalidInput("unknown key", where=where, fix=fix)
        if path in blocks and at(values, path) == {}:
            raise InvalidInput("names no value", where=where, fix="name a value below it, or remove it")
    _valid(values, catalog.chart(CHART), origin)


def leaves(schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every value of a chart; a map whose keys people choose is one value."""
    for name, below in schema.get("properties", {}).items():
        if "properties" in below and below.get("type") == "object":
            yield from leaves(below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _paths(values: dict[str, Any], schema: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        below = schema.get("properties", {}).get(name, {})
        if isinstance(value, dict) and value and "properties" in below:
            yield from _paths(value, below, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Follow a reference to the schema's own definitions."""
    reference = schema.get("$ref", "")
    found: dict[str, Any] = root["definitions"][reference.rpartition("/")[2]] if reference else schema
    return found


def _valid(values: dict[str, Any], chart: Chart, origin: Callable[[str], str]) -> None:
    """Hold the chart's own values with these over them against its schema: only these can be wrong."""
    import jsonschema_rs  # noqa: PLC0415  for recipes that set chart values only

    for error in jsonschema_rs.validator_for(chart.schema).iter_errors(chart.effective(values)):
        path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.instance_path)
        key = f"chart{path}"
        whole = key.partition("[")[0]
        raise InvalidInput(
            error.message[:200],
            where=f"{origin(whole)}: {key}",
            fix="charts/llm-multihost/README.md says what it takes",
        )
