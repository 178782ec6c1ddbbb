"""What a Prometheus has seen of the hosts' GPUs while a measurement's load ran."""

from __future__ import annotations

import http.client
import json
import math
import re
import statistics
import urllib.error
import urllib.parse
import urllib.request
from typing import Any, NamedTuple

from manyhost.benchmark.result import Figure
from manyhost.errors import RemoteError

_SECONDS = 30.0
_MOST_SAMPLES = 1000
_LEAST_STEP = 5.0  # seconds; DCGM's exporter is read every 15 to 30


class _Query(NamedTuple):
    name: str
    series: str
    unit: str
    factor: float = 1.0


# NVIDIA/dcgm-exporter, etc/default-counters.csv: names, meaning and units.
QUERIES = (
    _Query("gpu_busy", "DCGM_FI_DEV_GPU_UTIL", "share", 0.01),
    _Query("tensor_cores_busy", "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "share"),
    _Query("gpu_memory_busy", "DCGM_FI_PROF_DRAM_ACTIVE", "share"),
    _Query("gpu_memory_used", "DCGM_FI_DEV_FB_USED", "GiB", 1 / 1024),
    _Query("gpu_power", "DCGM_FI_DEV_POWER_USAGE", "W"),
    _Query("nvlink_out", "DCGM_FI_PROF_NVLINK_TX_BYTES", "GB/s", 1e-9),
    _Query("nvlink_in", "DCGM_FI_PROF_NVLINK_RX_BYTES", "GB/s", 1e-9),
    _Query("pcie_out", "DCGM_FI_PROF_PCIE_TX_BYTES", "GB/s", 1e-9),
    _Query("pcie_in", "DCGM_FI_PROF_PCIE_RX_BYTES", "GB/s", 1e-9),
)


def figures(url: str, namespace: str, release: str, begin: float, end: float) -> list[Figure]:
    """Return what was seen of the GPUs of a release's pods; a series that nobody has is left out.

    Args:
        url: Of the Prometheus, or of what speaks its API.
        namespace: Of the release; empty for all GPUs that it knows.
        release: Its name.
        begin: Seconds since the epoch.
        end: Likewise.

    Raises:
        RemoteError: No answer, or none of a Prometheus.
    """
    step = max(_LEAST_STEP, (end - begin) / _MOST_SAMPLES)
    found = []
    for query in QUERIES:
        samples = _samples(url, expression(query.series, namespace, release), begin, end, step)
        values = [value * query.factor for _, value in samples if math.isfinite(value)]
        if values:
            mean, most = statistics.fmean(values), max(values)
            found.append(Figure(name=query.name, unit=query.unit, mean=mean, max=most))
    return found


def expression(series: str, namespace: str, release: str) -> str:
    """Return the mean of a series over the GPUs of a release's pods.

    The exporter says whose a GPU is in `namespace` and `pod`, which a scrape that does not honour labels
    renames to `exported_namespace` and `exported_pod`.
    """
    if not namespace:
        return f"avg({series})"
    pods = json.dumps(f"{re.escape(release)}(-prefill)?-[0-9].*")
    where = json.dumps(namespace)
    own, exported = (
        f"{series}{{{prefix}namespace={where},{prefix}pod=~{pods}}}" for prefix in ("", "exported_")
    )
    return f"avg({own} or {exported})"


def _samples(url: str, query: str, begin: float, end: float, step: float) -> list[tuple[float, float]]:
    words = urllib.parse.urlencode({"query": query, "start": begin, "end": end, "step": step})
    request = f"{url.rstrip('/')}/api/v1/query_range?{words}"
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310  checked by the caller
            document: Any = json.load(answer)
        result = document["data"]["result"]
        return [(float(at), float(value)) for series in result for at, value in series["values"]]
    except urllib.error.HTTPError as error:
        raise RemoteError(f"answers {error.code} {error.reason}", where=f"--prometheus {url}") from None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", None) or error
        raise RemoteError(f"does not answer as a Prometheus: {reason}", where=f"--prometheus {url}") from None
