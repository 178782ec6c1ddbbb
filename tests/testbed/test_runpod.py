"""Pods of the stand-in for RunPod that run: networks, ports, logs and files; and nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import ClusterError
from testbed.runpod import Fault, RunPod
from testbed.runpod_pods import Pods
from testbed.system import processes, run, wait_for
from tests.helpers.shared import shared_dir

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[2]
SERVE = "exec python3 -m http.server 8000"


class Account:
    """RunPod with pods that run, and somebody who asks it."""

    def __init__(self, folder: Path) -> None:
        shared = shared_dir()
        description = shared / "data/runpod-openapi-v2.json" if shared else None
        self.pods = Pods(folder, {"/opt/tool": Path(__file__)})
        self.cloud = RunPod(time.time, description, pods=self.pods, secrets={"hf": "hf_secret"})
        self.cloud.limits.clear()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.cloud.key}", "Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.cloud.url}/v2/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=20) as reply:
            text = reply.read()
            return json.loads(text) if text else None

    def cluster(self, script: str, **more: Any) -> tuple[str, list[Any]]:
        """A cluster of two, and its pods when they run."""
        body = {
            "name": "c",
            "type": "APPLICATION",
            "image": "i",
            "compute": {"gpuTypeId": "NVIDIA H200", "gpuCountPerPod": 8, "podCount": 2},
            "args": f"bash -c '{script}'",
            "ports": ["8000/tcp"],
            **more,
        }
        made = self.ask("POST", "clusters", body)["id"]
        wait_for("the members", lambda: self.statuses(made) == {"RUNNING": 2}, seconds=30)
        return made, self.ask("GET", f"clusters/{made}/pods")["pods"]

    def statuses(self, cluster: str) -> Any:
        return self.ask("GET", f"clusters/{cluster}")["pods"]["byStatus"]

    def pod(self, script: str, **more: Any) -> str:
        """A pod, when it has left STARTING."""
        body = {"name": "p", "image": "i", "cpu": {"id": "cpu3c", "vcpuCount": 2}, **more}
        made = str(self.ask("POST", "pods", {"args": f"bash -c '{script}'", **body})["id"])
        wait_for("the pod", lambda: self.status(made) not in {"PROVISIONING", "STARTING"}, seconds=30)
        return made

    def status(self, pod: str) -> str:
        return str(self.ask("GET", f"pods/{pod}")["status"])

    def reads(self, pod: str, url: str) -> bool:
        try:
            self.pods.run(pod, "curl", "--silent", "--fail", "--max-time", "3", url)
        except ClusterError:
            return False
        return True


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    made = Account(tmp_path)
    with made.cloud:
        yield made
    assert left(tmp_path) + links(tmp_path) == []


def left(folder: Path) -> list[str]:
    """What there is of an account: processes in namespaces of their own, mounts and links."""
    own = Path("/proc/self/ns/net").readlink()
    found = [" ".join(words) for _, words in processes() if str(folder) in words]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    for pid, words in processes():
        try:
            root = Path(f"/proc/{pid}/mountinfo").read_text()
            elsewhere = Path(f"/proc/{pid}/ns/net").readlink() != own
        except OSError:
            continue  # it ended meanwhile
        if elsewhere and str(folder) in root:
            found.append(" ".join(words))
    return found


def links(folder: Path) -> list[str]:
    """This machine's ends of the links of an account's pods."""
    found = json.loads(run("ip", "-j", "link", "show", "type", "veth"))
    return [link["ifname"] for link in found if str(folder) in link.get("ifalias", "")]


def test_members_meet_on_ens1_and_not_on_eth0(account: Account) -> None:
    _, (one, other) = account.cluster(SERVE)
    own = {
        pod["id"]: json.loads(account.pods.run(pod["id"], "ip", "-j", "-4", "addr")) for pod in (one, other)
    }
    names = {link["ifname"]: link["addr_info"][0]["local"] for link in own[other["id"]]}
    assert set(names) == {"lo", "eth0", "ens1"}
    assert names["ens1"] == other["cluster"]["ip"]
    wait_for("the server", lambda: account.reads(other["id"], f"http://{names['eth0']}:8000/"))
    assert account.reads(one["id"], f"http://{names['ens1']}:8000/")
    assert not account.reads(one["id"], f"http://{names['eth0']}:8000/")


def test_only_what_listens_outside_is_reached_from_outside(account: Account) -> None:
    """What listens on ens1 alone is not reached through a forwarded port."""
    inside = "python3 -m http.server 8001 --bind $NODE_ADDR & "
    _, (one, _) = account.cluster(inside + SERVE, ports=["8000/tcp", "8001/tcp"])
    port = {item["private"]: item["public"] for item in one["runtime"]["ports"]}
    wait_for("inside", lambda: account.reads(one["id"], f"http://{one['cluster']['ip']}:8001/"))

    def answers(private: int) -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port[private]}/", timeout=5) as reply:
            return bool(reply.status == 200)

    wait_for("outside", lambda: answers(8000))
    with pytest.raises(OSError):
        answers(8001)


def test_a_pod_has_its_environment_its_volume_and_a_system_of_its_own(account: Account) -> None:
    volume = account.ask("POST", "network-volumes", {"name": "v", "size": 10, "dataCenter": "US-KS-2"})["id"]
    (account.pods.volume(volume) / "from-outside").write_text("hello")
    script = """
        cat /workspace/from-outside; echo; echo $HF_TOKEN > /workspace/from-inside
        touch /usr/bin/mine /etc/mine /root/mine /tmp/mine /dev/shm/mine && ls /tmp /dev/shm
        ls /opt; ls -A /home /mnt /srv | grep -v :; hostname; tail -1 /etc/hosts | cut -d" " -f2
        same=$(cat /proc/sys/vm/swappiness)
        echo $same > /proc/sys/vm/swappiness || echo refused; echo > /opt/tool || echo refused
    """
    mounts = {"network": [{"volumeId": volume, "path": "/workspace"}]}
    pod = account.pod(script, env={"HF_TOKEN": "{{ RUNPOD_SECRET_hf }}"}, mounts=mounts)
    wait_for("its end", lambda: account.status(pod) == "EXITED")
    said = [line for _, line in account.pods.hosts[pod].lines if "bash:" not in line]
    assert [line for line in said if line.strip()] == [
        *("hello", "/dev/shm:", "mine", "/tmp:", "mine", "tool", pod, pod, "refused", "refused"),
    ]
    assert (account.pods.volume(volume) / "from-inside").read_text() == "hf_secret\n"
    assert not Path("/usr/bin/mine").exists()
    assert not Path("/dev/shm/mine").exists()
    account.ask("DELETE", f"network-volumes/{volume}")
    assert not (account.pods.folder / "volumes" / volume).exists()
    assert all("hf_secret" not in " ".join(words) for _, words in processes())


def test_logs_stream_and_a_pod_that_ends_is_exited(account: Account) -> None:
    script = "for n in 1 2 3; do echo line $n; done; read -t 1 < <(sleep 9); echo last"
    pod = account.pod(script)
    headers = {"Authorization": f"Bearer {account.cloud.key}"}
    request = urllib.request.Request(f"{account.cloud.url}/v2/pods/{pod}/logs?tail=2", headers=headers)
    wait_for("three lines", lambda: len(account.pods.hosts[pod].lines) == 3)
    with urllib.request.urlopen(request, timeout=20) as stream:
        assert stream.headers["Content-Type"] == "text/event-stream"
        seen: list[str] = []
        for line in stream:
            if line.startswith(b"data: "):
                seen.append(json.loads(line.removeprefix(b"data: "))["line"])
            if seen[-1:] == ["last"]:
                break
    assert seen == ["line 2", "line 3", "last"], "the last two, and then what comes"
    wait_for("its end", lambda: account.status(pod) == "EXITED")
    account.ask("POST", f"pods/{pod}/action", {"action": "start"})
    wait_for("it again", lambda: account.status(pod) == "RUNNING")


def test_what_cannot_start_says_so(account: Account) -> None:
    pod = account.pod("", args="no-such-program")
    wait_for("its end", lambda: account.status(pod) == "EXITED")
    assert "no-such-program" in account.pods.hosts[pod].lines[-1][1]
    pod = account.pod("", env={"TOO_LONG": "x" * 200_000})
    assert account.status(pod) == "ERROR"
    assert "Argument list too long" in account.pods.hosts[pod].lines[-1][1]


def test_a_pod_ends_itself_with_its_own_key(account: Account) -> None:
    script = f"""exec curl --silent --request DELETE --header "Authorization: Bearer $RUNPOD_API_KEY" \
        {account.cloud.url}/v2/pods/$RUNPOD_POD_ID"""
    body = {"name": "p", "image": "i", "cpu": {"id": "cpu3c", "vcpuCount": 2}, "args": f"bash -c '{script}'"}
    account.ask("POST", "pods", body)
    wait_for("nothing", lambda: account.cloud.alive() == [])


def test_what_is_deleted_leaves_nothing(account: Account, tmp_path: Path) -> None:
    cluster, pods = account.cluster(f"(setsid sleep 1000 &) ; (trap true TERM; sleep 1000) & {SERVE}")
    assert len(left(tmp_path)) >= 6
    assert len(links(tmp_path)) == 2
    account.ask("DELETE", f"clusters/{cluster}")
    assert left(tmp_path) == []
    assert links(tmp_path) == []
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{pods[0]['runtime']['ports'][0]['public']}/", timeout=5)


def test_a_host_that_dies_says_nothing(account: Account) -> None:
    cluster, (one, other) = account.cluster(SERVE)
    url = f"http://{other['cluster']['ip']}:8000/"
    wait_for("the server", lambda: account.reads(one["id"], url))
    account.pods.kill(other["id"])
    assert account.statuses(cluster) == {"RUNNING": 1, "EXITED": 1}
    with pytest.raises(ClusterError, match=r"exit (28|7)"):  # nobody is there
        account.pods.run(one["id"], "curl", "--silent", "--max-time", "2", url)


def test_a_cluster_that_starts_by_half(account: Account) -> None:
    account.cloud.faults.append(Fault("POST /v2/clusters", stuck=1))
    body = {"name": "c", "type": "APPLICATION", "image": "i", "args": "sleep infinity"}
    compute = {"gpuTypeId": "NVIDIA H200", "gpuCountPerPod": 8, "podCount": 2}
    cluster = account.ask("POST", "clusters", {**body, "compute": compute})["id"]
    wait_for("one", lambda: account.statuses(cluster) == {"RUNNING": 1, "PROVISIONING": 1})
    account.ask("DELETE", f"clusters/{cluster}")


ABANDONED = """
import sys, time
from pathlib import Path
from tests.testbed.test_runpod import SERVE, Account
account = Account(Path(sys.argv[1]))
with account.cloud:
    account.cluster(SERVE)
    print("running", flush=True)
    time.sleep(100)
"""


def test_a_stand_in_that_is_killed_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", ABANDONED, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"running\n"
        assert left(tmp_path)
        assert links(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
    wait_for("nothing", lambda: left(tmp_path) == [] and links(tmp_path) == [], seconds=20)
