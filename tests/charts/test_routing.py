"""A Gateway before the groups: the pool, the route and GKE's policies, and what cannot work with them."""

from __future__ import annotations

from typing import Any

import jsonschema_rs
import pytest
import yaml
from manyhost.checks import run
from manyhost.checks.schemas import check_object

from tests.charts.test_pods import CONFIGURATIONS
from tests.charts.test_schemas import closed
from tests.helpers.helm import ROOT, Object, RenderError, find, kinds, merge, nest, notes, pod, render
from tests.helpers.shared import shared_dir
from tools import extract_crd_schemas

ON: Object = {"routing": "inferencepool", "gateway": {"name": "g", "endpointPicker": {"name": "epp"}}}
GKE = merge(ON, nest("gateway.gke", True))
APART: Object = {
    "host": {"gpus": 1, "networks": []},
    "network": {"interconnect": "none"},
    "model": {"tp_size": 1, "pp_size": 1},
    "roles": {"prefill": {"groups": 2}},
}
KINDS = {"InferencePool", "HTTPRoute", "GCPBackendPolicy", "HealthCheckPolicy"}
LWS = "leaderworkerset.sigs.k8s.io"


def routed(*values: Object) -> list[Object]:
    return render(merge(ON, *values))


def test_the_service_alone_is_the_default() -> None:
    assert not KINDS & set(kinds(render()))


def test_a_pool_a_route_and_on_gke_its_policies_beside_the_same_service() -> None:
    plain, here, gke = render(), routed(), render(GKE)
    assert set(kinds(here)) - set(kinds(plain)) == {"InferencePool", "HTTPRoute"}
    assert set(kinds(gke)) - set(kinds(plain)) == KINDS
    assert [item for item in here if item["kind"] not in KINDS] == plain
    scaled: Object = {
        "vllm": {"replicaCount": 3},
        "podDisruptionBudget": {"enabled": True},
        "autoscaling": {"enabled": True, "minReplicas": 2, "maxReplicas": 4},
    }
    for kind in ("HorizontalPodAutoscaler", "PodDisruptionBudget"):
        assert find(routed(scaled), kind) == find(render(scaled), kind)


@pytest.mark.parametrize("values", [{}, nest("vllm.service.ports.http", 8080)])
def test_the_pool_is_the_leaders_that_answer_and_the_port_of_the_api(values: Object) -> None:
    objects = routed(values)
    pool = find(objects, "InferencePool")["spec"]
    service = next(item for item in objects if item["metadata"]["name"] == "r1-svc")
    assert pool["selector"]["matchLabels"] == service["spec"]["selector"]
    assert [port["number"] for port in pool["targetPorts"]] == [service["spec"]["ports"][0]["port"]]
    assert pool["endpointPickerRef"] == {
        "name": "epp", "port": {"number": 9002}, "failureMode": "FailOpen",
    }  # fmt: skip
    # What LeaderWorkerSet labels its pods with, for every set of the release.
    for item in (item for item in objects if item["kind"] == "LeaderWorkerSet"):
        answers = item["metadata"]["labels"].get("manyhost.dev/role") != "prefill"
        for role, index in (("leader", "0"), ("worker", "1")):
            labels = pod([item], role)["metadata"]["labels"]
            labels = labels | {f"{LWS}/name": item["metadata"]["name"], f"{LWS}/worker-index": index}
            chosen = pool["selector"]["matchLabels"].items() <= labels.items()
            assert chosen == (answers and role == "leader")


@pytest.mark.parametrize(
    ("seconds", "limit", "policy"), [(0, "0s", 86_400), (600, "600s", 600), (86_400, "86400s", 86_400)]
)
def test_a_stream_has_as_long_as_is_said(seconds: int, limit: str, policy: int) -> None:
    objects = render(
        merge(GKE, nest("gateway.timeoutSeconds", seconds), nest("lifecycle.drainSeconds", 7200))
    )
    (rule,) = find(objects, "HTTPRoute")["spec"]["rules"]
    assert rule["timeouts"] == {"request": limit, "backendRequest": limit}
    default = find(objects, "GCPBackendPolicy")["spec"]["default"]
    assert default == {"timeoutSec": policy, "connectionDraining": {"drainingTimeoutSec": 3600}}


def test_the_route_belongs_to_the_gateway_that_is_named() -> None:
    spec = find(routed(), "HTTPRoute")["spec"]
    (parent,) = spec["parentRefs"]
    assert (parent["kind"], parent["namespace"], parent["name"]) == ("Gateway", "default", "g")
    assert "hostnames" not in spec
    more = {"gateway": {"namespace": "infra", "hostnames": ["r1.example.com", "*.example.org"]}}
    spec = find(routed(more), "HTTPRoute")["spec"]
    assert spec["parentRefs"][0]["namespace"] == "infra"
    assert spec["hostnames"] == ["r1.example.com", "*.example.org"]


def test_gke_asks_for_the_health_of_the_engine() -> None:
    objects = render(GKE)
    for kind in ("GCPBackendPolicy", "HealthCheckPolicy"):
        target = find(objects, kind)["spec"]["targetRef"]
        assert target == {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "r1"}
    config = find(objects, "HealthCheckPolicy")["spec"]["default"]["config"]
    assert config == {"type": "HTTP", "httpHealthCheck": {"requestPath": "/health"}}


def test_a_measurement_is_not_reached_through_a_gateway() -> None:
    assert not KINDS & set(kinds(render(merge(GKE, CONFIGURATIONS["tcpxo"], {"mode": "nccl"}))))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (APART, "routing: inferencepool leads past the router"),
        (nest("gateway.name", ""), "gateway.name: empty, but routing is inferencepool"),
        (nest("gateway.endpointPicker.name", ""), "gateway.endpointPicker.name: empty, but routing is"),
        (
            nest("vllm.serverArgs", {"ssl-certfile": "/c"}),
            "vllm.serverArgs.ssl-certfile: a Gateway speaks plain",
        ),
        (
            {
                "gateway": {"gke": True},
                "networkPolicy": {"allowedNamespaces": ["infra"]},
            },
            "networkPolicy.allowedNamespaces: would shut out the load balancer of a GKE Gateway",
        ),
        (nest("gateway.endpointPicker.failureMode", "Never"), "failureMode"),
        (nest("gateway.timeoutSeconds", 86_401), "timeoutSeconds"),
        (nest("routing", "ingress"), "routing"),
    ],
)
def test_what_cannot_work_is_refused(values: Object, words: str) -> None:
    with pytest.raises(RenderError, match=words.replace("(", r"\(")):
        routed(values)
    assert find(routed({"networkPolicy": {"allowedNamespaces": ["infra"]}}), "NetworkPolicy")


@pytest.mark.parametrize("values", [GKE, merge(GKE, CONFIGURATIONS["tcpxo"])])
def test_the_objects_have_the_shape_that_our_schemas_know(values: Object) -> None:
    more = nest("gateway.hostnames", ["r1.example.com"])
    objects = [item for item in render(merge(values, more)) if item["kind"] in KINDS]
    assert len(objects) == 4
    for item in objects:
        assert list(check_object(item)) == []
        item["spec"]["slector"] = {}
        assert [finding.check for finding in check_object(item)] == ["schema"]


def test_the_checks_have_nothing_against_them() -> None:
    assert [finding for finding in run(render(GKE)) if finding.check == "routing"] == []


# ------------------------------------------------------------------------------- upstream
def crds() -> Any:
    folder = shared_dir()
    names = [
        extract_crd_schemas.file_name(group, plural) for _, group, _, plural, _ in extract_crd_schemas.KINDS
    ]
    if folder is None or not all((folder / "crds" / name).is_file() for name in names):
        pytest.skip("the upstream CRDs are not here")
    return folder / "crds"


def test_our_schemas_are_what_the_crds_say() -> None:
    committed = (ROOT / "generator/manyhost/checks/gateway.json").read_text()
    assert committed == extract_crd_schemas.schemas(crds())


def test_the_objects_fit_the_crds() -> None:
    folder = crds()
    objects = render(GKE)
    for kind, group, _, plural, _ in extract_crd_schemas.KINDS:
        text = (folder / extract_crd_schemas.file_name(group, plural)).read_text()
        schema = closed(
            yaml.load(text, Loader=yaml.CSafeLoader)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
        )
        schema["properties"]["metadata"] = {"type": "object"}
        validator = jsonschema_rs.validator_for(schema)
        assert [error.message for error in validator.iter_errors(find(objects, kind))] == []


def test_notes_say_where_clients_come_in() -> None:
    assert "Gateway default/g" in notes(ON)
    assert "Gateway" not in notes()
