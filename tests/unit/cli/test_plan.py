"""manyhost plan: every way to serve a model, why the others do not work, and the recipe that it writes."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from manyhost.catalog import Catalog

from tests.helpers.cli import ROOT, checkout, manyhost, tree

R1 = "deepseek-r1-671b"
SVG = "{http://www.w3.org/2000/svg}"


def _planned(*options: str) -> dict[str, Any]:
    ran = manyhost("plan", R1, *options, "--output", "json")
    assert ran.code == 0, ran.out
    result: dict[str, Any] = ran.output.envelope["result"]
    return result


def test_every_environment_is_in_the_table_or_said_not_to_work() -> None:
    found = _planned()
    there = {each["environment"] for each in found["choices"]} | {
        each["environment"] for each in found["rejected"]
    }
    assert there == set(Catalog(ROOT).names("environments"))


@pytest.mark.parametrize(
    ("sort", "key", "sign"),
    [
        ("usd-per-mtok", "usd_per_mtok", 1),
        ("usd-per-hour", "usd_per_hour", 1),
        ("tok-s", "tok_s", -1),
        ("tpot", "tpot_ms", 1),
        ("ttft", "ttft_ms", 1),
    ],
)
def test_the_best_stands_first_and_what_has_no_price_last(sort: str, key: str, sign: int) -> None:
    values = [each[key] for each in _planned("--sort", sort)["choices"]]
    known = [sign * value for value in values if value is not None]
    assert known == sorted(known)
    assert values[: len(known)] == [sign * value for value in known]


def test_a_row_is_what_a_render_of_its_recipe_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkout(tmp_path, monkeypatch))
    best = _planned("--env", "a3mega", "--tpot", "45", "--write", "recipes/a3mega/mine")
    assert best["written"] == "a3mega/mine"
    rendered = manyhost("render", "a3mega/mine", "--output", "json").output.envelope["result"]["plan"]
    row = best["choices"][0]
    role = rendered["roles"][0]
    assert role["memory"]["kv_tokens"] == row["kv_tokens"]
    assert role["arguments"]["max-num-seqs"] == row["seats"]
    assert rendered["cost"]["usd_per_hour"] == row["usd_per_hour"]
    assert rendered["hosts"] == row["hosts"]
    assert rendered["settings"]["objectives"]["tpot_ms"] == 45


def test_a_row_of_each_environment_and_of_prefill_and_decode_renders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout(tmp_path, monkeypatch))
    rows = enumerate(_planned("--hosts", "2")["choices"], 1)
    kinds = {(row["environment"], "prefill" in row["layout"]): number for number, row in rows}
    for (environment, _), number in kinds.items():
        name = f"{environment}/row-{number}"
        ran = manyhost("plan", R1, "--hosts", "2", "--write", f"recipes/{name}", "--row", str(number))
        assert ran.code == 0, ran.err
        rendered = manyhost("render", name)
        assert rendered.code == 0, rendered.err


def test_a_faster_token_takes_fewer_seats() -> None:
    slow, fast = (_planned("--env", "a3mega", *more)["choices"] for more in ((), ("--tpot", "30")))
    assert {each["layout"] for each in fast} <= {each["layout"] for each in slow}
    seats = {each["layout"]: each["seats"] for each in slow}
    for each in fast:
        assert each["seats"] < seats[each["layout"]]
        assert each["tpot_ms"] <= 30


def test_requests_in_flight_bound_the_seats_and_the_others_wait() -> None:
    few, many = (_planned("--env", "a3mega", "--concurrency", str(count))["choices"] for count in (16, 5000))
    assert {each["seats"] for each in few} == {16}
    assert min(each["ttft_ms"] for each in many) > 60_000


def test_what_nothing_reaches_is_refused_with_what_would_be_reached() -> None:
    ran = manyhost("plan", R1, "--env", "a3mega", "--tpot", "1")
    assert ran.code == 3
    assert "ms a token" in ran.out
    assert "no layout of up to 4 hosts" in ran.err


@pytest.mark.parametrize(
    ("layout", "reason"),
    [
        ("TP8", "does not fit"),
        ("TP32", "cannot be divided by 32 ranks into blocks of 128"),
        ("DP16", "data parallel ranks cannot span hosts"),
        ("TP8 prefill + TP8 decode", "does not fit"),
    ],
)
def test_why_a_layout_does_not_work(layout: str, reason: str) -> None:
    rejected = _planned("--env", "a3mega")["rejected"]
    assert [reason in each["reason"] for each in rejected if each["layout"] == layout] == [True]
    ran = manyhost("plan", R1, "--env", "a3mega", "--rejected")
    assert reason in ran.out


def test_tensor_parallelism_does_not_cross_hosts_over_tcp() -> None:
    rejected = _planned("--env", "a3mega", "--set", "network.interconnect=none")["rejected"]
    assert any("wait for TCP" in each["reason"] for each in rejected if each["layout"] == "TP16")


def test_an_error_stands_beside_each_number() -> None:
    rows = {(each["environment"], each["layout"]): each for each in _planned()["choices"]}
    assert rows["a3mega", "TP8 PP2"]["basis"] == "fitted"
    assert rows["a3mega", "TP8 PP2"]["anchor"] == "vllm-h100-two-stages"
    assert rows["a4", "TP8"]["basis"] == "uncalibrated"
    out = manyhost("plan", R1).out
    assert "±" in out
    assert "without any communication" in out


def test_nothing_is_fitted_for_another_model() -> None:
    ran = manyhost("plan", "qwen3-235b-a22b", "--output", "json")
    assert {each["basis"] for each in ran.output.envelope["result"]["choices"]} == {"uncalibrated"}


def test_a_price_of_ones_own_counts() -> None:
    found = _planned("--env", "a4", "--set", "capacity.usd_per_host_hour=100")["choices"]
    assert found[0]["usd_per_hour"] == 100 * found[0]["hosts"]


def test_the_table_as_markdown() -> None:
    ran = manyhost("plan", R1, "--env", "a3mega", "--markdown")
    assert ran.out.startswith("| environment | layout |")


def _lines(text: str) -> dict[str, list[tuple[int, int]]]:
    """Places of each line of a picture by its name."""
    root = ElementTree.fromstring(text)
    drawn = [line.attrib for line in root.iter(f"{SVG}polyline")]
    names = {each.get("fill"): each.text or "" for each in root.iter(f"{SVG}text") if each.get("fill")}
    return {
        names[line["stroke"]]: [(int(x), int(y)) for x, y in (p.split(",") for p in line["points"].split())]
        for line in drawn
    }


@pytest.mark.parametrize("model", [R1, "qwen3-235b-a22b", "qwen3-8b"])
def test_the_picture_of_any_model_falls_as_users_get_more(tmp_path: Path, model: str) -> None:
    file = tmp_path / "folder/trade.svg"
    words = ("--env", "a3ultra", "--env", "a4", "--hosts", "1")
    ran = manyhost("plan", model, *words, "--picture", str(file))
    assert ran.code == 0, ran.err
    assert ran.out.endswith(f"picture: {file}\n")
    lines = _lines(file.read_text())
    assert set(lines) == {"a3ultra", "a4"}
    for places in lines.values():
        assert len(places) > 3
        users, hosts = zip(*sorted(places), strict=True)  # y grows downwards
        assert list(hosts) == sorted(hosts)
        assert min(users) >= 60
        assert max(users) <= 520
        assert (min(hosts) >= 20, max(hosts) <= 355) == (True, True)


def test_the_picture_is_of_what_was_asked_for(tmp_path: Path) -> None:
    both = {}
    for name, options in (("all", ()), ("fast", ("--tpot", "30"))):
        file = tmp_path / f"{name}.svg"
        shown = _planned("--env", "a3ultra", "--hosts", "1", *options, "--picture", str(file))
        assert shown["picture"] == str(file)
        both[name] = _lines(file.read_text())["a3ultra"]
    assert len(both["fast"]) < len(both["all"])


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--picture", "trade.png"), 2),
        (("--picture", "trade.svg", "--tpot", "1"), 3),
        (("--picture", "trade.svg", "--write", "nowhere"), 3),
        (("--picture", "values", "--write", "recipes/a3mega/new"), 2),
    ],
)
def test_nothing_is_written_when_one_of_two_files_cannot_be(
    options: tuple[str, ...], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout(tmp_path, monkeypatch))
    before = tree(tmp_path)
    ran = manyhost("plan", R1, "--env", "a3mega", *options)
    assert ran.code == code, ran.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--traffic", "1000"], 2, "is not of the form IN/OUT"),
        (["--traffic", "0/5"], 2, "is not of the form IN/OUT"),
        (["--context", "1000"], 3, "hold no request of 2,000"),
        (["--context", "1000000"], 3, "is more than the 163,840"),
        (["--row", "1"], 2, "without --write"),
        (["--write", "somewhere"], 3, "is no place for a recipe"),
        (["--write", "recipes/a3mega/A B"], 3, "is no name of a recipe"),
        (["--write", "recipes/a3mega/deepseek-r1-671b"], 3, "there is a recipe already"),
        (["--write", "recipes/a3mega/new", "--row", "999"], 2, "rows"),
        (["--write", "recipes/local/new"], 3, "no row is of local"),
        (["--write", "recipes/a4x/new", "--row", "1"], 3, "row 1 is of a3ultra"),
        (["--env", "a3mgea"], 3, "unknown environment"),
    ],
)
def test_mistakes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(checkout(tmp_path, monkeypatch))
    before = sorted((tmp_path / "recipes").rglob("*"))
    ran = manyhost("plan", R1, *options)
    assert (ran.code, message in ran.err) == (code, True), ran.err
    assert sorted((tmp_path / "recipes").rglob("*")) == before


@pytest.mark.parametrize(
    ("inside", "wrong"),
    [
        (".", "recipes/a4x/new"),
        ("recipes", "elsewhere"),
        ("recipes", "recipes/a3mega/new"),
        ("recipes/a3mega", "../a4x/new"),
        ("recipes/a3mega/deepseek-r1-671b", "recipes/a3mega/new"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        ("plan", R1, "--env", "a3mega", "--hosts", "2"),
        ("migrate", "a3mega/deepseek-r1-671b", "--engine", "v0.33.0"),
    ],
    ids=lambda words: words[0],
)
def test_a_place_that_is_advised_is_one_from_where_one_stands(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    inside: str,
    wrong: str,
    command: tuple[str, ...],
) -> None:
    top = checkout(tmp_path, monkeypatch)
    monkeypatch.chdir(top / inside)
    refused = manyhost(*command, "--write", wrong)
    assert refused.code == 3, refused.out
    fix = shlex.split(refused.err.partition("fix: ")[2])
    ran = manyhost(*command, *fix)
    assert ran.code == 0, ran.err
    (new,) = {path.parent for path in top.glob("**/recipe.yaml")} - {
        top / "recipes" / name for name in Catalog(ROOT).recipes()
    }
    assert new.parent == top / "recipes/a3mega"
    printed = ran.out.rpartition("written: ")[2]
    assert Path(printed.partition("; ")[0]).samefile(new / "recipe.yaml")
    assert manyhost(*shlex.split(printed.split("`")[1])[1:], "--out", str(tmp_path / "out")).code == 0


def test_inside_of_a_folder_of_ones_own_it_says_from_where_recipes_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("plan", R1, "--env", "a3mega", "--write")
    assert manyhost(*words, "recipes/a3mega/first").code == 0
    monkeypatch.chdir(tmp_path / "recipes")
    before = tree(tmp_path)
    for place in ("recipes/a3mega/second", "a3mega/second"):
        ran = manyhost(*words, place)
        assert ran.code == 3
        assert f"fix: go to {tmp_path} first" in ran.err
    assert tree(tmp_path) == before


def test_what_was_set_is_in_the_recipe_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout(tmp_path, monkeypatch))
    given = ("utilization=0.8", "arguments.kv-cache-dtype=fp8", "capacity.mode=spot")
    words = [word for one in given for word in ("--set", one)]
    (row, *_) = _planned("--env", "a3mega", *words, "--write", "recipes/a3mega/set")["choices"]
    rendered = manyhost("render", "a3mega/set", "--output", "json").output.envelope["result"]["plan"]
    role = rendered["roles"][0]
    assert role["memory"]["kv_tokens"] == row["kv_tokens"]
    assert role["arguments"]["kv-cache-dtype"] == "fp8"
    assert rendered["cost"]["usd_per_hour"] == row["usd_per_hour"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--set", "nonsense=1"), "--set: nonsense: unknown key"),
        (("--set", "context=65536"), "fix: use --context"),
        (("--set", "parallelism.tensor=4"), "plan tries every layout by itself"),
        (("--traffic", "200000/1000"), "--traffic: requests of 201,000 tokens"),
        (("--write", "elsewhere/recipes/a3mega/far"), "is no place for a recipe"),
        (("--write", f"recipes/a3mega/{'a' * 46}"), "is no name of a recipe"),
    ],
)
def test_wrong_words_are_told_once_with_their_key(
    options: tuple[str, ...], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout(tmp_path, monkeypatch))
    ran = manyhost("plan", R1, "--env", "a3mega", *options)
    assert (ran.code, ran.out) == (3, "")
    assert text in ran.err


def test_no_more_requests_run_than_are_in_flight() -> None:
    rows = {row["layout"]: row for row in _planned("--env", "a3ultra", "--concurrency", "1")["choices"]}
    assert rows["DP8"]["tok_s"] < 1.1 * 1000 / rows["DP8"]["tpot_ms"]


def test_an_environment_named_twice_is_there_once() -> None:
    once, twice = (_planned(*("--env", "a3mega") * count)["choices"] for count in (1, 2))
    assert once == twice


@pytest.mark.parametrize(
    ("options", "fix"),
    [
        (
            ("--set", "engine.version=v0.7.3"),
            "engine.version: set engine.executor to ray, or use the recipe ",
        ),
        (
            ("--set", "engine.name=sglang", "--set", "engine.version=v0.5.20"),
            "plan with vLLM: leave engine.name",
        ),
        (("--set", "network.interconnect=rdma"), "network.interconnect: choose one of: none, tcpxo"),
        (("--tpot", "1"), "a shorter --context, a longer --ttft or --tpot, or more --hosts"),
    ],
)
def test_where_nothing_works_it_says_what_helps(options: tuple[str, ...], fix: str) -> None:
    """What helps against the reasons: no --context makes another executor of it."""
    ran = manyhost("plan", R1, "--env", "a3mega", *options)
    assert ran.code == 3
    assert fix in ran.err
    assert ("--context" in ran.err) == ("--context" in fix)


@pytest.mark.parametrize("file", ["anchors/mine.yaml", "interconnects/tcpxo.yaml"])
def test_a_damaged_file_is_named_and_is_no_reason_of_a_layout(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "values" / file).parent.mkdir(parents=True)
    (tmp_path / "values" / file).write_text("name: mine\n")
    ran = manyhost("plan", R1, "--env", "a3mega")
    assert (ran.code, ran.out) == (3, "")
    assert ran.err.startswith(f"manyhost: values/{file}: ")
