"""Where the tests run: a cluster, an image that stands in for the engine, and what may be done to it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from testbed import Cluster, MissingError
from tests.helpers.output import Output, read

ROOT = Path(__file__).resolve().parents[2]
CLI = Path(sys.executable).with_name("manyhost")
KIND = "manyhost-e2e"
LWS_MANIFEST = "https://github.com/kubernetes-sigs/lws/releases/download/v0.9.0/manifests.yaml"


class Unavailable(Exception):
    """There is nothing to run on; the text is the one line that says what is missing."""


@dataclass
class Place:
    """A cluster to test on.

    Attributes:
        kubeconfig: Its administrator's kubeconfig.
        kubectl: The program.
        image: The stand-in engine, name and tag apart; empty when the cluster has none.
        next_tag: A second tag of the same image; empty when there is none.
        own: The test cluster, when it is one: only its hosts and API server may be harmed.
    """

    kubeconfig: Path
    kubectl: str
    image: tuple[str, str] | None
    own: Cluster | None = None
    close: Callable[[], None] = field(default=lambda: None)
    next_tag: str = ""

    def kube(self, *args: str) -> str:
        """Run kubectl and return what it prints."""
        done = subprocess.run(
            [self.kubectl, "--kubeconfig", str(self.kubeconfig), *args],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"kubectl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *args: str) -> Any:
        """Return what kubectl get prints as JSON."""
        return json.loads(self.kube("get", *args, "-o", "json"))

    def names(self, *args: str) -> set[str]:
        """Return the names of what kubectl get finds."""
        return set(self.kube("get", *args, "-o", "name", "--ignore-not-found").split())


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def output(self) -> Output:
        """What it printed with --output json."""
        return read(self.out)

    def ok(self) -> Outcome:
        """Itself, when it succeeded."""
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self


def run(*args: str) -> Outcome:
    """Run the command line in this process; as a program it would take a second longer."""
    from manyhost import cli

    out, err = io.TextIOWrapper(io.BytesIO(), write_through=True), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(list(args))
    out.seek(0)
    outcome = Outcome(code, out.read(), err.getvalue())
    assert "Traceback" not in outcome.out + outcome.err
    return outcome


def spoken(answer: dict[str, str]) -> dict[str, str]:
    """Return the thought and the answer of what `chat` prints."""
    return {part: answer[part] for part in ("reasoning", "answer")}


def start(*args: str, kubeconfig: Path) -> subprocess.Popen[str]:
    """Start the command line as a program of its own.

    Ctrl-C reaches it as from a terminal, also when these tests run in a shell's background, where the
    signal is ignored and children inherit that.
    """
    return subprocess.Popen(
        [str(CLI), *args],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 one thread
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], seconds: float) -> tuple[str, str]:
    """Return what a program printed; one that does not end in time is killed and its output shown."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds:.0f} s\n{out}\n{err}") from None


def engine_settings(place: Place) -> list[str]:
    """Settings that take the engine from this machine's cache; the nodes share its file system."""
    from testbed import engine

    if place.own is None:
        pytest.skip("needs the test cluster, whose nodes share this machine's file system")
    folder = engine.build()
    place.own.import_image(folder / "image.tar")
    return engine.settings(folder)


def standin(image: tuple[str, str], *more: str, start_seconds: float = 0) -> list[str]:
    """Settings that let the local recipe run the stand-in engine."""
    settings = [
        f"engine.image={image[0]}",
        f'engine.tag="{image[1]}"',
        "engine.command=[vllm]",
        "weights.source=hub",
        'weights.path=""',
        'variables.HF_HUB_OFFLINE="1"',  # hub, but nothing to fetch: the stand-in has no weights
        f'variables.STANDIN_START_SECONDS="{start_seconds}"',
        "host_mounts=[]",
        "drain_seconds=5",
        *more,
    ]
    return [part for item in settings for part in ("--set", item)]


def prepare(engine: bool) -> None:
    """Build what the cluster that `find` takes will need; minutes, the first time.

    Args:
        engine: The real engine too.
    """
    from testbed import engine as local_engine
    from testbed import images
    from testbed.build import programs

    if os.environ.get("KUBECONFIG"):
        return
    begin = time.monotonic()
    with contextlib.suppress(MissingError):  # `find` says what is missing
        folder = programs()
        images.standin(folder)
        images.standin_host(folder)
        if engine and not _kind_works():  # the engine's tests need nodes that share this file system
            local_engine.build()
    if time.monotonic() - begin > 1:
        print(f"e2e: cluster and engine built in {time.monotonic() - begin:.0f} s", flush=True)


def find() -> Place:
    """Find or start a cluster: $KUBECONFIG, else kind, else the test cluster.

    Raises:
        Unavailable: None of the three can be had.
    """
    if os.environ.get("KUBECONFIG"):
        kubectl = shutil.which("kubectl")
        if not kubectl:
            raise Unavailable("KUBECONFIG is set, but there is no kubectl on PATH")
        name, _, tag = os.environ.get("MANYHOST_E2E_IMAGE", "").rpartition(":")
        second = os.environ.get("MANYHOST_E2E_NEXT_TAG", "")
        return Place(Path(os.environ["KUBECONFIG"]), kubectl, (name, tag) if name else None, next_tag=second)
    if _kind_works():
        return _kind()
    return _own()


def _own() -> Place:
    from testbed import images

    cluster = Cluster(os.environ.get("MANYHOST_E2E_CLUSTER", "e2e"))
    try:
        programs = cluster.programs
        archives = [images.standin_host(programs)]
        fresh = cluster.up(nodes=2, gpu_hosts=True, images=archives)
    except MissingError as error:
        raise Unavailable(f"no KUBECONFIG, no working kind, and for the test cluster: {error}") from None
    name, _, tag = images.STANDIN_HOST.rpartition(":")
    return Place(
        cluster.kubeconfig,
        str(cluster.programs / "kubectl"),
        (name, tag),
        cluster,
        cluster.down if fresh else lambda: None,
        images.STANDIN_HOST_NEXT.rpartition(":")[2],
    )


def _kind() -> Place:
    """A kind cluster of two workers; the stand-in image comes from the same archive."""
    from testbed import images
    from testbed.build import programs

    kubectl = shutil.which("kubectl")
    if not kubectl:
        raise Unavailable("kind is there, but no kubectl on PATH")
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "manyhost"
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = folder / "kind-kubeconfig"
    nodes = "kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\n"
    nodes += "nodes: [{role: control-plane}, {role: worker}, {role: worker}]\n"
    subprocess.run(
        ["kind", "create", "cluster", "--name", KIND, "--kubeconfig", str(kubeconfig), "--config", "-"],
        input=nodes,
        text=True,
        check=True,
        timeout=600,
    )

    def close() -> None:
        subprocess.run(["kind", "delete", "cluster", "--name", KIND], check=True, timeout=300)

    place = Place(kubeconfig, kubectl, None, None, close)
    try:
        archive = images.standin_host(programs())
        subprocess.run(
            ["kind", "load", "image-archive", str(archive), "--name", KIND], check=True, timeout=300
        )
        place.kube("apply", "--server-side", "-f", LWS_MANIFEST)
        place.kube(
            "-n",
            "lws-system",
            "wait",
            "--for=condition=available",
            "--timeout=300s",
            "deploy/lws-controller-manager",
        )
    except BaseException:
        close()
        raise
    name, _, tag = images.STANDIN_HOST.rpartition(":")
    place.image, place.next_tag = (name, tag), images.STANDIN_HOST_NEXT.rpartition(":")[2]
    return place


def _kind_works() -> bool:
    if not (shutil.which("kind") and shutil.which("docker")):
        return False
    return subprocess.run(["docker", "info"], capture_output=True, timeout=30, check=False).returncode == 0


@contextlib.contextmanager
def namespace(place: Place, name: str) -> Iterator[str]:
    """A namespace that goes with all that is in it."""
    place.kube("create", "namespace", name)
    try:
        yield name
    finally:
        place.kube("delete", "namespace", name, "--wait=false")


def everything(place: Place, namespace: str) -> set[str]:
    """Every object of every kind in a namespace, but events and what the namespace itself brings."""
    kinds = place.kube("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]
    # Controllers add these two to a new namespace, a moment after it is there.
    own = {"configmap/kube-root-ca.crt", "serviceaccount/default"}
    return set(place.names(",".join(kinds), "-n", namespace)) - own


def names_of(items: Sequence[Any]) -> list[str]:
    """The names of objects."""
    return sorted(item["metadata"]["name"] for item in items)
