"""The measurement between two hosts: its manifests, its program's own output, and how it ends.

No GPU is here: the program runs with a stand-in for PyTorch whose clock is known.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from manyhost.catalog import Catalog
from manyhost.cluster import nccl
from manyhost.cluster.nccl import Bandwidth, Size, manifests, measure
from manyhost.cluster.observe import Look
from manyhost.cluster.phases import Host, Problem, script_line
from manyhost.cluster.target import Target, from_rendered
from manyhost.commands import Commands
from manyhost.errors import Failed, InvalidInput, NotReady
from manyhost.render import Renderer, build

from tests.helpers.recipes import on_kubernetes

RECIPE = "a3mega/deepseek-r1-671b"

CATALOG = Catalog()
LAUNCHER = Renderer().chart.path / "launcher"
WITH_GPUS = [name for name in on_kubernetes(CATALOG) if CATALOG.environment(name.split("/")[0]).host.gpus]

# What PyTorch prints for an exception nobody catches in a rank, and torchrun about it afterwards
# (docs.pytorch.org, "Torch Distributed Elastic", error propagation).
TORCHRUN = """\
[rank3]: Traceback (most recent call last):
[rank3]:   File "/tmp/all_reduce.py", line 58, in <module>
[rank3]:     main()
[rank3]: torch.distributed.DistBackendError: NCCL error in: unhandled system error
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
Root Cause (first observed failure):
[0]:
  rank      : 3 (local_rank: 3)
  exitcode  : 1 (pid: 81)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================"""


def a_target(*assignments: str, recipe: str = RECIPE) -> Target:
    return from_rendered(build(recipe, assignments=assignments, release="nccl"))


def group_of(objects: list[Any]) -> Any:
    return next(item for item in objects if item["kind"] == "LeaderWorkerSet")["spec"]


# ------------------------------------------------------------------ manifests


@pytest.mark.parametrize("assignments", [(), ("site.gcs_bucket=models",), ("groups=3",)])
@pytest.mark.parametrize("recipe", WITH_GPUS)
def test_the_manifests_are_valid(recipe: str, assignments: tuple[str, ...]) -> None:
    if "groups=3" in assignments and recipe.startswith("a4x/"):
        pytest.skip("the hosts of a release share one NVLink domain")
    target = a_target(*assignments, recipe=recipe)
    objects = manifests(target)
    assert Renderer().check(objects, target.plan) == []
    claims = {"ComputeDomain", "ResourceClaimTemplate"}
    assert {item["kind"] for item in objects} <= {
        "LeaderWorkerSet",
        "ConfigMap",
        "NetworkPolicy",
        "ServiceAccount",
        *claims,
    }


def test_they_are_the_pods_that_would_serve() -> None:
    """Image, GPUs, networks, sidecar and NCCL variables are the recipe's; probes and drain time are not."""
    target = a_target("groups=3")
    group = group_of(manifests(target))
    assert (group["replicas"], group["leaderWorkerTemplate"]["size"]) == (1, 2)
    assert group["leaderWorkerTemplate"]["restartPolicy"] == "None"
    for role in ("leader", "worker"):
        before, after = target.pod(role), group["leaderWorkerTemplate"][f"{role}Template"]
        # It has the all-reduce beside the launcher, and so another checksum.
        for template in (before, after):
            template["metadata"]["annotations"].pop("manyhost.dev/scripts-checksum")
        assert after["metadata"] == before["metadata"]
        assert after["spec"]["terminationGracePeriodSeconds"] <= 5
        assert after["spec"]["initContainers"] == before["spec"]["initContainers"]
        served = [volume for volume in before["spec"]["volumes"] if volume["name"] != "control"]
        assert after["spec"]["volumes"] == served
        (old,) = (c for c in before["spec"]["containers"] if c["name"] == "vllm")
        (new,) = (c for c in after["spec"]["containers"] if c["name"] == "vllm")
        changed = {key for key in {*old, *new} if old.get(key) != new.get(key)}
        assert changed == {"args", "env", "volumeMounts", "startupProbe", "readinessProbe", "livenessProbe"}
        assert [item for item in new["env"] if item not in old["env"]] == [
            {"name": "MANYHOST_STEP", "value": "nccl"}
        ]


def test_no_bucket_is_mounted() -> None:
    """The release has a ServiceAccount of its own, which may not read it: the pods would never start."""
    text = json.dumps(manifests(a_target("site.gcs_bucket=models")))
    assert "gcsfuse" not in text
    assert "gcs-0" not in text


def test_hosts_without_gpus_have_nothing_to_measure() -> None:
    with pytest.raises(InvalidInput, match="no GPUs to measure"):
        manifests(a_target(recipe="local/tiny-r1"))


# ------------------------------------------------------------------ the pods' step of the launcher


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs the step with programs that tell how they were called; nothing sleeps."""
    for folder, name, script in (
        ("engine", "vllm", "exit 9"),
        ("engine", "python3", 'printf "%s\\n" "$@"; echo "plugin=$PLUGIN algo=$NCCL_ALGO"; exit $TORCH_EXIT'),
        ("bin", "getent", "exit 0"),
        ("bin", "sleep", "echo slept $1"),
    ):
        program = tmp_path / folder / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        template = group_of(manifests(a_target()))["leaderWorkerTemplate"]["leaderTemplate"]
        (engine,) = template["spec"]["containers"]
        said = {item["name"]: item["value"] for item in engine["env"] if "value" in item}
        platform = {
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "MANYHOST_ENGINE": f"{tmp_path}/engine/vllm",
            "MANYHOST_RANK": "1", "MANYHOST_SIZE": "2", "MANYHOST_LEADER": "nccl-0.nccl.ns",
            "MANYHOST_ADDRESS": "10.0.0.2", "MANYHOST_PROFILE": "", "MANYHOST_SET_NCCL_ALGO": "Ring",
        }  # fmt: skip
        return subprocess.run(
            ["bash", str(LAUNCHER / "launch.sh")],
            env=said | platform | more, capture_output=True, text=True, check=False, timeout=20,
        )  # fmt: skip

    return run


def test_the_step_starts_torchrun_with_the_profile(started: Any, tmp_path: Path) -> None:
    (tmp_path / "profile.sh").write_text("false; export PLUGIN=tcpxo NCCL_ALGO=Tree\n")
    done = started(MANYHOST_PROFILE=str(tmp_path / "profile.sh"))
    words = (
        "-m torch.distributed.run --nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr nccl-0.nccl.ns"
    )
    assert [line for line in done.stdout.splitlines() if not script_line(line)] == [
        *words.split(), "--master-port", "29501", str(LAUNCHER / "all_reduce.py"),
        "plugin=tcpxo algo=Ring", "slept 3600",
    ]  # fmt: skip
    assert done.returncode == 0


def test_a_missing_profile_ends_it(started: Any) -> None:
    """Without it NCCL would take plain TCP, and a slow network would be blamed."""
    done = started(MANYHOST_PROFILE="/no/profile.sh", MANYHOST_PROFILE_SECONDS="1")
    assert done.returncode != 0
    assert "torch" not in done.stdout
    log = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    assert nccl._reason(log) == "manyhost: error: profile missing at /no/profile.sh"


def test_a_failing_program_ends_the_container(started: Any) -> None:
    done = started(TORCH_EXIT="7")
    assert done.returncode == 7
    assert "slept" not in done.stdout


# ------------------------------------------------------------------ output and threshold

FAKE_TORCH = """
import time
clock = [0.0]
time.perf_counter = lambda: clock[0]
bfloat16 = None
class cuda:
    is_available = staticmethod(lambda: True)
    set_device = synchronize = staticmethod(lambda *_: None)
device = lambda *_: None
class _Data:
    def __init__(self, items): self.size = 2 * items
zeros = lambda items, **_: _Data(items)
"""
FAKE_DISTRIBUTED = """
import os, torch
init_process_group = barrier = destroy_process_group = lambda *_: None
get_rank, get_world_size = (lambda: 0), (lambda: 16)
def all_reduce(data): torch.clock[0] += data.size / float(os.environ["BYTES_A_SECOND"])
"""


def output(tmp_path: Path, bytes_a_second: float) -> str:
    """What the real program prints on a fabric of this speed."""
    package = tmp_path / "torch"
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(FAKE_TORCH)
    (package / "distributed.py").write_text(FAKE_DISTRIBUTED)
    environment = {"PYTHONPATH": str(tmp_path), "LOCAL_RANK": "0", "BYTES_A_SECOND": str(bytes_a_second)}
    return subprocess.run(
        [sys.executable, str(LAUNCHER / "nccl/all_reduce.py")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


class World:
    """A measurement without a cluster.

    Attributes:
        log: The leader's log at each look; the last stays.
        problem: What the leader's pod has.
        left: What is still there when it is removed.
    """

    commands = Commands(namespace="n", recipe="a3mega", release="nccl")

    def __init__(self) -> None:
        self.log: list[str] = [""]
        self.problem: Problem | None = None
        self.tail: list[str] = []
        self.created: list[str] = []
        self.removed = 0
        self.left = ""

    def create(self, path: str, item: Any) -> None:
        self.created.append(item["kind"])

    def look(self, *, logs: bool) -> Look:
        host = Host(group=0, host=0, pod="nccl-0", problem=self.problem)
        return Look(exists=True, hosts=(host,))

    def teardown(self, *_: Any, **__: Any) -> None:
        self.removed += 1
        if self.left:
            raise Failed(f"still there: {self.left}")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = World()
    observer = SimpleNamespace(look=made.look, tail=lambda pod, lines: made.tail)
    monkeypatch.setattr(nccl, "Observer", lambda *_: observer)
    monkeypatch.setattr(nccl, "inventory", lambda *_: SimpleNamespace(empty=True))
    monkeypatch.setattr(nccl, "teardown", made.teardown)
    monkeypatch.setattr(nccl, "rehearse", lambda *_: None)
    monkeypatch.setattr(nccl, "_LOOK_SECONDS", 0)
    monkeypatch.setattr(nccl, "_log", lambda *_: made.log.pop(0) if len(made.log) > 1 else made.log[0])
    return made


def measured(world: World, said: list[str] | None = None, timeout: float = 20) -> Bandwidth:
    report = (said if said is not None else []).append
    connection: Any = world
    return measure(connection, a_target(), timeout=timeout, report=report)


@pytest.mark.parametrize(
    ("bytes_a_second", "bus", "enough"),
    [(150e9, 281.25, True), (134e9, 251.25, True), (133e9, 249.38, False)],
)
def test_bandwidth(bytes_a_second: float, bus: float, enough: bool, world: World, tmp_path: Path) -> None:
    """16 ranks: the bus carries 2 x 15/16 of what the algorithm moves; 250 GB/s is TCPXO's threshold."""
    text = output(tmp_path, bytes_a_second)
    noise = "nccl-0:81:120 [3] NCCL INFO Channel 00/0 : 3[3] -> 4[4] [send] via NET/FasTrak\n"
    lines = text.splitlines(keepends=True)
    # NCCL's own lines push the first sizes out of the part of the log that is read.
    world.log = ["", noise + "".join(lines[:3]), noise * 3 + "".join(lines[3:])]
    said: list[str] = []
    found = measured(world, said)
    assert (found.ranks, found.bus_gbytes_per_second, found.enough) == (16, bus, enough)
    assert found.minimum_gbytes_per_second == 250
    assert [size.bytes for size in found.sizes] == [1 << 20, 1 << 24, 1 << 28, 1 << 30, 1 << 33]
    assert found.sizes[-1] == Size(1 << 33, round((1 << 33) / bytes_a_second, 6), bus)
    assert said[0] == "2 hosts asked for, release nccl"
    assert said[1].startswith("bytes=1048576 seconds=0.0000")
    assert said[-1] == "removed"
    assert len(said) == 2 + 5
    assert (world.removed, sorted(world.created)) == (
        1,
        ["ConfigMap", "LeaderWorkerSet", "NetworkPolicy", "ServiceAccount"],
    )


# ------------------------------------------------------------------ ends that are no result


def crash(text: str) -> tuple[Problem, list[str]]:
    why = "nccl-0: container vllm ended with code 1 (Error)"
    return Problem("crash", why, "kubectl logs nccl-0 -c vllm --previous", None), text.splitlines()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            TORCHRUN,
            "torch.distributed.DistBackendError: NCCL error in: unhandled system error",
        ),
        ("x [0] misc.cc:9 NCCL WARN no plugin\n=====\n", "NCCL WARN no plugin"),
        ("one\nbash: torchrun: not there\n====\n", "bash: torchrun: not there"),
        ("", "nccl-0: container vllm ended with code 1 (Error)"),
        (
            "manyhost phase=profile member=leader rank=0 seconds=0.1\n",
            "nccl-0: container vllm ended with code 1 (Error)",
        ),
    ],
)
def test_a_failing_program_is_one_line(log: str, reason: str, world: World) -> None:
    world.problem, world.tail = crash(log)
    with pytest.raises(Failed) as error:
        measured(world)
    assert str(error.value) == f"nccl-0: the measurement failed: {reason}"
    assert world.removed == 1


def test_no_result_in_time(world: World) -> None:
    world.problem = Problem("unschedulable", "nccl-0 fits no host", "free hosts", 60)
    said: list[str] = []
    with pytest.raises(NotReady, match="no result in time: nccl-0 fits no host"):
        measured(world, said, timeout=0.2)
    assert said[-2:] == ["nccl-0 fits no host", "removed"]


def test_an_interrupt_removes_it_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(nccl, "_log", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measured(world)
    assert world.removed == 1


def test_what_cannot_be_removed_does_not_hide_the_reason(world: World) -> None:
    world.problem, world.tail = crash(TORCHRUN)
    world.left = "pod nccl-0"
    said: list[str] = []
    with pytest.raises(Failed, match="DistBackendError"):
        measured(world, said)
    assert said[-1].startswith(
        "not removed: still there: pod nccl-0; `manyhost teardown a3mega --release nccl --namespace n --yes`"
    )
    world.problem, world.log = None, ["manyhost nccl done ranks=16 busbw=300.00\n"]
    with pytest.raises(Failed, match="still there: pod nccl-0"):
        measured(world)
