"""One archive with what a bug report needs: bounded in time and size, without secrets, whole or not."""

from __future__ import annotations

import gzip
import importlib.metadata
import io
import os
import platform
import tarfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import manyhost
from manyhost.catalog.chart import KINDS
from manyhost.cluster import redact
from manyhost.cluster.connection import Connection, Missing, Object, Refused, path_of
from manyhost.cluster.discover import lws_version
from manyhost.cluster.doctor import CHECKS, examine
from manyhost.cluster.lease import released
from manyhost.cluster.observe import Observer
from manyhost.cluster.target import Place, Target
from manyhost.cluster.teardown import MADE
from manyhost.errors import ManyhostError
from manyhost.output import write_files
from manyhost.plan import table

SECONDS = 60.0  # for all that is read
_TEARDOWN_SECONDS = 20.0  # the hosts cost money while it reads
_AT_ONCE = 8
_LOG_LINES = 20_000
_LOG_BYTES = 1 << 20  # of each log its end
_TOTAL_BYTES = 64 << 20  # of all files together, before they are packed
_EVENTS = 1000
# Never read, whatever a release has made.
_UNREAD_KINDS = frozenset({"Secret"})
_LEFT_OUT = frozenset({"image"})  # checks that ask others than the cluster

Read = Callable[[], str]


class Collected(msgspec.Struct, frozen=True, kw_only=True):
    """What was collected.

    Attributes:
        archive: The file.
        files: How many are in it.
        bytes: Its size.
        unread: What could not be read, and why.
    """

    archive: str
    files: int
    bytes: int
    unread: list[str]


def default_path(release: str, now: float) -> Path:
    """Return where an archive goes that nobody has given a place."""
    return Path("build") / f"{release}-{_stamp(now)}.tar.gz"


def collect(
    connection: Connection,
    place: Place,
    target: Callable[[], Target],
    path: Path,
    *,
    seconds: float = SECONDS,
    variables: Mapping[str, str] = os.environ,
) -> Collected:
    """Read what there is of a release and write it into one archive.

    Args:
        connection: The cluster.
        place: The release.
        target: Renders the recipe; what it raises is noted in the archive.
        path: The archive, a .tar.gz.
        seconds: How long to read; what is not read by then is noted.
        variables: Environment variables; secrets among them are found wherever they stand.

    Raises:
        Failed: The file cannot be written; none is left then.
    """
    secrets = redact.known(variables)
    found = _Reader(connection, place, target, secrets, time.monotonic() + seconds).run()
    files: dict[str, str] = {}
    total, unread = 0, dict(found.unread)
    for name, text in sorted(dict(found.files).items()):  # what comes too late is not waited for
        clean = redact.text(text, secrets)
        total += len(clean)
        if total > _TOTAL_BYTES:
            unread[name] = "left out: the archive would be too large"
            continue
        files[name] = clean
    listed = [f"{name}: {redact.text(why, secrets)}" for name, why in sorted(unread.items())]
    files["unread.txt"] = "".join(f"{line}\n" for line in listed) or "everything was read\n"
    data = _pack(path.name.removesuffix(".tar.gz"), files, int(connection.now()))
    write_files(path.parent, {path.name: data})
    return Collected(archive=str(path), files=len(files), bytes=len(data), unread=listed)


def before_teardown(connection: Connection, place: Place, target: Callable[[], Target]) -> Collected | None:
    """Collect what would go with a release that has groups of which none answers; None of any other.

    Raises:
        Failed: The file cannot be written.
        RemoteError: The cluster does not answer, or refuses.
    """
    look = Observer(connection, place).look(logs=False)
    serves = look.exists and int((look.sets[0].get("status") or {}).get("readyReplicas") or 0)
    if not look.hosts or serves or look.removal or released(look.sets):
        return None
    path = default_path(place.release, connection.now())
    return collect(connection, place, target, path, seconds=_TEARDOWN_SECONDS)


class _Reader:
    """Reads everything at once, until its time is over."""

    def __init__(
        self,
        connection: Connection,
        place: Place,
        target: Callable[[], Target],
        secrets: tuple[str, ...],
        end: float,
    ) -> None:
        self._connection = connection
        self._place = place
        self._target = target
        self._secrets = secrets
        self._end = end
        self.files: dict[str, str] = {}
        self.unread: dict[str, str] = {}

    def run(self) -> _Reader:
        first: dict[str, Read] = {
            "versions.json": self._versions,
            "hosts.json": self._hosts,
            "events.yaml": self._events,
        }
        made = {kind: KINDS[kind] for kind in self._place.chart.kinds} | MADE
        pods: list[Object] = []
        nodes: set[str] = set()

        def plan() -> str:
            wanted = self._target()
            self.files["values.yaml"] = self._yaml(wanted.values)
            self._try({"doctor.json": lambda: self._doctor(wanted)})
            return table.to_json(wanted.plan).decode()

        def of_pods() -> str:
            pods.extend(self._pods())
            nodes.update(pod["spec"]["nodeName"] for pod in pods if (pod.get("spec") or {}).get("nodeName"))
            for pod in pods:
                self.files[f"pods/{pod['metadata']['name']}.yaml"] = self._yaml(pod)
            return "".join(f"{pod['metadata']['name']}\n" for pod in pods)

        first |= {"plan.json": plan, "pods.txt": of_pods}
        first |= {f"objects/{kind.lower()}.yaml": self._kind(kind, *where) for kind, where in made.items()
                  if kind not in _UNREAD_KINDS}  # fmt: skip
        self._try(first)
        second: dict[str, Read] = {f"nodes/{name}.yaml": self._node(name) for name in sorted(nodes)}
        for pod in pods:
            second |= self._logs(pod)
        self._try(second)
        return self

    def _try(self, reads: Mapping[str, Read]) -> None:
        """Read several things at once; what fails, or takes too long, is noted."""
        pool = ThreadPoolExecutor(_AT_ONCE)
        running: dict[str, Future[str]] = {name: pool.submit(read) for name, read in reads.items()}
        wait(running.values(), timeout=max(0.0, self._end - time.monotonic()))
        pool.shutdown(wait=False, cancel_futures=True)
        for name, future in running.items():
            if not future.done() or future.cancelled():
                self.unread[name] = "not read in time"
                continue
            error = future.exception()
            if error is None:
                self.files[name] = future.result()
            elif isinstance(error, Missing):
                pass  # there is none
            elif isinstance(error, ManyhostError):
                self.unread[name] = error.message
            else:
                self.unread[name] = f"{type(error).__name__}: {error}"

    def _versions(self) -> str:
        known = {
            "manyhost": manyhost.__version__,
            "chart": self._chart_version(),
            "python": platform.python_version(),
            "helm": f"helm-python-sdk {importlib.metadata.version('helm-python-sdk')}",
            "kubernetes": str(self._connection.get("/version").get("gitVersion", "")),
            "lws": lws_version(self._connection) or "not to be seen",
            "release": self._place.release,
            "namespace": self._place.namespace,
            "collected": _stamp(self._connection.now()),
        }
        return self._json(known)

    def _chart_version(self) -> str:
        from manyhost.catalog import yaml_reader

        path = self._place.chart.path / "Chart.yaml"
        return str(yaml_reader.read_mapping(path, "Chart.yaml").get("version", ""))

    def _hosts(self) -> str:
        look = Observer(self._connection, self._place).look()
        return self._json([msgspec.to_builtins(host) for host in look.hosts])

    def _doctor(self, target: Target) -> str:
        results = examine(self._connection, target, skip=_LEFT_OUT & set(CHECKS))
        return self._json([msgspec.to_builtins(result) for result in results])

    def _events(self) -> str:
        release = self._place.release
        path = path_of("v1", "events", self._place.namespace)
        found = []
        for event in self._connection.pages(path, dict[str, Any]):
            name = str((event.get("involvedObject") or {}).get("name", ""))
            if name == release or name.startswith(f"{release}-"):
                found.append(event)
        found.sort(key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "")
        return self._yaml(found[-_EVENTS:])

    def _pods(self) -> list[Object]:
        """The pods of the groups and of the janitor."""
        chart, release = self._place.chart, self._place.release
        path = path_of("v1", "pods", self._place.namespace)
        labels = (
            f"app.kubernetes.io/instance={release},"
            f"app.kubernetes.io/name in ({chart.name},{chart.name}-janitor)"
        )
        pods = self._connection.pages(path, dict[str, Any], labels=labels)
        return sorted(pods, key=lambda pod: str(pod["metadata"]["name"]))

    def _kind(self, kind: str, version: str, plural: str) -> Read:
        def read() -> str:
            path = path_of(version, plural, self._place.namespace)
            instance = f"app.kubernetes.io/instance={self._place.release}"
            names = {self._place.release, f"{self._place.release}-prefill"}
            sets = f"leaderworkerset.sigs.k8s.io/name in ({','.join(sorted(names))})"
            found = {
                item["metadata"]["name"]: item
                for labels in (instance, *([sets] if kind in MADE else []))
                for item in self._connection.pages(path, dict[str, Any], labels=labels)
            }
            if not found:
                raise Missing(f"there is no {kind}", status=404)
            return self._yaml([{"kind": kind, **found[name]} for name in sorted(found)])

        return read

    def _node(self, name: str) -> Read:
        return lambda: self._yaml(self._connection.get(path_of("v1", "nodes", "", name)))

    def _logs(self, pod: Object) -> dict[str, Read]:
        """The logs of every container, of its former life too when it has had one."""
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        reads: dict[str, Read] = {}
        for state in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
            container = state["name"]
            if "waiting" not in (state.get("state") or {}):
                reads[f"logs/{name}/{container}.log"] = self._log(name, container, previous=False)
            if int(state.get("restartCount", 0)):
                reads[f"logs/{name}/{container}.previous.log"] = self._log(name, container, previous=True)
        return reads

    def _log(self, pod: str, container: str, *, previous: bool) -> Read:
        def read() -> str:
            query: dict[str, Any] = {"container": container, "tailLines": _LOG_LINES, "timestamps": "true"}
            query |= {"previous": "true"} if previous else {}
            path = path_of("v1", "pods", self._place.namespace, pod, "log")
            try:
                text = self._connection.text(path, query=query)
            except Refused as error:
                if error.status == 400:
                    raise Missing(error.message, status=400) from None  # no log yet, or none any more
                raise
            cut = text[-_LOG_BYTES:]
            return cut if len(cut) == len(text) else f"... {len(text) - len(cut)} bytes before this\n{cut}"

        return read

    def _yaml(self, item: Any) -> str:
        import yaml

        clean = redact.item(item, self._secrets)
        return yaml.dump(clean, Dumper=yaml.CSafeDumper, sort_keys=False, width=10_000, allow_unicode=True)

    def _json(self, item: Any) -> str:
        clean = redact.item(item, self._secrets)
        return msgspec.json.format(msgspec.json.encode(clean), indent=2).decode() + "\n"


def _pack(folder: str, files: Mapping[str, str], now: int) -> bytes:
    """Return a .tar.gz with the files in one folder, by name."""
    tarred = io.BytesIO()
    with tarfile.open(fileobj=tarred, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, text in sorted(files.items()):
            data = text.encode(errors="replace")
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mtime, entry.mode = len(data), now, 0o644
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(tarred.getvalue(), mtime=now)


def _stamp(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
