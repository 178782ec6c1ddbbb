"""What Prometheus scrapes in tests: a recorded engine that moves, the router's metrics, a GPU exporter's."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.helpers.helm import CHART

RECORDED = (Path(__file__).parent / "vllm_metrics.txt").read_text()
_LINE = re.compile(r"^(?P<name>[a-zA-Z_:][\w:]*)(?P<labels>\{.*\})? (?P<value>\S+)$")
_TYPE = re.compile(r"^# TYPE (\S+) (\w+)$", re.M)
_MOVING = {name for name, kind in _TYPE.findall(RECORDED) if kind in ("counter", "histogram")}
# Of NVIDIA/dcgm-exporter: etc/default-counters.csv, etc/dcp-metrics-included.csv, and for NVLink Google's
# examples/nvidia-dcgm/exporter.yaml in GoogleCloudPlatform/prometheus-engine.
DCGM = (
    "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE", "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_GPU_TEMP", "DCGM_FI_DEV_XID_ERRORS", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
    "DCGM_FI_PROF_DRAM_ACTIVE", "DCGM_FI_PROF_PCIE_TX_BYTES", "DCGM_FI_PROF_PCIE_RX_BYTES",
    "DCGM_FI_PROF_NVLINK_TX_BYTES", "DCGM_FI_PROF_NVLINK_RX_BYTES",
)  # fmt: skip


def engine(seconds: float, *, stuck: bool = False) -> str:
    """The recorded engine so many seconds later: it goes on, or it is stuck and answers with errors."""
    lines = []
    for line in RECORDED.splitlines():
        match = _LINE.match(line)
        if not match:
            lines.append(line)
            continue
        name, labels = match["name"], match["labels"] or ""
        value = float(match["value"])
        if re.sub(r"_(bucket|sum|count)$", "", name) in _MOVING or name.removesuffix("_total") in _MOVING:
            value *= 1 + seconds
        lines.append(f"{name}{labels} {_changed(name, labels, value, float(match['value']), seconds, stuck)}")
    if stuck:
        handler = 'handler="/v1/chat/completions",method="POST"'
        lines.append(f'http_requests_total{{{handler},status="5xx"}} {10 * seconds}')
    return "\n".join(lines) + "\n"


def _changed(name: str, labels: str, value: float, recorded: float, seconds: float, stuck: bool) -> float:
    gauges = {
        "vllm:num_requests_running": (3.0, 4.0),
        "vllm:num_requests_waiting": (0.0, 7.0),
        "vllm:kv_cache_usage_perc": (0.4, 0.99),
        "vllm:num_preemptions_total": (0.0, 10 * seconds),
        "vllm:prefix_cache_queries_total": (100 * seconds, 0.0),
        "vllm:prefix_cache_hits_total": (30 * seconds, 0.0),
    }
    if name in gauges:
        return gauges[name][stuck]
    if name == "vllm:num_requests_waiting_by_reason" and 'reason="capacity"' in labels:
        return gauges["vllm:num_requests_waiting"][stuck]
    if stuck and name in ("vllm:prompt_tokens_total", "vllm:generation_tokens_total"):
        return recorded
    if stuck and name == "vllm:request_success_total" and 'finished_reason="abort"' in labels:
        return 10 * seconds
    return value


def router(seconds: float, *, failing: bool = False) -> str:
    """The metrics that the router itself writes, after so many seconds."""
    sys.path.insert(0, str(CHART / "launcher/router"))
    try:
        from router_admission import Admission
        from router_metrics import Metrics
    finally:
        sys.path.pop(0)
    metrics = Metrics()
    many = int(100 * seconds)
    metrics.counts |= {
        ("requests_total", 'prefill="done"'): many,
        ("answers_total", 'code="200"'): many,
        ("refused_total", 'reason="json"'): many // 50,
    }
    if failing:
        metrics.counts |= {
            ("requests_total", 'prefill="failed"'): many,
            ("answers_total", 'code="500"'): many,
            ("refused_total", 'reason="decode"'): many,
            ("lost_total", ""): many,
        }
    for _ in range(many):
        metrics.took(0.2)
    backend = SimpleNamespace(name="10.0.0.1:8000", in_flight=3, open=failing)
    pool: Any = SimpleNamespace(role="decode", backends={backend.name: backend})
    return metrics.text(Admission(100, 1 << 30), [pool], False)


def gpus(pod: str) -> str:
    """What dcgm-exporter says of a pod's GPU in the namespace n."""
    labels = f'gpu="0",UUID="GPU-0",Hostname="host-1",container="vllm",namespace="n",pod="{pod}"'
    return "".join(f"# TYPE {name} gauge\n{name}{{{labels}}} 0.5\n" for name in DCGM)


class Exporter:
    """A server of /metrics on loopback.

    Args:
        text: What it says so many seconds after its start.
    """

    def __init__(self, text: Callable[[float], str]) -> None:
        begin = time.monotonic()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = text(time.monotonic() - begin).encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
