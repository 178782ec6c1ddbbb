"""manyhost bench on the real engine: the published table, a killed Job, a lost client, a wrong flag."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
from manyhost.benchmark import store

from tests.e2e.place import Place, engine_settings, finish, run, start
from tests.helpers.waiting import until
from tests.unit.benchmark.service import Service

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]
SECONDS = 600.0
JOB_LABEL = "app.kubernetes.io/name=llm-benchmark"


@pytest.fixture(scope="module")
def settings(place: Place) -> list[str]:
    """One host a group."""
    return [*engine_settings(place), "--set", "parallelism.pipeline=1"]


@pytest.mark.usefixtures("_patient")
def test_the_published_table_from_a_job(
    place: Place, namespace: str, settings: list[str], tmp_path: Path
) -> None:
    """Cut off twice and gone on with; withheld when the server has another flag than the plan."""
    here = ["--namespace", namespace, *settings]
    run("deploy", "local", *here, "--timeout", str(SECONDS)).ok()
    runs = tmp_path / "runs"
    words = ["bench", "local", "--scenario", "published", "--to", str(runs), *here]

    def jobs() -> set[str]:
        return place.names("jobs", "-n", namespace, "-l", JOB_LABEL)

    def running() -> bool:
        pods = place.get("pods", "-n", namespace, "-l", JOB_LABEL)["items"]
        return any(pod["status"]["phase"] == "Running" for pod in pods)

    # The pod of the Job is killed: it says so, keeps nothing and leaves nothing behind.
    with start(*words, kubeconfig=place.kubeconfig) as process:
        until("the client runs", running, SECONDS)
        place.kube("delete", "pod", "-n", namespace, "-l", JOB_LABEL, "--grace-period=0", "--force")
        out, err = finish(process, SECONDS)
        assert process.returncode == 1, out + err
        assert "ended without a result" in err
    until("nothing is left of it", lambda: not jobs())
    assert not list(runs.rglob("*-*.json"))

    # The program that watches is gone: the next call takes the result of the Job that is there.
    with start(*words, kubeconfig=place.kubeconfig) as process:
        until("the client runs", running, SECONDS)
        process.send_signal(signal.SIGKILL)
        process.wait()
    (job,) = jobs()
    begin = time.monotonic()
    done = run(*words)
    print(done.out)
    done.ok()
    assert f"{job.partition('/')[2]} is there from an earlier call" in done.out
    print(f"taken over and measured in {time.monotonic() - begin:.0f} s")
    assert "============ Serving Benchmark Result ============\n" in done.out
    assert "Successful requests:                     24        \n" in done.out
    assert "Total generated tokens:                  1536      \n" in done.out
    assert jobs() == set()

    (folder,) = runs.iterdir()
    (measured,) = store.measurements(folder)
    assert measured.passed
    assert measured.metrics
    before, after = measured.server.before, measured.server.after
    assert before
    assert after
    assert after.generation_tokens - before.generation_tokens == measured.metrics.output_tokens
    assert measured.client.place == "job"
    assert measured.client.node.startswith("host-")
    assert store.read_run(folder).complete

    # What was measured, as a page; beside another run it says that one measurement shows no difference.
    written = run("report", str(folder), "--to", str(tmp_path / "report")).ok()
    print(written.out)
    page = (tmp_path / "report/report.html").read_text()
    assert f"{measured.metrics.output_token_rate:.2f}" in page
    assert "What limits it" in page
    again = run(*words[:4], "--to", str(tmp_path / "again"), *here)
    again.ok()
    assert "made" in again.out
    assert "from an earlier call" not in again.out
    (second,) = (tmp_path / "again").iterdir()
    compared = run("compare", str(folder), str(second))
    print(compared.out)
    compared.ok()
    assert "measured once" in compared.out

    # Another flag in the cluster than in the recipe: no number.
    other = run(
        "bench", "local", "--scenario", "published", "--to", str(runs), *here, "--set", "arguments.seed=7"
    )
    assert other.code == 1
    assert "pod tiny-r1-0 is not as planned: arguments have nothing else, planned --seed 7" in other.out
    report = next(path for path in runs.rglob("0-0.report.json") if path.parent != folder)
    assert json.loads(report.read_text())["results"] == {}
    run("teardown", "local", *here, "--yes").ok()


@pytest.mark.usefixtures("_patient")
@pytest.mark.parametrize(("tool", "version"), [("locust", "2.47.0"), ("aiperf", "0.13.0")])
def test_other_runners_report_what_the_server_counts(
    tool: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed from the package registry into an environment of its own; spread over processes as well."""
    recipe = tmp_path / "recipes/local/tiny-r1"
    recipe.mkdir(parents=True)
    load = "{input: {tokens: 16}, output: {tokens: 8}, concurrency: [2], requests: 6}"
    (recipe / "benchmark.yaml").write_text(f"scenarios: {{published: {load}}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VLLM_API_KEY", "sk-secret-123")
    with Service(key="sk-secret-123") as service:
        done = run("bench", "local", "--url", service.url, "--runner", tool, "--to", str(tmp_path / "runs"))
    done.ok()
    assert "Total generated tokens:                  48        \n" in done.out
    (folder,) = (tmp_path / "runs").iterdir()
    (measured,) = store.measurements(folder)
    assert (measured.client.tool, measured.client.version) == (tool, version)
    kept = "".join(path.read_text() for path in folder.iterdir())
    assert "sk-secret" not in kept + done.out + done.err
