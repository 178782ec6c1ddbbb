"""walkthrough.md: a tutorial for Cloud Shell, and what it says of time and money is the plan's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from manyhost.catalog import Catalog, resolve
from manyhost.catalog.settings import VARIABLES, known_keys
from manyhost.cluster.doctor import lws
from manyhost.plan import make_plan

from tests.docs.test_commands import commands
from tests.helpers.cli import RECIPE, ROOT

PATH = ROOT / "walkthrough.md"
TEXT = PATH.read_text()
PROSE = re.sub(r"```.*?```", "", TEXT, flags=re.S)
# Attributes, and whether it needs an end (docs.cloud.google.com/shell/docs/cloud-shell-tutorials).
DIRECTIVES = {
    "conclusion-trophy": (set(), True),
    "editor-open-file": ({"filePath"}, True),
    "enable-apis": ({"apis"}, True),
    "project-id": (set(), False),
    "project-setup": ({"billing"}, True),
    "tutorial-duration": ({"duration"}, True),
}
CATALOG = Catalog(ROOT)
PLAN = make_plan(resolve(CATALOG, RECIPE, variables={"GCS_BUCKET": "b"}), CATALOG)


def test_it_is_a_tutorial_with_a_title_a_duration_and_steps() -> None:
    lines = [line for line in PROSE.splitlines() if line.strip()]
    assert lines[0].startswith("# ")
    assert re.fullmatch(
        r'<walkthrough-tutorial-duration duration="\d+"></walkthrough-tutorial-duration>', lines[1]
    )
    assert len(re.findall(r"^# ", PROSE, re.M)) == 1
    assert len(re.findall(r"^## ", PROSE, re.M)) > 8
    assert not re.findall(
        r"^###", PROSE, re.M
    )  # Cloud Shell shows a page for each second level, and no third


def test_its_directives_are_those_that_cloud_shell_knows() -> None:
    found = re.findall(r"<walkthrough-([a-z-]+)((?: [A-Za-z]+=\"[^\"]*\")*) ?(/?)>", TEXT)
    assert len(found) == len(re.findall(r"<walkthrough-", TEXT))
    for name, attributes, closed in found:
        known, ends = DIRECTIVES[name]
        assert set(re.findall(r"([A-Za-z]+)=", attributes)) <= known, name
        assert bool(closed) != ends, name
        assert TEXT.count(f"</walkthrough-{name}>") == (
            len(re.findall(f"<walkthrough-{name}[ >]", TEXT)) if ends else 0
        )


@pytest.mark.parametrize("path", re.findall(r'filePath="([^"]+)"', TEXT))
def test_files_that_it_opens_exist(path: str) -> None:
    assert (ROOT / path).is_file()


def test_variables_are_set_before_they_are_used() -> None:
    known: set[str] = set()
    for document, line in commands():
        if document != "walkthrough.md":
            continue
        if line.startswith("export "):
            for word in line.split()[1:]:
                used = set(re.findall(r"\$([A-Z_]+)", word))
                assert used <= known, f"{used - known} in: {line}"
                known |= {word.partition("=")[0]} if "=" in word else set()
        else:
            used = set(re.findall(r"\$([A-Z_]+)", line))
            assert used <= known, f"{used - known} in: {line}"
    assert set(VARIABLES) <= known


def test_what_it_says_of_time_and_money_is_the_plans() -> None:
    cost = PLAN.cost
    assert f"{cost.usd_per_hour:.2f} USD an hour" in TEXT
    assert f"({cost.region}, on demand, list of {cost.date})" in TEXT.replace("\n", " ")
    assert f"{PLAN.model.weights_bytes / 1e9:.0f} GB" in TEXT
    month = PLAN.model.weights_bytes / 2**30 * CATALOG.storage().usd_per_gb_month["us-east4"]
    assert f"about {month:.0f} USD a month" in TEXT
    assert PLAN.weights.path == "/gcs/models/deepseek-ai/DeepSeek-R1"
    assert "gs://$GCS_BUCKET/models/deepseek-ai/DeepSeek-R1" in TEXT


def test_it_installs_the_controller_that_doctor_advises() -> None:
    assert lws.MANIFESTS in TEXT


@pytest.mark.parametrize("recipe", [RECIPE, "a3ultra/deepseek-r1-671b", "local/tiny-r1"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_example_of_a_settings_file_is_one(recipe: str, whole: bool, tmp_path: Path) -> None:
    text = (ROOT / "values/local.yaml.example").read_text()
    path = tmp_path / "local.yaml"
    path.write_text(re.sub(r"^( *)#(?=[a-z ]+[a-z_-]*:)", r"\1", text, flags=re.M) if whole else text)
    resolved = resolve(CATALOG, recipe, local_file=path)
    site = resolved.recipe.site
    assert site.cluster_name == "my-cluster"
    assert bool(site.artifact_registry) is whole
    assert resolved.recipe.groups == (2 if whole and recipe == RECIPE else 1)


def test_the_example_has_every_key_of_a_site() -> None:
    keys = {name.removeprefix("site.") for name in known_keys() if name.startswith("site.")}
    text = (ROOT / "values/local.yaml.example").read_text()
    assert keys == set(re.findall(r"^  #?([a-z_]+): [a-z]", text, re.M)) & keys
    modes = re.findall(r"[a-z-]+", text[text.index("mode: ") : text.index("#groups")].partition("\n")[0])
    assert set(CATALOG.capacity().modes) <= set(modes)
