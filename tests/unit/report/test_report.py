"""The report: what is in it, what never is, and files that were changed after they were written."""

from __future__ import annotations

import functools
import json
import operator
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from manyhost.benchmark import store
from manyhost.benchmark.bench import describe
from manyhost.benchmark.evidence import Requests
from manyhost.report import plots
from manyhost.report.document import Code, Heading, Items, Paragraph, Table
from manyhost.report.html import html
from manyhost.report.markdown import markdown
from manyhost.report.read import pace
from manyhost.report.topology import topology

from tests.helpers.cli import manyhost
from tests.unit.benchmark import sample
from tests.unit.report import made


class Page(HTMLParser):
    """Collects the elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in ("meta", "line", "circle", "polyline"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("line", "circle", "polyline"):
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def report(folder: Path, *runs: Path) -> tuple[Page, str, Any]:
    ran = manyhost("report", *map(str, runs), "--to", str(folder), "--output", "json")
    assert ran.code == 0, ran.out + ran.err
    page = Page((folder / "report.html").read_text())
    assert page.open == []
    return page, (folder / "report.md").read_text(), ran.output.envelope


def test_the_pace_of_a_measurement_that_slows_down() -> None:
    """Requests of a second each: 10 ms a token in its first half, 20 ms in the second; one has failed."""
    count = 120
    requests = Requests(
        start_us=[n * 1_000_000 for n in range(count)],
        ttft_us=[100_000] * count,
        e2e_us=[100_000 + 9 * (10_000 if n < count / 2 else 20_000) for n in range(count)],
        output=[10] * count,
        ok=[int(n != 5) for n in range(count)],
    )
    found = pace(requests)
    assert len(found) == 60
    assert [round(ms, 3) for _, ms in found[:25]] == [10.0] * 25
    assert [round(ms, 3) for _, ms in found[-25:]] == [20.0] * 25
    assert 0 < found[0][0] < found[-1][0] < count
    assert pace(Requests()) == []


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (
            "a3mega/deepseek-r1-671b",
            ["1 group of 2 hosts, tensor 8, pipeline 2", "8 H100", "stage 0", "stage 1"],
        ),
        ("local/tiny-r1-disaggregated", ["prefill: 1 group of 1 host", "decode: 1 group of 1 host"]),
    ],
)
def test_the_picture_of_what_was_measured(recipe: str, words: list[str]) -> None:
    picture = topology(describe(sample.plan(recipe), {}))
    said = " | ".join(ET.fromstring(picture).itertext())
    assert all(text in said for text in words), said


def test_a_ramp_with_its_cost(tmp_path: Path) -> None:
    run = made.written(tmp_path / "run", [[100, 102, 99], [80, 81, 79], [78, 79, 78]], recipe=made.GPUS)
    page, text, envelope = report(tmp_path / "report", run)
    for words in (
        "79.75 (76.74 to 82.75)",
        "per million output tokens",
        "252.8 (248.3 to 257.5)",
        "commit-1y is cheaper than on-demand when the hosts are used more than 69% of all hours",
        "Prices for us-east4, read on ",
        "can probably do more than 4 in flight",
        "13 of 13 fixed questions were answered right",
        "============ Serving Benchmark Result ============",
    ):
        assert words in page.text
        assert words in text.replace("\\", "")
    assert page.tags.isdisjoint({"script", "img", "link", "iframe"})
    assert page.links == [], "nothing is fetched"
    pictures = re.findall(r"\]\(([^)]+)\)", text)
    assert pictures == [
        "topology.svg",
        "load.svg",
        "cost.svg",
        "ttft.svg",
        "tpot.svg",
        "tokens.svg",
        "queue.svg",
        "kv.svg",
    ]
    for name in pictures:
        ET.parse(tmp_path / "report" / name)
    (told,) = envelope["result"]["runs"]
    assert told["costs"][0]["output"]["mean"] == pytest.approx(252.8, abs=0.1)
    assert [point["passed"] for point in told["points"]] == [3, 3, 3]
    assert envelope["warnings"] == []


def test_the_cold_start_that_was_measured_stands_beside_the_plans(tmp_path: Path) -> None:
    """And a result of a time before it was measured is read as it was."""
    folder = made.written(tmp_path / "run", [[100.0]], recipe=made.GPUS)
    file = folder / store.RUN
    run = json.loads(file.read_text())
    del run["deployment"]["cold_start"]
    file.write_text(json.dumps(run))
    _, text, _ = report(tmp_path / "old", folder)
    assert "A cold start is planned to take" in text
    assert "Cold start\n" not in text
    steps = [
        {"name": "load", "seconds": 312.5, "planned": 689.0},
        {"name": "peers", "seconds": 5.0, "planned": None},
    ]
    run["deployment"]["cold_start"] = {"seconds": 620.0, "planned": 1039.0, "usd": 32.01, "steps": steps}
    file.write_text(json.dumps(run))
    _, text, _ = report(tmp_path / "new", folder)
    assert "Measured 620 s, planned 1,039 s, 32.01 USD by the price list." in text
    assert "| load | 312.5 | 689.0 |" in text
    assert "| peers | 5.00 | – |" in text
    assert "The cold start took 10 minutes" in text


def test_withheld_numbers_are_nowhere_and_their_reasons_are(tmp_path: Path) -> None:
    bad = made.written(tmp_path / "bad", [[100.0]], error="the tool failed")
    page, text, envelope = report(tmp_path / "report", bad)
    assert "No number of this run can be shown." in page.text
    assert "the tool failed" in page.text
    assert "tokens/s" not in page.text + text
    assert "Serving Benchmark Result" not in page.text
    (told,) = envelope["result"]["runs"]
    assert (told["costs"], told["findings"], told["points"][0]["metrics"]) == ([], [], {})
    assert envelope["warnings"][0]["message"] == "numbers of 1 measurements are withheld"
    good = made.written(tmp_path / "good", [[100.0]])
    both, text, _ = report(tmp_path / "both", bad, good)
    assert both.text.count("No number of this run can be shown.") == 1
    assert "measured once: how much another measurement would differ is not known" in both.text
    assert "These hosts cost nothing" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("metrics", "output_token_rate", 9999.0), "output_token_rate is 9999, and by its own requests"),
        (("metrics", "completed", 7), "completed is 7, and by its own requests 8"),
        (("passed", None, False), "says both that its numbers are withheld and that they are not"),
        (("requests", "ok", [1]), "does not have every request whole"),
        (("requests", "ok", [0] * 8), "by its own requests 0"),
        (("requests", "ttft_us", [1] * 8), "and by its own requests"),
        (("metrics", "seconds", 50.0), "seconds is 50, and by its own requests 100"),
        (("metrics.latencies.ttft_ms", "p99", 0.0), "the p99 of ttft_ms is 0, and by its own requests 200"),
        (("metrics.latencies.tpot_ms", "mean", -1), "the mean of tpot_ms is -1, and by its own requests 20"),
        (("metrics.latencies.itl_ms", "p90", -1e308), "the p90 of itl_ms is -1e+308, and its longest answer"),
        (("metrics.latencies.itl_ms", "mean", 10.0), "the mean of itl_ms is 10, and by its own requests 20"),
        (("requests", "e2e_us", [-1] * 8), "has requests with times that cannot be"),
        (("requests", "ok", [2] * 8), "has requests with times that cannot be"),
        (("server.series", "prompt_tokens", []), "does not have every sample of the engine's counters whole"),
    ],
)
def test_a_file_that_is_not_as_it_was_measured_is_refused(
    change: tuple[str, str | None, Any], words: str, tmp_path: Path
) -> None:
    run = made.written(tmp_path / "run", [[100.0]])
    path = run / "0-0.json"
    document = json.loads(path.read_text())
    where, key, value = change
    if key:
        functools.reduce(operator.getitem, where.split("."), document)[key] = value
    else:
        document[where] = value
    path.write_text(json.dumps(document))
    for command in (["report", str(run), "--to", str(tmp_path / "report")], ["compare", str(run), str(run)]):
        ran = manyhost(*command)
        assert ran.code == 3
        assert words in ran.err
        assert str(path) in ran.err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("roles", "words"),
    [
        ([], "$.deployment.roles"),
        ([{"name": "serve"}], "$.deployment.roles[0]"),
        ("groups", "$.deployment.roles[0].groups"),
        ("hosts", "$.deployment.roles[0].hosts"),
    ],
)
def test_roles_that_say_nothing(roles: str | list[dict[str, str]], words: str, tmp_path: Path) -> None:
    path = made.written(tmp_path / "run", [[100.0]]) / "run.json"
    document = json.loads(path.read_text())
    if isinstance(roles, str):
        document["deployment"]["roles"][0][roles] = 0
    else:
        document["deployment"]["roles"] = roles
    path.write_text(json.dumps(document))
    to = ("--to", str(tmp_path / "to"))
    for command in (("report", *to), ("evaluate", *to), ("compare", str(path.parent)), ("anchor", "add")):
        ran = manyhost(*command, str(path.parent))
        assert ran.code == 3
        assert words in ran.err
        assert str(path) in ran.err


def test_a_run_that_cannot_be_read(tmp_path: Path) -> None:
    run = made.written(tmp_path / "run", [[100.0]])
    (run / "0-0.json").unlink()
    (run / "0-0.json").mkdir()
    ran = manyhost("compare", str(run), str(run))
    assert (ran.code, ran.err) == (3, f"manyhost: {run / '0-0.json'}: cannot be read: Is a directory\n")


def test_runs_are_listed_where_they_are(tmp_path: Path) -> None:
    """Copied and renamed: what the list says can be given to report."""
    made.written(tmp_path / "runs/before-the-upgrade", [[100.0]])
    (line,) = manyhost("runs", str(tmp_path / "runs")).out.splitlines()
    place = line.split()[-1]
    assert place == str(tmp_path / "runs/before-the-upgrade")
    assert manyhost("report", place, "--to", str(tmp_path / "report")).code == 0


def test_an_engine_that_counted_less_and_a_run_of_something_else(tmp_path: Path) -> None:
    run = made.written(tmp_path / "run", [[100.0]])
    document = json.loads((run / "0-0.json").read_text())
    document["server"]["after"]["generation_tokens"] -= 1
    (run / "0-0.json").write_text(json.dumps(document))
    ran = manyhost("report", str(run), "--to", str(tmp_path / "report"))
    assert ran.code == 3
    assert "more output tokens than the engine has counted" in ran.err
    other = made.written(tmp_path / "other", [[100.0]])
    document = json.loads((other / "0-0.json").read_text())
    (other / "0-1.json").write_text(json.dumps({**document, "key": "another", "repetition": 1}))
    ran = manyhost("report", str(other), "--to", str(tmp_path / "report"))
    assert ran.code == 3
    assert "measurements of something else at point 0" in ran.err
    assert manyhost("report", str(tmp_path / "none")).code == 3


def test_what_somebody_wrote_into_a_result_stays_text() -> None:
    evil = "<script>alert(1)</script> | `x` [a](b) \\"
    blocks = [
        Heading(1, evil),
        Paragraph(evil),
        Items([evil]),
        Table((evil,), [(evil,)]),
        Code(evil, [evil, "```"]),
    ]
    page = html(blocks).decode()
    assert "<script>" not in page
    assert Page(page).text.count("alert(1)") == 8
    text = markdown(blocks)["report.md"].decode()
    outside = text.partition("````text")[0]
    assert "<script>" not in outside.replace("\\<", "")
    assert "\n````\n" in text, "its own fence does not end it"


def test_charts_have_round_ticks_and_few_points() -> None:
    assert plots.ticks(97) == [0, 20, 40, 60, 80, 100]
    assert plots.ticks(0.3) == pytest.approx([0, 0.1, 0.2, 0.3])
    assert plots.ticks(1e-9)[0] == 0
    points = [(float(x), 1.0) for x in range(100_000)]
    thin = plots.thinned(points)
    assert len(thin) < 700
    assert (thin[0], thin[-1]) == (points[0], points[-1])
    assert plots.thinned(points[:3]) == points[:3]
    picture = plots.chart("a & b", "x", "y", [plots.Series(name="<one>", points=points)])
    ET.fromstring(picture)
    assert len(picture) < 20_000
