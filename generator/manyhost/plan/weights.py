"""Where the weights come from, and whether they fit there."""

from __future__ import annotations

from posixpath import normpath

import msgspec

from manyhost.catalog import Environment, Model, Recipe
from manyhost.catalog.environment import RunPod
from manyhost.errors import InvalidInput
from manyhost.plan.memory import GIB


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where every host reads the weights.

    Attributes:
        kind: hub, bucket, volume or folder.
        path: Folder inside the container; empty for the hub.
        model: The model's name on the hub.
        revision: Its commit there; empty where nobody has pinned one.
    """

    kind: str
    path: str
    model: str
    revision: str

    @property
    def staged(self) -> str:
        """What the manifest in the folder must name: MODEL or MODEL@COMMIT; empty if it needs none.

        Weights in a bucket or on a network volume are staged, and staged weights are proven. A folder may be
        anything: part of an image, somebody's own disk.
        """
        if self.kind not in {"bucket", "volume"}:
            return ""
        return f"{self.model}@{self.revision}".rstrip("@")


def source(recipe: Recipe, model: Model, environment: Environment) -> Source:
    """Return the source of the weights.

    Raises:
        InvalidInput: When it is not there, or a download is larger than the host's SSD.
    """
    kind, path, host = recipe.weights.source, recipe.weights.path, environment.host
    if isinstance(environment.platform, RunPod):
        return _on_volume(recipe, model, environment.platform)
    if kind == "auto":
        kind = "bucket" if recipe.site.gcs_bucket else "hub"
    if kind == "bucket" and not recipe.site.gcs_bucket:
        raise InvalidInput("is bucket, but no bucket is set", where="weights.source", fix="set GCS_BUCKET")
    if kind == "folder" and not path.startswith("/"):
        raise InvalidInput("must be an absolute path", where="weights.path")
    if not host.gpus and model.weights_bytes > host.memory_gib * GIB:
        raise InvalidInput(
            f"{model.weights_bytes / 1e9:.1f} GB of {model.name} do not fit into the "
            f"{host.memory_gib} GiB of a host",
            where="model",
        )
    if kind == "folder":
        _check_mounted(recipe, path)
    if kind != "hub":
        path = path or f"/gcs/models/{model.hub_id}"
        return Source(kind=kind, path=path, model=model.hub_id, revision=model.revision)
    if path:
        raise InvalidInput("has no effect when weights come from the hub", where="weights.path")
    if model.weights_bytes > host.local_ssd_gib * GIB:
        raise InvalidInput(
            f"{model.weights_bytes / 1e9:.1f} GB of {model.name} do not fit on the {host.local_ssd_gib} GiB "
            f"of local SSD of {host.machine_type}",
            where="weights.source",
            fix="stage them in a bucket or a folder",
        )
    return Source(kind=kind, path="", model=model.hub_id, revision=model.revision)


def _on_volume(recipe: Recipe, model: Model, platform: RunPod) -> Source:
    if recipe.weights.source != "auto":
        raise InvalidInput(
            "on RunPod weights come from the network volume", where="weights.source", fix="leave it out"
        )
    path = recipe.weights.path or f"{platform.volume_path}/models/{model.hub_id}"
    if not f"{normpath(path)}/".startswith(f"{normpath(platform.volume_path)}/"):
        raise InvalidInput(
            f"{path[:200]} is not on the network volume, {platform.volume_path}", where="weights.path"
        )
    return Source(kind="volume", path=path, model=model.hub_id, revision=model.revision)


def _check_mounted(recipe: Recipe, path: str) -> None:
    """Refuse a folder that no mount holds; of one's own image nobody here knows what is in it."""
    volumes = recipe.chart.get("volumes", {})
    mounts = [mount.mount_path for mount in recipe.host_mounts]
    mounts += [mount["mountPath"] for mount in volumes.get("extra", [])]
    mounts += ["/gcs"] if recipe.site.gcs_bucket else []
    mounts += [volumes.get("ssdMountPath", "/ssd")] if recipe.ssd_host_path else []
    folder = normpath(path)
    if recipe.engine.image or any(f"{folder}/".startswith(f"{normpath(mount)}/") for mount in mounts):
        return
    raise InvalidInput(
        f"no mount holds {path[:200]}",
        where="weights.path",
        fix="mount it with host_mounts or chart.volumes.extra, or set GCS_BUCKET for a folder below /gcs",
    )
