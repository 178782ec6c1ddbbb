"""LimitRanges of the namespace: what they fill into the pods, and what they refuse.

The rules are those of the LimitRanger admission plug-in (kubernetes/kubernetes,
plugin/pkg/admission/limitranger/admission.go).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from manyhost.cluster.connection import Object
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, warned
from manyhost.cluster.doctor.hosts import limits_of, requests_of
from manyhost.cluster.quantity import parse, show, whole

Spec = dict[str, Any]
Amounts = dict[str, float]
_SHOWN = 3  # reasons of one LimitRange in a message


class Reason(NamedTuple):
    """Something that a LimitRange refuses.

    Attributes:
        text: For people; empty where another reason says it.
        change: The bound that refuses it: where it stands in the LimitRange.
        value: What the bound has to be; empty where it may not be at all.
    """

    text: str
    change: tuple[str | int, ...]
    value: str = ""


# What a limit that nobody has chosen for it does to an engine.
_HARM = {
    "cpu": "throttled NCCL threads stall every GPU",
    "ephemeral-storage": "its pod is evicted when logs and caches outgrow that",
}


@check("limit-range", "Do the namespace's LimitRanges admit the pods?", needs=("api", "namespace"))
def limit_range(sight: Sight) -> Finding | list[Finding]:
    """Every LimitRange against the containers and the pods, with what LimitRanges fill into them."""
    ranges = ranges_of(sight)
    if not ranges:
        return passed("the namespace has no LimitRange")
    specs = [(spec, filled(spec, ranges)) for spec, count in sight.target.pods if count]
    findings: list[Finding] = []
    for item in ranges:
        name = item["metadata"]["name"]
        reasons = [
            reason
            for given, spec in specs
            for reason in (*_contradictions(given, spec, item), *_violations(spec, item))
        ]
        if reasons:
            texts = list(dict.fromkeys(reason.text for reason in reasons if reason.text))
            more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
            findings.append(
                failed(f"LimitRange {name}: {'; '.join(texts[:_SHOWN])}{more}", _allow(sight, name, reasons))
            )
        elif sight.target.plan.environment.host.gpus:
            findings += [
                warned(
                    f"LimitRange {name} limits the engine to {given}: {harm}",
                    "ask whoever set it for a namespace without this default: "
                    + sight.commands.kubectl("describe", "limitrange", name)
                    + " shows what it gives",
                )
                for given, harm in _given(*specs[0], item)
            ]
    return findings or passed(f"{len(ranges)} LimitRange{'s' * (len(ranges) != 1)} admit the pods")


def _allow(sight: Sight, name: str, reasons: list[Reason]) -> str:
    """The command that lets a LimitRange admit the pods."""
    values: dict[tuple[str | int, ...], str] = {}
    for reason in reasons:  # a maximum becomes the largest that is needed, a minimum the smallest
        kept = values.get(reason.change, reason.value)
        if kept and reason.value:
            pick = min if "min" in reason.change else max
            values[reason.change] = pick(kept, reason.value, key=parse)
        else:
            values[reason.change] = ""
    patch = []
    for place, value in values.items():
        path = "/spec/limits/" + "/".join(str(part).replace("/", "~1") for part in place)
        patch.append(
            {"op": "replace", "path": path, "value": value} if value else {"op": "remove", "path": path}
        )
    words = ("patch", "limitrange", name, "--type", "json", "-p", json.dumps(patch, separators=(",", ":")))
    return f"use another namespace, or ask whoever set it: {sight.commands.kubectl(*words)}"


def ranges_of(sight: Sight) -> list[Object]:
    """Return the LimitRanges of the namespace."""
    return sight.list("v1", "limitranges", sight.target.namespace)


def filled(spec: Spec, ranges: list[Object]) -> Spec:
    """Return a pod's spec as it is after admission: with what containers do not state themselves.

    Args:
        spec: A pod's spec, as in a manifest.
        ranges: LimitRange objects as the API has them; it completes their own defaults.
    """
    result = dict(spec)
    for kind in ("containers", "initContainers"):
        if spec.get(kind):
            result[kind] = [_filled(container, ranges) for container in spec[kind]]
    return result


def _filled(container: Spec, ranges: list[Object]) -> Spec:
    stated = container.get("resources") or {}
    limits = dict(stated.get("limits") or {})
    requests = {**limits, **(stated.get("requests") or {})}  # a limit is the request too where there is none
    for item in ranges:
        for _, one in _items(item, "Container"):
            requests = {**(one.get("defaultRequest") or {}), **requests}
            limits = {**(one.get("default") or {}), **limits}
    return {**container, "resources": {**stated, "requests": requests, "limits": limits}}


def _items(item: Object, kind: str) -> Iterator[tuple[int, Object]]:
    """The entries of a LimitRange for containers, or for pods, with their numbers."""
    limits = (item.get("spec") or {}).get("limits") or ()
    return ((number, one) for number, one in enumerate(limits) if one.get("type") == kind)


def _containers(spec: Spec) -> Iterator[Spec]:
    yield from spec.get("containers") or ()
    yield from spec.get("initContainers") or ()


def _contradictions(given: Spec, spec: Spec, item: Object) -> Iterator[Reason]:
    """Defaults that a container cannot take: a limit below what it requests. A maximum says so itself."""
    for before, after in zip(_containers(given), _containers(spec), strict=True):
        stated = (before.get("resources") or {}).get("limits") or {}
        for number, one in _items(item, "Container"):
            for name, limit in (one.get("default") or {}).items():
                request = parse(after["resources"]["requests"].get(name, "0"))
                if name in stated or request <= parse(limit):
                    continue
                told = (
                    f"its default limit of {show(name, parse(limit))} {name} is less than "
                    f"the {show(name, request)} that container {after['name']} requests"
                )
                most = parse((one.get("max") or {}).get(name, "inf"))
                yield Reason(told if request <= most else "", (number, "default", name), whole(name, request))


def _violations(spec: Spec, item: Object) -> Iterator[Reason]:
    for number, one in _items(item, "Container"):
        for container in _containers(spec):
            amounts = [
                {name: parse(value) for name, value in container["resources"][part].items()}
                for part in ("requests", "limits")
            ]
            yield from _beyond(number, one, f"container {container['name']}", *amounts)
    for number, one in _items(item, "Pod"):
        yield from _beyond(number, one, "a pod", requests_of(spec), limits_of(spec))


def _beyond(number: int, one: Object, what: str, requests: Amounts, limits: Amounts) -> Iterator[Reason]:
    """What of a container or a pod is beyond the bounds of one entry of a LimitRange."""
    for name, text in (one.get("min") or {}).items():
        least, place = parse(text), (number, "min", name)
        if name not in requests:
            yield Reason(f"{what} must request at least {show(name, least)} {name}, and requests none", place)
        elif (has := min(requests[name], limits.get(name, requests[name]))) < least:
            said = f"{what} may have no less than {show(name, least)} {name}, and has {show(name, has)}"
            yield Reason(said, place, f"{has:.3f}".rstrip("0").rstrip("."))
    for name, text in (one.get("max") or {}).items():
        most, place = parse(text), (number, "max", name)
        if name not in limits:
            yield Reason(f"{what} must limit its {name} to {show(name, most)}, and has no limit", place)
        elif (has := max(limits[name], requests.get(name, 0.0))) > most:
            said = f"{what} may have no more than {show(name, most)} {name}, and has {show(name, has)}"
            yield Reason(said, place, whole(name, has))
    for name, text in (one.get("maxLimitRequestRatio") or {}).items():
        most, place = parse(text), (number, "maxLimitRequestRatio", name)
        if not requests.get(name) or not limits.get(name):
            yield Reason(f"{what} must state request and limit of {name}, for their ratio", place)
        elif (ratio := limits[name] / requests[name]) > most:
            said = f"{what} may limit {name} to {most:g} times its request, and does to {ratio:.3g} times"
            yield Reason(said, place, str(math.ceil(ratio)))


def _given(stated: Spec, spec: Spec, item: Object) -> Iterator[tuple[str, str]]:
    """The limits that a LimitRange gives an engine that has none of its own, and what they do to it."""
    own = (stated["containers"][0].get("resources") or {}).get("limits") or {}
    limits = spec["containers"][0]["resources"]["limits"]
    for name, harm in _HARM.items():
        defaults = any(name in (one.get("default") or {}) for _, one in _items(item, "Container"))
        if limits.get(name) and defaults and name not in own:
            yield f"{show(name, parse(limits[name]))} {name}", harm
