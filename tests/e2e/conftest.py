"""One cluster for the whole session, and the command line pointed at it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from manyhost.benchmark import gate

from tests.e2e import place as places
from tests.e2e.cures import Shell
from tests.e2e.place import Place

NOT_READY = 4


@pytest.fixture(scope="session")
def place() -> Iterator[Place]:
    """The cluster; without any, one line says what is missing and pytest ends with exit code 4."""
    try:
        found = places.find()
    except places.Unavailable as error:
        pytest.exit(f"manyhost e2e: {error}", returncode=NOT_READY)
    yield found
    found.close()


@pytest.fixture(autouse=True)
def _pointed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The command line of this process talks to the cluster and has no settings of a person."""
    if "place" in request.fixturenames:
        monkeypatch.setenv("KUBECONFIG", str(request.getfixturevalue("place").kubeconfig))
    (tmp_path / "local.yaml").write_text("")
    monkeypatch.setenv("MANYHOST_LOCAL", str(tmp_path / "local.yaml"))
    for name in (
        "CLUSTER_NAME",
        "PROJECT_ID",
        "GCS_BUCKET",
        "VLLM_IMAGE",
        "VLLM_VERSION",
        "ARTIFACT_REGISTRY",
    ):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """How exact a client is on the two busy cores of a test machine, is not the subject."""
    monkeypatch.setattr(gate, "BUDGET_MS", 1000.0)
    monkeypatch.setattr(gate, "_SATURATED", 100.0)
    monkeypatch.setattr(gate, "_SKEW_SHARE", 1.0)


@pytest.fixture
def image(place: Place) -> tuple[str, str]:
    """The stand-in engine."""
    if place.image is None:
        pytest.skip("set MANYHOST_E2E_IMAGE to the stand-in image of testbed in a registry of this cluster")
    return place.image


@pytest.fixture
def shell(place: Place, tmp_path: Path) -> Shell:
    """Runs the commands that fixes advise."""
    folder = tmp_path / "programs"
    folder.mkdir()
    return Shell(place, folder)


@pytest.fixture
def gpu_hosts(place: Place) -> Place:
    """A cluster with A3 Mega hosts."""
    if place.own is None:
        pytest.skip("needs the test cluster's A3 Mega hosts")
    return place


@pytest.fixture
def namespace(place: Place, request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of this test's own."""
    short = request.node.name.removeprefix("test_").replace("_", "-").split("[")[0][:30].rstrip("-")
    name = f"e2e-{short}-{secrets.token_hex(2)}"  # the last run's namespace may still be on its way out
    with places.namespace(place, name) as made:
        yield made
