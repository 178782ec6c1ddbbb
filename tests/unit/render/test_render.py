"""Rendering in memory and to files: both Helm engines alike, whole, repeatable, with the origin of values."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import pytest
import yaml
from manyhost import speed
from manyhost.catalog import Catalog, resolve
from manyhost.errors import InvalidInput
from manyhost.render import Renderer, build, release_name
from manyhost.render.helm import Binary, check_names
from manyhost.render.values import quote

from tests.helpers.cli import RECIPE, ROOT, manyhost, tree
from tests.helpers.helm import helm_binaries
from tests.helpers.recipes import on_kubernetes

RECIPES = Catalog(ROOT).recipes()


def test_two_renders_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        assert manyhost("render", "a3mega", "--out", str(tmp_path / folder)).code == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert sorted(tree(tmp_path / "a")) == ["manifests.yaml", "plan.json", "topology.svg", "values.yaml"]


def test_a_render_replaces_all_files_of_an_older_one(tmp_path: Path) -> None:
    manyhost("render", "a3mega", "--out", str(tmp_path))
    before = tree(tmp_path)
    ran = manyhost("render", "a3mega", "--set", "context=16384", "--out", str(tmp_path))
    assert ran.code == 0
    after = tree(tmp_path)
    assert list(after) == list(before)
    assert b'"context": 16384' in after["plan.json"]
    assert after["values.yaml"] != before["values.yaml"] != b""


@pytest.mark.parametrize("engine", ["helm3", "helm4"])
@pytest.mark.parametrize("recipe", on_kubernetes(Catalog(ROOT)))
def test_the_binary_renders_the_same_objects(
    recipe: str, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine not in helm_binaries():
        pytest.skip(f"{engine} is not here: make tools")
    monkeypatch.setenv("HELM", str(helm_binaries()[engine]))
    assert manyhost("render", recipe, "--out", str(tmp_path / "a")).code == 0
    assert manyhost("render", recipe, "--helm", "--out", str(tmp_path / "b")).code == 0
    a, b = tree(tmp_path / "a"), tree(tmp_path / "b")
    assert a["values.yaml"] == b["values.yaml"]
    assert list(yaml.load_all(a["manifests.yaml"], Loader=yaml.CSafeLoader)) == list(
        yaml.load_all(b["manifests.yaml"], Loader=yaml.CSafeLoader)
    )


@pytest.mark.parametrize("engine", ["helm3", "helm4"])
def test_both_say_the_same_when_the_chart_refuses(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine not in helm_binaries():
        pytest.skip(f"{engine} is not here: make tools")
    catalog = Catalog(ROOT)
    resolved = resolve(catalog, RECIPE, assignments=["site.gcs_bucket=gs://x"])
    messages = []
    for renderer in (
        Renderer(catalog),
        Renderer(catalog, Binary(ROOT / "charts/llm-multihost", str(helm_binaries()[engine]))),
    ):
        with pytest.raises(InvalidInput) as caught:
            renderer.render(resolved)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("--set: site.gcs_bucket: ")


def test_values_say_where_they_came_from() -> None:
    text = build(RECIPE, variables={"GCS_BUCKET": "weights"}, assignments=["arguments.seed=7"]).values_text
    assert '"seed": 7  # --set' in text
    assert "environment variable GCS_BUCKET" in text
    assert f"# context: recipes/{RECIPE}/recipe.yaml" in text or "context: recipes/" in text
    assert '"reasoning-parser": "deepseek_r1"  # values/models/deepseek-r1-671b.yaml' in text


def test_no_secret_reaches_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecretvalue")
    assert manyhost("render", "a3mega", "--out", str(tmp_path)).code == 0
    assert all(b"averysecretvalue" not in content for content in tree(tmp_path).values())


def test_a_million_stays_a_whole_number() -> None:
    rendered = build(RECIPE, assignments=["arguments.seed=1000000"])
    assert '"1000000"' in rendered.manifests_text or "\n          - 1000000" in rendered.manifests_text
    assert "1e+06" not in rendered.manifests_text


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_picture_is_well_formed_and_names_every_rank(recipe: str) -> None:
    rendered = build(recipe)
    root = ElementTree.fromstring(rendered.files()["topology.svg"])
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    plan = rendered.plan
    for role in plan.roles:
        for rank in range(role.ranks):
            named = sum(f": rank {rank}, " in title for title in titles)
            assert named == sum(min(other.groups, 3) for other in plan.roles if rank < other.ranks)


@pytest.mark.parametrize(
    ("recipe", "nics"), [("a3ultra/deepseek-r1-671b", 0), ("a3ultra/deepseek-r1-671b-two-hosts", 16)]
)
def test_the_picture_has_the_nics_that_pods_are_attached_to(recipe: str, nics: int) -> None:
    rendered = build(recipe)
    root = ElementTree.fromstring(rendered.files()["topology.svg"])
    titles = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert sum(title.startswith("NIC ") for title in titles) == nics
    assert ("networking.gke.io/interfaces" in rendered.manifests_text) == (nics > 0)


def test_plan_json_names_what_was_rendered(tmp_path: Path) -> None:
    ran = manyhost("render", "a3mega", "--out", str(tmp_path), "--output", "json")
    assert ran.output.result["plan"] == json.loads((tmp_path / "plan.json").read_text())
    assert ran.output.result["folder"] == str(tmp_path)
    assert sorted(ran.output.result["files"]) == sorted(tree(tmp_path))


@pytest.mark.parametrize("recipe", RECIPES)
def test_default_release_names_are_valid(recipe: str) -> None:
    check_names(release_name(recipe, Renderer().chart), "default", 45)


@pytest.mark.parametrize(
    ("release", "namespace", "words"),
    [
        ("Jane", "default", "use 'jane'"),
        ("jane_doe.r1", "default", "use 'jane-doe-r1'"),
        ("x" * 46, "default", f"use '{'x' * 45}'"),
        ("r1-", "default", "use 'r1'"),
        ("", "default", "release name: ''"),
        ("r1\n", "default", "release name: 'r1\\n'"),
        ("r1", "", "namespace: ''"),
        ("r1", "a.b", "namespace: 'a.b'"),
        ("r1", "x" * 64, "at most 63"),
    ],
)
def test_names_that_kubernetes_refuses(release: str, namespace: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_names(release, namespace, 45)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("no", '"no"'),
        ("1e3", '"1e3"'),
        (1000000, "1000000"),
        (True, "true"),
        (None, "null"),
        ({"b": 1, "a": 2}, '{"a": 2, "b": 1}'),
        ("\u2028\x85", '"\\u2028\\u0085"'),
        ("é", '"é"'),
    ],
)
def test_quoting(value: object, text: str) -> None:
    assert quote(value) == text


def test_every_command_has_help_with_an_example() -> None:
    for name in ("render", "check", "explain", "list"):
        ran = manyhost(name, "--help")
        assert ran.code == 0
        assert f"Example: manyhost {name}" in ran.out


def test_list_names_everything() -> None:
    out = manyhost("list").out
    for recipe in RECIPES:
        assert recipe in out
    document = manyhost("list", "--output", "json").output.result
    assert [row["name"] for row in document["recipes"]] == RECIPES


def test_check_of_what_was_rendered(tmp_path: Path) -> None:
    manyhost("render", "a3mega", "--out", str(tmp_path))
    path = tmp_path / "manifests.yaml"
    ran = manyhost("check", str(path))
    assert (ran.code, "1 file checked: nothing wrong" in ran.out) == (0, True)
    path.write_text(path.read_text().replace("/opt/manyhost/launch.sh", "/opt/manyhost/lunch.sh"))
    ran = manyhost("check", "--output", "json", str(path))
    assert ran.code == 3
    assert any(row["check"] == "reference" for row in ran.output.result["findings"])


SCHEMA_REFUSES = [
    "engine.tag=-x",
    "site.gcs_bucket=gs://x",
    "variables.HF_TOKEN=x",
    "node_selector.x='a b'",
]


def test_later_renders_are_the_same_and_refuse_the_same_in_the_same_words() -> None:
    catalog = Catalog(ROOT)
    warm = Renderer(catalog)
    for recipe in [*RECIPES, *RECIPES]:
        first = Renderer(catalog).render(resolve(catalog, recipe))
        assert warm.render(resolve(catalog, recipe)).manifests_text == first.manifests_text
    for assignment in SCHEMA_REFUSES:
        resolved = resolve(catalog, RECIPE, assignments=[assignment])
        with pytest.raises(InvalidInput) as cold_refusal:
            Renderer(catalog).render(resolved)
        with pytest.raises(InvalidInput) as warm_refusal:
            warm.render(resolved)
        assert str(warm_refusal.value) == str(cold_refusal.value)


def test_one_render_imports_little(tmp_path: Path) -> None:
    """A third of a render is imports: what no render needs is imported by whoever does."""
    code = f"import sys, manyhost.cli; manyhost.cli.run(['render', 'a3mega', '--out', {str(tmp_path)!r}])"
    heavy = ["pydantic", "kubernetes", "google", "rich", "subprocess", "ssl", "asyncio"]
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print([m for m in {heavy} if m in sys.modules])"],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_refused_plan_does_not_start_helm(tmp_path: Path) -> None:
    (tmp_path / "helm_python.py").write_text("raise SystemExit(99)\n")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "manyhost",
            "render",
            "a3mega",
            "--set",
            "contxt=1",
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 3, done.stderr


def test_the_compiled_template_is_kept_where_that_is_possible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    for folder, files in ((tmp_path, 1), (tmp_path / "missing", 0)):
        for _ in range(2):
            environment = jinja2.Environment(
                loader=jinja2.DictLoader({"a": "{{ b }}"}),
                bytecode_cache=speed.compiled(folder),
                autoescape=False,
            )
            assert environment.get_template("a").render(b="text") == "text"
            assert len(list((folder / "__pycache__").glob("*"))) == files
