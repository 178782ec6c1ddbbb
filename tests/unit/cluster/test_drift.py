"""What was changed in the cluster is seen and put back, and what the API adds by itself is neither."""

from __future__ import annotations

from typing import Any, cast

import pytest
from manyhost.cluster.connection import Connection, Forbidden, Object, path_of
from manyhost.cluster.drift import drift, heal
from manyhost.cluster.release import changes

LWS = path_of("leaderworkerset.x-k8s.io/v1", "leaderworkersets", "n", "r")
WANTED: Object = {
    "apiVersion": "leaderworkerset.x-k8s.io/v1",
    "kind": "LeaderWorkerSet",
    "metadata": {"name": "r", "labels": {"a": "b"}},
    "spec": {
        "replicas": 1,
        "hostNetwork": False,
        "template": {"containers": [{"name": "vllm", "image": "i:1", "env": [{"name": "E", "value": ""}],
                                     "resources": {"limits": {"memory": "1024Mi", "cpu": 1}}}]},
    },
}  # fmt: skip


def live(**spec: Any) -> Object:
    """The same as the API server has it: with defaults, quantities rewritten, empty fields gone."""
    container = {"name": "vllm", "image": "i:1", "imagePullPolicy": "Always", "env": [{"name": "E"}],
                 "resources": {"limits": {"memory": "1Gi", "cpu": "1"}}}  # fmt: skip
    return {
        **WANTED,
        "metadata": {"name": "r", "uid": "u", "labels": {"a": "b", "more": "yes"}, "generation": 3},
        "spec": {"replicas": 1, "startupPolicy": "x", "template": {"containers": [container]}, **spec},
        "status": {"replicas": 1},
    }


class Api:
    """One object, or none, or a refusal."""

    def __init__(self, found: Object | None) -> None:
        self.found, self.merged = found, dict[str, Object]()

    def find(self, path: str) -> Object | None:
        assert path == LWS
        if self.found == {}:
            raise Forbidden("no", status=403)
        return self.found

    def merge(self, path: str, patch: Object) -> Object:
        self.merged[path] = patch
        return patch


def image(name: str) -> Object:
    return {"containers": [{**live()["spec"]["template"]["containers"][0], "image": name}]}


@pytest.mark.parametrize(
    ("found", "action", "words", "patch"),
    [
        (live(), "", "", None),
        ({}, "", "", None),
        (None, "create", "", None),
        (live(replicas=3), "update", "spec.replicas: 3 in the cluster, 1", {"spec": {"replicas": 1}}),
        (
            live(template=image("i:2")), "update",
            "spec.template.containers[vllm].image: i:2 in the cluster, i:1 deployed",
            {"spec": {"template": WANTED["spec"]["template"]}},
        ),
        (live(hostNetwork=True), "update", "spec.hostNetwork: True in", {"spec": {"hostNetwork": False}}),
    ],
)  # fmt: skip
def test_drift(found: Object | None, action: str, words: str, patch: Object | None) -> None:
    api = Api(found)
    changes = drift(cast("Connection", api), "n", [WANTED])
    assert [change.action for change in changes] == ([action] if action else [])
    assert all(words in change.diff and change.drift for change in changes)
    if found != {}:
        heal(cast("Connection", api), "n", [WANTED])
        assert api.merged == ({LWS: patch} if patch else {})


@pytest.mark.parametrize("note", [{}, {"manyhost.dev/released": "{}"}])
def test_groups_that_the_janitor_has_taken_away_are_a_state_and_no_drift(note: dict[str, str]) -> None:
    found = live(replicas=0)
    found["metadata"] = {**found["metadata"], "annotations": {"manyhost.dev/revision": "7", **note}}
    wanted = {**WANTED, "metadata": {**WANTED["metadata"], "annotations": {"manyhost.dev/revision": "1"}}}
    changes = drift(cast("Connection", Api(found)), "n", [wanted])
    assert [change.diff for change in changes] == (
        [] if note else ["spec.replicas: 0 in the cluster, 1 deployed"]
    )


def test_the_revision_that_every_upgrade_changes_is_no_change() -> None:
    old, new = (
        {**WANTED, "metadata": {"name": "r", "annotations": {"manyhost.dev/revision": number, "a": text}}}
        for number, text in (("1", "b"), ("2", "b"))
    )
    assert changes(cast("list[Object]", [old]), [new]) == []
    new["metadata"]["annotations"]["a"] = "c"
    (change,) = changes(cast("list[Object]", [old]), [new])
    assert "revision" not in change.diff
