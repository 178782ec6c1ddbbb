"""A load by AIPerf 0.13: writes its input and its configuration, runs it, keeps its record of each request.

As `manyhost bench --runner aiperf` starts it, with the Python of AIPerf's own environment; by hand:

    AIPERF/bin/python aiperf_load.py --url http://127.0.0.1:8000 --model NAME --requests 100 --concurrency 8 \
        --result records.jsonl

AIPerf sends the requests as they are written here (its format inputs_json), tokenizes none of them and takes
the server's counts. It asks for a tokenizer all the same; it gets one of a single word, because the one that
it calls built-in comes from the Internet. The configuration names the variable that has the server's key.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

import completions

_TOKENIZER = {
    "tokenizer.json": {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"},
    },
    "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
}
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")  # with these it finds no tokenizer in a folder
KEY = "VLLM_API_KEY"


def configuration(load: Namespace, folder: Path) -> dict[str, Any]:
    """Return AIPerf's configuration (its schema 2.0) for a load whose files lie in a folder."""
    phase: dict[str, Any] = {"requests": load.requests}
    if load.rate == float("inf"):
        phase |= {"type": "concurrency", "concurrency": load.concurrency}
    else:
        phase |= {"type": "poisson", "rate": load.rate}
    endpoint = {"url": load.url, "type": "completions", "streaming": True, "useServerTokenCount": True}
    if os.environ.get(KEY):
        endpoint["apiKey"] = f"${{{KEY}}}"
    return {
        "schemaVersion": "2.0",
        "randomSeed": load.seed,
        "benchmark": {
            "model": load.model,
            "endpoint": endpoint,
            "dataset": {"type": "file", "format": "inputs_json", "path": str(folder / "inputs.json")},
            "profiling": phase,
            "artifacts": {"dir": str(folder), "records": ["jsonl"], "summary": False},
            "tokenizer": {"name": str(folder / "tokenizer")},
            "runtime": {"ui": "none"},
            "gpuTelemetry": {"enabled": False},
            "serverMetrics": {"enabled": False},
        },
    }


def run(load: Namespace, folder: Path) -> int:
    """Run AIPerf; return 0 when it has a record of each request, also of those that failed."""
    chance = random.Random(load.seed)  # noqa: S311  no secret
    bodies = (completions.body(load, chance) for _ in range(load.requests))
    sessions = [{"session_id": str(number), "payloads": [body]} for number, body in enumerate(bodies)]
    files = {
        "inputs.json": {"data": sessions},
        "configuration.yaml": configuration(load, folder),  # JSON is YAML
        **{f"tokenizer/{name}": content for name, content in _TOKENIZER.items()},
    }
    (folder / "tokenizer").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    env = {name: value for name, value in os.environ.items() if name not in _OFFLINE}
    # Prompts are new each time: none of them is kept, and what a killed one leaves goes with the folder.
    env |= {"AIPERF_DATASET_MMAP_CACHE_ENABLED": "false", "AIPERF_DATASET_MMAP_BASE_PATH": str(folder)}
    program = Path(sys.executable).with_name("aiperf")
    words = [str(program), "profile", "--config", str(folder / "configuration.yaml")]
    code = subprocess.run(words, env=env, check=False).returncode
    records = folder / "profile_export.jsonl"
    # It ends with exit code 1 when no request succeeded; that is a result too.
    if not records.exists() or len(records.read_bytes().splitlines()) < load.requests:
        return code or 1
    Path(load.result).write_bytes(records.read_bytes())
    return 0


def main() -> int:
    """Run AIPerf in a folder that goes with it."""
    parser = ArgumentParser(description=__doc__)
    completions.options(parser)
    parser.add_argument("--url", required=True, help="of the server")
    parser.add_argument("--concurrency", type=int, default=1, help="requests in flight")
    parser.add_argument("--rate", type=float, default=float("inf"), help="requests a second, instead")
    load = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(load, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
