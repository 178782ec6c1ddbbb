"""Cloud Storage through the real client: buckets, policies, names, uploads."""

from __future__ import annotations

from pathlib import Path

import msgspec

from manyhost.errors import Failed
from manyhost.weights.store import Store, create, open_store

__all__ = ["Access", "Bucket", "Store", "access_of", "bucket_of", "create", "names", "open_store", "upload"]

_SECONDS = 10.0
_READ = {
    "roles/storage.objectViewer", "roles/storage.objectUser", "roles/storage.objectAdmin",
    "roles/storage.admin",
    "roles/storage.legacyObjectReader", "roles/owner", "roles/editor", "roles/viewer",
}  # fmt: skip
_WRITE = {
    "roles/storage.objectUser", "roles/storage.objectAdmin", "roles/storage.admin",
    "roles/owner", "roles/editor",
}  # fmt: skip


class Bucket(msgspec.Struct, frozen=True):
    """A bucket.

    Attributes:
        name: Its name.
        location: Region, dual-region or multi-region, upper case as the API gives it.
        kind: region, dual-region or multi-region.
    """

    name: str
    location: str
    kind: str


class Access(msgspec.Struct, frozen=True):
    """What somebody may do with a bucket's objects."""

    read: bool
    write: bool


def bucket_of(store: Store, name: str) -> Bucket:
    """Return a bucket.

    Raises:
        RemoteError: It does not exist, or Cloud Storage fails.
        NotReady: The credentials do not allow to look.
    """
    found = store.call(lambda: store.client.get_bucket(name, timeout=_SECONDS, retry=None), f"gs://{name}")
    return Bucket(name, str(found.location or ""), str(found.location_type or "region"))


def access_of(store: Store, name: str, namespace: str, account: str) -> Access:
    """Return what a Kubernetes ServiceAccount may do, from the bucket's own policy.

    Grants on the project or through a Google service account are not seen.

    Raises:
        RemoteError: The bucket does not exist, or Cloud Storage fails.
        NotReady: The credentials do not allow to read the policy.
    """
    policy = store.call(
        lambda: store.client.bucket(name).get_iam_policy(
            requested_policy_version=3, timeout=_SECONDS, retry=None
        ),
        f"gs://{name}",
    )
    roles = {
        binding["role"]
        for binding in policy.bindings
        if any(_is_account(member, namespace, account) for member in binding["members"])
    }
    return Access(read=bool(roles & _READ), write=bool(roles & _WRITE))


def _is_account(member: str, namespace: str, account: str) -> bool:
    """Whether a policy member includes a ServiceAccount (IAM, "Principal identifiers")."""
    if member in {"allUsers", "allAuthenticatedUsers"}:
        return True
    kind, _, rest = member.partition(":")
    if kind == "principal":
        return rest.endswith(f"/subject/ns/{namespace}/sa/{account}")
    if kind == "principalSet":
        return rest.endswith((f"/namespace/{namespace}", "/*")) or "/kubernetes.cluster/" in rest
    return kind == "serviceAccount" and rest.endswith(f".svc.id.goog[{namespace}/{account}]")


def names(store: Store, bucket: str, prefix: str) -> set[str]:
    """Return the names of all objects below a prefix.

    Raises:
        RemoteError: The bucket does not exist, or Cloud Storage fails.
        NotReady: The credentials do not allow to look.
    """
    return store.call(
        lambda: {
            blob.name
            for blob in store.client.list_blobs(
                bucket, prefix=prefix, fields="items(name),nextPageToken", timeout=_SECONDS, retry=None
            )
        },
        f"gs://{bucket}",
    )


def upload(store: Store, bucket: str, name: str, source: Path) -> None:
    """Upload a file under a name that must be free: results are never written over.

    Raises:
        Failed: An object of this name exists.
        RemoteError: The bucket does not exist, or Cloud Storage fails.
        NotReady: The credentials do not allow it.
    """
    from google.api_core.exceptions import PreconditionFailed

    def send() -> None:
        try:
            # 0: only if there is no such object; it also makes a retried upload safe.
            store.client.bucket(bucket).blob(name).upload_from_filename(
                str(source), if_generation_match=0, timeout=60
            )
        except PreconditionFailed:
            raise Failed("exists already", where=f"gs://{bucket}/{name}", fix="choose another name") from None

    store.call(send, f"gs://{bucket}")
