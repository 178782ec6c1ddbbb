"""What vLLM says in its log of a rank's memory and start, as numbers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Sources: vllm/v1/worker/gpu_worker.py and gpu_model_runner.py, vllm/v1/core/kv_cache_utils.py. The V2
# runner of 0.26 estimates no graphs, that of 0.33 says its estimate beside what they took. 0.33 counts the
# estimate to the peak, and says what it consumes at rest in place of what is outside torch.
_NUMBER = r"([\d.,]+)"
LINES = {
    "weights_gib": rf"Model loading took {_NUMBER} GiB",
    "peak_activation_gib": rf"{_NUMBER} GiB for peak activation",
    "non_torch_gib": rf"{_NUMBER} GiB for non-torch memory",
    "consumed_gib": rf"{_NUMBER} GiB for consumed memory",
    "graphs_estimated_gib": rf"(?:Estimated CUDA graph memory: |GiB \(actual\), ){_NUMBER} GiB",
    "graphs_gib": rf"Graph capturing finished in \d+ secs, took {_NUMBER} GiB",
    "usable_gib": rf"Desired GPU memory utilization is \([\d.]+, {_NUMBER} GiB\)",
    "kv_gib": rf"Available KV cache memory: {_NUMBER} GiB",
    "kv_tokens": rf"GPU KV cache size: {_NUMBER} tokens",
    "compile_seconds": rf"torch.compile took {_NUMBER} s",
    "profile_seconds": rf"Initial profiling/warmup run took {_NUMBER} s",
    "capture_seconds": rf"Graph capturing finished in {_NUMBER} secs",
    "init_seconds": rf"init engine .*? took {_NUMBER} s",
}
_LAST = ("graphs_gib", "capture_seconds")  # 0.33 captures some graphs before, for its estimate
_OVERRIDE = re.compile(r"Overriding num_gpu_blocks=(\d+) with num_gpu_blocks_override=(\d+)")


def rank(log: str) -> dict[str, float]:
    """The figures of one rank; what the log does not say is absent.

    What vLLM 0.33 counts in another way is made what 0.26 counts: the peak has no graphs in it; beside what
    is outside torch it keeps workspaces, which 0.26 counts to the peak.

    `kv_tokens` are those of the running engine, `kv_tokens_that_fit` those that it would have had
    without --num-gpu-blocks-override. The log of the first of two hosts has both ranks' blocks: the
    group has the fewest.
    """
    found = {}
    for name, pattern in LINES.items():
        if matches := re.findall(pattern, log):
            told = matches[-1 if name in _LAST else 0]
            found[name] = float(told.replace(",", "").rstrip("."))
    if "consumed_gib" in found:
        found["peak_activation_gib"] -= found.get("graphs_estimated_gib", 0.0)
        found["non_torch_gib"] = found.pop("consumed_gib") - found["weights_gib"]
        found |= {name: round(found[name], 2) for name in ("peak_activation_gib", "non_torch_gib")}
    if "kv_tokens" in found:
        overridden = [(int(own), int(given)) for own, given in _OVERRIDE.findall(log)]
        share = min((own / given for own, given in overridden), default=1.0)
        found["kv_tokens_that_fit"] = round(found["kv_tokens"] * share)
    return found


def load(path: Path) -> list[dict[str, Any]]:
    """All readings of one file."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def is_of(record: dict[str, Any], kind: str, variant: str) -> bool:
    """Whether a reading is of this kind and server."""
    return record["kind"] == kind and record.get("variant") == variant
