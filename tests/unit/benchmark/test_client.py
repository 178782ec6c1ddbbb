"""The client's parts: the server with known times, the readers, the spreading over processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import engine
import measure
import pytest
import runner

from tests.helpers.shared import shared_dir
from tests.helpers.waiting import until
from tests.unit.benchmark.conftest import CLIENT

FAKE = Path(__file__).parent / "fakes/vllm"
WORDS = [
    *(str(FAKE), "bench", "serve", "--base-url", "{url}", "--model", "{model}"),
    *("--random-input-len", "{input}", "--random-output-len", "{output}", "--num-prompts", "{requests}"),
    *("--max-concurrency", "{concurrency}", "--request-rate", "{rate}", "--seed", "{seed}", "--ignore-eos"),
    *("--result-filename", "{result}"),
]


@pytest.fixture
def steady() -> Any:
    words = [sys.executable, str(CLIENT / "steady.py"), "30", "10"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        process.kill()


def run(url: str, folder: Path, **changes: Any) -> runner.Ran:
    given: dict[str, Any] = {
        "values": {"url": url, "model": "steady", "input": "5", "output": "6", "rate": ""},
        "requests": 12,
        "concurrency": 4,
        "processes": 1,
        "seed": 1,
        "limit": 60,
    }
    return runner.run("vllm", WORDS, folder=folder, **given | changes)


def test_the_steady_server_knows_its_own_times(steady: str, tmp_path: Path) -> None:
    ran = run(steady, tmp_path)
    assert ran.error == ""
    truth = json.loads(urllib.request.urlopen(f"{steady}/truth").read())
    assert len(truth["ttft"]) == 12
    assert len(truth["itl"]) == 12 * 5
    assert min(truth["ttft"]) >= 0.030, "never before its time"
    assert sorted(truth["itl"])[30] == pytest.approx(0.010, abs=0.005)
    assert ran.requests.output == [6] * 12
    assert ran.requests.chunks == [6] * 12
    seen, known = sorted(ran.requests.ttft), sorted(truth["ttft"])
    assert all(after >= before for after, before in zip(seen, known, strict=True)), (
        "a client is late, never early"
    )
    assert json.loads(urllib.request.urlopen(f"{steady}/truth").read())["ttft"] == [], "and forgets them"


def test_chat_too(steady: str) -> None:
    body = {"messages": [{"role": "user", "content": "?"}], "max_completion_tokens": 3, "stream": True}
    request = urllib.request.Request(f"{steady}/v1/chat/completions", json.dumps(body).encode())
    lines = urllib.request.urlopen(request).read().decode().split("\n\n")
    events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    assert [event["choices"][0]["delta"]["content"] for event in events[:3]] == [" a"] * 3
    assert events[2]["choices"][0]["finish_reason"] == "length"
    assert events[3]["usage"]["completion_tokens"] == 3


def test_spread_over_processes(steady: str, tmp_path: Path) -> None:
    ran = run(steady, tmp_path, processes=3, requests=10, concurrency=5)
    assert len(ran.commands) == 3
    assert sum(ran.requests.ok) == 10
    counts = [command[command.index("--num-prompts") + 1] for command in ran.commands]
    streams = [command[command.index("--max-concurrency") + 1] for command in ran.commands]
    assert (counts, streams) == (["4", "3", "3"], ["2", "2", "1"])
    assert len({command[command.index("--seed") + 1] for command in ran.commands}) == 3
    assert ran.seconds > 0


def test_all_at_once_has_no_limit_of_concurrency(steady: str, tmp_path: Path) -> None:
    ran = run(steady, tmp_path, concurrency=0, requests=3)
    assert "--max-concurrency" not in ran.commands[0]
    assert ran.commands[0][ran.commands[0].index("--request-rate") + 1] == "inf"


def test_a_tool_that_hangs_is_ended(steady: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_VLLM", "hang")
    ran = run(steady, tmp_path, limit=1.0)
    assert ran.error == "not done after 1 s"
    assert ran.requests.ok == []


def test_failures_are_failures_and_no_zeros(tmp_path: Path) -> None:
    rows = {
        "start_times": [1.0, 2.0],
        "ttfts": [0.5, 0.0],
        "itls": [[0.1, 0.2], []],
        "input_lens": [7, 7],
        "output_lens": [3, 0],
        "errors": ["", "Traceback\nConnectionError: gone"],
        "generated_texts": ["abc", ""],
    }
    (tmp_path / "x.json").write_text(json.dumps(rows))
    read = runner.read_requests(tmp_path / "x.json")
    assert read.ok == [True, False]
    assert read.good("ttft") == [0.5]
    assert read.tpots() == [pytest.approx(0.15)]
    assert read.e2e[0] == pytest.approx(0.8)
    assert read.errors == ["ConnectionError: gone"]
    assert read.gaps == [0.1, 0.2]


def test_the_client_is_spread_until_it_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that is late by 3.9 ms: over four processes it is within 1 ms, and no more are tried."""
    spread: list[int] = []

    def slow(*_: Any, processes: int, **__: Any) -> runner.Ran:
        spread.append(processes)
        ttft = 0.02 + 0.0039 / processes
        requests = runner.Requests([0.0], [ttft], [ttft + 0.01], [1], [2], [2], [True], [False], [0.01])
        return runner.Ran(requests=requests)

    truth = json.dumps({"ttft": [0.02], "tpot": [0.01], "itl": [0.01]})
    monkeypatch.setattr(measure.os, "sched_getaffinity", lambda _: set(range(16)))
    monkeypatch.setattr(measure.runner, "run", slow)
    monkeypatch.setattr(measure.engine, "fetch", lambda *_: truth)
    plan = {"streams": 8, "requests": 8, "values": {}, "most_processes": 16, "limit_seconds": 9}
    plan |= {"budget_ms": 1.0, "budget_share": 0.02, "judged": ["p50"]}
    spec = {"tool": "vllm", "command": [], "values": {}, "calibration": plan}
    found = measure.calibrate(spec, {"ttft_ms": 20.0, "tpot_ms": 10.0}, tmp_path)
    assert spread == [1, 4]
    assert found["chosen"] == 1


def test_metrics_are_summed_over_engines_and_labels() -> None:
    text = """
vllm:prompt_tokens_total{engine="0",model_name="m"} 10.0
vllm:prompt_tokens_total{engine="1",model_name="m"} 5.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 2.0
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.5
vllm:cache_config_info{block_size="16",engine="0"} 1.0
process_resident_memory_bytes 9.8e+08
"""
    found = engine.read_metrics(text)
    assert (found["prompt_tokens"], found["finished"], found["kv_usage"]) == (15.0, {"stop": 2.0}, 0.5)
    assert found["cache_config"]["block_size"] == "16"
    assert found["resident_bytes"] == 9.8e8


def test_metrics_of_the_real_engine() -> None:
    folder = shared_dir()
    if folder is None:
        pytest.skip("no reference data")
    found = engine.read_metrics((folder / "data/vllm_metrics_0.32.0_cpu_sample.txt").read_text())
    assert (found["prompt_tokens"], found["generation_tokens"]) == (4987.0, 644.0)
    assert found["finished"]["length"] == 21.0
    assert found["cache_config"]["enable_prefix_caching"] == "False"


def test_a_version_is_found_beside_the_program(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text(f"#!{sys.executable}\n")
    assert measure.distribution(str(program), "msgspec")
    assert measure.distribution(str(tmp_path / "none"), "msgspec") == ""


CHILD = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"


def tool_with_a_child(text: str, folder: Path, limit: float) -> runner.Ran:
    """Run a tool whose work is done by a process below it."""
    words = [sys.executable, "-c", CHILD, text, "{result}"]
    given: dict[str, Any] = {"values": {}, "requests": 1, "concurrency": 1, "processes": 1, "seed": 1}
    return runner.run("vllm", words, folder=folder, limit=limit, **given)


def test_a_tool_is_ended_with_its_own_processes(tmp_path: Path) -> None:
    mark = f"{tmp_path}/alive"
    text = f"import os, pathlib, time; pathlib.Path({mark!r}).write_text(str(os.getpid())); time.sleep(600)"
    ran = tool_with_a_child(text, tmp_path, 3.0)
    assert ran.error == "not done after 3 s"
    state = Path(f"/proc/{Path(mark).read_text()}/stat")
    until("its process is gone", lambda: not state.exists() or ") Z " in state.read_text())


def test_the_busiest_process_may_be_one_of_the_tools_own() -> None:
    burn = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", CHILD, burn]) as tool:
        begin = time.perf_counter()
        processor = runner.Processor([tool.pid])
        processor.start()
        tool.wait()
        processor.stopped.set()
        processor.join()
    assert processor.most(begin, time.perf_counter()) > 0.2


def test_records_of_aiperf(tmp_path: Path) -> None:
    """As AIPerf 0.13.0 writes them: an answer, one without text, one that the server refused."""

    def row(start: float, error: dict[str, Any] | None = None, **metrics: Any) -> str:
        found = {name: {"value": value, "unit": "ms"} for name, value in metrics.items()}
        metadata = {"request_start_ns": int(start * 1e9), "request_end_ns": int(start * 1e9) + 5}
        return json.dumps({"metadata": metadata, "metrics": found, **({"error": error} if error else {})})

    now = time.time()
    answer = {"time_to_first_token": 500.0, "inter_chunk_latency": [100.0, 200.0], "request_latency": 800.0}
    rows = [
        row(now, usage_prompt_tokens=7, usage_completion_tokens=4, **answer),
        row(now + 1, {"type": "InvalidInferenceResultError", "message": "no content"}),
        row(now + 2, {"code": 500, "type": "Internal Server Error", "message": "<html>"}),
    ]
    (tmp_path / "x.json").write_text("\n".join(rows) + "\n")
    read = runner.READERS["aiperf"](tmp_path / "x.json")
    assert read.start[0] == pytest.approx(time.perf_counter(), abs=5.0), "on this machine's monotonic clock"
    assert read.start[1] - read.start[0] == pytest.approx(1.0, abs=0.01)
    assert (read.ok, read.input[0], read.output[0], read.chunks[0]) == ([True, False, False], 7, 4, 3)
    assert (read.ttft[0], read.e2e[0]) == (pytest.approx(0.5), pytest.approx(0.8))
    assert read.tokens_at == [pytest.approx(read.start[0] + after) for after in (0.5, 0.6, 0.8)]
    assert read.tpots() == [pytest.approx(0.1)]
    assert read.errors == ["no content", "500 Internal Server Error"]


FAKE_AIPERF = """#!{python}
import json, pathlib, sys
path = pathlib.Path(sys.argv[sys.argv.index("--config") + 1])
told = json.loads(path.read_text())["benchmark"]
pathlib.Path({seen!r}).write_text(path.read_text())
sessions = json.loads(pathlib.Path(told["dataset"]["path"]).read_text())["data"]
pathlib.Path({seen!r} + ".inputs").write_text(json.dumps([one["payloads"] for one in sessions]))
out = pathlib.Path(told["artifacts"]["dir"], "profile_export.jsonl")
out.write_text("{{}}\\n" * {records})
sys.exit(1)
"""


def aiperf_load(folder: Path, records: int, *more: str) -> subprocess.CompletedProcess[str]:
    """Run the load with a stand-in that writes so many records and ends with exit code 1."""
    (folder / "python").symlink_to(sys.executable)
    text = FAKE_AIPERF.format(python=sys.executable, seen=str(folder / "seen"), records=records)
    (folder / "aiperf").write_text(text)
    (folder / "aiperf").chmod(0o755)
    words = ["--url", "http://127.0.0.1:1", "--model", "m", "--input-tokens", "9", "--output-tokens", "5"]
    words += ["--requests", "3", "--concurrency", "2", "--result", str(folder / "result"), *more]
    return subprocess.run(
        [str(folder / "python"), str(CLIENT / "aiperf_load.py"), *words],
        env={"VLLM_API_KEY": "sk-secret-123", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_aiperf_is_told_exact_lengths_and_no_key(tmp_path: Path) -> None:
    done = aiperf_load(tmp_path, 3)
    assert done.returncode == 0, f"all requests failed, and that is a result: {done.stderr}"
    assert (tmp_path / "result").read_text() == "{}\n" * 3
    bodies = [body for (body,) in json.loads((tmp_path / "seen.inputs").read_text())]
    assert [(len(body["prompt"]), body["max_tokens"]) for body in bodies] == [(9, 5)] * 3
    assert all(body["ignore_eos"] and body["stream"] for body in bodies)
    assert len({tuple(body["prompt"]) for body in bodies}) == 3
    told = (tmp_path / "seen").read_text()
    assert "sk-secret" not in told
    assert json.loads(told)["benchmark"]["profiling"] == {
        "type": "concurrency", "requests": 3, "concurrency": 2
    }  # fmt: skip


def test_aiperf_sends_by_rate_too(tmp_path: Path) -> None:
    aiperf_load(tmp_path, 3, "--rate", "2.5")
    told = json.loads((tmp_path / "seen").read_text())["benchmark"]["profiling"]
    assert told == {"type": "poisson", "requests": 3, "rate": 2.5}


def test_aiperf_without_a_record_of_each_request_is_a_failure(tmp_path: Path) -> None:
    assert aiperf_load(tmp_path, 2).returncode == 1
    assert not (tmp_path / "result").exists()


def test_a_key_that_no_header_takes_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Secret that was made from a file ends with its line break."""
    monkeypatch.setenv("VLLM_API_KEY", "s3cret-key\n")
    with pytest.raises(ValueError, match="VLLM_API_KEY has a blank or a line break") as told:
        engine.fetch("http://127.0.0.1:9/v1/models")
    assert "s3cret" not in str(told.value)
