"""Plan → values.yaml. The template is the only place that knows the chart's keys."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import jinja2
import yaml12

from manyhost import speed
from manyhost.catalog import yaml_editor
from manyhost.catalog.environment import Gke
from manyhost.catalog.interconnect import GpuDirectTcp, Plugin, Rdma
from manyhost.plan import Plan
from manyhost.plan.arguments import derived, merged
from manyhost.plan.resources import daemon

# Characters that may not stand for themselves (YAML 1.2.2, section 5.1), and line breaks of YAML 1.1.
_ESCAPED = re.compile(r"[\x7f-\x84\x86-\x9f\x85\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]")


class Note(str):
    """Text that goes into a comment: printed as it is, on one line."""

    __slots__ = ()


def quote(value: Any) -> str:
    """Return a value as a YAML flow scalar, sequence or mapping that reads back as itself.

    Strings are always quoted: `no`, `1e3` and `*x` stay strings, for YAML 1.1 and 1.2 alike.
    """
    if isinstance(value, Note):
        return " ".join(value.split())
    text = json.dumps(value, ensure_ascii=False, sort_keys=isinstance(value, dict))
    return _ESCAPED.sub(lambda m: f"\\u{ord(m.group()):04x}", text)


def _pairs(mapping: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": mapping[name]} for name in sorted(mapping)]


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    folder = Path(__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        bytecode_cache=speed.compiled(folder),
        undefined=jinja2.StrictUndefined,
        finalize=quote,  # every expression of the template goes through it
        autoescape=False,  # noqa: S701  YAML, quoted by finalize
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals = {"note": Note, "pairs": _pairs, "dict": dict}
    return environment.get_template("values.yaml.j2")


def values_text(plan: Plan) -> str:
    """Return values.yaml of a plan: the same bytes for the same plan."""

    def sources(*keys: str) -> Note:
        """Name where each key came from, the same origin once."""
        by_origin: dict[str, list[str]] = {}
        for key in keys:
            by_origin.setdefault(plan.origin(key), []).append(key)
        return Note("; ".join(f"{', '.join(names)}: {origin}" for origin, names in by_origin.items()))

    follow = derived(plan.engine)

    def argument_source(name: str) -> Note:
        key = follow.get(name)
        return Note(f"{key}: {plan.origin(key)}" if key else plan.origin(f"arguments.{name}"))

    environment, fabric = plan.environment, plan.interconnect
    releases = fabric.releases if isinstance(fabric, Plugin) else []
    text = _template().render(
        plan=plan,
        recipe=plan.settings,
        environment=environment,
        platform=environment.platform,
        fabric=fabric,
        is_plugin=isinstance(fabric, Plugin),
        daemon=daemon(fabric, environment.host) if isinstance(fabric, GpuDirectTcp) else None,
        is_rdma=isinstance(fabric, Rdma),
        is_gke=isinstance(environment.platform, Gke),
        gpu_nics=sum(bool(nic.gpus) for nic in environment.host.nics),
        release_note=Note(f", release of {releases[0].date}" if releases else ""),
        arguments=merged(plan.settings, plan.engine, {}, environment.host.gpus > 0),
        cold_start=", ".join(f"{name} {seconds} s" for name, seconds in plan.cold_start),
        sources=sources,
        argument_source=argument_source,
    )
    return yaml_editor.edit(text, plan.settings.chart, "values.yaml") if plan.settings.chart else text


def parse_values(text: str) -> dict[str, Any]:
    """Parse rendered values; they are our own output, so the fast reader will do."""
    return cast("dict[str, Any]", yaml12.parse_yaml(text))
