"""RunPod's API v2: requests that are typed, bounded in time, and repeated only where that can do no harm.

Reads and removals are repeated; to make something is not. Who does not know whether it was made looks for its
name first (make.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import msgspec

from manyhost.errors import InvalidInput, ManyhostError, NotReady, RemoteError
from manyhost.runpod.models import (
    Billed,
    Cluster,
    CpuType,
    GpuType,
    Line,
    NewCluster,
    NewPod,
    NewVolume,
    Pod,
    Problem,
    Rename,
    Sent,
    Volume,
)

URL = "https://api.runpod.io"
KEY = "RUNPOD_API_KEY"  # the environment variable that holds the key
_SECONDS = 30.0  # for one answer
_QUIET_SECONDS = 60.0  # a log may say nothing for so long
_PATIENCE = 120.0  # for one request, with all its repetitions
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 20.0
T = TypeVar("T")


class NoAnswer(RemoteError):
    """Nobody knows whether a request was carried out."""


class Quiet(NoAnswer):
    """A log has said nothing for long; it may go on."""


class Gone(RemoteError):
    """What was asked for is not there."""


class NotPlaced(NotReady):
    """A rule was broken or there is no capacity: RunPod's answer is the same (400)."""


class Api:
    """RunPod's API with one key.

    Args:
        key: An API key; it is sent, and nothing else is done with it.
        url: Where the API is.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.
    """

    def __init__(
        self,
        key: str,
        url: str = URL,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        import urllib3

        self._url, self._sleep, self._clock = url.rstrip("/"), sleep, clock
        self._headers = {"Authorization": f"Bearer {key}", "Accept": "application/json"}
        self._pool = urllib3.PoolManager(timeout=_SECONDS, retries=False, maxsize=8)

    def gpus(self, product: str) -> list[GpuType]:
        """Return the catalog's GPUs, with prices and what of each is free for POD or CLUSTER."""
        query = f"/v2/catalog/gpus?include=AVAILABILITY&product={product}"
        return self._list(query, "gpus", GpuType)

    def cpus(self) -> list[CpuType]:
        """Return the catalog's processors for pods, with prices and what is free."""
        return self._list("/v2/catalog/cpus?include=AVAILABILITY&product=POD", "cpus", CpuType)

    def volumes(self) -> list[Volume]:
        """Return all network volumes of the account."""
        return self._list("/v2/network-volumes", "networkVolumes", Volume)

    def clusters(self) -> list[Cluster]:
        """Return all clusters of the account."""
        return self._list("/v2/clusters", "clusters", Cluster)

    def pods(self) -> list[Pod]:
        """Return all pods of the account, those of clusters too."""
        return self._list("/v2/pods?includeClusterPods=true", "pods", Pod)

    def make_volume(self, body: NewVolume) -> Volume:
        """Ask for a volume, once."""
        return self._make("/v2/network-volumes", body, Volume)

    def make_cluster(self, body: NewCluster) -> Cluster:
        """Ask for a cluster, once."""
        return self._make("/v2/clusters", body, Cluster)

    def make_pod(self, body: NewPod) -> Pod:
        """Ask for a pod, once."""
        return self._make("/v2/pods", body, Pod)

    def rename(self, kind: str, identity: str, name: str) -> None:
        """Rename one of pods or clusters.

        Raises:
            Gone: It is not there.
        """
        self._repeat("PATCH", f"/v2/{kind}/{identity}", Rename(name=name))

    def logs(self, pod: str, tail: int, after: str = "") -> Iterator[Line]:
        """Yield the last lines of a pod's log, then those that follow, until RunPod ends the stream.

        Args:
            pod: RunPod's name of it.
            tail: How many of those that are there.
            after: Id of a line: only what follows it is wanted.

        Raises:
            Quiet: It has said nothing for a minute.
            NoAnswer: The stream broke off.
            Gone: There is no such pod.
        """
        import urllib3

        path = f"/v2/pods/{pod}/logs?source=container&tail={tail}"
        headers = (
            self._headers | {"Accept": "text/event-stream"} | ({"Last-Event-ID": after} if after else {})
        )
        timeout = urllib3.Timeout(connect=_SECONDS, read=_QUIET_SECONDS)
        try:
            answer = self._pool.request(
                "GET", self._url + path, headers=headers, preload_content=False, timeout=timeout
            )
            with answer:
                if answer.status != 200:
                    raise _refusal("GET", path, answer.status, answer.read())
                yield from self._lines(answer, path)
        except urllib3.exceptions.ReadTimeoutError:
            raise Quiet("the log says nothing", where=f"RunPod GET {path}") from None
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer(f"the log broke off: {type(error).__name__}", where=f"RunPod GET {path}") from None

    def _lines(self, answer: Any, path: str) -> Iterator[Line]:
        identity = ""
        for raw in answer:  # chunks end with a line each, as urllib3 gives them
            text = raw.decode(errors="replace").rstrip("\r\n")
            if text.startswith("id:"):
                identity = text[3:].strip()
            elif text.startswith("data:"):
                line = self._decode(text[5:].encode(), Line, path)
                yield msgspec.structs.replace(line, id=identity)

    def remove(self, kind: str, identity: str) -> None:
        """Remove one of pods, clusters or network-volumes; one that is not there any more is removed."""
        try:
            self._repeat("DELETE", f"/v2/{kind}/{identity}")
        except Gone:
            return

    def billed(self, kind: str, identity: str) -> float:
        """Return what one of pods or clusters has cost so far, USD, as far as RunPod has counted it."""
        key = {"clusters": "clusterId", "pods": "podId"}[kind]
        records = self._list(f"/v2/billing/{kind}?{key}={identity}", "records", Billed)
        return sum(record.total_amount for record in records)

    def _list(self, path: str, name: str, kind: type[T]) -> list[T]:
        found = self._decode(self._repeat("GET", path), dict[str, Any], path)
        try:
            return msgspec.convert(found[name], list[kind])  # type: ignore[valid-type]
        except (KeyError, msgspec.ValidationError) as error:
            raise RemoteError(
                f"the answer is not as described: {error}", where=f"RunPod GET {path}"
            ) from None

    def _make(self, path: str, body: Sent, kind: type[T]) -> T:
        """Ask once, but for a refusal that says when to ask again.

        Raises:
            NoAnswer: It may have been made.
        """
        end = self._clock() + _PATIENCE
        while True:
            status, headers, data = self._once("POST", path, msgspec.json.encode(body))
            if status == 429 and self._wait(headers, 0, end):
                continue
            if status in {201, 200}:
                try:
                    return self._decode(data, kind, path)
                except RemoteError as error:
                    raise NoAnswer(f"{error.message}: it may have been made", where=error.where) from None
            if status >= 500:
                raise NoAnswer(f"answered with {status}: it may have been made", where=f"RunPod POST {path}")
            raise _refusal("POST", path, status, data)

    def _repeat(self, method: str, path: str, body: Sent | None = None) -> bytes:
        data_out = msgspec.json.encode(body) if body else None
        end, pause = self._clock() + _PATIENCE, _FIRST_PAUSE
        while True:
            try:
                status, headers, data = self._once(method, path, data_out)
            except NoAnswer:
                if self._clock() + pause > end:
                    raise
                status, headers, data = 0, {}, b""
            if 200 <= status < 300:
                return data
            if status and status != 429 and status < 500:
                raise _refusal(method, path, status, data)
            if not self._wait(headers, pause, end):
                raise _refusal(method, path, status, data)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _wait(self, headers: Any, pause: float, end: float) -> bool:
        """Wait as long as the answer says, or as given; say whether there was time for it."""
        told = headers.get("Retry-After", "")
        seconds = max(float(told), _FIRST_PAUSE) if told.isdecimal() else pause
        if not seconds or self._clock() + seconds > end:
            return False
        self._sleep(seconds)
        return True

    def _once(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any, bytes]:
        import urllib3

        headers = self._headers | ({"Content-Type": "application/json"} if body else {})
        try:
            answer = self._pool.request(method, self._url + path, body=body, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            raise NoAnswer(
                f"no answer: {type(error).__name__}", where=f"RunPod {method} {path}", fix="try again"
            ) from None
        return answer.status, answer.headers, answer.data

    @staticmethod
    def _decode(data: bytes, kind: type[T], path: str) -> T:
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise RemoteError(f"the answer is not as described: {error}", where=f"RunPod {path}") from None


def _refusal(method: str, path: str, status: int, data: bytes) -> ManyhostError:
    """Return what a refusal means (the retry rules of RunPod's POST /v2/pods)."""
    try:
        problem = msgspec.json.decode(data, type=Problem)
        said = "; ".join([problem.detail, *problem.errors])
    except (msgspec.ValidationError, msgspec.DecodeError):
        said = f"status {status}"  # a page of a proxy, say
    where = f"RunPod {method} {path.partition('?')[0]}"
    if status == 401:
        return NotReady(f"the key is not accepted: {said}", where=KEY, fix=f"export {KEY}=...")
    if status in _MEANINGS:
        kind, message, fix = _MEANINGS[status]
        return kind(message.format(said=said), where=where, fix=fix)
    return RemoteError(f"failed: {said}", where=where, fix="try again")


_MEANINGS: dict[int, tuple[type[ManyhostError], str, str]] = {
    400: (NotPlaced, "no capacity, or a rule that is broken: {said}", ""),
    402: (NotReady, "the balance is too low: {said}", "add credit in RunPod's console"),
    403: (NotReady, "the key may not do that: {said}", "use a key that may"),
    404: (Gone, "{said}", ""),
    422: (InvalidInput, "{said}", ""),
    429: (RemoteError, "too many requests: {said}", "wait some minutes"),
}
