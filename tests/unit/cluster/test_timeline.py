"""The start of a group as a waterfall, from pods, logs and events."""

# ruff: noqa: E501  recorded lines read better whole

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from manyhost.benchmark.bench import cold_start
from manyhost.cluster.connection import connect
from manyhost.cluster.phases import stamp, timestamp
from manyhost.cluster.starts import starts
from manyhost.cluster.target import Place
from manyhost.cluster.timeline import (
    Planned,
    Step,
    Timeline,
    describe,
    go_seconds,
    launcher_parts,
    timelines,
)

from tests.helpers.cli import manyhost
from tests.unit.cluster.doctor import Serve, a_target
from tests.unit.scripts.members import Members, until

BEGIN = 1767225600.0  # 2026-01-01T00:00:00Z
LWS = "leaderworkerset.sigs.k8s.io"
PLAN = Planned({"schedule": 30, "image": 80, "import": 60, "weights": 700, "compile": 180}, downloads=False)
HUB = Planned(PLAN.phases, downloads=True)
# Made up, in the words of launcher and vLLM: two ranks on a host, and times as GPUs have them.
LEADER = """\
100.0 manyhost phase=start member=leader rank=0 seconds=0.01 size=2 executor=mp
100.2 manyhost phase=profile member=leader rank=0 seconds=0.16 address=10.0.0.1
100.4 manyhost phase=weights member=leader rank=0 seconds=0.38 control=key
103.0 manyhost phase=peers member=leader rank=0 seconds=2.98 waiting_for=1
110.0 manyhost phase=engine member=leader rank=0 seconds=9.98 attempt=1 of=3
120.0 manyhost phase=loading member=leader rank=0 seconds=20.01 step=engine still=1s limit=600s
170.0 INFO 01-01 00:02:50 [default_loader.py:384] Loading weights took 19.50 seconds
171.0 INFO 01-01 00:02:51 [default_loader.py:384] Loading weights took 21.00 seconds
180.0 manyhost phase=loading member=leader rank=0 seconds=80.01 step=engine percent=100 still=0s limit=600s
258.5 INFO 01-01 00:04:18 [core.py:400] init engine (profile, create kv cache, warmup model) took 87.24 s (compilation: 34.75 s)
260.0 manyhost phase=serving member=leader rank=0 seconds=160.00 attempt=1
261.0 manyhost phase=loading member=leader rank=0 seconds=161.00 step=engine
"""
WORKER = """\
160.0 manyhost phase=start member=worker rank=1 seconds=0.01 size=2 executor=mp
160.4 manyhost phase=weights member=worker rank=1 seconds=0.38 control=key
163.0 manyhost phase=peers member=worker rank=1 seconds=2.98 waiting_for=leader
"""
# Recorded: the leader of two hosts of the testbed with vLLM 0.32 on CPUs and the tiny model, without other lines.
RECORDED = """\
2026-11-26T08:55:59.305038059Z manyhost phase=start member=leader rank=0 seconds=0.00 size=2 executor=mp
2026-11-26T08:55:59.669482306Z manyhost phase=profile member=leader rank=0 seconds=0.36 address=10.128.2.8
2026-11-26T08:55:59.983499012Z manyhost phase=weights member=leader rank=0 seconds=0.67 control=key
2026-11-26T08:56:00.240326451Z manyhost phase=peers member=leader rank=0 seconds=0.93 waiting_for=1:absent
2026-11-26T08:56:00.471026661Z manyhost phase=engine member=leader rank=0 seconds=1.16 attempt=1 failed=0 of=3
2026-11-26T08:56:30.522998804Z manyhost phase=loading member=leader rank=0 seconds=31.21 step=engine still=1s limit=600s
2026-11-26T08:56:32.948517261Z Loading safetensors checkpoint shards:   0% Completed | 0/1 [00:00<?, ?it/s]\r
2026-11-26T08:56:32.960126263Z Loading safetensors checkpoint shards: 100% Completed | 1/1 [00:00<00:00, 88.28it/s]
2026-11-26T08:56:32.961232016Z (Worker_PP0 pid=147) INFO 11-26 08:56:32 [default_loader.py:501] Loading weights took 0.01 seconds
2026-11-26T08:56:35.125733998Z (EngineCore pid=89) INFO 11-26 08:56:35 [core.py:402] init engine (profile, create kv cache, warmup model) took 1.03 s
2026-11-26T08:56:36.749071599Z manyhost phase=serving member=leader rank=0 seconds=37.44 attempt=1
"""


def log(text: str) -> str:
    """With the time before each line, as the API server writes it."""
    lines = []
    for line in text.splitlines():
        at, _, rest = line.partition(" ")
        fraction = f"{float(at) % 1:.9f}"[1:]
        lines.append(f"{stamp(BEGIN + float(at))[:-1]}{fraction}Z {rest}\n")
    return "".join(lines)


def pod(
    host: int = 0, *, placed: float | None = 12, started: float | None = 100, restarts: int = 0
) -> dict[str, Any]:
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    status: dict[str, Any] = {"conditions": [scheduled]}
    if placed is not None:
        scheduled.update(status="True", lastTransitionTime=stamp(BEGIN + placed))
        state = {"running": {"startedAt": stamp(BEGIN + started)}} if started else {"waiting": {}}
        status["containerStatuses"] = [{"name": "vllm", "restartCount": restarts, "state": state}]
    return {
        "metadata": {
            "name": f"r-0-{host}" if host else "r-0",
            "uid": f"u{host}",
            "creationTimestamp": stamp(BEGIN + host),
            "labels": {f"{LWS}/group-index": "0", f"{LWS}/worker-index": str(host)},
        },
        "spec": {"nodeName": f"node-{host}"} if placed is not None else {},
        "status": status,
    }


def of(
    *pods: Any,
    logs: Any,
    pulls: Any = None,
    planned: Planned = PLAN,
    usd: float | None = 36.0,
    now: float = 999,
) -> Timeline:
    (found,) = timelines(pods, logs, pulls or {}, planned, usd, BEGIN + now)
    return found


def here(api: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubeconfig for an API server."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": api}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    (folder / "config").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(folder / "config"))


def took(steps: tuple[Step, ...]) -> list[tuple[str, float, float]]:
    return [(step.name, step.start, step.seconds) for step in steps]


def test_a_start_is_divided_where_launcher_and_engine_say_what_they_do() -> None:
    pull = 'Successfully pulled image "vllm/vllm-openai:v0.26.0" in 1m20.5s (1m21s including waiting). Image size: 10400000000 bytes.'
    found = of(pod(), logs={"u0": log(LEADER)}, pulls={"u0": pull})
    assert took(found.members[0].steps) == [
        ("schedule", 0.0, 12.0),
        ("image", 12.0, 88.0),
        ("start", 100.0, 0.2),
        ("profile", 100.2, 0.2),
        ("weights", 100.4, 2.6),
        ("peers", 103.0, 7.0),
        ("import", 110.0, 40.0),
        ("load", 150.0, 21.0),
        ("compile", 171.0, 87.5),
        ("answer", 258.5, 1.5),
    ]
    assert (found.answered, found.seconds, found.planned) == (True, 260.0, 1050.0)
    assert found.usd == pytest.approx(36 * (260 - 12) / 3600, abs=0.01)  # a host is paid from its node on
    assert found.members[0].steps[1].detail == "pulled 10.4 GB in 80 s"
    assert not any(step.running for step in found.members[0].steps)


def test_a_start_that_was_recorded() -> None:
    """With the times that the API server puts before the lines, and without them."""
    begin = timestamp("2026-11-26T08:55:59Z")
    parts, serves = launcher_parts(RECORDED, begin)
    assert serves == pytest.approx(begin + 37.749, abs=0.001)
    assert [(part.name, round(part.end - part.start, 2)) for part in parts] == [
        ("start", 0.36),
        ("profile", 0.31),
        ("weights", 0.26),
        ("peers", 0.23),
        ("import", 32.48),
        ("load", 0.01),
        ("compile", 2.16),
        ("answer", 1.62),
    ]
    plain = re.sub(r"(?m)^\S+Z ", "", RECORDED)
    parts, serves = launcher_parts(plain, begin)
    assert [part.name for part in parts] == ["start", "profile", "weights", "peers", "engine"]
    assert (serves, parts[-1].end - parts[-1].start) == (begin + 37.44, pytest.approx(36.28))


def test_each_step_stands_beside_what_the_plan_says_of_it() -> None:
    staged = of(pod(), logs={"u0": log(LEADER)}).members[0].steps
    assert {step.name: step.planned for step in staged if step.planned is not None} == {
        "schedule": 30, "image": 80, "import": 60, "load": 700, "compile": 180,
    }  # fmt: skip
    hub = of(pod(), logs={"u0": log(LEADER)}, planned=HUB).members[0].steps
    assert {step.name: step.planned for step in hub if step.planned is not None} == {
        "schedule": 30, "image": 80, "weights": 700, "import": 60, "compile": 180,
    }  # fmt: skip


def test_what_goes_on_says_so_and_how_far_it_is() -> None:
    loading = "".join(LEADER.splitlines(keepends=True)[:6]).replace("still=1s", "percent=45 still=90s")
    found = of(pod(), pod(1, started=160), logs={"u0": log(loading), "u1": log(WORKER)}, now=300)
    leader, worker = found.members
    assert (leader.steps[-1].name, leader.steps[-1].seconds, leader.steps[-1].running) == (
        "engine",
        190.0,
        True,
    )
    assert leader.steps[-1].detail == "engine starts, 45 %, no progress for 90 s, given up after 600s"
    assert leader.steps[-1].planned == 60 + 700 + 180
    assert (worker.steps[-1].name, worker.steps[-1].running) == ("peers", True)
    assert (found.answered, found.seconds) == (False, 300.0)
    assert found.usd == pytest.approx(2 * 36 * 288 / 3600)


@pytest.mark.parametrize(
    ("item", "last"),
    [(pod(placed=None), ("schedule", 0.0, 50.0)), (pod(started=None), ("image", 12.0, 38.0))],
)
def test_a_host_or_an_image_that_is_waited_for(item: Any, last: tuple[str, float, float]) -> None:
    found = of(item, logs={}, now=50)
    assert took(found.members[0].steps)[-1] == last
    assert found.members[0].steps[-1].running
    assert not found.answered


def test_an_attempt_that_failed_says_why_and_the_next_one_counts() -> None:
    text = """\
100.0 manyhost phase=start member=leader rank=0 seconds=0.01
101.0 manyhost phase=engine member=leader rank=0 seconds=1.00 attempt=1 of=3
130.0 INFO [default_loader.py:1] Loading weights took 10.00 seconds
140.0 manyhost phase=attempt member=leader rank=0 seconds=40.00 reason="rank 1: exit code 1" attempt=1 of=3
150.0 manyhost phase=engine member=leader rank=0 seconds=50.00 attempt=2 of=3
200.0 manyhost phase=serving member=leader rank=0 seconds=100.00 attempt=2
210.0 manyhost phase=attempt member=leader rank=0 seconds=110.00 reason="the engine has ended" deaths=1 of=5
"""
    found = of(pod(), logs={"u0": log(text)})
    assert took(found.members[0].steps)[2:] == [
        ("start", 100.0, 1.0),
        ("import", 101.0, 19.0),
        ("load", 120.0, 10.0),
        ("compile", 130.0, 10.0),
        ("attempt", 140.0, 10.0),
        ("engine", 150.0, 50.0),
    ]
    assert found.members[0].steps[5].detail == "rank 1: exit code 1"
    assert found.seconds == 200.0


def test_a_group_that_gave_up_has_not_answered() -> None:
    text = '100.0 manyhost phase=weights member=leader rank=0 seconds=0.01\n130.0 manyhost phase=held member=leader rank=0 seconds=30.00 reason="no such model"\n'
    found = of(pod(), logs={"u0": log(text)}, now=400)
    last = found.members[0].steps[-1]
    assert (last.name, last.seconds, last.detail, last.running) == ("weights", 30.0, "no such model", False)
    assert (found.answered, found.seconds) == (False, 400.0)  # the hosts are paid for all the same


def test_a_log_that_no_longer_has_its_start_is_no_start_that_goes_on() -> None:
    item = pod()
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": stamp(BEGIN + 500)}
    item["status"]["conditions"].append(ready)
    found = of(item, logs={"u0": log("800000.0 INFO throughput\n")}, now=900000)
    assert (found.answered, found.seconds) == (True, 500.0)
    assert took(found.members[0].steps)[-1] == ("start", 100.0, 400.0)
    assert "no longer in its log" in found.members[0].steps[-1].detail


def test_a_container_that_was_started_again_tells_of_its_last_life() -> None:
    found = of(pod(started=150, restarts=2), logs={"u0": log(LEADER.replace("10", "20", 1))})
    assert found.members[0].steps[1].detail == "and 2 former lives of the container"


def test_no_price_is_no_cost() -> None:
    found = of(pod(), logs={"u0": log(LEADER)}, usd=None)
    assert (found.usd, found.members[0].usd) == (None, None)
    assert "USD" not in "\n".join(describe(found))


def test_the_picture_fits_a_terminal_and_shows_where_it_was_slower() -> None:
    found = of(pod(), pod(1, started=160), logs={"u0": log(LEADER), "u1": log(WORKER)})
    lines = list(describe(found))
    assert max(map(len, lines)) <= 80
    assert lines[:2] == [
        "start of group 0 at 2026-01-01T00:00:00Z",
        "  answered after 260 s, planned 1,050 s, 4.96 USD",
    ]
    rows = {line.split()[0]: line for line in lines[4:14]}
    assert "profile" not in rows
    assert rows["image"].split()[:5] == ["image", "12", "88", "80", "+8"]
    assert rows["load"].split()[:4] == ["load", "150", "21", "700"]
    bars = [line.index("#") for line in lines[4:12] if "#" in line]
    assert bars == sorted(bars)
    assert rows["compile"].count("#") > 3 * rows["load"].count("#")


def test_a_benchmark_keeps_the_start_of_the_group_that_clients_talk_to() -> None:
    answered = of(pod(), logs={"u0": log(LEADER)})
    kept = cold_start([of(pod(), logs={}), answered])
    assert kept is not None
    assert (kept.seconds, kept.planned, kept.usd) == (260.0, 1050.0, answered.usd)
    assert [(step.name, step.planned) for step in kept.steps][:2] == [("schedule", 30), ("image", 80)]
    assert cold_start([of(pod(), logs={})]) is None


@pytest.mark.parametrize(
    ("text", "seconds"), [("1m20.5s", 80.5), ("950ms", 0.95), ("2h0m1s", 7201.0), ("35s", 35.0)]
)
def test_durations_of_go(text: str, seconds: float) -> None:
    assert go_seconds(text) == pytest.approx(seconds)


def test_lines_of_a_real_group_without_times(tmp_path: Path) -> None:
    """The launcher's own lines, from its processes: they tell a start that adds up."""
    members = Members(tmp_path)
    try:
        members.serve()
        until("serving", lambda: members.phases(0, "serving"))
        parts, serves = launcher_parts(members.log(0), BEGIN)
    finally:
        members.close()
    said = re.findall(r"phase=serving .*?seconds=([0-9.]+)", members.log(0))[0]
    assert serves == pytest.approx(BEGIN + float(said))
    assert [part.name for part in parts][-2:] == ["peers", "engine"]
    assert all(one.end == other.start for one, other in pairwise(parts))
    assert parts[-1].end == serves


def test_pods_logs_and_events_are_read_from_the_cluster(
    serve: Serve, tmp_path: Path, monkeypatch: Any
) -> None:
    target = a_target()
    asked = []
    event = {
        "involvedObject": {"uid": "u0", "fieldPath": "spec.containers{vllm}"},
        "message": 'Container image "x" already present on machine',
    }

    def answer(method: str, path: str, headers: Any) -> Any:
        asked.append(path)
        if "/log?" in path:
            assert "timestamps=true" in path
            return (200, {}, log(LEADER).encode()) if "/r-0/" in path else (400, {}, {"message": "waiting"})
        items = [event] if "/events" in path else [pod(), pod(1, started=None)]
        return 200, {"Date": "Thu, 01 Jan 2026 00:05:00 GMT"}, {"metadata": {}, "items": items}

    here(f"http://{serve(answer)}", tmp_path, monkeypatch)
    place = Place(target.chart, "ns", "r")
    (found,) = starts(connect("here"), place, target.plan)
    assert (found.answered, found.seconds) == (True, 260.0)
    assert found.members[0].steps[1].detail == "the image was there"
    assert found.members[1].steps[-1].name == "image"
    assert found.planned == sum(dict(target.plan.cold_start).values())
    assert any("labelSelector" in path for path in asked if "/pods?" in path)


def test_status_shows_it_after_what_it_always_shows(serve: Serve, tmp_path: Path, monkeypatch: Any) -> None:
    labels = {"app.kubernetes.io/instance": "r", "app.kubernetes.io/name": "llm-multihost"}
    group = {
        "metadata": {"name": "r", "labels": labels, "creationTimestamp": stamp(BEGIN), "generation": 1},
        "spec": {"replicas": 1, "leaderWorkerTemplate": {"size": 1}},
        "status": {"readyReplicas": 0, "updatedReplicas": 1},
    }

    def answer(method: str, path: str, headers: Any) -> Any:
        if "/log?" in path:
            return 200, {}, log(LEADER).encode()
        collection = path.partition("?")[0]
        items = {"leaderworkersets": [group], "pods": [pod()]}.get(collection.rpartition("/")[2], [])
        return 200, {"Date": "Thu, 01 Jan 2026 00:05:00 GMT"}, {"metadata": {}, "items": items}

    here(f"http://{serve(answer)}", tmp_path, monkeypatch)
    words = ("status", "a3mega", "--release", "r", "--namespace", "ns")
    without = manyhost(*words, "--output", "json").output.result
    assert without["timeline"] is None
    result = manyhost(*words, "--timeline", "--output", "json").output.result
    (found,) = result["timeline"]
    assert {key: result[key] for key in result if key != "timeline"} == {
        key: without[key] for key in without if key != "timeline"
    }
    assert (found["answered"], found["seconds"]) == (True, 260.0)
    assert found["usd"] > 0
    assert [step["name"] for step in found["members"][0]["steps"]][-1] == "answer"
    lines = manyhost(*words, "--timeline").out.splitlines()
    start = lines.index("start of group 0 at 2026-01-01T00:00:00Z")
    assert any(line.startswith("endpoints of r-svc") for line in lines[:start])
    assert any(line.strip().startswith("compile") for line in lines[start:])
