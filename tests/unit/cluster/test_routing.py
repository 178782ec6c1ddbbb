"""The Gateway of a release, as status and doctor see it; tests/e2e/test_routing.py has the real API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest
from manyhost.cluster.connection import Connection, Forbidden, Missing, path_of
from manyhost.cluster.doctor import CHECKS, Result, examine
from manyhost.cluster.routing import Routing, routing
from manyhost.cluster.target import Target, from_rendered
from manyhost.cluster.teardown import inventory
from manyhost.commands import Commands
from manyhost.render import build

from tests.helpers import fixes

RECIPE = "a3mega/deepseek-r1-671b"
ON = ("routing=inferencepool", "gateway.name=g", "gateway.namespace=infra", "gateway.picker.name=epp")
TARGET = from_rendered(build(RECIPE, assignments=ON, namespace="n"))
PLACE = TARGET.place
NAME = TARGET.release
ROUTES = path_of("gateway.networking.k8s.io/v1", "httproutes", "n")
POOLS = path_of("inference.networking.k8s.io/v1", "inferencepools", "n")
GATEWAY = path_of("gateway.networking.k8s.io/v1", "gateways", "infra", "g")
PICKER = path_of("v1", "services", "n", "epp")
SERVED = {
    "gateway.networking.k8s.io/v1": ["Gateway", "HTTPRoute"],
    "inference.networking.k8s.io/v1": ["InferencePool"],
    "networking.gke.io/v1": ["GCPBackendPolicy", "HealthCheckPolicy", "Network"],
}
Object = dict[str, Any]


class Api:
    """Objects and lists by path.

    Attributes:
        context: Name of the kubeconfig context.
        objects: What is there.
        closed: Words of paths that the user may not list.
    """

    def __init__(self, **apis: list[str]) -> None:
        self.context = "here"
        self.commands = Commands(context="here", namespace="n", recipe=RECIPE)
        self.objects: dict[str, Any] = {
            f"/apis/{version}": {"resources": [{"kind": kind} for kind in kinds]}
            for version, kinds in (SERVED | apis).items()
        }
        self.closed: tuple[str, ...] = ()

    def find(self, path: str, *, metadata: bool = False) -> Object | None:
        found: Object | None = self.objects.get(path)
        return found

    def pages(self, path: str, *_: Any, **__: Any) -> Iterator[Object]:
        if path.rpartition("/")[2] in self.closed:
            raise Forbidden("no", status=403)
        if path not in self.objects:
            raise Missing("no such thing", status=404)
        yield from self.objects[path]


def condition(type_: str, status: str = "True", message: str = "") -> Object:
    return {"type": type_, "status": status, "reason": "R", "message": message}


def route(*conditions: Object, name: str = NAME) -> Object:
    return {
        "metadata": {"name": name},
        "spec": {"parentRefs": [{"name": "g", "namespace": "infra"}], "hostnames": ["r1.example.com"]},
        "status": {"parents": [{"conditions": list(conditions)}]},
    }


def pool(*conditions: Object) -> Object:
    return {"metadata": {"name": NAME}, "spec": {}, "status": {"parents": [{"conditions": list(conditions)}]}}


GOOD = (condition("Accepted"), condition("ResolvedRefs"), condition("Programmed", "False"))


def seen(api: Api) -> Routing | None:
    return routing(cast("Connection", api), PLACE)


@pytest.mark.parametrize(
    ("routes", "pools", "problems"),
    [
        ([route(*GOOD)], [pool(*GOOD)], []),
        (
            [route()],
            [pool(*GOOD)],
            [f"HTTPRoute {NAME} was not taken on by any Gateway yet"],
        ),
        (
            [route(*GOOD)],
            [pool(condition("Accepted"), condition("ResolvedRefs", "False", "Service epp\nnot found"))],
            [f"InferencePool {NAME}: ResolvedRefs is False: Service epp not found"],
        ),
        (
            [route(condition("Accepted", "False", "not allowed by listeners"))],
            [],
            [
                f"HTTPRoute {NAME}: Accepted is False: not allowed by listeners",
                f"InferencePool {NAME} is not there",
            ],
        ),
    ],
)
def test_status_says_what_the_controllers_say(
    routes: list[Object], pools: list[Object], problems: list[str]
) -> None:
    api = Api()
    api.objects |= {ROUTES: [route(name="other"), *routes], POOLS: pools}
    assert seen(api) == Routing(
        gateway="infra/g", hostnames=["r1.example.com"], accepted=not problems, problems=problems
    )


def test_status_has_nothing_to_say_without_a_route() -> None:
    api = Api()
    assert seen(api) is None  # a cluster without the API
    api.objects[ROUTES] = [route(name="other")]
    assert seen(api) is None
    api.closed = ("httproutes",)  # a reader who may not see it
    assert seen(api) is None


def gateway(*listeners: Object, programmed: str = "True") -> Object:
    return {
        "metadata": {"name": "g", "namespace": "infra"},
        "spec": {"listeners": list(listeners)},
        "status": {"conditions": [condition("Programmed", programmed, "no address left")]},
    }


def listener(protocol: str = "HTTP", **namespaces: Any) -> Object:
    return {"protocol": protocol, "allowedRoutes": {"namespaces": namespaces}}


ALL = listener(**{"from": "All"})


def service(*ports: int) -> Object:
    return {"spec": {"ports": [{"port": port} for port in ports]}}


def examined(api: Api, target: Target = TARGET) -> list[Result]:
    return examine(cast("Connection", api), target, skip=set(CHECKS) - {"routing"})


@pytest.fixture
def api() -> Api:
    """A cluster that has all that is needed."""
    made = Api()
    made.objects |= {GATEWAY: gateway(ALL), PICKER: service(9002)}
    return made


def test_doctor_is_content_and_has_nothing_to_look_at_without_a_gateway(api: Api) -> None:
    (result,) = examined(api)
    assert (result.status, result.fix) == ("pass", "")
    (result,) = examined(Api(), from_rendered(build(RECIPE, namespace="n")))
    assert result.status == "skip"


@pytest.mark.parametrize(
    ("changes", "status", "why", "fix"),
    [
        ({GATEWAY: None}, "fail", "Gateway g in namespace infra does not exist", "kubectl get gateways"),
        (
            {GATEWAY: gateway(ALL, programmed="False")},
            "fail",
            "is not programmed: no address left",
            "kubectl describe gateway g --namespace infra",
        ),
        (
            {GATEWAY: gateway(listener())},
            "fail",
            "takes routes from namespace n",
            "kubectl describe gateway g",
        ),
        ({GATEWAY: gateway(listener("TCP", **{"from": "All"}))}, "fail", "takes routes from namespace n", ""),
        (
            {PICKER: None},
            "warn",
            "Service epp does not exist in namespace n: until it does",
            "gateway.picker",
        ),
        ({PICKER: service(80, 9090)}, "warn", "Service epp has 80, 9090, not 9002", "gateway.picker"),
        (
            {"/apis/inference.networking.k8s.io/v1": None},
            "fail",
            "does not serve inference.networking.k8s.io/v1 InferencePool",
            "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api-inference-extension",
        ),
        (
            {"/apis/gateway.networking.k8s.io/v1": {"resources": [{"kind": "Gateway"}]}},
            "fail",
            "does not serve gateway.networking.k8s.io/v1 HTTPRoute",
            "kubectl apply --server-side -f https://github.com/kubernetes-sigs/gateway-api/",
        ),
    ],
)
def test_doctor_names_what_is_missing(
    changes: dict[str, Any], status: str, why: str, fix: str, api: Api
) -> None:
    for path, found in changes.items():
        api.objects.pop(path, None)
        if found is not None:
            api.objects[path] = found
    (result,) = examined(api)
    assert (result.check, result.status) == ("routing", status)
    assert why in result.why
    assert fix in result.fix
    fixes.check(result.fix, context="here")


def test_on_gke_one_command_brings_the_apis(api: Api) -> None:
    api.context = "gke_my-project_us-east4_prod"
    del api.objects["/apis/networking.gke.io/v1"]
    (result,) = examined(api)
    assert "networking.gke.io/v1 GCPBackendPolicy, HealthCheckPolicy" in result.why
    cluster = "prod --location us-east4 --project my-project"
    assert result.fix == f"on GKE: `gcloud container clusters update {cluster} --gateway-api=standard`"


def test_a_gateway_that_refuses_without_a_picker_would_not_work(api: Api) -> None:
    del api.objects[PICKER]
    closed = from_rendered(
        build(RECIPE, assignments=(*ON, "gateway.picker.failure_mode=FailClose"), namespace="n")
    )
    (result,) = examined(api, closed)
    assert result.status == "fail"
    assert "would refuse every request (FailClose)" in result.why


@pytest.mark.parametrize(("label", "status"), [("yes", "pass"), ("no", "fail")])
def test_a_listener_may_choose_namespaces_by_label(label: str, status: str, api: Api) -> None:
    chosen = listener(**{"from": "Selector", "selector": {"matchLabels": {"routes": "yes"}}})
    api.objects[GATEWAY] = gateway(listener(), chosen)
    api.objects[path_of("v1", "namespaces", "", "n")] = {"metadata": {"labels": {"routes": label}}}
    (result,) = examined(api)
    assert result.status == status


def test_a_release_is_removed_by_whoever_may_remove_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """A role of the time before Gateways does not name their kinds: no obstacle where none is used."""
    from manyhost.cluster import teardown
    from manyhost.cluster.release import Revision

    class Namespace(Api):
        def pages(self, path: str, *_: Any, **__: Any) -> Iterator[Object]:
            if path.rpartition("/")[2] in self.closed:
                raise Forbidden("no", status=403)
            yield from ()

    api = Namespace()
    api.closed = ("httproutes", "inferencepools", "gcpbackendpolicies", "healthcheckpolicies")
    recorded = [{"kind": "LeaderWorkerSet"}]
    monkeypatch.setattr(teardown, "newest", lambda *_: Revision(NAME, 1, "deployed"))
    monkeypatch.setattr(teardown, "deployed", lambda *_: recorded)
    monkeypatch.setattr(teardown.Releases, "__init__", lambda *_: None)
    monkeypatch.setattr(teardown.Releases, "chart", lambda *_: PLACE.chart.name)
    connection = cast("Connection", api)
    found = inventory(connection, PLACE)
    assert {"HTTPRoute", "InferencePool"}.isdisjoint(found.kinds)
    # Helm's record is the first thing to go; what was skipped stays so.
    monkeypatch.setattr(teardown, "newest", lambda *_: None)
    assert inventory(connection, PLACE, sets=found.sets, kinds=found.kinds).empty
    monkeypatch.setattr(teardown, "newest", lambda *_: Revision(NAME, 1, "deployed"))
    recorded.append({"kind": "HTTPRoute"})
    with pytest.raises(Forbidden):
        inventory(connection, PLACE)
