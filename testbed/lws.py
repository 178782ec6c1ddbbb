"""The LeaderWorkerSet controller with its real admission webhooks, beside the control plane."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from testbed import pki
from testbed.api import Api, Object
from testbed.build import version_of
from testbed.machine import Machine
from testbed.system import wait_for

_PORT = 9443
_NAMESPACE = "lws-system"


def image() -> str:
    """The name that the controller's image has on a cluster where it runs as a pod."""
    return f"registry.k8s.io/lws/lws:{version_of('sigs.k8s.io/lws')}"


def start(machine: Machine, programs: Path) -> None:
    """Starts the controller; after a restart of the machine this is all there is to do."""
    cluster = machine.cluster
    config = cluster.state / "lws.json"
    webhook = {"host": "127.0.0.1", "port": _PORT, "certDir": str(cluster.pki / "webhook")}
    config.write_text(
        json.dumps(
            {
                "apiVersion": "config.lws.x-k8s.io/v1alpha1",
                "kind": "Configuration",
                "leaderElection": {"leaderElect": False},
                "webhook": webhook,
                "health": {"healthProbeBindAddress": "127.0.0.1:8081"},
                "metrics": {"bindAddress": "0"},
                "internalCertManagement": {"enable": False},
                # the defaults (20 and 30 a second) make a hundred groups take minutes
                "clientConnection": {"qps": 200, "burst": 400},
            }
        )
    )
    program = programs / "lws-controller"
    machine.start(program.name, program, "--config", config, "--kubeconfig", cluster.kubeconfig)


def install(api: Api, machine: Machine, programs: Path) -> None:
    """Installs the CRDs, starts the controller and registers its webhooks once it listens."""
    for path in sorted((programs / "lws/crds").glob("*.yaml")):
        api.apply(yaml.safe_load(path.read_text()))
    for group in ("leaderworkerset", "disaggregatedset"):
        wait_for(f"API {group}", lambda g=group: api.get(f"/apis/{g}.x-k8s.io/v1"))  # type: ignore[misc]
    start(machine, programs)
    wait(machine)
    for item in yaml.safe_load_all((programs / "lws/manifests.yaml").read_text()):
        _point_to_loopback(item, pki.ca_bundle(machine.cluster))
        api.apply(item)
    for item in deployment():
        api.apply(item)


def _point_to_loopback(configuration: Object, ca_bundle: str) -> None:
    """The controller is no pod here: the API server reaches its webhooks on loopback."""
    configuration["metadata"]["name"] = f"lws-{configuration['metadata']['name']}"
    for hook in configuration["webhooks"]:
        path = hook["clientConfig"]["service"]["path"]
        hook["clientConfig"] = {"url": f"https://127.0.0.1:{_PORT}{path}", "caBundle": ca_bundle}
        if hook["name"].endswith("pod.kb.io"):
            name = {"key": "leaderworkerset.sigs.k8s.io/name", "operator": "Exists"}
            hook["objectSelector"] = {"matchExpressions": [name]}


def deployment() -> list[Object]:
    """What a person finds of LWS in a cluster. Its pod only exists; the work is done outside."""
    labels = {"app.kubernetes.io/name": "lws", "control-plane": "controller-manager"}
    container = {"name": "manager", "image": image(), "imagePullPolicy": "IfNotPresent"}
    pod = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "tolerations": [{"operator": "Exists"}],
        "containers": [container],
    }
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": _NAMESPACE}},
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "lws-controller-manager",
                "namespace": _NAMESPACE,
                "labels": labels,
            },
            "spec": {
                "replicas": 1,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": pod},
            },
        },
    ]


def wait(machine: Machine) -> None:
    """Waits until the webhooks listen."""
    probe = ("bash", "-c", f"</dev/tcp/127.0.0.1/{_PORT}")
    wait_for("LeaderWorkerSet webhooks", lambda: machine.run(*probe))


def available(api: Api) -> bool:
    """Whether the controller's Deployment is available."""
    path = f"/apis/apps/v1/namespaces/{_NAMESPACE}/deployments/lws-controller-manager"
    return bool(api.get(path)["status"].get("availableReplicas"))
