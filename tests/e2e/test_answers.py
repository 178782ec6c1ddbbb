"""Right answers under load: the small form of benchmarks/gpu/answers on the CPU engine, two hosts.

Every prompt has its own right answer, which the model reads out of its KV cache. Few KV blocks force
preemptions. vLLM's CPU build has no prefix cache for MLA; on GPUs the same questions go through one.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from testbed import engine as local_engine
from tests.e2e.place import ROOT, Place, engine_settings, run

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
SOURCE = ROOT / "benchmarks" / "gpu" / "answers"
LEADER = "tiny-r1-0"
ANSWERS = 64


def model(folder: Path) -> list[str]:
    """Writes the small model and its questions; returns the settings that serve them."""
    for name in ("ask.py", "prompts.py"):
        shutil.copy(SOURCE / name, folder)
    python = local_engine.build() / "vllm" / "bin" / "python"
    words = [python, SOURCE / "model.py", folder / "model", "--shape", "small"]
    subprocess.run(list(map(str, words)), check=True, timeout=120)
    subprocess.run(["chmod", "-R", "a+rX", str(folder)], check=True)
    return ["--set", "weights.path=/opt/answers/model", "--set", "drain_seconds=5"]


def test_every_answer_is_the_right_one(place: Place, namespace: str, tmp_path: Path) -> None:
    """mp, PP=2, 32 in flight, preemptions: each answer is looked up right, over both stages."""
    settings = engine_settings(place)
    at = next(i for i, word in enumerate(settings) if word.startswith("host_mounts="))
    mounts = json.loads(settings[at].removeprefix("host_mounts="))
    mounts.append({"name": "answers", "host_path": str(tmp_path), "mount_path": "/opt/answers"})
    settings[at] = f"host_mounts={json.dumps(mounts)}"
    arguments = {"max-num-seqs": 32, "block-size": 16, "num-gpu-blocks-override": 200}
    here = ["--namespace", namespace, *settings, *model(tmp_path)]
    for name, value in arguments.items():
        here += ["--set", f"arguments.{name}={value}"]
    begin = time.monotonic()
    run("deploy", "local", *here, "--timeout", "600").ok()
    print(f"    deploy {time.monotonic() - begin:.0f} s")
    ask = (
        "python3 /opt/answers/ask.py --model tiny-r1 --symbols 300 --vocabulary 1024 --links 4,60 --margin 2"
    )
    text = place.kube(
        "exec", "-n", namespace, LEADER, "--", "sh", "-c", f"{ask} --rounds {ANSWERS}x32 || true"
    )
    found = json.loads(text)
    (round_,) = found["rounds"]
    print(f"    {round_['right']} right in {round_['seconds']} s, counters {round_['counters']}")
    assert round_["cases"] == []
    assert (round_["wrong"], round_["failed"]) == (0, 0)
    assert round_["right"] + round_["left"] == ANSWERS
    assert round_["counters"]["preemptions"] > 0
    assert found["margin"] > 10  # nats: no rounding reaches that
    run("teardown", "local", *here, "--yes").ok()
