"""What a registry says of an image: questions of the OCI distribution specification, which change nothing."""

from __future__ import annotations

import hashlib
import re
from typing import Any

import msgspec

from manyhost.errors import RemoteError

_SECONDS = 5.0
_LOCAL = re.compile(r"(localhost|127\.0\.0\.1)(:|$)")  # Docker speaks plain HTTP to these alone
_DOCKER_HUB = {"docker.io", "index.docker.io"}  # names in references; neither of them is a registry
# They take an access token as it is (docs.cloud.google.com/artifact-registry/docs/docker/authentication).
_GOOGLE = re.compile(r"([a-z0-9-]+-docker\.pkg\.dev|([a-z]+\.)?gcr\.io)")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_INDEXES = {
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
}
_TYPES = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, "
    "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
)


class Silent(RemoteError):
    """A registry that gives no answer; `why` is the kind of failure."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(f"does not answer: {why}", where=f"registry {host}")
        self.why = why


class Registry:
    """One registry.

    Args:
        host: Its name, as split() returns it.
        token: Access token for a registry that tells strangers nothing; empty for none.
    """

    def __init__(self, host: str, token: str = "") -> None:
        import urllib3

        self.host = host
        self._scheme = "http" if _LOCAL.match(host) else "https"
        self._own = token
        self._authorization = ""
        # Followed, because registry.k8s.io and others answer with the address of a mirror that may not have
        # it. urllib3 sends no credentials to another host.
        redirects = urllib3.Retry(
            connect=0, read=0, status=0, other=0, redirect=3, respect_retry_after_header=False
        )
        self._pool = urllib3.PoolManager(timeout=_SECONDS, retries=redirects)

    def ask(self, method: str, path: str) -> Any:
        """Return the answer to a request below /v2/, as nobody or else with the token.

        Raises:
            Silent: There is none.
        """
        import urllib3

        url = f"{self._scheme}://{self.host}/v2/{path}"
        try:
            answer = self._request(method, url)
            if answer.status == 401:
                challenge = answer.headers.get("WWW-Authenticate", "")
                for token in (_token(self._pool, challenge, self._scheme), self._own):
                    if token and answer.status in (401, 403):
                        self._authorization = f"Bearer {token}"
                        answer = self._request(method, url)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise Silent(self.host, type(reason).__name__) from None
        return answer

    def _request(self, method: str, url: str) -> Any:
        headers = {"Accept": _TYPES}
        if self._authorization:
            headers["Authorization"] = self._authorization
        return self._pool.request(method, url, headers=headers)

    def digest(self, repository: str, tag: str) -> tuple[int, str]:
        """Return the status of an image's manifest (200, 404, ...), and its digest when it is there.

        Raises:
            Silent: No answer.
        """
        answer = self.ask("HEAD", f"{repository}/manifests/{tag}")
        if answer.status != 200:
            return answer.status, ""
        told = answer.headers.get("Docker-Content-Digest", "")
        if _DIGEST.fullmatch(told):
            return 200, told
        data = self.ask("GET", f"{repository}/manifests/{tag}").data  # the header is not every registry's
        return 200, f"sha256:{hashlib.sha256(data).hexdigest()}"

    def labels(self, repository: str, digest: str) -> dict[str, str]:
        """Return the labels of an image, of a list's first image.

        Raises:
            Silent: No answer.
            RemoteError: It is no image.
        """
        try:
            manifest = self._json(f"{repository}/manifests/{digest}")
            if manifest.get("mediaType") in _INDEXES or "manifests" in manifest:
                manifest = self._json(f"{repository}/manifests/{manifest['manifests'][0]['digest']}")
            config = self._json(f"{repository}/blobs/{manifest['config']['digest']}")
            return dict((config.get("config") or {}).get("Labels") or {})
        except (msgspec.DecodeError, AttributeError, KeyError, IndexError, TypeError, ValueError):
            raise RemoteError(
                "answers with what is no image", where=f"{self.host}/{repository}@{digest}"
            ) from None

    def _json(self, path: str) -> dict[str, Any]:
        answer = self.ask("GET", path)
        if answer.status != 200:
            raise RemoteError(f"answers {answer.status}", where=f"{self.host}/{path}")
        found: dict[str, Any] = msgspec.json.decode(answer.data)
        return found


def is_google(host: str) -> bool:
    """Whether a registry is Google's own: no other one ever gets a Google access token."""
    return bool(_GOOGLE.fullmatch(host))


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
