"""A release behind a Gateway: deployed, looked at, used and removed on a real API server.

No Gateway runs here: the kinds are served, and the test says what a Gateway's controller would.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.place import Place, everything, names_of, run, standin
from tests.helpers.shared import shared_dir
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]
KINDS = (
    ("Gateway", "gateways", "gateway.networking.k8s.io"),
    ("HTTPRoute", "httproutes", "gateway.networking.k8s.io"),
    ("InferencePool", "inferencepools", "inference.networking.k8s.io"),
)


def definition(kind: str, plural: str, group: str) -> str:
    """Upstream's CRD where it is at hand, else one that takes any fields."""
    folder = shared_dir()
    file = folder / "crds" / f"{plural}.{group}.yaml" if folder else None
    if file and file.is_file():
        return file.read_text()
    anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"type": "object", "properties": {"spec": anything, "status": anything}}
    return json.dumps(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {
                "name": f"{plural}.{group}",
                "annotations": {"api-approved.kubernetes.io": "unapproved, for a test"},
            },
            "spec": {
                "group": group,
                "scope": "Namespaced",
                "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
                "versions": [
                    {
                        "name": "v1",
                        "served": True,
                        "storage": True,
                        "subresources": {"status": {}},
                        "schema": {"openAPIV3Schema": schema},
                    }
                ],
            },
        }
    )


@pytest.fixture
def kinds(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """The kinds of a Gateway, served by the cluster; taken away afterwards where they were not there."""
    folder = tmp_path_factory.mktemp("crds")
    added = []
    for kind, plural, group in KINDS:
        name = f"{plural}.{group}"
        if place.names("crd", name):
            continue
        (folder / f"{name}.yaml").write_text(definition(kind, plural, group))
        place.kube("apply", "--server-side", "-f", str(folder / f"{name}.yaml"))
        added.append(name)
    for _, plural, group in KINDS:
        place.kube("wait", "--for=condition=established", f"crd/{plural}.{group}", "--timeout=30s")
    yield added
    for name in added:
        place.kube("delete", "crd", name, "--wait=false")


def patch_status(place: Place, namespace: str, what: str, status: dict[str, Any]) -> None:
    """Write a status as the controller of a Gateway would."""
    body = json.dumps({"status": status})
    place.kube("patch", what, "-n", namespace, "--subresource=status", "--type=merge", "-p", body)


def conditions(**given: bool) -> list[dict[str, Any]]:
    return [
        {
            "type": name,
            "status": str(value),
            "reason": "Test",
            "message": f"{name} by the test",
            "observedGeneration": 1,
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for name, value in given.items()
    ]


def accepted(place: Place, namespace: str, *, pool: bool) -> None:
    for what, good in (("httproute/tiny-r1", True), ("inferencepool/tiny-r1", pool)):
        parent = {
            "parentRef": {"name": "g", "namespace": namespace},
            "controllerName": "example.com/test",
            "conditions": conditions(Accepted=True, ResolvedRefs=good),
        }
        patch_status(place, namespace, what, {"parents": [parent]})


def make(place: Place, namespace: str, *objects: dict[str, Any]) -> None:
    folder = place.kubeconfig.parent
    for item in objects:
        path = folder / f"routing-{item['kind'].lower()}.json"
        path.write_text(json.dumps(item))
        place.kube("apply", "-n", namespace, "-f", str(path))
        path.unlink()


def test_without_the_kinds_nothing_is_deployed(place: Place, image: tuple[str, str], namespace: str) -> None:
    if place.names("crd", "inferencepools.inference.networking.k8s.io"):
        pytest.skip("this cluster serves them")
    settings = ("routing=inferencepool", "gateway.name=g", "gateway.picker.name=epp")
    here = ["--namespace", namespace, *standin(image, *settings)]
    done = run("deploy", "local", *here)
    assert done.code == 4
    assert "the cluster does not serve" in done.err
    assert "kubectl apply --server-side -f https://github.com/kubernetes-sigs/" in done.err
    # A release without a Gateway asks for nothing of it, and its removal neither.
    run("deploy", "local", "--namespace", namespace, *standin(image), "--timeout", "120").ok()
    run("teardown", "local", "--namespace", namespace, *standin(image), "--yes", "--timeout", "60").ok()


def test_a_gateway_before_the_groups(
    place: Place, image: tuple[str, str], namespace: str, kinds: list[str]
) -> None:
    settings = ("routing=inferencepool", "gateway.name=g", "gateway.picker.name=epp", "groups=2")
    here = ["--namespace", namespace, *standin(image, *settings)]

    def doctor() -> dict[str, str]:
        found = run("doctor", "local", *here, "--output", "json").output.result["checks"]
        return {item["why"]: item["status"] for item in found if item["check"] == "routing"}

    def said(words: str) -> bool:
        return any(words in why for why in doctor())

    assert doctor() == {f"Gateway g in namespace {namespace} does not exist": "fail"}
    gateway = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "metadata": {"name": "g"},
        "spec": {
            "gatewayClassName": "test",
            "listeners": [
                {
                    "name": "http",
                    "port": 80,
                    "protocol": "HTTP",
                    "allowedRoutes": {"namespaces": {"from": "Same"}},
                }
            ],
        },
    }
    picker = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "epp"},
        "spec": {"ports": [{"port": 9002}]},
    }
    make(place, namespace, gateway)
    assert said("is not programmed: its controller has not said so")
    patch_status(place, namespace, "gateway/g", {"conditions": conditions(Programmed=True)})
    assert said("Service epp does not exist")
    assert set(doctor().values()) == {"warn"}
    make(place, namespace, picker)
    assert set(doctor().values()) == {"pass"}
    before = everything(place, namespace)

    run("deploy", "local", *here, "--timeout", "120").ok()
    pool = place.get("inferencepool", "tiny-r1", "-n", namespace)["spec"]
    labels = ",".join(f"{key}={value}" for key, value in pool["selector"]["matchLabels"].items())
    chosen = place.get("pods", "-n", namespace, "-l", labels)["items"]
    assert names_of(chosen) == ["tiny-r1-0", "tiny-r1-1"]  # of four pods the two leaders
    assert [port["number"] for port in pool["targetPorts"]] == [8000]
    (rule,) = place.get("httproute", "tiny-r1", "-n", namespace)["spec"]["rules"]
    assert rule["timeouts"] == {"request": "0s", "backendRequest": "0s"}

    shown = run("status", "local", *here).ok().out
    assert f"gateway {namespace}/g has not taken it on" in shown
    assert "HTTPRoute tiny-r1 was not taken on by any Gateway yet" in shown
    accepted(place, namespace, pool=False)
    shown = run("status", "local", *here).ok().out
    assert "InferencePool tiny-r1: ResolvedRefs is False: ResolvedRefs by the test" in shown
    accepted(place, namespace, pool=True)
    found = run("status", "local", *here, "--output", "json").ok().output.result
    assert found["routing"] == {
        "gateway": f"{namespace}/g",
        "hostnames": [],
        "accepted": True,
        "problems": [],
    }
    assert found["drift"] == []
    spoken = run("chat", "local", *here, "--prompt", "hello", "--output", "json").ok().output.result
    assert "hello" in spoken["answer"]
    again = run("deploy", "local", *here, "--output", "json").ok().output.result
    assert again["proposal"]["action"] == "nothing"

    # Somebody points the pool elsewhere: seen, and put back.
    worse = json.dumps({"spec": {"targetPorts": [{"number": 9000}]}})
    place.kube("patch", "inferencepool", "tiny-r1", "-n", namespace, "--type=merge", "-p", worse)
    drift = run("status", "local", *here, "--output", "json").ok().output.result["drift"]
    assert [(change["kind"], change["action"]) for change in drift] == [("InferencePool", "update")]
    run("deploy", "local", *here, "--timeout", "120").ok()
    assert place.get("inferencepool", "tiny-r1", "-n", namespace)["spec"]["targetPorts"] == [{"number": 8000}]

    # Back to the Service alone: what belonged to the Gateway goes.
    plain = ["--namespace", namespace, *standin(image, "groups=2")]
    run("deploy", "local", *plain, "--timeout", "120").ok()
    assert not place.names("inferencepools,httproutes", "-n", namespace)
    run("deploy", "local", *here, "--timeout", "120").ok()
    begin = time.monotonic()
    run("teardown", "local", *here, "--yes", "--timeout", "60").ok()
    until("nothing of it left", lambda: everything(place, namespace) == before, 10)
    print(f"teardown to nothing: {time.monotonic() - begin:.1f} s")
