"""The launcher's contract: what docs/reference/launcher.md says, the scripts read and the chart sets."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.charts.test_sglang import SGLANG
from tests.helpers.helm import CHART, ROOT, find, render
from tests.unit.scripts.members import until

LAUNCHER = CHART / "launcher"
SCRIPTS = [path for path in LAUNCHER.rglob("*") if path.suffix in {".py", ".sh"}]
FAKES = ROOT / "tests/shell/fakes"
ROW = re.compile(r"^\| `(MANYHOST_\w+)(?:<NAME>)?` \| (\w+) \| ([^|]+) \| ", re.M)
# variable -> (who sets it, its default)
TABLE = {
    name: (who, default)
    for name, who, default in ROW.findall((ROOT / "docs/reference/launcher.md").read_text())
}

# Values with which the chart sets every variable that it ever sets.
MODES = [
    {"network": {"ncclSettings": [{"name": "NCCL_DEBUG", "value": "INFO"}]}},
    {"roles": {"prefill": {"groups": 1}}, "model": {"pp_size": 1, "tp_size": 16}},
    {"mode": "nccl"},
    SGLANG,
]


def set_by_the_chart() -> set[str]:
    found = set()
    for values in MODES:
        for item in render(values):
            if item["kind"] == "LeaderWorkerSet":
                spec = item["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]
            elif item["kind"] == "Deployment":
                spec = item["spec"]["template"]["spec"]
            else:
                continue
            for container in [*spec["containers"], *spec.get("initContainers", [])]:
                found |= {entry["name"] for entry in container.get("env", [])}
    return {re.sub("^(MANYHOST_SET_).*", r"\1", name) for name in found if name.startswith("MANYHOST_")}


def test_the_table_has_every_variable_that_the_scripts_read():
    read = {name for path in SCRIPTS for name in re.findall(r"MANYHOST_[A-Z_]+", path.read_text())}
    # The router's own are put together: MANYHOST_ROUTER_ and a name.
    text = (LAUNCHER / "router/router_settings.py").read_text()
    read |= {f"MANYHOST_ROUTER_{name}" for name in re.findall(r'own\("([A-Z_]+)"\)', text)}
    assert set(TABLE) == read - {"MANYHOST_ROUTER_"}


def test_the_chart_sets_what_the_table_says():
    said = {name for name, (who, _) in TABLE.items() if who in {"platform", "plan", "router"}}
    assert set_by_the_chart() == said


def test_the_launcher_knows_no_platform():
    text = "".join(path.read_text() for path in SCRIPTS)
    assert re.findall(r"LWS_\w+|POD_\w+|KUBERNETES_\w+|RUNPOD_\w+", text) == []


def test_the_adapter_of_a_leaderworkerset_is_expanded_by_kubernetes():
    """The controller puts its variables first; `$$(...)` would stand for itself."""
    container = find(render(), "LeaderWorkerSet")["spec"]["leaderWorkerTemplate"]["workerTemplate"]["spec"][
        "containers"
    ][0]
    platform = {
        entry["name"]: entry for entry in container["env"] if TABLE.get(entry["name"], ("",))[0] == "platform"
    }
    assert {name: entry["value"] for name, entry in platform.items() if "value" in entry} == {
        "MANYHOST_RANK": "$(LWS_WORKER_INDEX)",
        "MANYHOST_SIZE": "$(LWS_GROUP_SIZE)",
        "MANYHOST_LEADER": "$(LWS_LEADER_ADDRESS)",
    }
    assert platform["MANYHOST_ADDRESS"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"


# ------------------------------------------------------------------ a platform that is no Kubernetes


def free_ports(count: int) -> list[str]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(item.getsockname()[1]) for item in held]
    for item in held:
        item.close()
    return ports


@pytest.fixture
def members(tmp_path: Path):
    """Starts members with nothing but what is given; ends them."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(adapter: str, environment: dict[str, str], name: str) -> Path:
        log = tmp_path / f"log.{name}"
        with log.open("wb") as out:
            command = [
                "bash",
                "-c",
                f'{adapter} exec bash "$0" --flag "two words"',
                str(LAUNCHER / "launch.sh"),
            ]
            processes.append(subprocess.Popen(command, env=environment, stdout=out, stderr=subprocess.STDOUT))
        return log

    yield start
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(20)


def seen(log: Path, text: str) -> None:
    end = time.monotonic() + 60
    while text not in log.read_text():
        assert time.monotonic() < end, f"{text} not seen:\n{log.read_text()}"
        time.sleep(0.1)


def test_another_platform_starts_it_with_the_contract_alone(members, tmp_path):
    """As RunPod names the pods of a cluster: docs.runpod.io, "Instant Clusters", environment variables."""
    http, master, beacon = free_ports(3)
    plan = {
        "MANYHOST_ENGINE": "vllm", "MANYHOST_EXECUTOR": "mp", "MANYHOST_MODEL": str(tmp_path),
        "MANYHOST_GPUS_PER_HOST": "8", "MANYHOST_PORT": http, "MANYHOST_MASTER_PORT": master,
        "MANYHOST_RAY_PORT": "6379", "MANYHOST_STARTUP_SECONDS": "60", "MANYHOST_PEER_WAIT_SECONDS": "60",
        "MANYHOST_STALL_SECONDS": "60", "MANYHOST_DRAIN_SECONDS": "1", "MANYHOST_START_ATTEMPTS": "1",
    }  # fmt: skip
    required = {
        name for name, (who, default) in TABLE.items() if who == "plan" and default.startswith("required")
    }
    assert set(plan) == required
    adapter = "MANYHOST_RANK=$NODE_RANK MANYHOST_SIZE=$NUM_NODES MANYHOST_LEADER=$PRIMARY_ADDR"
    logs = []
    for rank in ("1", "0"):
        machine = {
            "PATH": f"{FAKES}:/usr/local/bin:/usr/bin:/bin", "FAKE": str(tmp_path),
            # Both members are on this machine, and in a hurry.
            "MANYHOST_STATE_DIR": str(tmp_path / rank), "MANYHOST_BEACON_PORT": beacon,
            "MANYHOST_BEAT_SECONDS": "0.2", "MANYHOST_INTERFACE": "lo",
        }  # fmt: skip
        runpod = {"NODE_RANK": rank, "NUM_NODES": "2", "PRIMARY_ADDR": "127.0.0.1"}
        logs.append(members(adapter, machine | plan | runpod, rank))
    for log, member in zip(logs, ("worker rank=1", "leader rank=0"), strict=True):
        seen(log, f"phase=serving member={member}")
    for rank in ("0", "1"):
        until("its engine", (tmp_path / f"argv.{rank}").exists)
        words = json.loads((tmp_path / f"argv.{rank}").read_text())
        assert words[:4] == ["serve", str(tmp_path), "--flag", "two words"]
        assert words[4:10] == ["--nnodes", "2", "--node-rank", rank, "--master-addr", "127.0.0.1"]


@pytest.mark.parametrize(
    ("rank", "size"), [("2", "2"), ("", "0"), ("$(LWS_WORKER_INDEX)", "2"), ("x", "1"), ("08", "9")]
)
def test_a_member_of_no_group_says_so(rank, size):
    """The second is what a controller leaves that does not know a variable yet."""
    environment = {
        "PATH": os.environ["PATH"],
        "MANYHOST_RANK": rank,
        "MANYHOST_SIZE": size,
        "MANYHOST_ENGINE": "vllm",
    }
    done = subprocess.run(
        ["bash", str(LAUNCHER / "launch.sh")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert done.returncode == 78
    assert f"MANYHOST_RANK is '{rank or 0}' and MANYHOST_SIZE '{size}'" in done.stderr
