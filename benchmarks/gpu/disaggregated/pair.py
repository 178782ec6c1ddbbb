"""A prefill and a decode engine with a GPU each, and the chart's own router before them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import hosts
from rig import ADDRESSES, DEVICES, PORT, START_LIMIT_SECONDS, Rig

DECODE, PREFILL = 0, 1
NAMES = ("decode", "prefill")
ENGINE_PORTS = (8001, 8002)  # the router has the one that clients know
NIXL_PORT = 5600
BLOCK_TOKENS = 16
BYTES_OF_BF16 = 2
ENGINE = re.compile(r"vllm|EngineCore", re.IGNORECASE)
COUNTERS = {
    "transfers": "nixl_bytes_transferred_count",
    "bytes": "nixl_bytes_transferred_sum",
    "transfer_seconds": "nixl_xfer_time_seconds_sum",
    "post_seconds": "nixl_post_time_seconds_sum",
    "failed_transfers": "nixl_num_failed_transfers_total",
    "failed_notifications": "nixl_num_failed_notifications_total",
    "expired": "nixl_num_kv_expired_reqs_total",
    "preemptions": "num_preemptions_total",
    "prompt_tokens": "prompt_tokens_total",
    "generation_tokens": "generation_tokens_total",
}
ROUTED = re.compile(r'^manyhost_router_requests_total{prefill="(\w+)"} (\S+)$', re.MULTILINE)


class Pair(Rig):
    """Rank 0 decodes, rank 1 prefills; each on a host of its own, or both on one with NVLink between them.

    Attributes:
        buffer: Where the KV cache waits for its transfer, cpu or cuda.
        transport: Environment of the transfer library, as `roles.handover.env` of the chart.
    """

    def __init__(self, work: Path, launch: Path, engine: list[str], model: Path) -> None:
        super().__init__(work, launch, engine, model)
        self.buffer = "cpu"
        self.transport: dict[str, str] = {}
        self.engine_url = f"http://127.0.0.1:{ENGINE_PORTS[DECODE]}"

    @property
    def addresses(self) -> tuple[str, str]:
        """Of the two engines."""
        return ADDRESSES if self.hosts > 1 else ("127.0.0.1", "127.0.0.1")

    def url(self, rank: int) -> str:
        """Of an engine, past the router."""
        return f"http://{self.addresses[rank]}:{ENGINE_PORTS[rank]}"

    def handover(self, rank: int) -> dict[str, str]:
        """--kv-transfer-config as the chart renders it (templates/_handover.tpl)."""
        return {
            "kv_connector": "NixlConnector",
            "kv_load_failure_policy": "recompute",
            "kv_role": ("kv_consumer", "kv_producer")[rank],
            "kv_buffer_device": self.buffer,
        }

    def environment(self, rank: int, recipe: dict[str, str]) -> dict[str, str]:
        """The launcher's contract for a group of one host."""
        link = hosts.LINK if self.hosts > 1 else "lo"
        own = {
            "MANYHOST_ADDRESS": self.addresses[rank],
            "MANYHOST_LEADER": self.addresses[rank],
            "MANYHOST_SIZE": "1",
            "MANYHOST_RANK": "0",
            "MANYHOST_PORT": str(ENGINE_PORTS[rank]),
            "MANYHOST_MASTER_PORT": str(29501 + rank),
            "MANYHOST_BEACON_PORT": str(29511 + rank),
            "VLLM_NIXL_SIDE_CHANNEL_HOST": self.addresses[rank],
            "VLLM_NIXL_SIDE_CHANNEL_PORT": str(NIXL_PORT + rank),
            "UCX_NET_DEVICES": link,
        }
        if self.hosts == 1:
            # CUDA opens another process's memory only on a GPU that this one sees. Its own is the first.
            own["CUDA_VISIBLE_DEVICES"] = ",".join([DEVICES[rank], DEVICES[1 - rank]])
        return {**super().environment(rank, recipe), **own, **self.transport}

    def start(self, name: str, flags: list[str], recipe: dict[str, str]) -> None:
        """Starts both engines, the prefill engine first, because its host makes the link; then the router."""
        self.log = [self.work / f"{name}.{role}.log" for role in NAMES]
        for path in self.log:
            path.touch()  # read also after a start that failed before its engine
        self.processes = []
        for rank in (PREFILL, DECODE):
            command = ["bash", str(self.launch), "--tensor-parallel-size", "1", *flags]
            command += ["--kv-transfer-config", json.dumps(self.handover(rank))]
            if self.hosts > 1:
                peer = [ADDRESSES[DECODE]] if rank == PREFILL else []
                host = [sys.executable, hosts.__file__, NAMES[rank], ADDRESSES[rank], *peer, "--"]
                command = host + command
            self.processes.insert(0, run(command, self.environment(rank, recipe), self.log[rank]))
            if self.hosts > 1 and rank == PREFILL:
                self.wait_for_link()
        router = self.launch.parent / "router" / "router.sh"
        self.router_log = self.work / f"{name}.router.log"
        self.processes.append(run(["bash", str(router)], self.router_environment(), self.router_log))

    def router_environment(self) -> dict[str, str]:
        """What the chart tells the router (templates/_router.tpl)."""
        places = [f"{self.addresses[rank]}:{ENGINE_PORTS[rank]}" for rank in (DECODE, PREFILL)]
        own = {
            "PORT": str(PORT),
            "DECODE": places[DECODE],
            "PREFILL": places[PREFILL],
            "STALL_SECONDS": "120",
            "DRAIN_SECONDS": "10",
            "MOST_REQUESTS": "1024",
            "BODY_BYTES": str(8 << 20),
            "MEMORY_BYTES": str(2 << 30),
        }
        named = {f"MANYHOST_ROUTER_{name}": value for name, value in own.items()}
        return {**os.environ, **named, "MANYHOST_ENGINE": "\n".join(self.engine), "PYTHONUNBUFFERED": "1"}

    def wait_until_serving(self) -> dict[str, float]:
        """Waits until both engines have answered a token.

        Returns:
            Seconds from the start: `health` to the first 200 of the slower one, `serving` to its first token.

        Raises:
            RuntimeError: an engine ended or held, or the limit passed.
        """
        began, times = time.monotonic(), dict[str, float]()
        while (passed := time.monotonic() - began) < START_LIMIT_SECONDS:
            if "health" not in times and all(
                status(f"{self.url(r)}/health") == 200 for r in (DECODE, PREFILL)
            ):
                times["health"] = round(passed, 1)
            texts = [log.read_text(errors="replace") for log in self.log]
            if all("phase=serving member=leader" in text for text in texts):
                return {"health": round(passed, 1), **times, "serving": round(passed, 1)}
            if any("phase=held" in text for text in texts) or any(
                map(self.ended, range(len(self.processes)))
            ):
                raise RuntimeError("an engine or the router ended or gave up")
            time.sleep(0.2)
        raise RuntimeError("not serving in time")

    def counters(self) -> dict[str, float]:
        """Totals of the decode engine, of the prefill engine (prefill_...) and of the router (routed_...)."""
        found = {}
        for rank, prefix in ((DECODE, ""), (PREFILL, "prefill_")):
            with contextlib.suppress(OSError):
                text = fetch(f"{self.url(rank)}/metrics")
                for name, series in COUNTERS.items():
                    values = re.findall(rf"^vllm:{series}(?:{{.*}})? (\S+)$", text, re.MULTILINE)
                    found[prefix + name] = sum(map(float, values))
        for outcome, value in ROUTED.findall(fetch(f"http://127.0.0.1:{PORT}/metrics")):
            found[f"routed_{outcome}"] = float(value)
        return found

    def lose(self, how: str) -> None:
        """Ends all processes of the prefill engine at once; its launch script lives and sees it."""
        import psutil

        found = psutil.Process(self.processes[PREFILL].pid).children(recursive=True)
        for process in found:
            with contextlib.suppress(psutil.Error):
                words = " ".join([process.name(), *process.cmdline()])
                if ENGINE.search(words) and "launch" not in words and "manyhost_run" not in words:
                    process.kill()

    def stop(self) -> None:
        """Ends everything, also what has left the launch scripts' process groups."""
        import psutil

        for process in self.processes:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.send_signal(signal.SIGKILL)
        super().stop()


def kv_bytes(config: dict[str, Any], tokens: int, block: int = BLOCK_TOKENS) -> int:
    """KV cache of a prompt: whole blocks of latent and rotary part, in every layer, in bfloat16 (MLA)."""
    width = config["kv_lora_rank"] + config["qk_rope_head_dim"]
    return -(-tokens // block) * block * width * BYTES_OF_BF16 * config["num_hidden_layers"]


def run(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    """Starts a program in a session of its own, its output in a file."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )


def fetch(url: str) -> str:
    """The text at an address.

    Raises:
        OSError: there is no answer, or one of an error.
    """
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def status(url: str) -> int:
    """The HTTP status at an address; 0 when there is no answer."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return int(answer.status)
    except OSError:
        return 0


def moved(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    """What the counters say of the time between."""
    return {name: round(value - before.get(name, 0.0), 6) for name, value in after.items()}
