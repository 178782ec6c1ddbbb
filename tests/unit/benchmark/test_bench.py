"""The command with the real client, a stand-in for the tool, and a server that counts as vLLM does."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from manyhost.benchmark import runners, store, tools
from manyhost.errors import InvalidInput

from tests.helpers.cli import Ran, manyhost
from tests.unit.benchmark import sample
from tests.unit.benchmark.service import Service

pytestmark = pytest.mark.usefixtures("fake_tool")


def small(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let the recipe have a benchmark of its own, in the current folder."""
    recipe = folder / "recipes/local/tiny-r1"
    recipe.mkdir(parents=True)
    (recipe / "benchmark.yaml").write_text(text)
    monkeypatch.chdir(folder)


ONE = """
scenarios:
  published: {input: {tokens: 16}, output: {tokens: 8}, concurrency: [2], requests: 6}
"""
RAMP = """
scenarios:
  ramp:
    input: {tokens: 16}
    output: {tokens: 8}
    concurrency: [2, 4]
    requests: 4
    requests_per_stream: 0
    repetitions: {least: 2, most: 2}
    until_saturated: false
"""


def bench(service: Service, folder: Path, *more: str) -> Ran:
    return manyhost("bench", "local", "--url", service.url, "--to", str(folder), *more)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("place", ["/proc", "a file"])
def test_a_place_that_cannot_be_written_is_found_out_before_anything_is_asked(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(tmp_path, monkeypatch, ONE)
    (tmp_path / "a file").touch()
    with Service() as service:
        ran = bench(service, tmp_path / place)
        assert (ran.code, service.counts["asked"]) == (1, 0), ran
    assert "cannot be written" in ran.err


@pytest.mark.parametrize("option", ["--url", "--prometheus"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://", "is no address of a server"),
        ("http://[::1", "is no address of a server"),
        ("http://127.0.0.1:99999", "is no address of a server"),
        ("http://a b/", "is no address of a server"),
        ("http://ann:s3cret@127.0.0.1:9", "has a user or a password in it"),
    ],
)
def test_an_address_that_is_none(option: str, url: str, words: str, tmp_path: Path) -> None:
    own = () if option == "--url" else ("--url", "http://127.0.0.1:9")
    ran = manyhost("bench", "local", option, url, *own, "--to", str(tmp_path / "runs"))
    assert ran.code == 3
    assert words in ran.err
    assert "s3cret" not in ran.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("patient")
def test_the_table_and_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, monkeypatch, ONE)
    with Service() as service:
        ran = bench(service, tmp_path / "runs")
        assert ran.code == 0, ran.out + ran.err
        assert "============ Serving Benchmark Result ============\n" in ran.out
        assert "Successful requests:                     6         \n" in ran.out
        assert "Total generated tokens:                  48        \n" in ran.out
        assert "client's own error, median: TTFT " in ran.out
        asked = service.counts["asked"]
        again = bench(service, tmp_path / "runs", "--output", "json")
        assert again.code == 0
        assert service.counts["asked"] == asked, "nothing is measured twice"
    (folder,) = (tmp_path / "runs").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["0-0.json", "0-0.report.json", "run.json"]
    run = again.output.envelope["result"]["runs"][0]["run"]
    assert run == json.loads((folder / "run.json").read_text())
    assert run["complete"]
    (measured,) = store.measurements(folder)
    assert measured.metrics
    assert measured.metrics.output_tokens == 48
    assert measured.metrics.good_share == 1.0
    assert run["points"][0]["metrics"]["output_token_rate"]["mean"] == measured.metrics.output_token_rate
    assert measured.client.place == "here"


@pytest.mark.usefixtures("patient")
def test_a_server_with_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has it measures; it is in nothing that is kept or said."""
    small(tmp_path, monkeypatch, ONE)
    with Service(key="sk-secret-123") as service:
        monkeypatch.setenv("VLLM_API_KEY", "another")
        refused = bench(service, tmp_path / "runs")
        assert refused.code == 1
        assert "401" in refused.out
        monkeypatch.setenv("VLLM_API_KEY", "sk-secret-123")
        ran = bench(service, tmp_path / "runs")
        assert ran.code == 0, ran.out + ran.err
    kept = "".join(path.read_text() for path in (tmp_path / "runs").rglob("*.json"))
    assert "sk-secret" not in kept + ran.out + ran.err


FAULTS = {
    "500": "requests failed: HTTP status 500: Internal Server Error",
    "garbage": "6 of 6 answers have no text",
    "wrong-counts": "the client counts 48 output tokens, the engine 96",
    "moody": "two answers at temperature 0, and they differ",
}


@pytest.mark.usefixtures("patient")
def test_a_broken_server_until_it_is_mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One fault after the other: no number, the reason named, what was seen kept; then the same command."""
    small(tmp_path, monkeypatch, ONE)
    with Service() as service:
        for number, (fault, words) in enumerate(FAULTS.items()):
            service.fault = fault
            ran = bench(service, tmp_path / "runs")
            assert ran.code == 1, fault
            assert words in ran.out
            assert "numbers are withheld" in ran.err
            (folder,) = (tmp_path / "runs").iterdir()
            kept = store.measurements(folder)[number]
            assert (kept.passed, kept.metrics) == (False, None)
            assert kept.requests.ok, "for whoever looks for the reason"
            report = json.loads((folder / f"0-{number}.report.json").read_text())
            assert report["results"] == {}
        service.fault = ""
        assert bench(service, tmp_path / "runs").code == 0
    assert [each.passed for each in store.measurements(folder)] == [False] * len(FAULTS) + [True]


@pytest.mark.usefixtures("patient")
def test_a_server_that_dies_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is of it is kept, marked, and shows no number."""
    small(tmp_path, monkeypatch, ONE)
    with Service("dies") as service:
        ran = bench(service, tmp_path / "runs")
    assert ran.code == 1
    assert "the engine is gone after the load" in ran.out
    assert "6 of 6 requests failed" in ran.out
    (folder,) = (tmp_path / "runs").iterdir()
    (kept,) = store.measurements(folder)
    assert (kept.passed, kept.metrics, kept.requests.ok) == (False, None, [0] * 6)
    assert kept.server.before
    assert not kept.server.after


@pytest.mark.usefixtures("patient")
def test_a_server_that_dies_before_the_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, monkeypatch, ONE)
    with Service("dies-early") as service:
        ran = bench(service, tmp_path / "runs")
    assert ran.code == 1
    assert "the engine is gone before the load" in ran.out
    (folder,) = (tmp_path / "runs").iterdir()
    (kept,) = store.measurements(folder)
    assert (kept.passed, kept.metrics, kept.requests.ok) == (False, None, [])


def test_a_tool_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, monkeypatch, ONE)
    monkeypatch.setenv("FAKE_VLLM", "exit")
    with Service() as service:
        ran = bench(service, tmp_path / "runs", "--runner", "vllm")
    assert ran.code == 1
    assert "vllm ended with exit code 1: no such tokenizer" in ran.out


def test_a_server_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path, monkeypatch, ONE)
    with Service() as service:
        pass
    ran = bench(service, tmp_path / "runs")
    assert ran.code == 1
    assert f"the engine at {service.url} does not answer" in ran.out


def test_no_tool_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = manyhost("bench", "local", "--url", "http://127.0.0.1:1", "--to", str(tmp_path), "--runner", "vllm")
    assert ran.code == 4
    assert "there is no vllm on this machine" in ran.err
    assert manyhost("bench", "local", "--url", "127.0.0.1:1").code == 3


def test_locust_is_in_no_job_and_for_loads_that_its_users_know(tmp_path: Path) -> None:
    ran = manyhost("bench", "local", "--runner", "locust")
    assert ran.code == 2
    assert "add --url URL" in ran.err
    load = sample.point("multi-turn").load
    with pytest.raises(InvalidInput, match="prompts with a common beginning"):
        runners.locust("locust", load, 4096)
    words = runners.locust("locust", sample.point().load, 4096).words
    assert words[words.index("--users") + 1] == "{users}"


def test_aiperf_is_for_this_machine_too(tmp_path: Path) -> None:
    ran = manyhost("bench", "local", "--runner", "aiperf")
    assert ran.code == 2
    assert "add --url URL" in ran.err
    with pytest.raises(InvalidInput, match="prompts with a common beginning"):
        runners.aiperf("python", sample.point("multi-turn").load, 4096)


def test_a_tool_is_installed_once_and_anew_when_it_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several runs that need it one installs it; its program may be there before what it needs."""
    (tmp_path / "some.txt").write_text("")
    monkeypatch.setattr(tools, "_REQUIREMENTS", tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[str] = []
    run = tools._run

    def counted(*words: str) -> None:
        made.append(words[2])
        run(*words)

    monkeypatch.setattr(tools, "_run", counted)
    with ThreadPoolExecutor(3) as pool:
        (program,) = set(pool.map(lambda _: tools.installed("some"), range(3)))
    assert made.count("venv") == 1
    assert program.with_name("python").exists()
    program.write_text("whole")
    assert tools.installed("some") == program
    assert program.read_text() == "whole", "installed once"
    program.with_name("python").unlink()
    for mark in program.parents[1].glob(".*"):
        mark.unlink()
    tools.installed("some")
    assert not program.exists()
    assert program.with_name("python").exists()


START = """
import sys
from manyhost import cli
from manyhost.benchmark import gate, spec
gate.BUDGET_MS, gate._SATURATED, spec._CALIBRATION_REQUESTS = 1000.0, 100.0, 2
sys.exit(cli.run(sys.argv[1:]))
"""


def test_killed_at_any_moment_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed again and again, by Ctrl-C or for good: in the end the same files, each measured once."""
    small(tmp_path, monkeypatch, RAMP)
    chance = random.Random(11)
    runs = tmp_path / "runs"
    with Service() as service:
        words = [sys.executable, "-c", START, "bench", "local", "--url", service.url, "--to", str(runs)]
        killed = 0
        while True:
            with subprocess.Popen(
                words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
            ) as process:
                try:
                    assert process.wait(chance.uniform(0.5, 2.5) if killed < 4 else None) == 0
                    break
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, chance.choice([signal.SIGKILL, signal.SIGTERM]))
                    killed += 1
            for folder in runs.glob("*"):
                store.measurements(folder)  # whole, or not there
        assert killed
    (folder,) = runs.iterdir()
    names = {
        f"{point}-{again}{end}"
        for point in range(2)
        for again in range(2)
        for end in (".json", ".report.json")
    }
    left = {path.name for path in folder.iterdir() if not path.name.startswith(".")}
    assert left == {*names, "run.json"}
    run = store.read_run(folder)
    assert run.complete
    assert [(point.measured, point.passed) for point in run.points] == [(2, 2)] * 2
