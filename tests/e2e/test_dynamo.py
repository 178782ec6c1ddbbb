"""What `render --as dynamo` writes, before a real API server that has the operator's kinds."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.place import Place, run
from tests.helpers.shared import shared_dir
from tests.helpers.waiting import until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
KIND = "dynamographdeployments.nvidia.com"
# The newest version of the engine that a release of Dynamo serves with and that ran on GPUs.
PAIRED = ("--set", "engine.version=v0.26.0")
CASES = {
    "over TCPXO": ("a3mega",),
    "prefill and decode apart": ("a3ultra", "--set", "roles.prefill.groups=1"),
    "weights in a bucket": (
        "a3ultra",
        "--set",
        "site.gcs_bucket=my-bucket",
        "--set",
        "weights.source=bucket",
    ),
}


@pytest.fixture(scope="module")
def operated(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The cluster with the kind, without the operator: nothing is made of its objects."""
    shared = shared_dir()
    if not shared:
        pytest.skip("../shared is not here")
    (path,) = shared.glob(f"crds/{KIND}.dynamo-2026-*.yaml")
    crd = yaml.load(path.read_text(), Loader=yaml.CSafeLoader)
    crd["spec"]["conversion"] = {"strategy": "None"}  # its own is a webhook of the operator
    file = tmp_path_factory.mktemp("crd") / "crd.json"
    file.write_text(json.dumps(crd))
    place.kube("apply", "--server-side", "-f", str(file))
    try:
        until("the API server has the kind", lambda: served(place), 60)
        yield place
    finally:
        with contextlib.suppress(RuntimeError):
            place.kube("delete", "crd", KIND)


def served(place: Place) -> bool:
    with contextlib.suppress(RuntimeError):
        return place.kube("get", KIND, "--ignore-not-found") == ""
    return False


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_it_whole(operated: Place, case: str, tmp_path: Path) -> None:
    run("render", *CASES[case], *PAIRED, "--as", "dynamo", "--out", str(tmp_path)).ok()
    words = ("apply", "--server-side", "--validate=strict", "-f", str(tmp_path / "dynamo.yaml"))
    said = operated.kube(*words, "--dry-run=server")
    assert "dynamographdeployment.nvidia.com/deepseek-r1-671b serverside-applied (server dry run)" in said
    operated.kube(*words)
    (found,) = operated.get(KIND)["items"]
    try:
        assert found["spec"] == list(yaml.safe_load_all((tmp_path / "dynamo.yaml").read_text()))[-1]["spec"]
    finally:
        operated.kube("delete", "-f", str(tmp_path / "dynamo.yaml"))
