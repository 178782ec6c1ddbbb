"""Watches pods until they have said or answered what is waited for."""

from __future__ import annotations

import queue
import re
import threading
import time
from collections.abc import Callable, Iterator

from manyhost.errors import Failed, NotReady, RemoteError
from manyhost.runpod.api import Api, Gone, NoAnswer
from manyhost.runpod.launch import PORT
from manyhost.runpod.models import Pod

_EVERY_SECONDS = 5.0
_TAIL = 200
_WHOLE = 1000  # lines: of a log that must be there whole, each 8,000 characters of evidence
_SAID = re.compile(r"^manyhost[: ]")
_HELD = re.compile(r'^manyhost phase=held (?:.*?reason="([^"]*)")?')
_OVER = {"EXITED", "ERROR", "TERMINATED"}
Tell = Callable[[str], None]


class Log:
    """A pod's log, each line once; after a break it goes on where it was.

    Args:
        api: RunPod.
        pod: RunPod's name of it.
        tail: How many of the lines that are there.
    """

    def __init__(self, api: Api, pod: str, tail: int) -> None:
        self._api, self._pod, self._tail = api, pod, tail
        self._last, self._seen = "", set[str]()

    def lines(self) -> Iterator[str]:
        """Yield what has not been there yet, until the stream ends; it breaks off as Api.logs does."""
        for line in self._api.logs(self._pod, self._tail, self._last):
            if line.id:
                known, self._last = line.id in self._seen, line.id
                self._seen.add(line.id)
                if known:
                    continue
            yield line.line


class Lines:
    """What a pod says, read beside what else is done; a stream that breaks off is taken up where it was.

    Args:
        api: RunPod.
        pod: RunPod's name of it.
        tail: How many of the lines that are there.
    """

    def __init__(self, api: Api, pod: str, tail: int = _TAIL) -> None:
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._log, self._end = Log(api, pod, tail), threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def new(self) -> Iterator[str]:
        """Yield what came since the last call."""
        while not self._lines.empty():
            yield self._lines.get()

    def close(self) -> None:
        """Read no more."""
        self._end.set()

    def _read(self) -> None:
        while not self._end.is_set():
            try:
                for line in self._log.lines():
                    self._lines.put(line)
                    if self._end.is_set():
                        return
            except (Gone, NoAnswer, RemoteError, NotReady):
                pass
            self._end.wait(_EVERY_SECONDS)


def staged(
    api: Api,
    pod: str,
    seconds: float,
    tell: Tell,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Wait until a staging pod says that all is on the volume.

    Args:
        api: RunPod.
        pod: RunPod's name of it.
        seconds: That it may take.
        tell: Told what the pod says.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.

    Raises:
        Failed: It says that it cannot, or has ended.
        RemoteError: It has taken longer than it may.
    """
    lines, end = Lines(api, pod), clock() + seconds
    try:
        while clock() < end:
            for line in lines.new():
                if line.startswith("manyhost: failed:"):
                    raise Failed(line.removeprefix("manyhost: failed: "), where="staging")
                if line == "manyhost: staged":
                    return
                tell(line)
            _alive([found for found in api.pods() if found.id == pod], 1, "the staging pod")
            sleep(_EVERY_SECONDS)
    finally:
        lines.close()
    raise RemoteError(f"weights are not on the volume after {seconds / 60:.0f} min", where="staging")


def measured(
    api: Api,
    pod: str,
    seconds: float,
    last: Callable[[str], bool],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> list[str]:
    """Return what a pod that sends a load says, up to its last line.

    Args:
        api: RunPod.
        pod: RunPod's name of it.
        seconds: That it may take.
        last: Told each line as it comes; says whether it is the last one.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.

    Raises:
        Failed: It says that it cannot, or has ended.
        RemoteError: It has taken longer than it may.
    """
    lines, said, end = Lines(api, pod, _WHOLE), list[str](), clock() + seconds
    try:
        while clock() < end:
            for line in lines.new():
                said.append(line)
                if last(line):
                    return said
                if line.startswith("manyhost: failed:"):
                    raise Failed(line.removeprefix("manyhost: failed: "), where="load")
            _alive([found for found in api.pods() if found.id == pod], 1, "the pod that sends the load")
            sleep(_EVERY_SECONDS)
    finally:
        lines.close()
    raise RemoteError(f"there is no result after {seconds / 60:.0f} min", where="load")


def serving(
    members: Callable[[], list[Pod]],
    api: Api,
    hosts: int,
    ask: Callable[[str], str],
    seconds: float,
    tell: Tell,
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Wait until a group answers, and return its URL.

    Args:
        members: Its pods.
        api: RunPod.
        hosts: How many it must have.
        ask: Asks a URL for an answer, and returns what is missing, or nothing.
        seconds: That it may take.
        tell: Told what the pods say.
        sleep: How to wait, seconds.
        clock: Seconds of a clock that only goes on.

    Raises:
        Failed: A member says that it cannot, or has ended.
        RemoteError: It has taken longer than it may.
    """
    logs: dict[str, Lines] = {}
    end, state = clock() + seconds, "no pods yet"
    seen = 0
    try:
        while clock() < end:
            pods = members()
            _alive(pods, seen, "a member")
            seen = max(seen, len(pods))
            for pod in pods:
                if pod.status == "RUNNING" and pod.id not in logs:
                    logs[pod.id] = Lines(api, pod.id)
            for pod in pods:
                for line in logs[pod.id].new() if pod.id in logs else ():
                    _hear(line, rank(pod), tell)
            running = [pod for pod in pods if pod.status == "RUNNING"]
            url = address(pods)
            if len(running) < hosts:
                state = f"{len(running)} of {hosts} pods run"
            elif not url:
                state = "RunPod has not published the API's port"
            elif not (state := ask(url)):
                return url
            sleep(_EVERY_SECONDS)
    finally:
        for lines in logs.values():
            lines.close()
    raise RemoteError(f"no answer after {seconds / 60:.0f} min: {state}", where="RunPod")


def answers(url: str, key: str, model: str) -> str:
    """Ask a server for one token, and return what is missing; nothing when it answers.

    Raises:
        NotReady: It has another key.
    """
    import urllib3

    pool = urllib3.PoolManager(timeout=urllib3.Timeout(connect=5, read=60), retries=False)
    body = {"model": model, "prompt": "1", "max_tokens": 1}
    try:
        health = pool.request("GET", f"{url}/health")
        if health.status != 200:
            return f"/health answers {health.status}"
        answer = pool.request(
            "POST", f"{url}/v1/completions", json=body, headers={"Authorization": f"Bearer {key}"}
        )
    except urllib3.exceptions.HTTPError as error:
        return f"no connection yet ({type(error).__name__})"
    if answer.status == 401:
        raise NotReady(
            "is not the key of the server: RunPod's secret manyhost_api is another one", where="VLLM_API_KEY"
        )
    return "" if answer.status == 200 else f"/v1/completions answers {answer.status}"


def rank(pod: Pod) -> int:
    """Return the rank of a pod in its cluster; 0 for one that is alone or has none yet."""
    return (pod.cluster.rank or 0) if pod.cluster else 0


def address(pods: list[Pod]) -> str:
    """Return the URL of the API of a group, as RunPod publishes it; empty as long as it does not."""
    for pod in pods:
        if rank(pod) or not pod.runtime or (pod.cluster and pod.cluster.rank is None):
            continue
        for port in pod.runtime.ports:
            if port.private == PORT and port.public and port.ip:
                return f"http://{port.ip}:{port.public}"
    return ""


def _hear(line: str, number: int, tell: Tell) -> None:
    if line.startswith("manyhost: failed:"):
        raise Failed(line.removeprefix("manyhost: failed: "), where=f"rank {number}")
    if held := _HELD.match(line):  # final until somebody deploys again
        raise Failed(held[1] or "it does not say why", where=f"rank {number} holds")
    if _SAID.match(line):
        tell(f"rank {number}: {line}")


def _alive(pods: list[Pod], least: int, what: str) -> None:
    if len(pods) < least:
        raise Failed(f"{what} is gone", where="RunPod")
    for pod in pods:
        if pod.status in _OVER:
            raise Failed(f"{what}, pod {pod.id}, is {pod.status}", where="RunPod")
