"""Frees the hosts of a release whose lease has ended, or of which nothing has answered for too long.

    python3 janitor.py NAMESPACE SET [SET]...

The sets are the release's LeaderWorkerSets, the one that answers clients first. One run looks once: the
CronJob of the chart starts it again and again. It may read and patch these sets and read their pods, by
name, and nothing else. All that it goes by stands in annotations of the sets:

    manyhost.dev/lease-until   the end of the lease, set by manyhost deploy --for
    manyhost.dev/lease-by      who set it
    manyhost.dev/held-minutes  how long hosts may be held while nothing answers (the chart)
    manyhost.dev/revision      Helm's revision; one that is newer than it was starts the groups again
    manyhost.dev/released      what this program has done: {"at", "why", "groups", "revision"}
    manyhost.dev/started       when groups that had been released were started again
"""

from __future__ import annotations

import json
import pathlib
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

Object = dict[str, Any]

LEASE_UNTIL = "manyhost.dev/lease-until"
LEASE_BY = "manyhost.dev/lease-by"
HELD_MINUTES = "manyhost.dev/held-minutes"
REVISION = "manyhost.dev/revision"
RELEASED = "manyhost.dev/released"
STARTED = "manyhost.dev/started"

ACCOUNT = pathlib.Path("/var/run/secrets/kubernetes.io/serviceaccount")
SERVER = "https://kubernetes.default.svc"
SECONDS = 20  # of one request


# ------------------------------------------------------------------ decisions


def decide(sets: list[Object], pods: Iterable[Object] | None, now: float) -> list[tuple[str, Object, str]]:
    """Say what to change.

    Args:
        sets: The release's LeaderWorkerSets, the one that answers clients first.
        pods: Their pods; None when one of them may not be read: it may be starting.
        now: The API server's clock.

    Returns:
        Name of the set, JSON merge patch and reason of each change; none when all is as it should be.
    """
    restored = [change for item in sets for change in _restored(item, now)]
    if restored:
        return restored
    running = [item for item in sets if _groups(item)]
    why = _why(sets[0], running, pods, now) if running else ""
    return [(item["metadata"]["name"], _release(item, why, now), why) for item in running if why]


def _restored(item: Object, now: float) -> list[tuple[str, Object, str]]:
    """What to do with a released set that somebody has started, or upgraded with Helm alone."""
    notes = _annotations(item)
    if RELEASED not in notes:
        return []
    # A lease that has ended would end the groups again at once.
    ended = _ended(notes, now)
    cleared = {RELEASED: None, STARTED: stamp(now), **({LEASE_UNTIL: None, LEASE_BY: None} if ended else {})}
    if _groups(item):
        return [(item["metadata"]["name"], _patch(item, cleared), "its groups were started again")]
    try:
        released = json.loads(notes[RELEASED])
        groups, revision = int(released["groups"]), released["revision"]
    except (ValueError, TypeError, LookupError):
        return []  # somebody's own words
    if notes.get(REVISION) == revision:
        return []
    patch = _patch(item, cleared, groups)
    return [(item["metadata"]["name"], patch, f"Helm has upgraded it to revision {notes.get(REVISION)}")]


def _why(main: Object, running: list[Object], pods: Iterable[Object] | None, now: float) -> str:
    """Why the hosts are to be freed; empty when they are not."""
    notes = _annotations(main)
    if _ended(notes, now):
        return f"the lease of {notes.get(LEASE_BY) or 'somebody'} ended at {notes[LEASE_UNTIL]}"
    if pods is None or int((main.get("status") or {}).get("readyReplicas") or 0):
        return ""
    changed = max(newest(item) for item in [*running, *pods])
    held = int(notes[HELD_MINUTES])
    if now - changed < held * 60:
        return ""
    return f"no group answers and nothing has changed since {stamp(changed)}, for more than {held} minutes"


def newest(item: Object) -> float:
    """When something last happened to a set or a pod: a start that gets on is not cut off."""
    status = item.get("status") or {}
    times = [item["metadata"].get("creationTimestamp"), status.get("startTime")]
    times += [condition.get("lastTransitionTime") for condition in status.get("conditions") or ()]
    for key in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(key) or ():
            for state in (container.get("state") or {}).values():
                times += [state.get("startedAt"), state.get("finishedAt")]
    return max(map(seconds, times))


def _release(item: Object, why: str, now: float) -> Object:
    notes = _annotations(item)
    released = {"at": stamp(now), "why": why, "groups": _groups(item), "revision": notes.get(REVISION)}
    return _patch(item, {RELEASED: json.dumps(released)}, 0)


def _patch(item: Object, annotations: Object, groups: int | None = None) -> Object:
    """A patch that is refused when somebody else has changed the set since it was read."""
    metadata = {"resourceVersion": item["metadata"]["resourceVersion"], "annotations": annotations}
    return {"metadata": metadata} if groups is None else {"metadata": metadata, "spec": {"replicas": groups}}


def _ended(notes: dict[str, str], now: float) -> bool:
    try:
        return bool(notes.get(LEASE_UNTIL)) and seconds(notes[LEASE_UNTIL]) <= now
    except ValueError:
        return False  # no time, and so no lease


def _annotations(item: Object) -> dict[str, str]:
    return item["metadata"].get("annotations") or {}


def _groups(item: Object) -> int:
    return int(item["spec"].get("replicas", 1))


def seconds(text: str | None) -> float:
    """A timestamp of the API, in seconds since the epoch; 0.0 for none."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp() if text else 0.0


def stamp(time: float) -> str:
    """Seconds since the epoch as a timestamp of the API."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# ------------------------------------------------------------------ the cluster


class Api:
    """The API server, as the pod's service account sees it.

    Args:
        server: Its address.
        account: Folder with token and certificate.

    Attributes:
        now: Its clock, of the last answer: the pod's own may be wrong.
    """

    def __init__(self, server: str = SERVER, account: pathlib.Path = ACCOUNT) -> None:
        self._server = server
        self._token = (account / "token").read_text().strip()
        self._context = ssl.create_default_context(cafile=str(account / "ca.crt"))
        self.now = 0.0

    def call(self, path: str, patch: Object | None = None) -> Object | None:
        """Read an object, None when there is none, or patch it.

        Raises:
            OSError: The server refuses it, or does not answer.
        """
        request = urllib.request.Request(  # noqa: S310  always https
            self._server + path,
            data=None if patch is None else json.dumps(patch).encode(),
            method="GET" if patch is None else "PATCH",
            headers={
                "Authorization": f"Bearer {self._token}",
                "Content-Type": "application/merge-patch+json",
                "User-Agent": "manyhost-janitor",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=SECONDS, context=self._context) as answer:  # noqa: S310
                self.now = parsedate_to_datetime(answer.headers["Date"]).timestamp()
                found: Object = json.load(answer)
                return found
        except urllib.error.HTTPError as error:
            if error.code == 404 and patch is None:
                return None
            raise


def say(text: str) -> None:
    """Write a line into the log of the pod."""
    print(text)  # noqa: T201


def pod_names(item: Object) -> list[str]:
    """The pods of a set: the LeaderWorkerSet controller names them so."""
    size = int(item["spec"]["leaderWorkerTemplate"].get("size", 1))
    leaders = [f"{item['metadata']['name']}-{group}" for group in range(_groups(item))]
    return [name for leader in leaders for name in [leader, *(f"{leader}-{i}" for i in range(1, size))]]


def main(api: Api, namespace: str, names: list[str]) -> None:
    """Look once, and change what is to be changed."""
    base = f"/apis/leaderworkerset.x-k8s.io/v1/namespaces/{namespace}/leaderworkersets/"
    sets = [item for name in names if (item := api.call(base + name))]
    if not sets or sets[0]["metadata"]["name"] != names[0]:
        say(f"there is no {names[0]}")
        return
    pods: list[Object] | None = []
    if not (sets[0].get("status") or {}).get("readyReplicas"):
        paths = [f"/api/v1/namespaces/{namespace}/pods/{name}" for item in sets for name in pod_names(item)]
        try:
            pods = [pod for path in paths if (pod := api.call(path))]
        except urllib.error.HTTPError as error:
            if error.code != 403:
                raise
            say("there are more groups than the release was deployed with")
            pods = None
    changes = decide(sets, pods, api.now)
    for name, patch, why in changes:
        api.call(base + name, patch)
        say(f"{name}: {why}: {patch.get('spec', {}).get('replicas', 'as many')} groups now")
    if not changes:
        say("nothing to do")


if __name__ == "__main__":
    main(Api(), sys.argv[1], sys.argv[2:])
