"""Each recipe's manifests against the committed ones, for every Helm, and its values against recipes/.

A change that is meant is written with `make generate`.
"""

from __future__ import annotations

import difflib
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
import yaml12
from manyhost.catalog import Catalog, resolve
from manyhost.render import Rendered, Renderer
from manyhost.render.helm import Binary

from tests.helpers.cli import ROOT
from tests.helpers.helm import helm_binaries
from tests.helpers.recipes import on_kubernetes
from tools import goldens

FOLDER = Path(__file__).parent
RECIPES = on_kubernetes(Catalog(ROOT))
ENGINES = ["in process", "helm3", "helm4"]


@functools.cache
def _render(recipe: str, engine: str) -> Rendered:
    catalog = Catalog(ROOT)
    binaries = helm_binaries()
    helm = None
    if engine != "in process":
        if engine not in binaries:
            pytest.skip(f"{engine} is not here: make tools")
        helm = Binary(ROOT / "charts/llm-multihost", str(binaries[engine]))
    return Renderer(catalog, helm).render(resolve(catalog, recipe))


def _objects(text: str) -> dict[str, str]:
    """Return each object's text by kind and name."""
    documents = [document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document]
    return {
        f"{item['kind']}/{item['metadata']['name']}": yaml.dump(item, Dumper=yaml.CSafeDumper, sort_keys=True)
        for item in documents
    }


def _difference(expected: dict[str, str], found: dict[str, str]) -> str:
    """Return a diff for every object that is not the same, "" when all are."""
    parts = []
    for name in sorted({*expected, *found}):
        old, new = expected.get(name, ""), found.get(name, "")
        if old != new:
            lines = difflib.unified_diff(
                old.splitlines(), new.splitlines(), "golden", "rendered", n=3, lineterm=""
            )
            parts.append(f"{name}:\n" + "\n".join(lines))
    return "\n\n".join(parts)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("recipe", RECIPES)
def test_manifests(recipe: str, engine: str) -> None:
    rendered = _render(recipe, engine)
    text = goldens.manifests_text(rendered.objects, ROOT / "charts/llm-multihost/launcher")
    golden = (FOLDER / goldens.folder_name(recipe) / "manifests.yaml").read_text()
    difference = _difference(_objects(golden), _objects(text))
    assert not difference, f"{recipe} with {engine}; meant? make generate\n{difference}"


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_committed_values_are_a_rendering_without_settings(recipe: str) -> None:
    committed = (ROOT / "recipes" / recipe / "values.yaml").read_text()
    assert committed == _render(recipe, "in process").values_text, "make generate"


@pytest.mark.parametrize("recipe", RECIPES)
def test_both_yaml_readers_agree(recipe: str) -> None:
    rendered = _render(recipe, "in process")
    assert yaml.load(rendered.values_text, Loader=yaml.CSafeLoader) == rendered.values
    streams: list[Any] = list(yaml.load_all(rendered.manifests_text, Loader=yaml.CSafeLoader))
    assert [s for s in streams if s] == [
        d for d in yaml12.parse_yaml(rendered.manifests_text, multi=True) if d
    ]


def test_no_golden_folder_is_left_over() -> None:
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {goldens.folder_name(recipe) for recipe in RECIPES}


def test_a_difference_names_the_object_and_the_line() -> None:
    golden = (FOLDER / goldens.folder_name(RECIPES[0]) / "manifests.yaml").read_text()
    changed = _objects(golden.replace("replicas: 1", "replicas: 2", 1))
    difference = _difference(_objects(golden), changed)
    assert difference.startswith("LeaderWorkerSet/")
    assert "+  replicas: 2" in difference
