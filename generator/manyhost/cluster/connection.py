"""The connection to one Kubernetes cluster: bounded, retried, and with errors of one sentence."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from manyhost.catalog.recipe import Site
from manyhost.cluster import gke
from manyhost.commands import Commands, line
from manyhost.errors import NotReady, RemoteError, no_space
from manyhost.home import home

T = TypeVar("T")
Object = dict[str, Any]

CONNECT_SECONDS = 3.0
READ_SECONDS = 15.0
PAGE = 250  # objects per list call: kubectl asks for 500, but so many nodes are 3 MB at once
_ANY = Site()
_LOG_IN = line("gcloud", "auth", "login")
_METADATA = "application/json;as={kind};g=meta.k8s.io;v=v1"


class Unreachable(RemoteError):
    """The API server did not answer."""


class Refused(RemoteError):
    """The API server answered with an error.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, message: str, *, status: int, where: str = "", fix: str = "") -> None:
        super().__init__(message, where=where, fix=fix)
        self.status = status


class Missing(Refused):
    """The object or the resource type does not exist."""


class Forbidden(Refused):
    """The user may not do this (403) or is not known to the cluster (401)."""


class Connection:
    """One cluster, as the current user sees it. Safe to use from several threads.

    Attributes:
        files: The kubeconfig, several paths as in $KUBECONFIG.
        context: Name of the kubeconfig context in use.
        clusters: The kubeconfig's contexts, each with the name of its cluster entry.
        namespace: The context's default namespace.
        commands: Builds the commands that fixes advise: for this cluster, and once the release in question is
            known, for that.
    """

    def __init__(
        self,
        client: Any,
        configuration: Any,
        files: str,
        context: str,
        clusters: dict[str, str],
        namespace: str,
        commands: Commands,
    ) -> None:
        self._client = client
        self._configuration = configuration
        self.files = files
        self._auth = threading.Lock()  # an exec plugin refreshes the token in place
        self._ahead = 0.0  # seconds that the API server's clock is ahead of this machine's
        self.context = context
        self.clusters = clusters
        self.namespace = namespace
        self.commands = commands

    @property
    def cluster(self) -> str:
        """Name of the cluster entry in use."""
        return self.clusters[self.context]

    @property
    def client(self) -> Any:
        """The kubernetes.client.ApiClient, for what has no plain HTTP form (port-forward)."""
        return self._client

    def now(self) -> float:
        """The API server's clock, seconds since the epoch, as its last answer told it.

        What the cluster has stamped is held against this and never against this machine's clock.
        """
        return time.time() + self._ahead

    def get(self, path: str, *, query: Mapping[str, Any] | None = None, metadata: bool = False) -> Object:
        """Return one object, or one list, as JSON.

        Args:
            path: For example path_of("v1", "pods", "default", "name").
            query: Query parameters; None values are left out.
            metadata: Ask for the metadata only.

        Raises:
            Missing: It does not exist.
            Forbidden: No permission.
            Refused: Any other refusal.
            Unreachable: No answer.
        """
        accept = _METADATA.format(kind="PartialObjectMetadata") if metadata else "application/json"
        found: Object = self._decode(
            msgspec.json.Decoder(), self._request("GET", path, query=query, accept=accept)
        )
        return found

    def find(self, path: str, *, metadata: bool = False) -> Object | None:
        """Return one object, or None when there is none (or no such resource type)."""
        try:
            return self.get(path, metadata=metadata)
        except Missing:
            return None

    def pages(
        self,
        path: str,
        kind: type[T],
        *,
        labels: str = "",
        fields: str = "",
        metadata: bool = False,
    ) -> Iterator[T]:
        """Yield the objects of a list, page by page, decoded into a struct with the wanted fields only.

        Args:
            path: The collection.
            kind: What each item is decoded to; dict for all of it.
            labels: Label selector.
            fields: Field selector.
            metadata: Ask for the metadata only.
        """
        accept = _METADATA.format(kind="PartialObjectMetadataList") if metadata else "application/json"
        decoder = msgspec.json.Decoder(_page_of(kind))
        query: dict[str, Any] = {
            "labelSelector": labels or None,
            "fieldSelector": fields or None,
            "limit": PAGE,
        }
        while True:
            page = self._decode(decoder, self._request("GET", path, query=query, accept=accept))
            yield from page.items or ()
            if not page.metadata.next:
                return
            query["continue"] = page.metadata.next

    def create(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Create an object in a collection; with dry_run the server only says whether it would."""
        return self._write("POST", path, body, dry_run)

    def apply(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Apply an object server-side."""
        query = {"fieldManager": "manyhost", "force": "true"}
        return self._write("PATCH", path, body, dry_run, "application/apply-patch+yaml", query)

    def merge(self, path: str, patch: Object) -> Object:
        """Change some fields of an object (JSON merge patch)."""
        return self._write(
            "PATCH", path, patch, False, "application/merge-patch+json", {"fieldManager": "manyhost"}
        )

    def replace(self, path: str, body: Object, *, dry_run: bool = False) -> Object:
        """Replace an object."""
        return self._write("PUT", path, body, dry_run)

    def delete(self, path: str, *, foreground: bool = False) -> bool:
        """Delete an object with everything it owns; False when it did not exist.

        Args:
            path: The object.
            foreground: It stays until what it owns has gone.
        """
        policy = "Foreground" if foreground else "Background"
        try:
            self._request("DELETE", path, query={"propagationPolicy": policy})
        except Missing:
            return False
        return True

    def text(self, path: str, *, query: Mapping[str, Any] | None = None) -> str:
        """Return a plain text answer (container logs)."""
        return self._request("GET", path, query=query, accept="*/*").decode(errors="replace")

    def stream(self, path: str, *, query: Mapping[str, Any] | None = None) -> Iterator[bytes]:
        """Yield an endless answer (followed logs) in the pieces it comes in."""
        response = self._open("GET", path, query=query, accept="*/*", read_seconds=None, preload=False)
        import urllib3

        try:
            yield from response.stream(65536, decode_content=True)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        finally:
            response.close()

    # ------------------------------------------------------------------ inside
    def _write(
        self,
        method: str,
        path: str,
        body: Object,
        dry_run: bool,
        kind: str = "application/json",
        query: Mapping[str, Any] | None = None,
    ) -> Object:
        query = {**(query or {}), "dryRun": "All" if dry_run else None}
        data = self._request(method, path, query=query, body=msgspec.json.encode(body), kind=kind)
        answer: Object = self._decode(msgspec.json.Decoder(), data)
        return answer

    def _decode(self, decoder: Any, data: bytes) -> Any:
        try:
            return decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Unreachable(
                f"what answers at {self._configuration.host} is no Kubernetes API: {_page(data)}",
                fix=f"look for a proxy or a login page in between: {self._info()}",
            ) from None

    def _request(self, method: str, path: str, **options: Any) -> bytes:
        data: bytes = self._open(method, path, **options).data
        return data

    def _open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: bytes | None = None,
        kind: str = "",
        accept: str = "application/json",
        read_seconds: float | None = READ_SECONDS,
        preload: bool = True,
    ) -> Any:
        import urllib3

        safe = method == "GET"
        retries = urllib3.Retry(
            connect=2,
            read=1 if safe else 0,
            status=3,
            other=0,
            total=4,
            redirect=0,
            allowed_methods=None,  # a write is repeated only when it was not sent, or refused as too many
            status_forcelist=(429, 503) if safe else (429,),
            respect_retry_after_header=False,  # a server may ask for an hour
            backoff_factor=0.2,
            raise_on_status=False,
        )
        parameters = [(name, str(value)) for name, value in (query or {}).items() if value is not None]
        headers = {"Accept": accept, "User-Agent": "manyhost", **({"Content-Type": kind} if kind else {})}
        with self._auth:
            self._authenticate(headers)
        from urllib.parse import urlencode

        url = self._configuration.host + path + (f"?{urlencode(parameters)}" if parameters else "")
        try:
            response = self._client.rest_client.pool_manager.request(
                method,
                url,
                body=body,
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=read_seconds),
                retries=retries,
                preload_content=preload,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        with contextlib.suppress(TypeError, ValueError):  # an answer without a date
            date = parsedate_to_datetime(response.headers.get("Date"))
            self._ahead = date.timestamp() - time.time()
        if response.status >= 400:
            raise self._refused(method, path, response.status, response.data)
        return response

    def _authenticate(self, headers: dict[str, str]) -> None:
        from kubernetes.config import ConfigException

        try:
            for setting in self._configuration.auth_settings().values():
                if setting["in"] == "header" and setting["value"]:
                    headers[setting["key"]] = setting["value"]
        except (ConfigException, OSError, ValueError) as error:
            raise NotReady(
                f"the credentials of context {self.context} cannot be renewed: {_line(error)}",
                where="kubeconfig",
                fix=f"log in again, for example with {_LOG_IN}",
            ) from None

    def _unreachable(self, error: BaseException) -> Unreachable:
        host = self._configuration.host
        reason = getattr(error, "reason", None) or error
        name = type(reason).__name__
        text = str(reason)
        if "CERTIFICATE_VERIFY_FAILED" in text or name == "SSLError":
            why = "its certificate is not the kubeconfig's: probably another cluster now has this address"
        elif "Timeout" in name or "timed out" in text:
            why = "no answer in time"
        elif "NameResolution" in name or "Name or service not known" in text or "getaddrinfo" in text:
            why = "its name is not known: the cluster may be gone"
        elif "refused" in text:
            why = "connection refused: the cluster may be gone or stopped"
        elif "unreachable" in text or "No route" in text:
            why = "no route to it: a private cluster needs its VPN or bastion"
        else:
            why = _line(reason)
        return Unreachable(
            f"the Kubernetes API at {host} cannot be reached: {why}",
            fix=f"see whether kubectl gets through: {self._info()}",
        )

    def _info(self) -> str:
        return self.commands.kubectl("cluster-info", namespace="")

    def _refused(self, method: str, path: str, status: int, body: bytes) -> Refused:
        try:
            message = str(msgspec.json.decode(body)["message"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            message = _page(body)
        message = _line(message) or f"{method} {path} failed with HTTP status {status}"
        if status == 401:
            return Forbidden(
                f"the cluster does not accept the credentials of context {self.context}",
                status=status,
                fix=f"log in again (they may have expired), for example with {_LOG_IN}",
            )
        if status == 403 and "admission webhook" not in message:
            mine = self.commands.kubectl("auth", "can-i", "--list")
            return Forbidden(
                message, status=status, fix=f"ask for this permission; {mine} shows what you may"
            )
        if status == 404:
            return Missing(message, status=status)
        return Refused(message, status=status)


class _PageMeta(msgspec.Struct, frozen=True):
    next: str | None = msgspec.field(name="continue", default=None)


def _page_of(kind: Any) -> Any:
    return msgspec.defstruct(
        "Page", [("items", list[kind] | None, None), ("metadata", _PageMeta, _PageMeta())]
    )


def path_of(version: str, plural: str, namespace: str = "", name: str = "", part: str = "") -> str:
    """Return the path of a collection, an object or a subresource.

    Args:
        version: apiVersion, "v1" or "<group>/<version>".
        plural: The resource, lower case.
        namespace: Empty for cluster-scoped resources and for all namespaces.
        name: Empty for the collection.
        part: A subresource such as "log".
    """
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    parts = [base, *(["namespaces", quote(namespace, safe="")] if namespace else []), plural]
    parts += [quote(item, safe="") for item in (name, part) if item]
    return "/".join(parts)


def connect(context: str = "", site: Site = _ANY) -> Connection:
    """Open the cluster of a kubeconfig context; nothing is sent yet.

    The kubeconfig is $KUBECONFIG, else ~/.kube/config.

    Args:
        context: The context; empty for the current one.
        site: The cluster that the settings mean; empty means any.

    Raises:
        NotReady: There is no kubeconfig, it is broken, or it has no such context.
    """
    # The import alone takes half a second: only commands that talk to a cluster pay for it.
    import yaml
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config import ConfigException, kube_config

    files = os.environ.get("KUBECONFIG") or str(home() / ".kube" / "config")
    if not any(Path(item).expanduser().is_file() for item in files.split(os.pathsep) if item):
        raise NotReady(
            "there is no kubeconfig",
            where=files,
            fix=f"set KUBECONFIG, or on GKE: {gke.get_credentials(site)}",
        )
    configuration = type.__call__(Configuration)  # not the process-wide default
    try:
        reader: Any = kube_config  # the module has no types
        # Not list_kube_config_contexts: it fails when the current context, which nobody may want, is none.
        config = reader.KubeConfigMerger(files).config
        known = {item["name"]: item.value for item in config["contexts"].value or ()} if config else {}
        current = (config.safe_get("current-context") or "") if config else ""
        chosen = known.get(context or current)
        if chosen is None:
            names = ", ".join(sorted(known)) or "none"
            missing = (
                f"there is no context {context or current!r}"
                if context or current
                else "no context is chosen"
            )
            raise NotReady(
                f"{missing}; it has {names}",
                where=files,
                fix=f"add --context {sorted(known)[0]}{', or another of them' * (len(known) > 1)}"
                if known
                else f"write one: on GKE {gke.get_credentials(site)}",
            )
        details = {name: known[name].get("context") or {} for name in known}
        clusters = {name: str(entry.get("cluster", "")) for name, entry in details.items()}
        namespace = str(details[chosen["name"]].get("namespace") or "default")
        reader.load_kube_config(config_file=files, context=chosen["name"], client_configuration=configuration)
    except (
        ConfigException,
        yaml.YAMLError,
        OSError,
        KeyError,
        TypeError,
        AttributeError,
        ValueError,
    ) as error:
        if full := no_space(error):  # its certificates become temporary files
            raise full from None
        raise NotReady(
            f"the kubeconfig cannot be used: {_line(error)}",
            where=files,
            fix=f"mend it, or write a new one: on GKE {gke.get_credentials(site)}",
        ) from None
    return Connection(
        ApiClient(configuration=configuration),
        configuration,
        files,
        chosen["name"],
        clusters,
        namespace,
        Commands(context, namespace),
    )


def check_cluster(connection: Connection, site: Site) -> None:
    """Refuse a cluster that is not the one that the settings name.

    Contexts that are not GKE's must carry the name itself.

    Args:
        connection: The cluster in use.
        site: The settings; without a cluster's name any is meant.

    Raises:
        NotReady: It is another one.
    """
    meant = [context for context in sorted(connection.clusters) if _is_meant(connection, context, site)]
    if not site.cluster_name or connection.context in meant:
        return
    raise NotReady(
        f"the settings mean cluster {site.cluster_name}, "
        f"the context {'given' if connection.commands.context else 'in use'} is {connection.context}",
        where="cluster_name",
        fix=f"take --context {meant[0]}"
        if meant
        else f"add its context, on GKE: {gke.get_credentials(site)}",
    )


def _is_meant(connection: Connection, context: str, site: Site) -> bool:
    for entry in (context, connection.clusters[context]):
        found = gke.parse(entry)
        same_project = found and (not site.project_id or found.project == site.project_id)
        if found and found.cluster == site.cluster_name and same_project:
            return True
        if entry == site.cluster_name:  # the name of another tool's context, or GKE's in full
            return True
    return False


def _page(body: bytes) -> str:
    """The first line of a page that is no answer of the API; of HTML its title."""
    text = body.decode(errors="replace")
    title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    if "<html" in text.lower():
        return f"an HTML page ({_line(title[1]) if title else 'without a title'})"
    return _line(text)


def _line(text: object) -> str:
    """The first line of a message, without its class prefix and not endless."""
    first = next((line.strip() for line in str(text).splitlines() if line.strip()), "")
    return first if len(first) <= 400 else first[:397] + "..."
