"""The whole walk on a real engine: python -m tools.demo.

Cluster (the one of $KUBECONFIG, or the test cluster), deploy, a streamed chat, one worker killed and
the group back, a short benchmark and its report, teardown. Every step goes through the commands that a
person would type, and is printed with its time. On a cluster of your own the engine must lie on the hosts
where the recipe says (recipes/local/tiny-r1/recipe.yaml, host_mounts); the test cluster gets it from the
cache.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from testbed import Cluster, ClusterError
from testbed import engine as local_engine

NAMESPACE = "manyhost-demo"
PROMPT = "Who are you?"
CLUSTER = "demo"
RECREATE_SECONDS = 600
RUNS, REPORT = "build/demo/runs", "build/demo/report"
_BEGIN = time.monotonic()
Result = TypeVar("Result")


class StepError(Exception):
    """A step of the walk failed; the text says which and how."""


def say(text: str) -> None:
    """Print one line with the time since the start."""
    print(f"[{time.monotonic() - _BEGIN:6.1f} s] {text}", flush=True)


def step(title: str, do: Callable[[], Result]) -> Result:
    """Do one step between its title and its time."""
    say(f"--- {title}")
    begin = time.monotonic()
    result = do()
    say(f"    {title}: {time.monotonic() - begin:.1f} s")
    return result


class Walk:
    """The steps on one cluster."""

    def __init__(self, kubeconfig: Path, kubectl: str, settings: list[str]) -> None:
        """Remember the place.

        Args:
            kubeconfig: the cluster.
            kubectl: the program.
            settings: `--set` options that all commands get.
        """
        self.environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self.kubectl = kubectl
        self.here = ["local", "--namespace", NAMESPACE, *settings]

    def manyhost(self, verb: str, *more: str, quiet: bool = False) -> str:
        """Run a command of manyhost about the release; its output is shown, or returned.

        Raises:
            StepError: it failed.
        """
        if not quiet:
            shown = " ".join(["manyhost", verb, "local", "--namespace", NAMESPACE, *more])
            print(f"$ {shown}", flush=True)
        done = self.program(verb, *self.here, *more, stdout=subprocess.PIPE if quiet else None)
        if done.returncode:
            raise StepError(f"manyhost {verb} ended with exit code {done.returncode}")
        return done.stdout or ""

    def program(self, *words: str, stdout: int | None = None) -> subprocess.CompletedProcess[str]:
        """Run manyhost."""
        name = str(Path(sys.executable).with_name("manyhost"))
        return subprocess.run([name, *words], env=self.environment, stdout=stdout, text=True, check=False)

    def measure(self) -> None:
        """Benchmark the release and write the report, with numbers or with the reasons that withhold them.

        Raises:
            StepError: there is nothing to report.
        """
        shutil.rmtree(RUNS, ignore_errors=True)  # the release is another one than that of an earlier demo
        print(f"$ manyhost bench local --namespace {NAMESPACE} --scenario published --to {RUNS}", flush=True)
        measured = self.program("bench", *self.here, "--scenario", "published", "--to", RUNS)
        runs = sorted(str(path.parent) for path in Path(RUNS).glob("*/run.json"))
        if not runs:
            raise StepError(f"manyhost bench ended with exit code {measured.returncode}")
        print(f"$ manyhost report {' '.join(runs)} --to {REPORT}", flush=True)
        if self.program("report", *runs, "--to", REPORT).returncode:
            raise StepError("manyhost report failed")
        if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
            webbrowser.open(Path(REPORT, "report.html").resolve().as_uri())

    def kube(self, *args: str) -> str:
        """Run kubectl.

        Raises:
            StepError: it failed.
        """
        done = subprocess.run(
            [self.kubectl, *args], env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StepError(f"kubectl {args[0]}: {done.stderr.strip()}")
        return done.stdout

    def make_namespace(self) -> None:
        """Create the namespace unless it is there."""
        if not self.kube("get", "namespace", NAMESPACE, "--ignore-not-found"):
            self.kube("create", "namespace", NAMESPACE)

    def state(self) -> tuple[int, dict[str, str]]:
        """Ready groups, and the uid of each pod."""
        status = json.loads(self.manyhost("status", "--output", "json", quiet=True))["result"]
        return status["ready_groups"], {host["pod"]: host["uid"] for host in status["hosts"]}

    def until(self, what: str, probe: Callable[[], bool]) -> float:
        """Wait for something; return the seconds it took.

        Raises:
            StepError: it did not happen.
        """
        begin = time.monotonic()
        while not probe():
            if time.monotonic() - begin > RECREATE_SECONDS:
                raise StepError(f"not within {RECREATE_SECONDS} s: {what}")
            time.sleep(0.5)
        return time.monotonic() - begin

    def lose_a_worker(self) -> None:
        """Kill the engine on the second host; wait until that is seen and until the group is back."""
        _, before = self.state()
        worker = sorted(before)[-1]
        kill = 'kill -9 $(pgrep -f "[-]-headless")'
        self.kube("exec", "-n", NAMESPACE, worker, "--", "bash", "-c", kill)
        say(f"    the engine on {worker} is killed")
        seen = self.until("the loss is seen", lambda: self.state()[0] == 0)
        say(f"    seen after {seen:.1f} s: the group takes no requests")
        back = self.until("the group is back", lambda: self.state() == (1, before))
        say(f"    both engines were started again in their pods: the group answers after {seen + back:.1f} s")

    def run(self) -> None:
        """All steps; what was made is removed even when one fails."""
        self.make_namespace()
        try:
            step("deploy", lambda: self.manyhost("deploy"))
            step("chat", lambda: self.manyhost("chat", "--prompt", PROMPT, "--temperature", "0"))
            step("lose a worker", self.lose_a_worker)
            again = ("--prompt", PROMPT, "--temperature", "0")
            step("chat again", lambda: self.manyhost("chat", *again))
            step("benchmark and report", self.measure)
        finally:
            step("teardown", lambda: self.manyhost("teardown", "--yes"))
            self.kube("delete", "namespace", NAMESPACE, "--wait=false")


def walk_on_own_cluster(kubeconfig: str) -> None:
    """Walk on the person's cluster.

    Raises:
        ClusterError: kubectl is missing.
    """
    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise ClusterError("KUBECONFIG is set, but there is no kubectl on PATH", exit_code=4)
    say(f"the cluster of KUBECONFIG={kubeconfig}")
    Walk(Path(kubeconfig), kubectl, []).run()


def walk_on_test_cluster() -> None:
    """Walk on the test cluster; one that ran before stays up."""
    engine = step("build the engine, or find it", local_engine.build)
    cluster = Cluster(CLUSTER)
    begin = lambda: cluster.up(nodes=2, images=[engine / "image.tar"])  # noqa: E731
    fresh = step("start the cluster, or find it", begin)
    try:
        kubectl = str(cluster.programs / "kubectl")
        Walk(cluster.kubeconfig, kubectl, local_engine.settings(engine)).run()
    finally:
        if fresh:
            step("stop the cluster", cluster.down)


def _interrupt(*_: object) -> None:
    """End the walk; whoever asks once more does not end the clean-up."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def exit_code(name: str, walk: Callable[[], object], done: str) -> int:
    """Walk, say how it ended, and return the exit code; Ctrl-C and SIGTERM end it with its clean-up.

    Args:
        name: What failures call it.
        walk: All of it.
        done: What is said of success.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        walk()
    except ClusterError as error:
        print(f"manyhost {name}: {error}", file=sys.stderr)
        return error.exit_code
    except StepError as error:
        print(f"manyhost {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    say(f"done: {done}")
    return 0


def main() -> int:
    """Walk; return the exit code."""
    own = os.environ.get("KUBECONFIG")
    walk = partial(walk_on_own_cluster, own) if own else walk_on_test_cluster
    return exit_code("demo", walk, "everything that was made is removed")


if __name__ == "__main__":
    sys.exit(main())
