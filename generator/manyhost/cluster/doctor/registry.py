"""Whether the engine's image can be pulled: one question to its registry, without credentials."""

from __future__ import annotations

import re
from typing import Any

from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, warned

_SECONDS = 5.0
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1)(:|$)")  # Docker speaks plain HTTP to these alone
_DOCKER_HUB = {"docker.io", "index.docker.io"}  # names in references; neither of them is a registry
_TYPES = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


@check("image", "Does the engine's image exist in its registry?")
def image(sight: Sight) -> Finding:
    """A HEAD request for the manifest (OCI distribution specification)."""
    import urllib3

    reference = sight.target.pod("leader")["spec"]["containers"][0]["image"]
    host, repository, tag = split(reference)
    scheme = "http" if _LOCAL.match(host) else "https"
    url = f"{scheme}://{host}/v2/{repository}/manifests/{tag}"
    # Followed, because registry.k8s.io and others answer with the address of a mirror that may not have it.
    redirects = urllib3.Retry(
        connect=0, read=0, status=0, other=0, redirect=3, respect_retry_after_header=False
    )
    pool = urllib3.PoolManager(timeout=_SECONDS, retries=redirects)
    try:
        answer = pool.request("HEAD", url, headers={"Accept": _TYPES})
        if answer.status == 401:
            token = _token(pool, answer.headers.get("WWW-Authenticate", ""), scheme)
            if token:
                answer = pool.request(
                    "HEAD", url, headers={"Accept": _TYPES, "Authorization": f"Bearer {token}"}
                )
    except (urllib3.exceptions.HTTPError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        return warned(f"{host} could not be asked for {reference}: {type(reason).__name__}")
    if answer.status == 404:
        return failed(
            f"{reference} does not exist", "choose another engine.version, or set engine.image and engine.tag"
        )
    if answer.status in (401, 403):
        return warned(f"{host} does not tell strangers about {reference}; the nodes' own credentials decide")
    if answer.status >= 400:
        return warned(f"{host} answers {answer.status} for {reference}")
    return passed(f"{reference} exists")


def split(reference: str) -> tuple[str, str, str]:
    """Return registry host, repository and tag or digest of an image reference, as Docker reads it."""
    name, _, digest = reference.partition("@")
    first, slash, _ = name.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost")
    host, rest = (first, name[len(first) + 1 :]) if named else ("registry-1.docker.io", name)
    if host in _DOCKER_HUB:
        host = "registry-1.docker.io"
    repository, colon, tag = rest.rpartition(":")
    if not colon:
        repository, tag = rest, "latest"
    if host == "registry-1.docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return host, repository, digest or tag


def _token(pool: Any, challenge: str, scheme: str) -> str:
    """Ask the token server that a registry names, as nobody; empty when it gives none.

    Args:
        pool: Makes the request.
        challenge: The registry's WWW-Authenticate header.
        scheme: The registry's own; the token server's must be the same.
    """
    import msgspec

    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    if not challenge.lower().startswith("bearer ") or not realm.startswith(f"{scheme}://"):
        return ""
    answer = pool.request("GET", realm, fields=fields)
    if answer.status != 200:
        return ""
    try:
        found = msgspec.json.decode(answer.data)
        return str(found.get("token") or found.get("access_token") or "")
    except (msgspec.DecodeError, AttributeError):
        return ""
