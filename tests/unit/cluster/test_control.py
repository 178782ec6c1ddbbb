"""The key of the control channel: made once, looked for, and never printed."""

from __future__ import annotations

from typing import Any, cast

import pytest
from manyhost.cluster import control
from manyhost.cluster.connection import Connection, Refused

from tests.unit.cluster.doctor import Examine, Reply, Serve, a_target


class Api:
    """Takes a Secret, or refuses it."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.made: list[tuple[str, Any]] = []

    def create(self, path: str, body: Any) -> None:
        if self.status:
            raise Refused("no", status=self.status)
        self.made.append((path, body))


def test_each_release_has_a_key_of_its_own() -> None:
    api = Api()
    for _ in range(2):
        control.provide(cast("Connection", api), a_target().place)
    (path, first), (_, second) = api.made
    assert path == "/api/v1/namespaces/default/secrets"
    assert first["metadata"]["name"] == f"{a_target().release}-control"
    assert first["data"] != second["data"]
    assert set(first["data"]) == {control.ENTRY}


def test_the_key_that_is_there_stays() -> None:
    """Pods that run have it: another one would part them from those that come."""
    control.provide(cast("Connection", Api(409)), a_target().place)
    with pytest.raises(Refused):
        control.provide(cast("Connection", Api(403)), a_target().place)


@pytest.mark.parametrize(("ours", "bound"), [(True, True), (False, False)])
def test_the_key_goes_with_the_groups_unless_somebody_else_made_it(ours: bool, bound: bool) -> None:
    """helm uninstall knows nothing of it."""
    place = a_target().place
    api = Api()
    control.provide(cast("Connection", api), place)
    ((_, secret),) = api.made
    labels = secret["metadata"]["labels"] if ours else {}
    merged: list[Any] = []

    class Cluster:
        def find(self, path: str, *, metadata: bool) -> Any:
            return {"metadata": {"labels": labels, "uid": "1"}}

        def merge(self, path: str, patch: Any) -> None:
            merged.append((path, patch["metadata"]["ownerReferences"][0]["name"]))

    control.bind(cast("Connection", Cluster()), place)
    path = f"/api/v1/namespaces/default/secrets/{place.release}-control"
    assert merged == ([(path, place.release)] if bound else [])


@pytest.mark.parametrize(
    ("key", "group", "status", "why"),
    [
        ({"key": "c2VjcmV0"}, True, "pass", "has their key"),
        (None, False, "pass", "deploy makes Secret"),  # also of a release whose group was deleted
        (None, True, "warn", "does not exist: whoever reaches a leader's port may pose as a member"),
        ({}, True, "warn", "has no key"),
    ],
)
def test_doctor_looks_for_it(
    key: dict[str, str] | None, group: bool, status: str, why: str, serve: Serve, examined: Examine
) -> None:
    target = a_target()

    def answer(method: str, path: str, headers: Any) -> Reply:
        if path.endswith(f"/secrets/{target.release}-control"):
            return (404, {}, {"message": "no"}) if key is None else (200, {}, {"data": key})
        if path.endswith(f"/leaderworkersets/{target.release}") and not group:
            return 404, {}, {"message": "no"}
        labels = {"status": "deployed", "version": "1", "name": target.release, "owner": "helm"}
        return 200, {}, {"metadata": {}, "items": [{"metadata": {"name": "s", "labels": labels}}]}

    result = examined("control-key", target, f"http://{serve(answer)}")
    assert (result.status, why in result.why) == (status, True), result
    assert "c2VjcmV0" not in result.why + result.fix
    assert ("manyhost deploy" in result.fix) is (status == "warn")


def test_a_group_of_one_host_needs_none(serve: Serve, examined: Examine) -> None:
    result = examined("control-key", a_target(recipe="kubernetes/qwen3-8b"))
    assert result.status == "skip"
