"""Changing a person's settings file: only the lines that are meant."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from manyhost.cluster.discover import _natural, _site, edit
from manyhost.errors import InvalidInput

NEW: dict[str, Any] = {
    "network": {"subnetworks": ["default", "vpc1"]},
    "node_selector": {"cloud.google.com/gke-nodepool": "p"},
    "site": {"project_id": "p", "cluster_name": "c"},
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# only a comment\n",
        "context: 4096\n",
        "network:\n  subnetworks: [a, b]  # old\n  nccl: {A: b}\n",
        "network:\n  subnetworks:\n  - a\n  - b\n  # about nccl\n  nccl:\n    A: b\n",
        "network:\n    subnetworks:\n        - a\nsite:\n    gcs_bucket: x # keep\n",
        "site:\n  # mine\n  gcs_bucket: x\n\n# end\nnode_selector:\n  a: b\n",
        "network:\n",
        "'site':\n  project_id: old\n",
    ],
)
def test_edit_changes_these_keys_only(text: str) -> None:
    after = edit(text, NEW)
    before = yaml.safe_load(text) or {}
    wanted = {key: value for key, value in before.items() if value is not None}
    wanted["network"] = {**(before.get("network") or {}), **NEW["network"]}
    wanted["site"] = {**(before.get("site") or {}), **NEW["site"]}
    wanted["node_selector"] = NEW["node_selector"]
    assert yaml.safe_load(after) == wanted
    for line in text.splitlines():
        if "#" in line and "old" not in line:
            assert line in after.splitlines()
    assert edit(after, NEW) == after


@pytest.mark.parametrize(
    "text", ["site: {gcs_bucket: x}\n", "{context: 1}\n", "network: &n\n  nccl: {}\nother: *n\n"]
)
def test_what_cannot_be_edited_safely_is_left_alone(text: str) -> None:
    with pytest.raises(InvalidInput, match="block style"):
        edit(text, NEW)


def test_nic_order() -> None:
    names = [f"vpc{n}" for n in (10, 2, 1, 9)]
    assert sorted(names, key=_natural) == ["vpc1", "vpc2", "vpc9", "vpc10"]


def test_site_from_the_context() -> None:
    assert _site("gke_my-project_us-east4-b_prod") == {
        "project_id": "my-project",
        "cluster_region": "us-east4",
        "cluster_name": "prod",
    }
    assert _site("kind-x") == {}
