"""Precedence of settings, where each value came from, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from manyhost.catalog import Catalog, Resolved, resolve
from manyhost.catalog.settings import VARIABLES, known_keys
from manyhost.errors import InvalidInput, WrongUsage

from tests.helpers.cli import RECIPE, ROOT, manyhost

CATALOG = Catalog(ROOT)
FILE = f"recipes/{RECIPE}/recipe.yaml"


def _resolve(
    *assignments: str,
    local: str = "",
    folder: Path | None = None,
    recipe: str = RECIPE,
    **variables: str,
) -> Resolved:
    path = None
    if local:
        assert folder
        path = folder / "local.yaml"
        path.write_text(local)
    return resolve(CATALOG, recipe, variables=variables, assignments=assignments, local_file=path)


def test_each_layer_wins_over_those_below(tmp_path: Path) -> None:
    key = "engine.version"
    assert _resolve().origin(key) == FILE

    local = "engine: {version: v0.33.0}\n"
    resolved = _resolve(local=local, folder=tmp_path)
    assert (resolved.recipe.engine.version, resolved.origin(key)) == ("v0.33.0", "values/local.yaml")

    resolved = _resolve(local=local, folder=tmp_path, VLLM_VERSION="v0.7.3")
    assert resolved.recipe.engine.version == "v0.7.3"
    assert resolved.origin(key) == "environment variable VLLM_VERSION"

    resolved = _resolve("engine.version=v0.26.0", local=local, folder=tmp_path, VLLM_VERSION="v0.7.3")
    assert resolved.recipe.engine.version == "v0.26.0"
    assert [origin for origin, _ in resolved.origins[key]] == [
        FILE,
        "values/local.yaml",
        "environment variable VLLM_VERSION",
        "--set",
    ]


def test_model_and_engine_give_arguments_that_a_recipe_may_override_or_remove() -> None:
    resolved = _resolve()
    assert resolved.recipe.arguments["reasoning-parser"] == "deepseek_r1"
    assert resolved.origin("arguments.reasoning-parser") == "values/models/deepseek-r1-671b.yaml"

    older = _resolve("engine.version=v0.7.3", "engine.executor=ray")
    assert older.recipe.arguments["enable-reasoning"] is True
    assert older.origin("arguments.enable-reasoning") == "values/engines/vllm/v0.7.3.yaml"

    published = _resolve(recipe=f"{RECIPE}-published")
    assert "enable-reasoning" not in published.recipe.arguments
    assert "reasoning-parser" not in published.recipe.arguments
    again = _resolve("arguments.enable-reasoning=true", recipe=f"{RECIPE}-published")
    assert again.recipe.arguments["enable-reasoning"] is True


@pytest.mark.parametrize(
    ("assignment", "path", "value"),
    [
        ("context=1000", "context", 1000),
        ("site.region=eu", "site.region", "eu"),
        ("REGION=eu", "site.region", "eu"),
        (" groups = 3", "groups", 3),
        ("network.subnetworks=[a, b]", "network.subnetworks", ["a", "b"]),
        ("variables.A='1'", "variables.A", "1"),
        ("variables.A=b=c", "variables.A", "b=c"),
        ("node_selector.cloud.google.com/x=y", "node_selector.cloud.google.com/x", "y"),
        ("arguments.hf-overrides={a: {b: 1}}", "arguments.hf-overrides", {"a": {"b": 1}}),
        ("network.nccl.NCCL_DEBUG=INFO", "network.nccl.NCCL_DEBUG", "INFO"),
    ],
)
def test_assignments(assignment: str, path: str, value: Any) -> None:
    resolved = _resolve(assignment)
    for block in ("node_selector", "network.nccl", "arguments", "variables"):
        if path.startswith(f"{block}."):
            parts = [*block.split("."), path.removeprefix(f"{block}.")]
            break
    else:
        parts = path.split(".")
    found: Any = resolved.recipe
    for part in parts:
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    assert found == value
    assert resolved.origin(path) == "--set"


def test_null_removes_an_optional_key_and_the_default_applies() -> None:
    assert "max-num-seqs" not in _resolve("arguments.max-num-seqs=null").recipe.arguments
    assert _resolve("utilization=null").recipe.utilization == 0.0
    assert _resolve("utilization=null").origin("utilization") == "--set"


@pytest.mark.parametrize(("variable", "key"), VARIABLES.items())
def test_variables_of_the_published_recipe(variable: str, key: str) -> None:
    value = "v0.33.0" if variable == "VLLM_VERSION" else "text: [not, yaml"
    resolved = _resolve(**{variable: value})
    found: Any = resolved.recipe
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert resolved.origin(key) == f"environment variable {variable}"


def test_empty_variables_and_others_are_not_settings() -> None:
    assert _resolve(GCS_BUCKET="", HF_TOKEN="secret", PATH="/bin").origins == _resolve().origins


def test_a_missing_local_file_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "none"
    assert resolve(CATALOG, RECIPE, local_file=path).recipe == _resolve().recipe


@pytest.mark.parametrize(
    ("assignments", "where"),
    [
        (("context=x",), "--set: context: "),
        (("context={a: 1}",), "--set: context: "),
        (("variables.A=5",), "--set: variables"),
        (("host_mounts=[{name: a}]",), "--set: host_mounts[0].host_path: "),
        (("engine.version=v1",), "--set: engine.version: "),
        (("contxt=5",), "--set: contxt: unknown key\n  fix: did you mean context?"),
        (("site.regoin=5",), "--set: site.regoin: unknown key\n  fix: did you mean site.region?"),
    ],
)
def test_the_layer_that_is_wrong_is_named(assignments: tuple[str, ...], where: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        _resolve(*assignments)
    assert str(caught.value).startswith(where)


def test_a_wrong_value_of_a_variable_and_of_the_local_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"environment variable VLLM_VERSION: engine.version: unknown"):
        _resolve(VLLM_VERSION="v1")
    with pytest.raises(InvalidInput, match=r"values/local.yaml: groups: expected a whole number of at"):
        _resolve(local="groups: 0\n", folder=tmp_path)
    with pytest.raises(InvalidInput, match=r"values/local.yaml:2: not valid YAML"):
        _resolve(local="groups: [\n", folder=tmp_path)


@pytest.mark.parametrize("text", ["context", "", "=1", "  =1"])
def test_assignments_without_key_or_value_are_wrong_usage(text: str) -> None:
    with pytest.raises(WrongUsage, match="not of the form key=value"):
        _resolve(text)


def test_a_closed_choice_names_its_words() -> None:
    with pytest.raises(InvalidInput, match="choose one of: auto, hub, bucket, folder"):
        _resolve("weights.source=nfs")


def test_secrets_are_no_settings() -> None:
    with pytest.raises(InvalidInput, match="Kubernetes Secret hf-secret") as caught:
        _resolve("HF_TOKEN=hf_thisisnotprinted")
    assert "thisisnotprinted" not in str(caught.value)


def test_known_keys_can_all_be_addressed() -> None:
    keys = known_keys()
    assert {"context", "site.region", "network.subnetworks", "engine"} <= set(keys)
    assert set(VARIABLES.values()) <= set(keys)


# --------------------------------------------------------------------------- explain
def test_explain_lists_sources_strongest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_VERSION", "v0.33.0")
    ran = manyhost("explain", "VLLM_VERSION", "a3mega", "--set", "engine.version=v0.26.0")
    lines = [line.strip() for line in ran.out.splitlines() if "engine.version" in line or "overrides" in line]
    assert ran.code == 0
    assert lines[0] == 'engine.version = "v0.26.0"  (--set)'
    assert lines[1] == 'overrides "v0.33.0"  (environment variable VLLM_VERSION)'
    assert lines[2] == f'overrides "v0.33.0"  ({FILE})'


def test_explain_a_key_that_nobody_set_and_a_whole_block() -> None:
    assert "default" in manyhost("explain", "site.region", "a3mega").out
    out = manyhost("explain", "arguments", "a3mega").out
    assert "arguments.max-num-seqs = 384" in out
    assert "arguments.reasoning-parser" in out


def test_explain_as_json() -> None:
    ran = manyhost("explain", "context", "a3mega", "--output", "json")
    (entry,) = ran.output.result["keys"]
    assert entry["key"] == "context"
    assert entry["values"] == [{"value": 32768, "origin": FILE}]


def test_explain_an_unknown_key() -> None:
    ran = manyhost("explain", "contex", "a3mega")
    assert ran.code == 3
    assert "unknown key" in ran.err
    assert "did you mean context?" in ran.err


def test_settings_below_an_environment_reach_its_recipes_alone(tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"
    path.write_text("groups: 2\na3mega:\n  groups: 3\n  site: {cluster_name: c}\n")
    a3mega = resolve(CATALOG, RECIPE, local_file=path)
    local = resolve(CATALOG, "local/tiny-r1", local_file=path)
    assert (a3mega.recipe.groups, a3mega.recipe.site.cluster_name) == (3, "c")
    assert (local.recipe.groups, local.recipe.site.cluster_name) == (2, "")
    assert a3mega.origin("groups") == "values/local.yaml: a3mega"


def test_a_section_of_an_environment_is_a_mapping_of_known_keys(tmp_path: Path) -> None:
    path = tmp_path / "local.yaml"
    path.write_text("a3mega: 5\n")
    with pytest.raises(InvalidInput, match=r"values/local.yaml: a3mega: must be a mapping"):
        resolve(CATALOG, RECIPE, local_file=path)
    path.write_text("a3mega:\n  grups: 5\n")
    with pytest.raises(InvalidInput, match=r"values/local.yaml: a3mega: grups: unknown key"):
        resolve(CATALOG, RECIPE, local_file=path)
