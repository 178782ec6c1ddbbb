"""manyhost explain."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import click

from manyhost.catalog import Catalog, Resolved
from manyhost.catalog.paths import at, within
from manyhost.catalog.settings import VARIABLES, keys, known_keys
from manyhost.cli.options import output_option, pick, recipe_argument, settings_options
from manyhost.cli.printer import Printer
from manyhost.errors import InvalidInput, nearest

RESULT = {"keys": "key, and values with their origins, strongest first, of the key or of each below it"}


class Row(NamedTuple):
    """One key: what it means, and its (origin, value) pairs, weakest first."""

    key: str
    about: str
    history: list[tuple[str, Any]]


@click.command(name="explain")
@click.argument("key")
@recipe_argument
@settings_options
@output_option
def command(
    key: str,
    recipe: str,
    model: str,
    assignments: tuple[str, ...],
    output: Printer,
) -> None:
    """Say what value a key has and where it came from, strongest source first.

    KEY is a recipe key, an environment variable's name, an engine flag as arguments.<flag>, a Helm
    value of the chart, with or without chart. before it, or exemptions: the hardening that the pods do
    without, and why.

    Example: manyhost explain arguments.max-num-seqs a3mega
    """
    catalog = Catalog()
    resolved = pick(catalog, recipe, model, assignments)
    name = re.sub(r"\[\d*\]", "", VARIABLES.get(key, key))
    rows = (
        list(_settings(name, resolved))
        or list(_exemptions(name, resolved, catalog))
        or list(_values(name.removeprefix("chart."), resolved, catalog))
    )
    if not rows:
        known = {*known_keys(), *resolved.origins, *_chart_values(catalog)}
        raise InvalidInput(
            "unknown key", where=key, fix=nearest(key, known, "docs/reference/settings.md lists them")
        )
    found = [
        {"key": row.key, "values": [{"value": v, "origin": o} for o, v in reversed(row.history)]}
        for row in rows
    ]
    output.result({"keys": found}, _lines(rows))


def _settings(name: str, resolved: Resolved) -> Iterator[Row]:
    """Yield a recipe key, or every key below it, with its default where nobody set it."""
    if name == "chart":
        return
    import msgspec

    known = {entry.name: entry for entry in keys()}
    wanted = {*known, *resolved.origins}
    for key in sorted(k for k in wanted if within(k, name)):
        if key.startswith("chart."):
            continue  # the chart has more to say of it
        entry = known.get(key)
        history = list(resolved.origins.get(key, []))
        if not history and any(k.startswith(f"{key}.") for k in resolved.origins):
            continue  # its entries follow
        if entry and entry.default is not msgspec.NODEFAULT and (not history or history[-1][1] is None):
            history.append(("default", entry.default))
        yield Row(key, entry.description if entry else "", history)


def _exemptions(name: str, resolved: Resolved, catalog: Catalog) -> Iterator[Row]:
    """Yield the reason for each rule of hardening that a recipe's pods may break, with its file."""
    if not within(name, "exemptions"):
        return
    from manyhost.catalog.interconnect import Plugin
    from manyhost.catalog.loader import EXEMPTIONS
    from manyhost.plan.facts import join

    facts = join(resolved, catalog)
    fabric = facts.interconnect
    files = {
        EXEMPTIONS: facts.exemptions,
        f"values/environments/{facts.environment.name}.yaml": facts.environment.exemptions,
        f"values/interconnects/{fabric.name}.yaml": fabric.exemptions if isinstance(fabric, Plugin) else {},
    }
    for file, reasons in files.items():
        for rule, reason in reasons.items():
            if within(f"exemptions.{rule}", name):
                yield Row(f"exemptions.{rule}", "", [(file, reason)])


def _chart_values(catalog: Catalog) -> list[str]:
    from manyhost.catalog import passthrough

    return list(passthrough.leaves(catalog.chart(passthrough.CHART).schema))


def _values(name: str, resolved: Resolved, catalog: Catalog) -> Iterator[Row]:
    """Yield a Helm value, or every one below it, as the templates see it, and what it is written from."""
    from manyhost.catalog import passthrough
    from manyhost.catalog.written import WRITTEN
    from manyhost.render import planned_values

    values = _chart_values(catalog)
    wanted = [value for value in values if name == "chart" or within(value, name)]
    above = [value for value in values if within(name, value)]
    if not wanted and not above:
        return
    wanted = wanted or above  # an entry of a list or of a map whose keys people choose
    chart = catalog.chart(passthrough.CHART)
    written = planned_values(resolved, catalog)
    for value in wanted:
        settings = WRITTEN.get(value, ())
        rows = [row for setting in settings for row in _settings(setting, resolved)]
        if rows:
            yield from rows
            continue
        history = [(f"default of the chart {chart.name}", at(chart.defaults, value))]
        passed = resolved.origins.get(f"chart.{value}")
        if passed:
            history += passed
        elif (planned := at(written, value)) is not None:
            history.append(("written by render", planned))
        yield Row(value, chart.comments.get(value, ""), history)


def _lines(rows: list[Row]) -> Iterator[str]:
    import msgspec

    for key, about, history in rows:
        if about:
            yield f"# {about}"
        if not history:
            yield f"{key}: not set anywhere, and it has no default"
            continue
        origin, value = history[-1]
        yield f"{key} = {msgspec.json.encode(value).decode()}  ({origin})"
        for origin, value in reversed(history[:-1]):
            yield f"  overrides {msgspec.json.encode(value).decode()}  ({origin})"
