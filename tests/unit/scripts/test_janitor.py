"""When the janitor frees hosts, when it must not, and what it asks the API server for."""

from __future__ import annotations

import copy
import importlib.util
import json
import urllib.error
from types import ModuleType
from typing import Any

import pytest

from tests.helpers.helm import CHART, find, render

NOW = 1767225600.0  # 2026-01-01T00:00:00Z
HELD = 60  # minutes


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("janitor", CHART / "launcher/janitor/janitor.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


janitor = load()


def ago(minutes: float) -> str:
    stamp: str = janitor.stamp(NOW - minutes * 60)
    return stamp


def group(name: str = "r", *, ready: int = 0, replicas: int = 1, age: float = 600, **notes: str) -> Any:
    """A LeaderWorkerSet of groups of two hosts, made some minutes ago."""
    annotations = {janitor.HELD_MINUTES: str(HELD), janitor.REVISION: "3"}
    annotations |= {f"manyhost.dev/{key.replace('_', '-')}": value for key, value in notes.items()}
    return {
        "metadata": {
            "name": name,
            "resourceVersion": "77",
            "creationTimestamp": ago(age),
            "annotations": annotations,
        },
        "spec": {"replicas": replicas, "leaderWorkerTemplate": {"size": 2}},
        "status": {"readyReplicas": ready, "conditions": [{"lastTransitionTime": ago(age)}]},
    }


def pod(changed: float, *, started: float = 600) -> Any:
    """A pod made and started some minutes ago, of which a condition changed later."""
    return {
        "metadata": {"name": "r-0", "creationTimestamp": ago(started)},
        "status": {
            "startTime": ago(started),
            "conditions": [
                {"type": "PodScheduled", "lastTransitionTime": ago(started)},
                {"type": "Ready", "lastTransitionTime": ago(changed)},
            ],
            "containerStatuses": [{"state": {"running": {"startedAt": ago(started)}}}],
        },
    }


RELEASED = {"released": json.dumps({"at": ago(5), "why": "w", "groups": 2, "revision": "3"})}


def decide(*sets: Any, pods: Any = ()) -> list[tuple[str, Any, str]]:
    before = copy.deepcopy(sets)
    found: list[tuple[str, Any, str]] = janitor.decide(list(sets), pods, NOW)
    assert sets == before
    return found


def test_a_lease_ends_groups_that_serve_too() -> None:
    lease = {"lease_until": ago(0), "lease_by": "ada"}
    ((name, patch, why),) = decide(group(ready=1, **lease))
    assert (name, patch["spec"]) == ("r", {"replicas": 0})
    assert why == f"the lease of ada ended at {ago(0)}"
    note = json.loads(patch["metadata"]["annotations"][janitor.RELEASED])
    assert note == {"at": ago(0), "why": why, "groups": 1, "revision": "3"}
    assert patch["metadata"]["resourceVersion"] == "77"  # refused when somebody renews it just now


def test_a_lease_that_runs_ends_nothing() -> None:
    assert decide(group(ready=1, lease_until=ago(-1))) == []


@pytest.mark.parametrize(
    ("sets", "pods", "why"),
    [
        ([group(ready=1)], [], "it serves"),
        ([group(ready=1, replicas=2)], [pod(600)], "one of its groups serves"),
        ([group(age=HELD - 1)], [], "it is young"),
        ([group()], [pod(HELD - 1)], "a pod has got on"),
        ([group()], [pod(600), pod(600, started=HELD - 1)], "one of its hosts has come late"),
        ([group()], None, "a pod may not be read"),
        ([group(replicas=0)], [], "it has no groups, by somebody's hand"),
        ([group(**RELEASED, replicas=0)], [], "it is released already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_is_freed_while(sets: list[Any], pods: Any, why: str) -> None:
    assert decide(*sets, pods=pods) == []


@pytest.mark.parametrize("pods", [[], [pod(HELD)], [pod(600), pod(HELD + 1)]])
def test_what_does_not_get_on_is_freed_at_the_deadline(pods: Any) -> None:
    ((_, patch, why),) = decide(group(age=HELD if not pods else 600), pods=pods)
    assert patch["spec"] == {"replicas": 0}
    assert "no group answers and nothing has changed since" in why
    assert f"more than {HELD} minutes" in why


def test_prefill_groups_alone_answer_nobody() -> None:
    """Both sets go at once; a prefill group that is ready keeps nothing."""
    changes = decide(group(), group("r-prefill", ready=1, replicas=2), pods=[pod(HELD)])
    assert [(name, patch["spec"]["replicas"]) for name, patch, _ in changes] == [("r", 0), ("r-prefill", 0)]
    notes = [json.loads(patch["metadata"]["annotations"][janitor.RELEASED]) for _, patch, _ in changes]
    assert [note["groups"] for note in notes] == [1, 2]
    assert decide(group(ready=1), group("r-prefill"), pods=[pod(HELD)]) == []


def test_an_upgrade_with_helm_alone_brings_the_groups_back() -> None:
    released = group(**RELEASED, replicas=0, lease_until=ago(5), lease_by="ada")
    assert decide(released) == []
    released["metadata"]["annotations"][janitor.REVISION] = "4"
    ((_, patch, why),) = decide(released)
    assert patch["spec"] == {"replicas": 2}
    # The lease that has ended would end it again at once.
    assert patch["metadata"]["annotations"] == {
        janitor.RELEASED: None, janitor.LEASE_UNTIL: None, janitor.LEASE_BY: None, janitor.STARTED: ago(0)
    }  # fmt: skip
    assert "revision 4" in why


def test_a_lease_that_was_renewed_stays_with_the_groups() -> None:
    released = group(**RELEASED, replicas=0, lease_until=ago(-60))
    released["metadata"]["annotations"][janitor.REVISION] = "4"
    ((_, patch, _),) = decide(released)
    assert patch["metadata"]["annotations"] == {janitor.RELEASED: None, janitor.STARTED: ago(0)}


def test_groups_that_somebody_has_started_are_no_longer_released() -> None:
    ((_, patch, _),) = decide(group(**RELEASED, replicas=1))
    assert "spec" not in patch
    assert patch["metadata"]["annotations"][janitor.RELEASED] is None


def test_what_people_have_written_themselves_stops_nothing() -> None:
    assert decide(group(released="by Ada", replicas=0)) == []
    ((_, patch, _),) = decide(group(released="by Ada"))
    assert patch["metadata"]["annotations"][janitor.RELEASED] is None
    assert decide(group(lease_until="tomorrow", ready=1)) == []
    ((_, patch, _),) = decide(group(lease_until="tomorrow"), pods=[pod(HELD)])
    assert patch["spec"] == {"replicas": 0}


# ------------------------------------------------------------------ one run


class Api:
    """Objects by path; notes what is patched."""

    now = NOW

    def __init__(self, objects: dict[str, Any], denied: str = "") -> None:
        self.objects, self.denied = objects, denied
        self.read: list[str] = []
        self.patched: dict[str, Any] = {}

    def call(self, path: str, patch: Any = None) -> Any:
        name = path.rpartition("/")[2]
        if name == self.denied:
            raise urllib.error.HTTPError(path, 403, "no", None, None)  # type: ignore[arg-type]
        if patch is not None:
            self.patched[name] = patch
            return {}
        self.read.append(name)
        return self.objects.get(name)


def test_pods_are_read_by_name_and_only_when_nothing_serves(capsys: pytest.CaptureFixture[str]) -> None:
    api = Api({"r": group(ready=1, replicas=2)})
    janitor.main(api, "n", ["r"])
    assert api.read == ["r"]
    assert (api.patched, capsys.readouterr().out) == ({}, "nothing to do\n")
    api = Api({"r": group(replicas=2)})
    janitor.main(api, "n", ["r"])
    assert api.read == ["r", "r-0", "r-0-1", "r-1", "r-1-1"]
    assert api.patched["r"]["spec"] == {"replicas": 0}
    assert "0 groups now" in capsys.readouterr().out


def test_a_lease_ends_groups_whose_pods_may_not_be_read() -> None:
    """Somebody has scaled it by hand beyond what the Role names."""
    api = Api({"r": group(replicas=3)}, denied="r-2")
    janitor.main(api, "n", ["r"])
    assert api.patched == {}
    api = Api({"r": group(replicas=3, lease_until=ago(1))}, denied="r-2")
    janitor.main(api, "n", ["r"])
    assert api.patched["r"]["spec"] == {"replicas": 0}


def test_a_release_that_has_gone_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    janitor.main(Api({}), "n", ["r"])
    assert capsys.readouterr().out == "there is no r\n"


def test_it_is_told_every_set_and_may_read_exactly_the_pods_that_it_asks_for() -> None:
    values: Any = {"janitor": {"enabled": True}, "vllm": {"replicaCount": 2}}
    apart: Any = {"roles": {"prefill": {"groups": 1}}, "model": {"tp_size": 16, "pp_size": 1}}
    for more in ({}, apart):
        objects = render({**values, **more})
        cron = find(objects, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
        sets, pods = find(objects, "Role")["rules"]
        named = [item for item in objects if item["kind"] == "LeaderWorkerSet"]
        assert cron["args"][1:] == sets["resourceNames"]
        assert cron["args"][:2] == ["default", "r1"]
        assert {item["metadata"]["name"] for item in named} == set(sets["resourceNames"])
        assert {name for item in named for name in janitor.pod_names(item)} == set(pods["resourceNames"])
        assert (sets["verbs"], pods["verbs"]) == (["get", "patch"], ["get"])
