"""The catalog: every committed file is valid, names are found, mistakes are hinted at."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhost.catalog import Catalog
from manyhost.catalog.interconnect import Plugin
from manyhost.errors import InvalidInput

from tests.helpers.cli import ROOT, checkout

CATALOG = Catalog(ROOT)
KINDS = {
    "environments": CATALOG.environment,
    "interconnects": CATALOG.interconnect,
    "models": CATALOG.model,
    "engines/vllm": CATALOG.engine,
}


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in CATALOG.names(kind)], ids=str
)
def test_committed_entries_are_valid_and_called_like_their_file(kind: str, name: str) -> None:
    entry = KINDS[kind](name)
    assert name == (entry.version if kind == "engines/vllm" else entry.name)


def test_what_entries_name_exists() -> None:
    for name in CATALOG.names("environments"):
        environment = CATALOG.environment(name)
        assert f"{name}/{environment.default_recipe}" in CATALOG.recipes()
        for interconnect in environment.interconnects:
            assert CATALOG.interconnect(interconnect)
        if environment.price:
            assert environment.price.default_region in environment.price.usd_per_host_hour
    for version in CATALOG.names("engines/vllm"):
        engine = CATALOG.engine(version)
        assert "tensor-parallel-size" in CATALOG.flags(engine)
        assert set(engine.stock_image_executors) <= set(engine.executors)
        assert set(engine.default_arguments) <= set(CATALOG.flags(engine))


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("a3mega",), "a3mega/deepseek-r1-671b"),
        (("a3mega", "deepseek-r1-671b"), "a3mega/deepseek-r1-671b"),
        (("a3mega", "", "deepseek-r1-671b-published"), "a3mega/deepseek-r1-671b-published"),
        (("local",), "local/tiny-r1"),
        (("local", "tiny-r1"), "local/tiny-r1"),
    ],
)
def test_recipe_names(arguments: tuple[str, ...], name: str) -> None:
    assert CATALOG.recipe_name(*arguments) == name


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a3mgea",), "unknown environment 'a3mgea'\n  fix: did you mean a3mega?"),
        (("a3mega", "", "deepseek"), "environment a3mega has no recipe 'deepseek'"),
        (("a3mega", "tiny-r1"), "environment a3mega has no recipe for tiny-r1"),
        (("a3mega", "tiny-r1", "deepseek-r1-671b"), "recipe a3mega/deepseek-r1-671b is for deepseek-r1-671b"),
        (("a3mega", "tiny"), "unknown model 'tiny'\n  fix: did you mean tiny-r1?"),
        (("x" * 10_000,), "unknown environment"),
        (("a\0b",), "unknown environment"),
    ],
)
def test_names_that_do_not_exist(arguments: tuple[str, ...], words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        CATALOG.recipe_name(*arguments)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("environments/a3mega.yaml", "gpus: 8", "gpu_count: 8", "host.gpu_count: unknown key"),
        ("environments/a3mega.yaml", "  gpus: 8\n", "", "host.gpus: required key is missing"),
        (
            "environments/a3mega.yaml",
            "gpus: 8",
            "gpus: eight",
            "host.gpus: expected a whole number, got text",
        ),
        (
            "environments/a3mega.yaml",
            "gpus: 8",
            "gpus: -8",
            "host.gpus: expected a whole number of at least 0",
        ),
        ("environments/a3mega.yaml", "kind: gke", "kind: gkee", "platform.kind: invalid"),
        ("environments/a3mega.yaml", "name: a3mega", "name: a3mega\nname: a3mega", "duplicate key 'name'"),
        (
            "environments/a3mega.yaml",
            "interconnects: [tcpxo, none]",
            "interconnects: []",
            "length of at least 1",
        ),
    ],
)
def test_mistakes_in_entries_are_named_with_file_and_key(
    file: str, old: str, new: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = checkout(tmp_path, monkeypatch)
    path = root / "values" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InvalidInput) as caught:
        Catalog(root).environment("a3mega")
    assert words in str(caught.value)
    assert str(caught.value).startswith(f"values/{file}")


def test_flags_that_are_missing_or_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = checkout(tmp_path, monkeypatch)
    catalog = Catalog(root)
    engine = catalog.engine("v0.26.0")
    path = root / "values/engines/vllm" / engine.flags
    path.write_text("seed: [1")
    with pytest.raises(InvalidInput, match=r"values/engines/vllm/0.26.0.flags.yaml: cannot be read"):
        catalog.flags(engine)
    path.unlink()
    with pytest.raises(InvalidInput, match="No such file"):
        catalog.flags(engine)


def test_files_of_the_current_folder_are_added_to_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Catalog().settings_file() == ROOT / "values/local.yaml"

    (tmp_path / "values/models").mkdir(parents=True)
    text = (ROOT / "values/models/tiny-r1.yaml").read_text()
    (tmp_path / "values/models/small.yaml").write_text(text.replace("name: tiny-r1", "name: small"))
    catalog = Catalog()
    assert catalog.model("small").hub_id == CATALOG.model("tiny-r1").hub_id
    assert catalog.names("models") == sorted([*CATALOG.names("models"), "small"])
    assert catalog.recipes() == CATALOG.recipes()
    assert catalog.root == ROOT
    assert catalog.settings_file().resolve() == tmp_path / "values/local.yaml"
    assert Catalog(ROOT).names("models") == CATALOG.names("models"), "a folder that is named stands alone"


@pytest.mark.parametrize("name", CATALOG.names("interconnects"))
def test_nccl_stops_instead_of_falling_back_to_sockets_without_the_plugin(name: str) -> None:
    fabric = CATALOG.interconnect(name)
    networks = {"tcpxo": "FasTrak", "tcpx": "GPUDirectTCPX_v7", "gib": "gIB", "gib-imex": "gIB"}
    assert (name in networks) == (isinstance(fabric, Plugin) and bool(fabric.plugin_repository))
    if isinstance(fabric, Plugin):
        assert fabric.variables.get("NCCL_NET", "") == networks.get(name, "")
