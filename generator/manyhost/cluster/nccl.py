"""Bandwidth between hosts, measured in the pods that would serve: same image, sidecar, networks, profile."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import msgspec

from manyhost.catalog import Interconnect
from manyhost.cluster.connection import Connection, Object, Refused, path_of
from manyhost.cluster.observe import Observer
from manyhost.cluster.phases import ENGINE_CONTAINER, script_line
from manyhost.cluster.release import rehearse
from manyhost.cluster.target import Target, kind_of
from manyhost.cluster.teardown import inventory, teardown
from manyhost.errors import Failed, InvalidInput, ManyhostError, NotReady
from manyhost.render import parse_manifests
from manyhost.render.helm import InProcess

_REMOVE_SECONDS = 120
_LOOK_SECONDS = 2.0
_TAIL_LINES = 200
_REASON_LIMIT = 300
_LINE = re.compile(r"^manyhost nccl bytes=(\d+) seconds=([\d.]+) busbw=([\d.]+)$")
_DONE = re.compile(r"^manyhost nccl done ranks=(\d+) busbw=([\d.]+)$", re.M)
# An uncaught exception as PyTorch prints it, with or without "[rank3]: ", and a warning of NCCL's own.
_ERRORS = (
    re.compile(r"^(?:\[rank\d+\]: *)?((?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception): .*)$"),
    re.compile(r"(NCCL WARN .*)$"),
    re.compile(r"^(manyhost: error: .*)$"),
)


class Size(msgspec.Struct, frozen=True):
    """One message size."""

    bytes: int
    seconds: float
    bus_gbytes_per_second: float


class Bandwidth(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        ranks: GPUs that took part.
        bus_gbytes_per_second: The best bus bandwidth, 10^9 bytes per second (nccl-tests' definition).
        minimum_gbytes_per_second: What the interconnect must reach.
        sizes: Every message size.
    """

    ranks: int
    bus_gbytes_per_second: float
    minimum_gbytes_per_second: float
    sizes: list[Size]

    @property
    def enough(self) -> bool:
        """Whether the threshold is reached."""
        return self.bus_gbytes_per_second >= self.minimum_gbytes_per_second


def published(interconnect: Interconnect) -> list[str]:
    """Return what others have measured over an interconnect, as a line; none where nobody has."""
    points = interconnect.bandwidth.points
    rows = (f"{point.gbytes_per_second:g} at {point.bytes / 2**20:,.0f} MiB" for point in points)
    return [f"published, {interconnect.bandwidth.collective}, GB/s: {', '.join(rows)}"] if points else []


def manifests(target: Target) -> list[Object]:
    """Return the objects of the measurement: the recipe's values with the chart in mode nccl.

    Raises:
        InvalidInput: The environment has no GPUs.
    """
    if not target.plan.gpus_per_host:
        raise InvalidInput("the environment has no GPUs to measure", where=f"recipe {target.recipe}")
    values = {**target.values, "mode": "nccl"}
    text = InProcess(target.chart.path).render(values, release=target.release, namespace=target.namespace)
    return parse_manifests(text)


def measure(
    connection: Connection, target: Target, *, timeout: float, report: Callable[[str], None]
) -> Bandwidth:
    """Run the measurement and remove it again.

    Args:
        connection: The cluster.
        target: Rendered for a release name of its own, which must be free.
        timeout: Seconds for all of it.
        report: Receives one line a step.

    Raises:
        InvalidInput: The environment has no GPUs, or the API server refuses an object.
        NotReady: Something is missing, the pods find no place, or time is up.
        Failed: The program fails, or something is left of it.
    """
    objects = manifests(target)
    again = f"{connection.commands.manyhost('teardown', '--yes')} removes what is left of it"
    if not inventory(connection, target.place).empty:
        raise NotReady(
            f"{target.release} is there already: a measurement runs or was cut off",
            fix=f"wait until it ends; if none runs, {again}",
        )
    rehearse(connection, msgspec.structs.replace(target, objects=objects))
    end = time.monotonic() + timeout
    try:
        for item in objects:
            version, plural = kind_of(item)
            connection.create(path_of(version, plural, target.namespace), item)
        report(f"2 hosts asked for, release {target.release}")
        found = _wait(connection, target, end, report)
    except BaseException:
        try:
            _remove(connection, target, report)
        except ManyhostError as error:  # the first reason is the one to tell
            report(f"not removed: {error.message}; {again}")
        raise
    _remove(connection, target, report)
    return found


def _remove(connection: Connection, target: Target, report: Callable[[str], None]) -> None:
    found = inventory(connection, target.place)
    teardown(connection, target.place, found, timeout=_REMOVE_SECONDS, report=lambda _: None)
    report("removed")


def _wait(connection: Connection, target: Target, end: float, report: Callable[[str], None]) -> Bandwidth:
    observer = Observer(connection, target.place)
    sizes: dict[int, Size] = {}
    problem = ""
    while time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
        look = observer.look(logs=False)
        text = _log(connection, target)
        for line, match in ((line, _LINE.match(line)) for line in text.splitlines()):
            if match and int(match[1]) not in sizes:
                sizes[int(match[1])] = Size(int(match[1]), float(match[2]), float(match[3]))
                report(line.removeprefix("manyhost nccl "))
        done = _DONE.search(text)
        if done:
            return Bandwidth(
                ranks=int(done[1]),
                bus_gbytes_per_second=float(done[2]),
                minimum_gbytes_per_second=target.plan.interconnect.bandwidth.minimum_gbytes_per_second,
                sizes=list(sizes.values()),
            )
        for host in look.hosts:
            if host.problem and host.problem.message != problem:
                problem = host.problem.message
                report(problem)
                if host.problem.kind == "crash":
                    reason = _reason(observer.tail(host.pod, _TAIL_LINES))
                    raise Failed(f"the measurement failed: {reason or problem}", where=host.pod)
    raise NotReady(
        f"no result in time{f': {problem}' if problem else ''}",
        fix=f"{connection.commands.manyhost('doctor')} says whether the hosts are fit; "
        f"{connection.commands.manyhost('nccl', '--timeout', '3600')} gives it an hour",
    )


def _reason(lines: list[str]) -> str:
    """Return the line of a log that says why the program ended: the last error in it, else its last line."""
    for pattern in _ERRORS:
        for line in reversed(lines):
            if match := pattern.search(line.strip()):
                return match[1][:_REASON_LIMIT]
    own = (line for line in reversed(lines) if re.search(r"\w", line) and not script_line(line))
    return next((line.strip()[:_REASON_LIMIT] for line in own), "")


def _log(connection: Connection, target: Target) -> str:
    path = path_of("v1", "pods", target.namespace, f"{target.release}-0", "log")
    try:
        return connection.text(path, query={"container": ENGINE_CONTAINER, "tailLines": _TAIL_LINES})
    except Refused:
        return ""  # not started yet
