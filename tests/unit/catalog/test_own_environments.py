"""A new machine type is a data file and a recipe, on GKE and where there is no Kubernetes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from manyhost.catalog.merge import merge

from tests.helpers.cli import ROOT, checkout, manyhost, tree

RECIPE = yaml.safe_load((ROOT / "recipes/a3mega/deepseek-r1-671b/recipe.yaml").read_text())


def _add(folder: Path, environment: dict[str, Any], **recipe: Any) -> None:
    name = environment["name"]
    (folder / "values/environments" / f"{name}.yaml").write_text(yaml.safe_dump(environment))
    place = folder / "recipes" / name / "r1"
    place.mkdir(parents=True)
    (place / "recipe.yaml").write_text(yaml.safe_dump(RECIPE | {"environment": name} | recipe))


def _environment(base: str, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "values/environments" / f"{base}.yaml").read_text())
    return found | {"default_recipe": "r1"} | changes


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of its own, in which commands run."""
    monkeypatch.chdir(tmp_path)
    return checkout(tmp_path, monkeypatch)


def test_on_gke(own: Path) -> None:
    mine = _environment("a3mega", name="mine", description="my hosts")
    mine["platform"]["node_selector"] = {"cloud.google.com/gke-accelerator": "mine"}
    mine["host"]["nics"] = [{"network": "default"}] + [
        {"network": f"gpu-{n}", "mode": "NetDevice", "gpus": [n]} for n in range(8)
    ]
    _add(own, mine)
    ran = manyhost("render", "mine")
    assert ran.code == 0, ran.err
    manifests = (own / "build/mine/r1/manifests.yaml").read_text()
    assert '{"interfaceName":"eth8","network":"gpu-7"}' in manifests
    assert "cloud.google.com/gke-accelerator: mine" in manifests.replace('"', "")
    assert "eth8 gpu-7" in (own / "build/mine/r1/topology.svg").read_text()


def test_where_there_is_no_kubernetes(own: Path) -> None:
    mine = _environment("a3mega", name="pods", description="pods of 8 H200", interconnects=["none"])
    mine["host"] |= {"gpu": "H200", "gpu_memory_gib": 139.81, "machine_type": "pod", "interface": "ens1"}
    mine["host"]["nics"] = []
    mine["platform"] = {
        "kind": "runpod", "gpu_type_id": "NVIDIA H200", "image": "mine/pod:1", "volume_path": "/data"
    }  # fmt: skip
    _add(own, mine)
    ran = manyhost("render", "pods")
    assert ran.code == 0, ran.err
    assert sorted(tree(own / "build/pods/r1")) == ["launch.json", "plan.json", "topology.svg"]
    launch = json.loads((own / "build/pods/r1/launch.json").read_text())
    (role,) = launch["roles"]
    assert (launch["gpu_type_id"], launch["image"]) == ("NVIDIA H200", "mine/pod:1")
    assert role["variables"]["MANYHOST_MODEL_PATH"] == "/data/models/deepseek-ai/DeepSeek-R1"
    assert (role["name"], role["groups"], role["hosts"], role["gpus_per_host"]) == ("serve", 1, 2, 8)
    assert role["arguments"][:4] == ["--tensor-parallel-size", "8", "--pipeline-parallel-size", "2"]
    assert role["variables"]["MANYHOST_INTERFACE"] == "ens1"
    assert "MANYHOST_RANK" not in role["variables"]  # the platform's own

    for command in (["doctor"], ["deploy"], ["status"], ["discover"]):
        ran = manyhost(*command, "pods")
        assert ran.code == 3, ran.err
        assert "environment pods is no Kubernetes cluster" in ran.err
    ran = manyhost("render", "pods", "--set", "chart.queue=gpu")
    assert ran.code == 3
    assert "--set: chart" in ran.err


def test_the_folder_of_a_recipe_is_only_a_name(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MANYHOST_LOCAL")
    twin = _environment("a3mega", name="twin", description="the same hosts elsewhere")
    (own / "values/environments/twin.yaml").write_text(yaml.safe_dump(twin))
    (own / "values/local.yaml").write_text("twin:\n  site: {cluster_name: twin-cluster}\n")
    ran = manyhost("render", "a3mega", "--set", "environment=twin")
    assert ran.code == 0, ran.err
    values = yaml.safe_load((own / "build/a3mega/deepseek-r1-671b/values.yaml").read_text())
    assert values["host"]["environment"] == "twin"
    assert values["clusterName"] == "twin-cluster"  # the section of the environment that it runs on


TOO_MANY = [{"network": "default"}, {"network": "a", "gpus": [9]}]
TWICE = [{"network": "a", "gpus": [0]}, {"network": "b", "gpus": [0]}]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"price": {"default_region": "mars"}}, "price.default_region: is none of the regions"),
        ({"price": {"date": "yesterday"}}, "price.date: is not written as it must be"),
        (
            {"host": {"nics": TOO_MANY}},
            "host.nics[1].gpus: names GPU 9 of 8",
        ),
        ({"host": {"memory_gib": 16, "shm_gib": 8}}, "host.share.memory_limit_gib: is "),
        ({"host": {"shm_gib": 4096}}, "host.shm_gib: is 4096, more than host.memory_gib: "),
        (
            {"host": {"share": {"memory_gib": 9999}}},
            "host.share.memory_gib: is 9999, more than host.memory_gib",
        ),
        ({"host": {"share": {"memory_limit_gib": 100}}}, "more than host.share.memory_limit_gib: 100"),
        ({"host": {"share": {"cpu": 9999}}}, "host.share.cpu: is 9999, more than host.cpus: "),
        (
            {"host": {"nics": TWICE}},
            "GPU 0, which another NIC",
        ),
    ],
)
def test_facts_that_contradict_each_other_name_the_key(own: Path, change: dict[str, Any], words: str) -> None:
    mine = merge(_environment("a3mega", name="mine", description="my hosts"), change)
    _add(own, mine)
    ran = manyhost("render", "mine")
    assert ran.code == 3, ran.out
    assert f"values/environments/mine.yaml: {words.partition(':')[0]}" in ran.err or words in ran.err
    assert words in ran.err


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("values/environments/mine.yaml", "values/environments/mine.yaml: file not found\n"),
        ("recipes/mine/r1/recipe.yaml", "RECIPE: environment mine has no recipe 'r1'\n"),
    ],
)
def test_a_link_to_nowhere_is_named_where_it_is(
    place: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder of one's own, outside of the checkout."""
    monkeypatch.chdir(tmp_path)
    for folder in ("values/environments", "recipes"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.setattr("manyhost.catalog.loader._HERE", tmp_path)
    _add(tmp_path, _environment("a3mega", name="mine", description="my hosts"))
    (tmp_path / place).unlink()
    (tmp_path / place).symlink_to(tmp_path / "unmounted.yaml")
    ran = manyhost("render", "mine/r1")
    assert (ran.code, ran.err) == (3, f"manyhost: {words}")


def test_settings_that_are_a_link_to_nowhere_are_not_left_out(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MANYHOST_LOCAL")
    (own / "values/local.yaml").symlink_to(own / "unmounted.yaml")
    ran = manyhost("render", "a3mega")
    assert ran.code == 3
    assert "local.yaml: file not found" in ran.err


def test_a_platform_that_was_left_leaves_no_files_behind(own: Path) -> None:
    assert manyhost("render", "local").code == 0
    folder = own / "build/local/tiny-r1"
    (folder / "launch.json").write_text("{}")
    assert manyhost("render", "local").code == 0
    assert sorted(tree(folder)) == ["manifests.yaml", "plan.json", "topology.svg", "values.yaml"]
