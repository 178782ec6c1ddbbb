"""A run becomes what the planner predicts from, or is refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.helpers.cli import ROOT, checkout, manyhost
from tests.unit.report import made

RECIPE = "a3ultra/deepseek-r1-671b"


def test_the_planner_goes_by_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made.written(tmp_path / "run", [[50, 51, 49]], recipe=RECIPE)
    added = manyhost("anchor", "add", "run", "--output", "json")
    assert added.code == 0, added.err
    found = added.output.result["anchor"]
    assert (found["tensor"], found["pipeline"], found["gpu"]) == (8, 1, "H200 141GB SXM")
    assert (tmp_path / added.output.result["file"]).exists()
    planned = manyhost("plan", "deepseek-r1-671b", "--env", "a3ultra", "--output", "json")
    assert planned.code == 0, planned.err
    rows = [row for row in planned.output.result["choices"] if row["anchor"] == found["name"]]
    assert rows
    assert {row["basis"] for row in rows} == {"anchored"}


def test_from_inside_of_the_checkout_it_is_beside_the_other_anchors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.written(tmp_path / "run", [[50, 51, 49]], recipe=RECIPE)
    top = checkout(tmp_path / "checkout", monkeypatch)
    monkeypatch.chdir(top / "recipes")
    added = manyhost("anchor", "add", str(tmp_path / "run"), "--output", "json").output.result
    assert Path(added["file"]).resolve().parent == top / "values/anchors"
    assert not (top / "recipes/values").exists()


def test_a_run_of_cpus_is_refused() -> None:
    ran = manyhost("anchor", "add", str(ROOT / "docs/example-report/run"))
    assert ran.code == 3
    assert "ran on CPUs" in ran.err


def test_a_run_whose_numbers_are_withheld_is_refused(tmp_path: Path) -> None:
    made.written(tmp_path / "run", [[]], recipe=RECIPE)
    ran = manyhost("anchor", "add", str(tmp_path / "run"))
    assert ran.code == 3


def test_a_run_without_the_mean_time_of_a_token_is_refused(tmp_path: Path) -> None:
    """The client was right in the median and too far off in the mean: that statistic alone is withheld."""
    for path in made.written(tmp_path / "run", [[50, 51, 49]], recipe=RECIPE).glob("0-?.json"):
        document = json.loads(path.read_text())
        document["metrics"]["latencies"]["tpot_ms"]["mean"] = None
        path.write_text(json.dumps(document))
    ran = manyhost("anchor", "add", str(tmp_path / "run"))
    assert ran.code == 3
    assert "no point of it has throughput and mean TPOT" in ran.err


def edited(run: Path, **changes: str) -> Path:
    document = json.loads((run / "run.json").read_text())
    document["deployment"]["recipe"] = changes.pop("recipe", RECIPE)
    (run / "run.json").write_text(json.dumps(document | changes))
    return run


def test_an_anchor_of_a_long_name_ends_no_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = edited(
        made.written(tmp_path / "run", [[50, 51, 49]], recipe=RECIPE), recipe=f"a3ultra/{'long-' * 9}"
    )
    file = Path(manyhost("anchor", "add", str(run), "--output", "json").output.result["file"])
    ran = manyhost("plan", "deepseek-r1-671b", "--env", "a3ultra")
    assert ran.code == 0, ran.err
    assert file.stem in ran.out


def test_a_damaged_date_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = edited(made.written(tmp_path / "run", [[50, 51, 49]], recipe=RECIPE), started="yesterday")
    ran = manyhost("anchor", "add", str(run))
    assert ran.code == 3
    assert f"{run}: is no point that the planner takes" in ran.err
    assert not (tmp_path / "values").exists()


def test_two_runs_of_a_day_have_a_file_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    files = set()
    for name in ("published", "ramp", "ramp"):
        run = edited(made.written(tmp_path / name, [[50, 51, 49]], recipe=RECIPE), id=name)
        files.add(manyhost("anchor", "add", str(run), "--output", "json").output.result["file"])
    assert len(files) == len(list((tmp_path / "values/anchors").iterdir())) == 2


def test_the_newest_run_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made.written(tmp_path / "run", [[50, 51, 49]], recipe=RECIPE)
    file = Path(manyhost("anchor", "add", "run", "--output", "json").output.result["file"])
    name = file.stem.replace("2027-01-15", "2027-02-01").replace("own-", "newer-")
    newer = file.read_text().replace("2027-01-15", "2027-02-01").replace("own-", "newer-")
    (file.parent / f"{name}.yaml").write_text(newer)
    rows = manyhost("plan", "deepseek-r1-671b", "--env", "a3ultra", "--output", "json").output.result[
        "choices"
    ]
    assert {row["anchor"] for row in rows if row["basis"] == "anchored"} == {name}
