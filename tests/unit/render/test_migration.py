"""A recipe for another version of the engine: its flags are ones that version has, all else stays."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
import yaml12
from manyhost.catalog import Catalog
from manyhost.catalog.engine import GoneFlag
from manyhost.checks import FlagTable
from manyhost.render import Renderer, migration

from tests.helpers.cli import ROOT

CATALOG = Catalog(ROOT)
RENDERER = Renderer(CATALOG)
NEWEST = "v0.33.0"
# Tables of versions by themselves: a flag may have come and gone between those that have recipes.
TABLES = {
    path.name.removesuffix(".flags.yaml"): FlagTable(
        version=path.name, flags=yaml12.parse_yaml(path.read_text())
    )
    for path in (ROOT / "values/engines/vllm").glob("*.flags.yaml")
}
IN_ORDER = sorted((name for name in TABLES if "-" not in name), key=lambda v: [int(n) for n in v.split(".")])


def table(version: str) -> FlagTable:
    return RENDERER.flag_table(CATALOG.engine(version))


def steps(document: dict[str, Any], version: str, place: str = "a3mega") -> list[migration.Step]:
    engine, environment = CATALOG.engine(version), CATALOG.environment(place)
    return list(migration.steps(document, engine, table(version), CATALOG.gone_flags(), environment))


def moved(
    version: str = "v0.26.0", executor: str = "mp", to: str = NEWEST, **arguments: Any
) -> dict[str, Any]:
    """What the arguments of a recipe are after a migration."""
    document = {"engine": {"version": version, "executor": executor}, "arguments": arguments}
    text = yaml.safe_dump(document, sort_keys=False)
    found: dict[str, Any] = yaml.safe_load(migration.rewritten(text, steps(document, to), "recipe.yaml"))
    return found


# --------------------------------------------------------------------- the data
@pytest.mark.parametrize("name", CATALOG.gone_flags())
def test_a_gone_flag_is_one_that_a_later_version_has_not(name: str) -> None:
    having = [f"--{name}" in TABLES[version].spellings for version in IN_ORDER]
    assert True in having
    assert False in having[having.index(True) :]


@pytest.mark.parametrize("flag", [flag for flag in CATALOG.gone_flags().values() if flag.now])
def test_what_stands_in_its_place_exists(flag: GoneFlag) -> None:
    assert f"--{flag.now}" in table(NEWEST).spellings
    if flag.key:
        assert table(NEWEST).flags[flag.now]["type"].startswith("json")


# --------------------------------------------------------------------- the decisions
def test_a_flag_takes_the_place_of_another_with_its_value() -> None:
    found = moved(**{"override-pooler-config": {"a": 1}, "disable-mm-preprocessor-cache": True})
    assert found["arguments"] == {"pooler-config": {"a": 1}, "mm-processor-cache-gb": 0}


def test_keys_of_one_json_flag_come_together_and_what_is_there_already_wins() -> None:
    given = {
        "num-redundant-experts": 32,
        "eplb-window-size": 10,
        "eplb-step-interval": 5,
        "eplb-config": {"step_interval": 7},
    }
    expected = {"step_interval": 7, "window_size": 10, "num_redundant_experts": 32}
    assert moved(**given)["arguments"] == {"eplb-config": expected}
    del given["eplb-config"]
    assert moved(**given)["arguments"]["eplb-config"] == expected | {"step_interval": 5}


def test_what_no_version_explains_is_dropped_with_the_version() -> None:
    document = {
        "engine": {"version": "v0.26.0", "executor": "mp"},
        "arguments": {"nope": 1, "max-num-seqs": 8},
    }
    dropped, kept = [step for step in steps(document, NEWEST) if step.key.startswith("arguments.")]
    assert (dropped.action, dropped.reason) == ("dropped", f"vLLM {NEWEST} has no such flag")
    assert kept.action == "kept"


def test_the_last_flag_leaves_no_empty_key() -> None:
    assert moved(**{"swap-space": 4})["arguments"] == {}


def test_flags_of_roles_are_moved_too() -> None:
    document = {
        "engine": {"version": "v0.26.0", "executor": "mp"},
        "arguments": {},
        "roles": {"decode": {"arguments": {"swap-space": 4, "max-num-seqs": 8}}},
    }
    text = migration.rewritten(yaml.safe_dump(document), steps(document, NEWEST), "recipe.yaml")
    assert yaml.safe_load(text)["roles"]["decode"]["arguments"] == {"max-num-seqs": 8}


@pytest.mark.parametrize(
    ("executor", "to", "place", "expected"),
    [
        ("ray", NEWEST, "a3mega", "mp"),  # its stock image has no Ray
        ("ray", NEWEST, "runpod-h200", "ray"),  # there the engine's environment has it
        ("mp", "v0.7.3", "a3mega", "ray"),
        ("mp", NEWEST, "a3mega", "mp"),
    ],
)
def test_the_executor_is_one_that_can_start_there(executor: str, to: str, place: str, expected: str) -> None:
    document = {"engine": {"version": "v0.26.0", "executor": executor}, "arguments": {}}
    text = migration.rewritten(yaml.safe_dump(document), steps(document, to, place), "recipe.yaml")
    assert yaml.safe_load(text)["engine"]["executor"] == expected


def test_an_image_of_the_old_version_goes() -> None:
    own = {"image": "example.com/r/vllm", "tag": "v0.26.0-ray", "digest": "sha256:" + "0" * 64}
    document = {"engine": {"version": "v0.26.0", "executor": "mp", **own}, "arguments": {}}
    text = migration.rewritten(yaml.safe_dump(document), steps(document, NEWEST), "recipe.yaml")
    assert yaml.safe_load(text)["engine"] == {"version": NEWEST, "executor": "mp"}
    assert not [step for step in steps(document, "v0.26.0") if step.action != "kept"]
