"""The Gateway before the groups: its APIs, itself, and the endpoint picker that it asks."""

from __future__ import annotations

from collections.abc import Iterator

from manyhost.catalog.chart import KINDS
from manyhost.cluster import gke
from manyhost.cluster.connection import Object
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned

_GATEWAYS = "gateway.networking.k8s.io/v1"
_POOLS = KINDS["InferencePool"].version
_RELEASES = "https://github.com/kubernetes-sigs"
_MANIFESTS = {
    _GATEWAYS: f"{_RELEASES}/gateway-api/releases/download/v1.6.1/standard-install.yaml",
    _POOLS: f"{_RELEASES}/gateway-api-inference-extension/releases/download/v1.6.0/manifests.yaml",
}


@check("routing", "Is the Gateway there that routing names, with what it needs?", needs=("api",), cheap=True)
def routing(sight: Sight) -> Finding | list[Finding]:
    """Only for routing inferencepool: the kinds, the Gateway and whom it lets in, the picker's Service."""
    if sight.target.effective["routing"] == "service":
        return skipped("clients reach the Service alone")
    missing = list(_missing_apis(sight))
    if missing:
        return missing
    settings = sight.target.effective["gateway"]
    namespace = settings["namespace"] or sight.target.namespace
    name = f"Gateway {settings['name']} in namespace {namespace}"
    gateway = sight.find(_GATEWAYS, "gateways", settings["name"], namespace)
    if gateway is None:
        return failed(
            f"{name} does not exist",
            "set gateway.name and gateway.namespace to one of those that "
            f"{sight.commands.kubectl('get', 'gateways', '--all-namespaces', namespace='')} lists",
        )
    found = [*_gateway(sight, gateway, name, namespace), *_picker(sight)]
    return found or passed(f"{name} is programmed and lets this namespace in")


def _missing_apis(sight: Sight) -> Iterator[Finding]:
    """Yield each kind of the release behind a Gateway that the cluster does not serve."""
    wanted = {_GATEWAYS: {"Gateway"}}
    for item in sight.target.objects:
        if item["kind"] in ("HTTPRoute", "InferencePool", "GCPBackendPolicy", "HealthCheckPolicy"):
            wanted.setdefault(item["apiVersion"], set()).add(item["kind"])
    for version, kinds in wanted.items():
        resources = (sight.connection.find(f"/apis/{version}") or {}).get("resources", [])
        absent = kinds - {item["kind"] for item in resources}
        if absent:
            text = f"the cluster does not serve {version} {', '.join(sorted(absent))}"
            yield failed(text, _install(sight, version))


def _install(sight: Sight, version: str) -> str:
    """Say how a cluster comes to serve an API: GKE brings all but InferencePool with its Gateway API."""
    if version not in _MANIFESTS or (version != _POOLS and gke.parse(sight.connection.context)):
        return f"on GKE: {gke.clusters('update', *sight.gke, '--gateway-api=standard')}"
    apply = sight.commands.kubectl("apply", "--server-side", "-f", _MANIFESTS[version], namespace="")
    return f"an administrator installs it with {apply}"


def _gateway(sight: Sight, gateway: Object, name: str, namespace: str) -> Iterator[Finding]:
    """Yield what is wrong with the Gateway itself."""
    look = sight.commands.kubectl("describe", "gateway", gateway["metadata"]["name"], namespace=namespace)
    conditions = {item["type"]: item for item in (gateway.get("status") or {}).get("conditions") or []}
    programmed = conditions.get("Programmed", {})
    if programmed.get("status") != "True":
        why = programmed.get("message") or programmed.get("reason") or "its controller has not said so"
        yield failed(f"{name} is not programmed: {why}", f"{look} says more")
    if not any(_lets_in(sight, listener, namespace) for listener in gateway["spec"].get("listeners") or []):
        yield failed(
            f"no listener of {name} takes routes from namespace {sight.target.namespace}",
            f"set allowedRoutes.namespaces of a listener ({look} shows them), or deploy into "
            f"namespace {namespace}",
        )


def _lets_in(sight: Sight, listener: Object, namespace: str) -> bool:
    """Whether a listener takes HTTPRoutes from the release's namespace."""
    if listener.get("protocol") not in ("HTTP", "HTTPS"):
        return False
    allowed = (listener.get("allowedRoutes") or {}).get("namespaces") or {}
    whose = allowed.get("from", "Same")
    if whose != "Selector":
        return whose == "All" or (whose == "Same" and namespace == sight.target.namespace)
    own = sight.once("namespace", lambda: sight.find("v1", "namespaces", sight.target.namespace)) or {
        "metadata": {}
    }
    labels = own["metadata"].get("labels") or {}
    selector = allowed.get("selector") or {}
    wanted: dict[str, str] = selector.get("matchLabels") or {}
    # Expressions are left to the Gateway's controller: status shows what it decides.
    return wanted.items() <= labels.items()


def _picker(sight: Sight) -> Iterator[Finding]:
    """Yield what is wrong with the Service of the endpoint picker."""
    settings = sight.target.effective["gateway"]["endpointPicker"]
    name, port, mode = settings["name"], settings["port"], settings["failureMode"]
    namespace = sight.target.namespace
    service = sight.find("v1", "services", name, namespace)
    ports = [item["port"] for item in ((service or {}).get("spec") or {}).get("ports") or []]
    if service is None:
        problem = f"endpoint picker: Service {name} does not exist in namespace {namespace}"
    elif port not in ports:
        known = ", ".join(map(str, ports)) or "no port"
        problem = f"endpoint picker: Service {name} has {known}, not {port}"
    else:
        return
    fix = f"set gateway.picker to one of those that {sight.commands.kubectl('get', 'services')} lists"
    if mode == "FailClose":
        yield failed(f"{problem}: the Gateway would refuse every request (FailClose)", fix)
    else:
        yield warned(f"{problem}: until it does, the Gateway picks a group itself", fix)
