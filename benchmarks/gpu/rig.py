"""Two hosts of one GPU each on one machine, or one of several, through the chart's own launch script."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import hosts

PORT = 8000
ADDRESSES = ("10.77.0.1", "10.77.0.2")
START_LIMIT_SECONDS = 300.0
# The GPUs of the hosts in turn; a machine of one GPU says CUDA_VISIBLE_DEVICES=0, one of four 0,1,2,3. Two
# drivers on one machine need GPUs and a network each (unshare -n).
DEVICES = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")

# These leave TCP as the only way between the GPUs of two hosts.
BETWEEN_HOSTS = {"NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1"}
# What this machine needs whatever the recipe says: it has no network for GPUs. NVLink multicast stays
# off: on shared machines it can put GPUs out of service. DeepGEMM and FlashInfer would compile kernels
# at the first start.
RIG_ENVIRONMENT = {
    "NCCL_IB_DISABLE": "1",
    "NCCL_DEBUG": "INFO",
    "NCCL_NVLS_ENABLE": "0",
    "TORCH_SYMM_MEM_DISABLE_MULTICAST": "1",
    "NVSHMEM_DISABLE_NVLS": "1",
    "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
    "VLLM_USE_DEEP_GEMM": "0",
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def engine_flags(server_args: dict[str, Any]) -> list[str]:
    """Turns `vllm.serverArgs` into flags by the chart's rules."""
    flags = []
    for name, value in server_args.items():
        if value is True:
            flags.append(f"--{name}")
        elif value is False:
            flags.append(f"--no-{name}")
        elif isinstance(value, dict | list):
            flags += [f"--{name}", json.dumps(value)]
        else:
            flags += [f"--{name}", str(value)]
    return flags


def gpu_query(fields: str) -> list[str]:
    """One line a GPU of this rig from nvidia-smi, such as `memory.used` in MiB."""
    which = f"--id={','.join(DEVICES)}"
    command = ["nvidia-smi", which, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.strip().splitlines()


class Rig:
    """One server over two hosts, rank 0 in this network and rank 1 in one of its own; or on one host."""

    def __init__(self, work: Path, launch: Path, engine: list[str], model: Path) -> None:
        self.work = work
        self.launch = launch
        self.engine = engine
        self.model = model  # a folder; the server's name for it too
        self.hosts = 2  # pipeline stages, one on each
        self.tensor = self.data = 1  # ranks of each host, one a GPU
        self.executor = "mp"
        self.engine_url = f"http://127.0.0.1:{PORT}"  # whose /metrics tell of a load
        self.processes: list[subprocess.Popen[bytes]] = []
        self.log: list[Path] = []

    @property
    def gpus(self) -> int:
        """GPUs of each host."""
        return self.tensor * self.data

    def environment(self, rank: int, recipe: dict[str, str]) -> dict[str, str]:
        """The launcher's contract for one member, over this machine's needs."""
        link = hosts.LINK if self.hosts > 1 else "lo"
        contract = {
            "MANYHOST_ENGINE": "\n".join(self.engine),
            "MANYHOST_EXECUTOR": self.executor,
            "MANYHOST_MODEL": str(self.model),
            "MANYHOST_MODEL_PATH": str(self.model),
            "MANYHOST_GPUS_PER_HOST": str(self.gpus),
            "MANYHOST_PORT": str(PORT),
            "MANYHOST_MASTER_PORT": "29501",
            "MANYHOST_RAY_PORT": "6379",
            "MANYHOST_INTERFACE": link,
            "MANYHOST_PROFILE": "",
            "MANYHOST_PEER_WAIT_SECONDS": "60",
            "MANYHOST_STARTUP_SECONDS": str(int(START_LIMIT_SECONDS)),
            "MANYHOST_STALL_SECONDS": "120",
            "MANYHOST_DRAIN_SECONDS": "10",
            "MANYHOST_START_ATTEMPTS": "1",
            "MANYHOST_STATE_DIR": str(self.work / f"state{rank}"),
            "MANYHOST_ADDRESS": ADDRESSES[rank] if self.hosts > 1 else "127.0.0.1",
            "MANYHOST_LEADER": ADDRESSES[0] if self.hosts > 1 else "127.0.0.1",
            "MANYHOST_SIZE": str(self.hosts),
            "MANYHOST_RANK": str(rank),
        }
        # A cache folder a host: compiled code names the device index of the rank that made it.
        own = {
            "CUDA_VISIBLE_DEVICES": ",".join(DEVICES[rank * self.gpus :][: self.gpus]),
            "NCCL_HOSTID": f"host{rank}",
            "NCCL_SOCKET_IFNAME": link,
            "GLOO_SOCKET_IFNAME": link,
            "VLLM_CACHE_ROOT": str(self.work / f"cache{rank}"),
        }
        # Where vLLM finds the plugin that fills the dummy weights.
        path = [str(self.work / "plugin"), os.environ.get("PYTHONPATH", "")]
        own["PYTHONPATH"] = os.pathsep.join(filter(None, path))
        between = BETWEEN_HOSTS if self.hosts > 1 else {}
        return {**os.environ, **RIG_ENVIRONMENT, **between, **recipe, **contract, **own}

    def sizes(self) -> list[str]:
        """The flags of the group's sizes, as the chart gives them; one stage a host as in the recipes."""
        flags = ["--tensor-parallel-size", str(self.tensor), "--pipeline-parallel-size", str(self.hosts)]
        return flags + (["--data-parallel-size", str(self.data)] if self.data > 1 else [])

    def start(self, name: str, flags: list[str], recipe: dict[str, str]) -> None:
        """Starts the hosts; the worker first, because it makes the link."""
        self.log = [self.work / f"{name}.host{rank}.log" for rank in range(self.hosts)]
        for path in self.log:
            path.touch()  # read also after a start that failed before its member
        self.processes = []
        for rank in reversed(range(self.hosts)):
            peer = [ADDRESSES[0]] if rank else []
            command = [sys.executable, hosts.__file__, f"host{rank}", ADDRESSES[rank], *peer, "--"]
            command += ["bash", str(self.launch), *self.sizes(), *flags]
            with self.log[rank].open("wb") as out:
                process = subprocess.Popen(
                    command,
                    env=self.environment(rank, recipe),
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self.processes.insert(0, process)
            if rank:
                self.wait_for_link()

    def wait_for_link(self) -> None:
        """Waits until the worker's network is connected to this one.

        Raises:
            TimeoutError: it did not come up in 10 s.
        """
        from pyroute2 import IPRoute

        end = time.monotonic() + 10
        with IPRoute() as net:
            while time.monotonic() < end:
                if net.link_lookup(ifname=hosts.LINK, operstate="UP"):
                    return
                time.sleep(0.02)
        raise TimeoutError("no link to the second host")

    def ended(self, rank: int) -> bool:
        """Whether the member's launch script has ended."""
        return self.processes[rank].poll() is not None

    def health(self, timeout: float = 1.0) -> int:
        """The HTTP status of /health; 0 when there is no answer."""
        try:
            url = f"http://127.0.0.1:{PORT}/health"
            with urllib.request.urlopen(url, timeout=timeout) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def probe(self, rank: int, kind: str) -> bool:
        """What the chart's probe script answers for one member."""
        env = {**os.environ, "MANYHOST_STATE_DIR": str(self.work / f"state{rank}")}
        command = ["bash", str(self.launch.with_name("probe.sh")), kind]
        return subprocess.run(command, env=env, capture_output=True, check=False).returncode == 0

    def wait_until_serving(self) -> dict[str, float]:
        """Waits for the first answered token.

        Returns:
            Seconds from the process start: `health` to the first 200, `serving` to the launch
            script's own phase line, which needs one generated token.

        Raises:
            RuntimeError: a member ended or held, or the limit passed.
        """
        began, times = time.monotonic(), dict[str, float]()
        while (passed := time.monotonic() - began) < START_LIMIT_SECONDS:
            if "health" not in times and self.health() == 200:
                times["health"] = round(passed, 1)
            text = self.log[0].read_text(errors="replace")
            if "phase=serving member=leader" in text:
                return {**times, "serving": round(passed, 1)}
            if "phase=held" in text or any(map(self.ended, range(self.hosts))):
                raise RuntimeError("a member ended or gave up")
            time.sleep(0.2)
        raise RuntimeError("not serving in time")

    def lose(self, how: str) -> None:
        """Takes the second host away: `kill` ends all its processes, `cut` only its link."""
        if how == "kill":
            self.processes[1].kill()
        else:
            hosts.cut()

    def stop(self) -> None:
        """Ends the hosts and waits until their GPU memory is free."""
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        self.processes = []
        end = time.monotonic() + 30
        while time.monotonic() < end:
            if max(int(used) for used in gpu_query("memory.used")) < 1500:
                return
            time.sleep(0.3)
