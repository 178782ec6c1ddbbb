"""Weights from a folder need a mount that holds them, and folders of the hosts work on every environment."""

from __future__ import annotations

import pytest
import yaml
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.plan import make_plan
from manyhost.render import build

from tests.helpers.cli import RECIPE, ROOT

CATALOG = Catalog(ROOT)
FOLDER = "weights={source: folder, path: /data/r1}"
EXTRA = "[{name: r1, mountPath: %s, volume: {persistentVolumeClaim: {claimName: r1, readOnly: true}}}]"


@pytest.mark.parametrize(
    "assignments",
    [
        ("host_mounts=[{name: data, host_path: /mnt/data, mount_path: /data}]",),
        ("host_mounts=[{name: data, host_path: /mnt/data, mount_path: /data/r1/}]",),
        (f"chart.volumes.extra={EXTRA % '/data'}",),
        ("weights.path=/gcs/r1", "site.gcs_bucket=weights"),
        ("weights.path=/ssd/r1", "ssd_host_path=/mnt/ssd"),
        ("engine.image=o/vllm-with-weights",),
    ],
)
def test_a_folder_that_a_mount_holds(assignments: tuple[str, ...]) -> None:
    plan = make_plan(resolve(CATALOG, RECIPE, assignments=(FOLDER, *assignments)), CATALOG)
    assert plan.weights.kind == "folder"


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("host_mounts=[{name: data, host_path: /mnt/data, mount_path: /dat}]",),
        (f"chart.volumes.extra={EXTRA % '/data/r1/more'}",),
        ("site.gcs_bucket=weights",),
        ("weights.path=/ssd/r1", "ssd_host_path="),
        ("weights.path=/data/../etc", "host_mounts=[{name: d, host_path: /d, mount_path: /data}]"),
    ],
)
def test_a_folder_that_no_mount_holds_is_refused(assignments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput, match="no mount holds") as caught:
        make_plan(resolve(CATALOG, RECIPE, assignments=(FOLDER, *assignments)), CATALOG)
    assert "host_mounts" in caught.value.fix


@pytest.mark.parametrize("environment", ["a3mega", "a3ultra", "a4", "kubernetes"])
def test_folders_of_the_hosts_work_on_every_environment(environment: str) -> None:
    mount = "host_mounts=[{name: data, host_path: /mnt/data, mount_path: /data}]"
    rendered = build(CATALOG.recipe_name(environment), assignments=[mount])
    (group,) = (item for item in rendered.objects if item["kind"] == "LeaderWorkerSet")
    template = group["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"]
    assert {"name": "host-data", "hostPath": {"path": "/mnt/data", "type": "Directory"}} in template[
        "volumes"
    ]
    assert yaml.safe_load(rendered.values_text)["volumes"]["hostMounts"][0]["mountPath"] == "/data"
