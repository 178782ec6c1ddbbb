"""Releases through Helm's own storage, so that helm list, rollback and uninstall work on them."""

from __future__ import annotations

import base64
import difflib
import gzip
import os
from pathlib import Path
from typing import Any

import msgspec

from manyhost.cluster.connection import Connection, Forbidden, Missing, Object, Refused, Unreachable, path_of
from manyhost.cluster.lease import unnumbered
from manyhost.cluster.target import Place, Target, kind_of
from manyhost.commands import Commands
from manyhost.errors import InvalidInput, ManyhostError, NotReady, RemoteError
from manyhost.render import parse_manifests

_OWNER = "owner=helm"
_SECONDS = 120  # Helm's own time limit of one action; it does not wait for groups


class Revision(msgspec.Struct, frozen=True):
    """The newest revision of a release.

    Attributes:
        name: The release.
        revision: Its number.
        status: deployed, failed, pending-install, uninstalling, ...
    """

    name: str
    revision: int
    status: str


class Unread(Forbidden):
    """The user may not read the Secrets that hold Helm's records."""


class Change(msgspec.Struct, frozen=True):
    """What a deployment does to one object.

    Attributes:
        action: create, update or delete.
        kind: The object's kind.
        name: Its name.
        diff: Unified diff of its YAML, or of a drift what differs; of an update only.
        drift: Whether it is not the deployment that is new but the object that was changed in the cluster.
    """

    action: str
    kind: str
    name: str
    diff: str
    drift: bool = False


def newest(connection: Connection, place: Place) -> Revision | None:
    """Return the newest revision of a release, from the labels of Helm's Secrets; None when there is none."""
    path = path_of("v1", "secrets", place.namespace)
    wanted = f"{_OWNER},name={place.release}"
    found = []
    try:
        secrets = list(connection.pages(path, dict[str, Any], labels=wanted, metadata=True))
    except Forbidden as error:
        if error.status == 401:
            raise
        raise Unread(
            f"you may not read Helm's records: {error.message}", status=error.status, fix=error.fix
        ) from None
    for item in secrets:
        labels = item["metadata"].get("labels") or {}
        if labels.get("version", "").isdigit():
            found.append(Revision(place.release, int(labels["version"]), labels.get("status", "")))
    return max(found, key=lambda item: item.revision, default=None)


def deployed(connection: Connection, place: Place, revision: Revision) -> list[Object]:
    """Return the manifests of a revision from Helm's Secret; the Helm library takes half a second to load."""
    name = f"sh.helm.release.v1.{place.release}.v{revision.revision}"
    secret = connection.find(path_of("v1", "secrets", place.namespace, name))
    if not secret:
        return []
    # The Secret's own base64 around Helm's, around gzip (helm.sh/helm/v3/pkg/storage/driver/util.go).
    packed = base64.b64decode(base64.b64decode(secret["data"]["release"]))
    return parse_manifests(msgspec.json.decode(gzip.decompress(packed))["manifest"])


class Releases:
    """Helm in process, for one namespace.

    Args:
        connection: The cluster; Helm opens its own connection to the same context.
        namespace: Where the releases are.
    """

    def __init__(self, connection: Connection, namespace: str) -> None:
        import helm_python

        self._helm = helm_python
        self._connection = connection
        self._namespace = namespace
        try:
            # The library has the environment of its start; only several files at once are left to it.
            path = None if os.pathsep in connection.files else Path(connection.files).expanduser()
            self._config = helm_python.Config(
                kubeconfig_path=path, kube_context=connection.context, namespace=namespace
            )
        except helm_python.HelmError as error:
            raise _explain(error, connection.commands) from None

    def install(self, target: Target) -> int:
        """Install a release; return its revision.

        Raises:
            InvalidInput: An admission webhook or the API's validation refuses an object.
            RemoteError: Anything else that goes wrong on the way.
        """
        return self._act(lambda: self._call("helm_install", target, server_side_apply=False))

    def upgrade(self, target: Target) -> int:
        """Upgrade a release to new values; return its revision. Raises as install does."""
        return self._act(
            lambda: self._call(
                "helm_upgrade", target, server_side_apply="false", reset_values=True, max_history=10
            )
        )

    def uninstall(self, release: str) -> bool:
        """Uninstall a release; False when there was none.

        Its objects stay until what they own has gone: the wheel's uninstall() has no such option.
        """
        from helm_python import _native

        options = {"timeout_seconds": _SECONDS, "deletion_propagation": "foreground"}
        raw = msgspec.json.encode(options).decode()
        try:
            self._act(
                lambda: msgspec.json.decode(
                    _native.call_string("helm_uninstall", self._config._raw(), release, raw)
                )
            )
        except NotReady:
            return False
        return True

    def chart(self, release: str) -> str:
        """The name of the chart of an installed release; empty when there is no such release."""
        try:
            found = self._config.get_metadata(release)
        except self._helm.HelmNotFoundError:
            return ""
        except self._helm.HelmError as error:
            raise _explain(error, self._connection.commands) from None
        chart = found.get("chart") or found.get("name") or ""
        return str(chart)

    def manifest(self, release: str) -> list[Object]:
        """The objects of the installed revision; empty when there is none."""
        try:
            return parse_manifests(self._config.status(release).get("manifest", ""))
        except self._helm.HelmNotFoundError:
            return []
        except self._helm.HelmError as error:
            raise _explain(error, self._connection.commands) from None

    def _call(self, action: str, target: Target, **options: Any) -> Object:
        """Call the library below the wheel, whose install() and upgrade() do not pass server_side_apply on.

        Helm 4 applies server-side under its program's name, here "python": the helm binary would then meet
        conflicts at its next upgrade or rollback. Applied by the client, all of them work on one release.
        """
        from helm_python import _native

        nothing = _native.HANDLE(0)
        options |= {"namespace": self._namespace, "timeout_seconds": _SECONDS}
        answer: Object = msgspec.json.decode(
            _native.call_string(
                action,
                self._config._raw(),
                nothing,
                nothing,
                str(target.chart.path),
                target.release,
                msgspec.json.encode(target.values).decode(),
                msgspec.json.encode(options).decode(),
            )
        )
        return answer

    def _act(self, action: Any) -> int:
        try:
            answer = action()
        except self._helm.HelmError as error:
            raise _explain(error, self._connection.commands) from None
        return int((answer or {}).get("version") or (answer or {}).get("revision") or 0)


def changes(old: list[Object], new: list[Object]) -> list[Change]:
    """Compare two renderings, object by object."""
    before = {_key(item): unnumbered(item) for item in old}
    after = {_key(item): unnumbered(item) for item in new}
    found = []
    for key in sorted({*before, *after}):
        left, right = before.get(key), after.get(key)
        if left == right:
            continue
        action = "update" if left and right else "create" if right else "delete"
        diff: list[str] = []
        if action == "update":
            diff = list(difflib.unified_diff(_lines(left), _lines(right), "live", "new", n=2, lineterm=""))
        found.append(Change(action, key[0], key[1], "\n".join(diff)))
    return found


def rehearse(connection: Connection, target: Target) -> None:
    """Ask the API server, without changing anything, whether it would take every object.

    Raises:
        InvalidInput: It refuses one: the sentence is the server's or the webhook's own.
        NotReady: The namespace or a resource type is missing, or no webhook answers.
    """
    for item in target.objects:
        version, plural = kind_of(item)
        name = item["metadata"]["name"]
        where = f"{item['kind']} {name}"
        try:
            connection.apply(path_of(version, plural, target.namespace, name), item, dry_run=True)
        except Missing as error:
            if "namespaces" in error.message:
                raise NotReady(
                    f"namespace {target.namespace} does not exist",
                    where="namespace",
                    fix=connection.commands.kubectl("create", "namespace", target.namespace, namespace=""),
                ) from None
            raise NotReady(
                f"the cluster knows no {item['kind']}",
                where=where,
                fix=f"{connection.commands.manyhost('doctor')} says what is missing",
            ) from None
        except Refused as error:
            raise _refusal(error.message, where, connection.commands) from None


def _refusal(message: str, where: str, commands: Commands) -> ManyhostError:
    if "failed calling webhook" in message:
        return NotReady(
            f"its admission webhook does not answer: {message}",
            where=where,
            fix=f"{commands.manyhost('doctor')} says whose it is and how it stands",
        )
    if "immutable" in message or "may not change" in message or "forbidden: updates to" in message:
        return InvalidInput(
            f"this change cannot be made in place: {message}",
            where=where,
            fix=f"{commands.manyhost('teardown')}, then {commands.manyhost('deploy')}; "
            "or deploy beside it with another --release",
        )
    if "exceeded quota" in message:
        shown = commands.kubectl("describe", "quota")
        return NotReady(
            message, where=where, fix=f"free something, or have it raised: {shown} says what is used"
        )
    return InvalidInput(message, where=where, fix="correct the recipe or its settings")


def _explain(error: Exception, commands: Commands) -> ManyhostError:
    """One sentence for a Helm error."""
    text = " ".join(str(error).split())
    if type(error).__name__ == "HelmNotFoundError" or "release: not found" in text:
        return NotReady(
            "there is no such release", where="helm", fix=f"{commands.helm('list')} shows which there are"
        )
    if "another operation (install/upgrade/rollback) is in progress" in text:
        return NotReady(
            "another Helm operation on this release is in progress, or one was cut off",
            where="helm",
            fix=f"wait for it; if none runs, {commands.manyhost('doctor')} says how to end it",
        )
    if "cannot re-use a name that is still in use" in text:
        return NotReady("a release of this name exists already", where="helm", fix="use another --release")
    if "connection refused" in text or "i/o timeout" in text or "no such host" in text or "EOF" in text:
        return Unreachable(
            f"the Kubernetes API cannot be reached: {text[:200]}",
            fix=f"see whether kubectl gets through: {commands.kubectl('cluster-info', namespace='')}",
        )
    if "admission webhook" in text and "denied the request" in text:
        return InvalidInput(text[text.index("admission webhook") :], where="helm")
    return RemoteError(text[:500], where="helm")


def _key(item: Object) -> tuple[str, str]:
    return item["kind"], item["metadata"]["name"]


def _lines(item: Object | None) -> list[str]:
    if item is None:
        return []
    import yaml

    return yaml.dump(item, Dumper=yaml.CSafeDumper, sort_keys=True, width=10_000).splitlines()
