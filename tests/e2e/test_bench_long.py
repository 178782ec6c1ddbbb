"""manyhost bench for longer than CI has time: killed at random points, and a stress of ten minutes.

`make bench-long` runs both on the real engine. MANYHOST_BENCH_KILLS says how often the client and its Job are
killed; MANYHOST_BENCH_SECONDS how long the stress lasts.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from manyhost.benchmark import gate, store
from manyhost.report.read import read

from tests.e2e.place import Place, engine_settings, finish, run, start
from tests.helpers.waiting import until

KILLS = int(os.environ.get("MANYHOST_BENCH_KILLS", "0"))
STRESS = int(os.environ.get("MANYHOST_BENCH_SECONDS", "0"))
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not KILLS + STRESS, reason="make bench-long runs it"),
]
SECONDS = 600.0
LABEL = "app.kubernetes.io/name=llm-benchmark"
SCENARIOS = f"""
scenarios:
  ramp:
    input: {{tokens: 64}}
    output: {{tokens: 16}}
    concurrency: [1, 2, 4]
    requests: 6
    requests_per_stream: 2
    repetitions: {{least: 2, most: 2}}
    until_saturated: false
  sustained:
    input: {{tokens: 64}}
    output: {{tokens: 32}}
    spread: 0.2
    concurrency: [4]
    requests: 100
    seconds: {STRESS or 600}
"""


@pytest.fixture
def here(place: Place, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A release of one host, and loads for two cores. How exact the client is on them is not the subject."""
    monkeypatch.setattr(gate, "BUDGET_MS", 1000.0)
    monkeypatch.setattr(gate, "_SATURATED", 100.0)
    monkeypatch.setattr(gate, "_SKEW_SHARE", 1.0)
    recipe = tmp_path / "recipes/local/tiny-r1"
    recipe.mkdir(parents=True)
    (recipe / "benchmark.yaml").write_text(SCENARIOS)
    monkeypatch.chdir(tmp_path)
    found = ["--namespace", namespace, *engine_settings(place), "--set", "parallelism.pipeline=1"]
    run("deploy", "local", *found, "--timeout", str(SECONDS)).ok()
    return found


@pytest.mark.skipif(not KILLS, reason="no kills asked for")
def test_killed_at_random_points(place: Place, namespace: str, here: list[str], tmp_path: Path) -> None:
    """Whoever watches, the Job's pod or the Job: the same command ends with the same set of results."""
    words = ["bench", "local", "--scenario", "ramp", "--to", str(tmp_path / "runs"), *here]
    seed = random.randrange(1, 1_000_000)
    rng, killed = random.Random(seed), dict.fromkeys(("program", "pod", "job"), 0)
    print(f"seed {seed}")
    kept = 0
    for _ in range(KILLS):
        what = rng.choice(list(killed))
        with start(*words, kubeconfig=place.kubeconfig) as process:
            time.sleep(rng.uniform(0.5, 90))  # a measurement takes about one minute here
            if process.poll() is not None:
                out, err = finish(process, 10)
                assert process.returncode in (0, 1), out + err
                if process.returncode == 0:
                    break
                continue
            killed[what] += 1
            if what == "program":
                process.send_signal(signal.SIGKILL)
                process.wait()
                continue
            kind = {"pod": ("pod", "--grace-period=0", "--force"), "job": ("job",)}[what]
            place.kube("delete", kind[0], "-n", namespace, "-l", LABEL, *kind[1:])
            out, err = finish(process, SECONDS)
            assert process.returncode in (0, 1), out + err
            assert "Traceback" not in out + err
        now = len(list((tmp_path / "runs").glob("*/?-?.json")))
        assert now >= kept, "a result is gone"
        kept = now
    done = run(*words).ok()
    (folder,) = (tmp_path / "runs").iterdir()
    measured = store.measurements(folder)
    good = [(each.point, each.repetition) for each in measured if each.passed]
    print(f"killed {killed}; {len(measured)} measurements kept, {len(good)} with numbers")
    assert [point for point, _ in good] == [0, 0, 1, 1, 2, 2]
    assert len({(each.point, each.repetition) for each in measured}) == len(measured)
    assert read(folder).run.complete
    until("nothing is left of the Jobs", lambda: not place.names("jobs", "-n", namespace, "-l", LABEL))
    assert "withheld" not in done.out


@pytest.mark.skipif(not STRESS, reason="no stress asked for")
def test_a_stress(here: list[str], tmp_path: Path) -> None:
    """Every measurement of it passes, and the engine keeps its pace."""
    words = ["bench", "local", "--scenario", "sustained", "--to", str(tmp_path / "runs"), *here]
    begin = time.monotonic()
    done = run(*words).ok()
    (folder,) = (tmp_path / "runs").iterdir()
    measured = store.measurements(folder)
    rates = [each.metrics.output_token_rate for each in measured if each.metrics]
    resident = [each.server.series.resident_bytes for each in measured]
    print(done.out[-1500:])
    print(f"{time.monotonic() - begin:.0f} s, {len(measured)} measurements, output tokens/s {rates}")
    print(f"engine's memory, MB: {[round(row[-1] / 1e6) for row in resident if row]}")
    assert all(each.passed for each in measured)
    assert sum(each.metrics.seconds for each in measured if each.metrics) >= 0.9 * STRESS
    run("report", str(folder), "--to", str(tmp_path / "report")).ok()
