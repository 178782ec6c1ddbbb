"""The evaluation of several runs: what it concludes, from what, and what it leaves unsaid."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from manyhost.benchmark import store
from manyhost.report.evaluation import name
from manyhost.report.interruptions import interruptions
from manyhost.report.questions import answers
from manyhost.report.read import read

from tests.helpers.cli import manyhost
from tests.unit.benchmark import sample
from tests.unit.report import made

ONE, TWO = "a3ultra/deepseek-r1-671b", "a3ultra/deepseek-r1-671b-two-hosts"
RUNPOD, RAY = "runpod-h200/two-host-mp", "runpod-h200/two-host-ray"
SLOW, FAST = [[100, 101, 99]], [[80, 81, 79]]


def evaluation(folder: Path, *runs: Path) -> tuple[str, Any]:
    ran = manyhost("evaluate", *map(str, runs), "--to", str(folder), "--output", "json")
    assert ran.code == 0, ran.out + ran.err
    assert (folder / "evaluation.html").exists()
    return (folder / "evaluation.md").read_text().replace("\\", ""), ran.output.envelope


def part(text: str, title: str) -> str:
    """What stands below a heading, up to the next of its level or above."""
    level, rest = re.search(rf"^(#+) {re.escape(title)}\n(.*)", text, re.M | re.S).groups()  # type: ignore[union-attr]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.M)[0]


def test_each_choice_is_told_by_the_two_runs_that_differ_least_in_the_rest(tmp_path: Path) -> None:
    recipes = {"one": ONE, "two": TWO, "mp": RUNPOD, "ray": RAY}
    times = {"one": SLOW, "two": SLOW, "mp": SLOW, "ray": FAST}
    runs = [made.written(tmp_path / key, times[key], recipe=recipe) for key, recipe in recipes.items()]
    text, envelope = evaluation(tmp_path / "evaluation", *runs)
    hosts = part(text, "One host or several")
    assert "B (hosts 2) held against A (hosts 1), at 1000 + 1000 tokens, 1 in flight:" in hosts
    assert "* output tokens/s a GPU: 5.00 against 10.00, -50.0%" in hosts
    assert "There B is worse in output tokens/s a GPU, USD per million output tokens." in hosts
    assert "They differ in more than that: --max-num-batched-tokens (8192, 4096)" in hosts
    ray = part(text, "vLLM's own multi-node or Ray")
    assert "D (executor ray) held against C (executor mp)" in ray
    assert re.search(r"output tokens/s: 100\.0 against 80\.01, \+25\.0% \(95 % interval .*\): better", ray)
    assert "They differ" not in ray, "in nothing else"
    place = part(text, "One place or another")
    assert "C (environment runpod-h200) held against B (environment a3ultra)" in place
    assert "D (" not in place, "that one differs in Ray too"
    assert "They differ in more than that: context (131072, 128000)." in place
    assert "USD" not in place, "RunPod's price is not in the run"
    still = part(text, "What these runs do not tell")
    assert "* Prefill and decode together or apart: roles is the same in all runs: serve." in still
    told = [(each["question"], each["base"], each["run"]) for each in envelope["result"]["answers"]]
    assert ("vLLM's own multi-node or Ray", 2, 3) in told
    assert [each["name"] for each in envelope["result"]["runs"]] == ["A", "B", "C", "D"]


def test_set_up_and_results_of_every_run(tmp_path: Path) -> None:
    runs = [made.written(tmp_path / key, SLOW, recipe=recipe) for key, recipe in (("a", ONE), ("b", RUNPOD))]
    text, _ = evaluation(tmp_path / "evaluation", *runs)
    setup = part(text, "Set-up")
    for words in (
        "| hosts | 1 x a3-ultragpu-8g | 2 x 8 x NVIDIA H200 |",
        "| layout | 1 group of 1 host, tensor 8 | 1 group of 2 hosts, tensor 8, pipeline 2 |",
        "| engine | vLLM v0.33.0, says 0.33.0 | vLLM v0.33.0, says 0.33.0 |",
        "| USD an hour | 88.21, on-demand | not published |",
    ):
        assert words in setup
    results = part(text, "ramp")
    rows = re.findall(r"^\| ([AB]) \| 1000 \+ 1000 tokens, 1 in flight \| (\S+) \(.* of 3 \|$", results, re.M)
    assert rows == [("A", "80.01"), ("B", "80.01")]
    assert "no price" in results


def test_nothing_is_said_where_the_gate_has_withheld_the_numbers(tmp_path: Path) -> None:
    good = made.written(tmp_path / "good", SLOW, recipe=RUNPOD)
    bad = made.written(tmp_path / "bad", FAST, recipe=RAY, error="the tool failed")
    text, envelope = evaluation(tmp_path / "evaluation", good, bad)
    assert "| B | 1000 + 1000 tokens, 1 in flight | withheld |  |  |  |  |  |  |  | 0 of 3 |" in text
    assert not re.search(r"\b100\.\d", text), "what the withheld run would have had"
    assert "B, point 0, 1 in flight: the tool failed." in part(text, "ramp")
    assert "B: no number has passed the gate, so nothing is said of what limits it." in text
    assert "There is no finding: nothing could be held against anything." in part(text, "Findings")
    still = part(text, "What these runs do not tell")
    assert f"vLLM's own multi-node or Ray: {bad}, point 0: the tool failed." in still
    assert envelope["result"]["answers"] == []
    assert [each["message"] for each in envelope["warnings"]] == ["numbers of 3 measurements are withheld"]


@pytest.mark.parametrize(
    ("second", "words"),
    [(SLOW, "%): no difference shown."),
     ([[80]], "measured once, so whether another measurement would differ is not known.")],
)  # fmt: skip
def test_no_difference_is_made_of_chance_or_of_one_measurement(
    second: list[list[float]], words: str, tmp_path: Path
) -> None:
    runs = [
        made.written(tmp_path / "mp", SLOW, recipe=RUNPOD),
        made.written(tmp_path / "ray", second, recipe=RAY),
    ]
    text, _ = evaluation(tmp_path / "evaluation", *runs)
    ray = part(text, "vLLM's own multi-node or Ray")
    assert words in ray
    assert "Nothing shows there that B is better or worse." in ray
    assert "better in" not in ray
    assert "worse in" not in ray


def test_loads_that_only_one_has_measured_and_other_models_say_nothing(tmp_path: Path) -> None:
    mp = made.written(tmp_path / "mp", SLOW, recipe=RUNPOD)
    ray = made.written(tmp_path / "ray", SLOW, recipe=RAY, scenario="published")
    tiny = made.written(tmp_path / "tiny", SLOW)
    told, still = answers([read(mp), read(ray), read(tiny)])
    assert told == []
    reasons = {each.question: each.reason for each in still}
    assert "no point has the same load as one of" in reasons["vLLM's own multi-node or Ray"]
    assert reasons["One host or several"] == "hosts is the same in all runs: 2"
    assert reasons["One place or another"] == (
        "no two runs of one model differ in environment by a choice of its own"
    )


def test_over_several_loads_each_verdict_is_counted(tmp_path: Path) -> None:
    mp = made.written(tmp_path / "mp", [*SLOW, *SLOW], recipe=RUNPOD)
    ray = made.written(tmp_path / "ray", [*FAST, *SLOW], recipe=RAY)
    text, _ = evaluation(tmp_path / "evaluation", mp, ray)
    ray_or_mp = part(text, "vLLM's own multi-node or Ray")
    assert "Over 2 loads from +0.0% to +25.0%: better at 1, no difference shown at 1." in ray_or_mp
    assert "![Throughput against time per output token" in text


def seen(folder: Path, **changes: Any) -> list[tuple[str, float, float]]:
    found = interruptions(read(made.written(folder, [[100.0]], **changes)).points)
    return [(each.kind, each.at, each.seconds) for each in found]


def test_what_broke_the_service_under_load(tmp_path: Path) -> None:
    usual = made.series(4, count=40)
    assert seen(tmp_path / "usual", series=usual) == []
    tokens = usual["generation_tokens"]
    again = usual | {"generation_tokens": [*tokens[:20], *(5.0 + n for n in range(20))]}
    assert seen(tmp_path / "restart", series=again) == [("restart", 20.0, 0.0)]
    stuck = usual | {"generation_tokens": [*tokens[:20], *tokens[19:20] * 15, *tokens[20:25]]}
    assert seen(tmp_path / "stall", series=stuck) == [("stall", 19.0, 15.0)]
    reading = stuck | {"kv_usage": [0.3 + n / 1000 for n in range(40)]}
    assert seen(tmp_path / "prefill", series=reading) == [], "a long prompt fills the cache"
    idle = stuck | {"running": [0.0] * 40}
    assert seen(tmp_path / "idle", series=idle) == [], "nobody waits"
    deaf = usual | {"seconds": [*(float(n) for n in range(20)), *(float(n + 30) for n in range(20))]}
    assert seen(tmp_path / "silence", series=deaf) == [("silence", 19.0, 11.0)]
    rare = usual | {"seconds": [16.0 * n for n in range(40)]}
    assert seen(tmp_path / "rare", series=rare) == [], "that run was so long that it was looked at less often"


def test_a_restart_stands_in_the_report_and_the_evaluation_without_a_number(tmp_path: Path) -> None:
    """Also one between the last look and the end, which only the counters before and after show."""
    point = made.loads(sample.RECIPE, "ramp", 1)[0]
    after = sample.document(point)["after"] | {"generation_tokens": 3.0}
    run = made.written(tmp_path / "run", [[100.0]], series=made.series(4), after=after)
    assert [each.passed for each in store.measurements(run)] == [False]
    sentence = "Point 0, measurement 0, after 19 s of load: the engine's counters began anew"
    text, envelope = evaluation(tmp_path / "evaluation", run)
    assert f"A. {sentence}" in part(text, "Bottlenecks")
    assert "tokens/s:" not in text
    (told,) = envelope["result"]["runs"]
    assert [each["kind"] for each in told["interruptions"]] == ["restart"]
    assert manyhost("report", str(run), "--to", str(tmp_path / "report")).code == 0
    assert sentence in (tmp_path / "report/report.md").read_text()


def test_names_of_many_runs() -> None:
    assert [name(place) for place in (0, 25, 26, 52)] == ["A", "Z", "A2", "A3"]


def test_a_file_that_is_not_as_it_was_measured_is_refused(tmp_path: Path) -> None:
    run = made.written(tmp_path / "run", [[100.0]])
    path = run / "0-0.json"
    document = json.loads(path.read_text())
    document["metrics"]["output_token_rate"] = 9999.0
    path.write_text(json.dumps(document))
    ran = manyhost("evaluate", str(run), "--to", str(tmp_path / "evaluation"))
    assert ran.code == 3
    assert str(path) in ran.err
    assert not (tmp_path / "evaluation").exists()


def test_a_run_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    run = str(made.written(tmp_path / "run", SLOW))
    ran = manyhost("evaluate", run, run, "--to", str(tmp_path / "out"))
    assert ran.code == 2
    assert "is named twice" in ran.err
    assert not (tmp_path / "out").exists()
