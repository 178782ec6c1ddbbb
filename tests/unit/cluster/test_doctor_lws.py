"""Doctor on upgrades of the LeaderWorkerSet controller: none that it advises deletes a running group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.helpers import fixes
from tests.unit.cluster.doctor import Examine, Reply, Serve, a_target, lists

CRD = "leaderworkersets.leaderworkerset.x-k8s.io"
HELM = {"meta.helm.sh/release-name": "lws", "meta.helm.sh/release-namespace": "lws-system"}
KEEP = f"kubectl annotate crd {CRD} helm.sh/resource-policy=keep --overwrite --context here"


def cluster(version: str, crd: dict[str, str], *, helm: bool = False) -> Callable[[str, str, Any], Reply]:
    """An API server with a controller of a version, and the CRD with these annotations."""
    labels = {"control-plane": "controller-manager"} | (
        {"app.kubernetes.io/managed-by": "Helm"} if helm else {}
    )
    metadata = {"name": "lws-controller-manager", "namespace": "lws-system", "labels": labels}
    metadata["annotations"] = HELM if helm else {}
    container = {"image": f"registry.k8s.io/lws/lws:{version}"}
    deployment = {
        "metadata": metadata,
        "spec": {"template": {"spec": {"containers": [container]}}},
        "status": {"availableReplicas": 1},
    }
    read = lists(deployments=[deployment])

    def answer(method: str, path: str, headers: Any) -> Reply:
        if path.endswith(CRD):
            return 200, {}, {"metadata": {"name": CRD, "annotations": crd}}
        return read(method, path, headers)

    return answer


def test_a_crd_that_helms_next_upgrade_would_delete(serve: Serve, examined: Examine) -> None:
    """kubernetes-sigs/lws#880; one annotation, which the fix is, ends it."""
    api = f"http://{serve(cluster('v0.7.0', HELM, helm=True))}"
    result = examined("lws-controller", a_target(), api)
    assert result.status == "warn"
    assert "would delete the CRD, and every group with it" in result.why
    assert fixes.commands(result.fix) == [KEEP]
    kept = {**HELM, "helm.sh/resource-policy": "keep"}
    api = f"http://{serve(cluster('v0.7.0', kept, helm=True))}"
    assert examined("lws-controller", a_target(), api).status == "pass"
    # Charts from v0.8.0 on have the CRD outside of their release.
    api = f"http://{serve(cluster('v0.10.0', {}, helm=True))}"
    assert examined("lws-controller", a_target(), api).status == "pass"


@pytest.mark.parametrize("kept", [False, True])
def test_an_old_controller_of_helm_keeps_its_crd(kept: bool, serve: Serve, examined: Examine) -> None:
    """The CRD is kept before anything is upgraded, by the way that it was installed."""
    crd = {**HELM, **({"helm.sh/resource-policy": "keep"} if kept else {})}
    api = f"http://{serve(cluster('v0.6.2', crd, helm=True))}"
    result = examined("lws-controller", a_target(), api)
    assert result.status == "fail"
    (command,) = fixes.commands(result.fix)
    steps = command.split(" && ")
    assert (steps[0] == KEEP) is not kept
    assert steps[-2].startswith(
        "kubectl apply --server-side --force-conflicts -f https://raw.githubusercontent.com/"
    )
    assert steps[-1].startswith("helm upgrade lws oci://registry.k8s.io/lws/charts/lws --version 0.10.0 ")
    assert "manifests.yaml" not in result.fix


def test_an_old_controller_of_manifests(serve: Serve, examined: Examine) -> None:
    """Its Deployment's selector is another one in newer manifests, and the API lets nobody change it."""
    result = examined("lws-controller", a_target(), f"http://{serve(cluster('v0.6.2', {}))}")
    assert result.status == "fail"
    (command,) = fixes.commands(result.fix)
    first, second = command.split(" && ")
    assert first.startswith("kubectl delete deployment lws-controller-manager --namespace lws-system ")
    assert second.startswith("kubectl apply --server-side --force-conflicts -f https://github.com/")
    assert "delete crd" not in result.fix
