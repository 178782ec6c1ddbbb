"""docs/how-to/set-up-gke.md: its versions, names and numbers are those of the catalog and of doctor."""

from __future__ import annotations

import re

import yaml
from manyhost.catalog import Catalog
from manyhost.catalog.environment import Gke
from manyhost.cluster.doctor import CHECKS, lws

from tests.docs.markdown import HOW_TO
from tests.docs.test_commands import commands
from tests.helpers.helm import ROOT
from tools.gke_guide import BLUEPRINTS, RELEASE

TEXT = (HOW_TO / "set-up-gke.md").read_text()
LINES = [line for name, line in commands() if name == "docs/how-to/set-up-gke.md"]
CATALOG = Catalog(ROOT)


def line(start: str) -> str:
    (found,) = (text for text in LINES if text.startswith(start))
    return found


def test_every_environment_on_gke_has_a_blueprint() -> None:
    known = [
        name for name in CATALOG.names("environments") if isinstance(CATALOG.environment(name).platform, Gke)
    ]
    assert sorted(BLUEPRINTS) == sorted(known)


def test_the_toolkit_is_the_one_whose_blueprints_the_table_has() -> None:
    assert f"--branch {RELEASE} " in line("git clone")
    assert line("./gcluster deploy").endswith(f" {BLUEPRINTS['a3mega'].path}")
    assert set(re.findall(r"cluster-toolkit/blob/([^/]+)/", TEXT)) == {RELEASE}


def test_the_driver_is_the_image_locks() -> None:
    newest = CATALOG.engine("v0.33.0").image_lock["v0.33.0"]
    older = CATALOG.engine("v0.26.0").image_lock["v0.26.0-cu129"]
    assert f"CUDA {newest.cuda.partition('.')[0]} and needs R{newest.minimum_driver}." in TEXT
    assert f"CUDA {older.cuda} that runs on R{older.minimum_driver} and newer" in TEXT
    platform = CATALOG.environment("a3mega").platform
    assert isinstance(platform, Gke)
    accelerator = platform.node_selector["cloud.google.com/gke-accelerator"]
    gpus = CATALOG.environment("a3mega").host.gpus
    assert f" type={accelerator},count={gpus},gpu-driver-version=latest" in line(
        "gcloud container node-pools"
    )
    for name in ("a3mega", "a3high"):  # "on A3 hosts is too old"
        drivers = CATALOG.environment(name).platform
        assert isinstance(drivers, Gke)
        version = BLUEPRINTS[name].version
        assert drivers.gpu_drivers["default"][version] < newest.minimum_driver
        assert drivers.gpu_drivers["latest"][version] >= newest.minimum_driver


def test_the_controller_is_the_one_that_doctor_advises() -> None:
    assert line("kubectl apply").endswith(lws.MANIFESTS)
    assert f" {lws._CHART} --version {lws.VERSION} " in line("helm install")
    assert line("kubectl annotate").startswith(
        f"kubectl annotate crd {lws._CRD} helm.sh/resource-policy=keep"
    )


def test_checks_that_it_names_exist() -> None:
    named = re.findall(r"check `([a-z-]+)`", TEXT)
    assert named
    assert set(named) <= set(CHECKS)


def test_its_files_are_yaml_and_its_variables_are_set_before_they_are_used() -> None:
    deployment, pool = re.findall(r"^```yaml\n(.*?)^```", TEXT, re.M | re.S)
    assert set(yaml.safe_load(deployment)) == {"terraform_backend_defaults", "vars"}
    (entry,) = yaml.safe_load(pool)["guest_accelerator"]
    assert entry["gpu_driver_installation_config"] == {"gpu_driver_version": "LATEST"}
    known: set[str] = set()
    for text in LINES:
        assert set(re.findall(r"\$([A-Z_]+)", text)) <= known | (
            set(re.findall(r"([A-Z_]+)=", text)) if text.startswith("export") else set()
        )
        known |= set(re.findall(r"([A-Z_]+)=", text)) if text.startswith("export") else set()
