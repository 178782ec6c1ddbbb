"""A few calls to the cluster's API server; tests themselves use kubectl or the Python client."""

from __future__ import annotations

import copy
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from testbed import pki
from testbed.errors import ClusterError
from testbed.layout import API_PORT, Layout

Object = dict[str, Any]
MERGE = "application/merge-patch+json"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_CLUSTER_SCOPED = {
    "Namespace": "namespaces",
    "Node": "nodes",
    "CustomResourceDefinition": "customresourcedefinitions",
    "MutatingWebhookConfiguration": "mutatingwebhookconfigurations",
    "ValidatingWebhookConfiguration": "validatingwebhookconfigurations",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
    "CSIDriver": "csidrivers",
    "DeviceClass": "deviceclasses",
    "Network": "networks",
    "GKENetworkParamSet": "gkenetworkparamsets",
}
_PLURALS = {"NetworkPolicy": "networkpolicies"}


class Api:
    """The API server of one cluster, as its administrator."""

    def __init__(self, cluster: Layout) -> None:
        """Reads the cluster's authority; raises OSError when the cluster was never up."""
        self._base = f"https://{cluster.control_plane}:{API_PORT}"
        tls = ssl.create_default_context(cafile=str(cluster.pki / "ca.crt"))
        direct = urllib.request.ProxyHandler({})
        self._opener = urllib.request.build_opener(direct, urllib.request.HTTPSHandler(context=tls))
        self._headers = {"Authorization": f"Bearer {pki.token(pki.ADMIN)}"}

    def call(self, method: str, path: str, body: object = None, *, kind: str = "application/json") -> bytes:
        """One request, 10 s at most.

        Raises:
            ClusterError: refused; the message is the API server's own.
            OSError: not reachable.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {**self._headers, "Content-Type": kind}
        request = urllib.request.Request(self._base + path, data, headers, method=method)
        try:
            with self._opener.open(request, timeout=10) as reply:
                answer: bytes = reply.read()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")
            try:
                text = json.loads(text)["message"]
            except (ValueError, KeyError, TypeError):
                text = text.strip()[:200]
            raise ClusterError(f"{method} {path}: {error.code} {text}") from None
        return answer

    def get(self, path: str) -> Object:
        """The object at `path`."""
        found: Object = json.loads(self.call("GET", path))
        return found

    def change(self, path: str, edit: Callable[[Object], Object]) -> None:
        """Puts what `edit` makes of the object at `path`, anew when a controller was faster."""
        for rest in range(9, -1, -1):
            found = self.get(path)
            changed = edit(copy.deepcopy(found))
            if changed == found:
                return
            try:
                self.call("PUT", path, changed)
                return
            except ClusterError as error:
                if not rest or f"{path}: 409 " not in str(error):
                    raise

    def patch(self, path: str, body: object, *, kind: str = MERGE) -> None:
        """Changes the object at `path`."""
        self.call("PATCH", path, body, kind=kind)

    def apply(self, item: Object) -> None:
        """Creates the object or makes it so, server-side, with us as its owner."""
        self.patch(f"{path_of(item)}?fieldManager=test-cluster&force=true", item, kind=_APPLY)

    def delete(self, item: Object) -> None:
        """Deletes the object with what it owns."""
        self.call("DELETE", f"{path_of(item)}?propagationPolicy=Background")


def path_of(item: Object) -> str:
    """The path of an object of the few kinds that the test cluster itself makes."""
    version, kind, meta = item["apiVersion"], item["kind"], item["metadata"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    if kind in _CLUSTER_SCOPED:
        return f"{base}/{_CLUSTER_SCOPED[kind]}/{meta['name']}"
    return f"{base}/namespaces/{meta['namespace']}/{_PLURALS.get(kind, f'{kind.lower()}s')}/{meta['name']}"
