"""The bucket: its driver, its place, who may use it, and the weights in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from manyhost.cluster import gcs, gke
from manyhost.cluster.doctor.check import Finding, Sight, check, failed, passed, skipped, warned
from manyhost.commands import line, manyhost
from manyhost.errors import NotReady, RemoteError

if TYPE_CHECKING:
    from manyhost.plan.weights import Source
    from manyhost.weights.bucket import Bucket

_DRIVER = "gcsfuse.csi.storage.gke.io"
_OTHER = "holds"  # how the text about another revision begins
_ADD_DRIVER = ("--update-addons", "GcsFuseCsiDriver=ENABLED")


@check("gcs-driver", "Is the Cloud Storage FUSE driver there?")
def gcs_driver(sight: Sight) -> Finding:
    """Only when a bucket is mounted."""
    if not _mounts(sight):
        return skipped("no bucket is mounted")
    if sight.find("storage.k8s.io/v1", "csidrivers", _DRIVER) is None:
        return failed(
            f"the cluster has no CSI driver {_DRIVER}",
            f"on GKE: {gke.clusters('update', *sight.gke, *_ADD_DRIVER)}",
        )
    return passed(f"{_DRIVER} is there")


@check("bucket", "Does the bucket exist, near the cluster?")
def bucket(sight: Sight) -> Finding | list[Finding]:
    """Existence and location of every mounted bucket."""
    if not _mounts(sight):
        return skipped("no bucket is mounted")
    region = _region(sight)
    findings: list[Finding] = []
    for name in sorted({mount["bucketName"] for mount in _mounts(sight)}):
        try:
            found = _bucket(sight, name)
        except NotReady as error:
            findings.append(warned(f"could not look at gs://{name}: {error.message}", error.fix))
            continue
        except RemoteError as error:
            findings.append(failed(error.message, error.fix))
            continue
        if region and found.location.lower() != region:
            make = f"have the weights near it: {gcs.create(f'gs://{name}-{region}', region)}"
            text = f"gs://{name} is in {found.location.lower()}, the cluster in {region}: "
            text += "every start would read far and pay for it"
            findings.append(failed(text, make) if found.kind == "region" else warned(text, make))
    there = ", ".join(f"gs://{name}" for name in sorted({m["bucketName"] for m in _mounts(sight)}))
    return findings or passed(f"{there} exists{f' in {region}' if region else ': the region is not known'}")


@check("bucket-access", "May the workload's identity use the bucket?", needs=("bucket",))
def bucket_access(sight: Sight) -> Finding | list[Finding]:
    """The bucket's own policy, for the pods' Kubernetes ServiceAccount.

    A grant on the project, the folder or the organization, or through a role of the organization's own,
    is as good and not seen here: what the policy lacks is a warning, not a failure.
    """
    if not _mounts(sight):
        return skipped("no bucket is mounted")
    target = sight.target
    findings: list[Finding] = []
    for mount in _mounts(sight):
        name, write = mount["bucketName"], not mount.get("readOnly")
        role = "roles/storage.objectUser" if write else "roles/storage.objectViewer"
        found = gke.parse(sight.connection.context)
        project = target.plan.settings.site.project_id or (found.project if found else "PROJECT")
        member = (
            "principal://iam.googleapis.com/projects/PROJECT_NUMBER/locations/global/workloadIdentityPools/"
            f"{project}.svc.id.goog/subject/ns/{target.namespace}/sa/{target.service_account}"
        )
        grant = ("storage", "buckets", "add-iam-policy-binding", f"gs://{name}", "--role", role)
        fix = line("gcloud", *grant, "--member", member)
        try:
            access = gcs.access_of(_store(sight), name, target.namespace, target.service_account)
        except (NotReady, RemoteError) as error:
            findings.append(
                warned(
                    f"could not read the policy of gs://{name}: {error.message}", f"if it is missing: {fix}"
                )
            )
            continue
        if not access.read or (write and not access.write):
            shown = line("gcloud", "projects", "get-ancestors-iam-policy", project)
            what = "read" if not access.read else "write to"
            findings.append(
                warned(
                    f"the policy of gs://{name} does not let ServiceAccount {target.namespace}/"
                    f"{target.service_account} {what} it; grants above the bucket were not read",
                    f"{shown} shows those; if none has "
                    f"ns/{target.namespace}/sa/{target.service_account}: {fix}",
                )
            )
    return findings or passed(f"ServiceAccount {target.namespace}/{target.service_account} may use it")


@check("weights", "Are the model's weights staged and proven?", needs=("bucket",))
def weights(sight: Sight) -> Finding:
    """The manifest, and every object's size and checksum against it: seconds, and no weights are read."""
    target = sight.target
    if target.plan.weights.kind != "bucket":
        return skipped("weights do not come from a bucket")
    path = target.plan.weights.path
    mount = next(
        (
            m
            for m in _mounts(sight)
            if f"{path}/".startswith(f"{(m.get('mountPath') or '/gcs').rstrip('/')}/")
        ),
        None,
    )
    if mount is None:
        return failed(
            f"no mounted bucket holds {path}",
            "set weights.path to a folder below the mount: "
            + manyhost("explain", "weights.path", sight.target.recipe)
            + " says who has set it",
        )
    from manyhost.weights.bucket import Bucket  # what stages is loaded only to look into a bucket

    below = path[len((mount.get("mountPath") or "/gcs").rstrip("/")) :].strip("/")
    prefix = "/".join(part for part in (str(mount.get("onlyDir") or "").strip("/"), below) if part)
    place = f"gs://{mount['bucketName']}/{prefix}".rstrip("/")
    try:
        problem = _unproven(Bucket(_store(sight), place), target.plan.weights)
    except NotReady as error:
        return warned(f"could not look into {place}: {error.message}", error.fix)
    except RemoteError as error:
        return failed(error.message, error.fix)
    if problem:
        # Not over another revision, which pods may be reading.
        beside = f"-{target.plan.weights.revision[:12]}" if problem.startswith(_OTHER) else ""
        stage = manyhost("stage", target.plan.model.name, "--to", f"{place}{beside}")
        if beside:
            stage += ", and name that folder in weights.path"
        return failed(f"{place} {problem}", f"stage them: {stage}")
    return passed(f"{place} is what its manifest says, {target.plan.weights.staged}")


def _unproven(bucket: Bucket, wanted: Source) -> str:
    """Say why pods would not serve what is in a bucket; nothing if they would."""
    from manyhost.weights import manifest
    from manyhost.weights.stage import differences

    text, found = bucket.manifest(), bucket.inventory()
    if text is None:
        if manifest.MARK in found:
            return f"is half-staged: {len(found) - 1} files and no {manifest.NAME}"
        if not found:
            return "is empty: nothing is staged there"
        return f"has {len(found)} files, but no {manifest.NAME}: nobody has proven them"
    try:
        known = manifest.loads(text)
    except manifest.Unreadable as error:
        return f"has a {manifest.NAME} that {error}"
    if known.model != wanted.model or (wanted.revision and known.revision != wanted.revision):
        return f"{_OTHER} {known.model}@{known.revision[:12]}, not {wanted.model}@{wanted.revision[:12]}"
    problems = differences(known, bucket)
    more = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"is not what was staged: {problems[0]}{more}" if problems else ""


def _mounts(sight: Sight) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = sight.target.effective["volumes"]["gcsMounts"]
    return mounts


def _store(sight: Sight) -> gcs.Store:
    site = sight.target.plan.settings.site
    store: gcs.Store = sight.once("gcs", lambda: gcs.open_store(site.project_id, _region(sight)))
    return store


def _bucket(sight: Sight, name: str) -> gcs.Bucket:
    found: gcs.Bucket = sight.once(f"bucket {name}", lambda: gcs.bucket_of(_store(sight), name))
    return found


def _region(sight: Sight) -> str:
    site = sight.target.plan.settings.site
    found = gke.parse(sight.connection.context)
    return (site.cluster_region or site.region or (found.region if found else "")).lower()
