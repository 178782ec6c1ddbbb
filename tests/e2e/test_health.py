"""What the launcher makes of the real engine's metrics: vLLM's CPU build as processes of this machine."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testbed import engine as local_engine
from tests.helpers import processes
from tests.unit.scripts.members import Members, until

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
STALL_SECONDS = 8
START_SECONDS = 300
PROMPT_TOKENS = 15_000
# Small chunks: a long prefill on a small machine. No prefix cache: each prompt is read whole.
FLAGS = (
    "--load-format", "dummy", "--max-model-len", "16384", "--dtype", "bfloat16", "--enforce-eager",
    "--max-num-seqs", "4", "--max-num-batched-tokens", "16", "--no-enable-prefix-caching",
)  # fmt: skip
# Not the model of the local recipe: vLLM cuts no prompt of its kind of attention into chunks on a CPU.
MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256,
    "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
    "head_dim": 32, "vocab_size": 4096, "max_position_embeddings": 16384, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "torch_dtype": "bfloat16", "bos_token_id": 0, "eos_token_id": 1,
    "tie_word_embeddings": False, "rope_theta": 10000.0,
}  # fmt: skip


class One(Members):
    """A group of one host with the real engine."""

    def __init__(self, folder: Path, *flags: str) -> None:
        engine = local_engine.build()
        model = folder.with_name("model")
        model.mkdir()
        (model / "config.json").write_text(json.dumps(MODEL))
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (model / name).write_bytes((engine / "model/tiny-r1" / name).read_bytes())
        super().__init__(
            folder, MANYHOST_SIZE="1", MANYHOST_MODEL=str(model),
            MANYHOST_ENGINE=str(engine / "vllm/bin/vllm"), MANYHOST_STARTUP_SECONDS=str(START_SECONDS),
            MANYHOST_STALL_SECONDS=str(STALL_SECONDS), MANYHOST_BEAT_SECONDS="0.5",
            MANYHOST_DRAIN_SECONDS="60", OMP_NUM_THREADS="1", TORCHDYNAMO_DISABLE="1",
            VLLM_CPU_KVCACHE_SPACE="1", VLLM_CPU_OMP_THREADS_BIND="nobind", VLLM_CPU_CI_ENV="1",
            VLLM_NO_USAGE_STATS="1", VLLM_CACHE_ROOT=str(folder / "cache"), HF_HOME=str(folder / "hf"),
            GLOO_SOCKET_IFNAME="lo", PATH=f"{engine / 'vllm/bin'}:/usr/bin:/bin", HOME=str(folder),
        )  # fmt: skip
        self.start(0, *FLAGS, *flags)
        until("the engine answers", lambda: self.ready(0), START_SECONDS)

    def metrics(self) -> dict[str, float]:
        """The sums of the engine's series, without their labels."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        found: dict[str, float] = {}
        for line in lines:
            if line.startswith("vllm:"):
                name = line.partition("{")[0]
                found[name] = found.get(name, 0.0) + float(line.rpartition(" ")[2])
        return found

    def ask(self, tokens: int) -> Any:
        body = {
            "model": self.env["MANYHOST_MODEL"], "prompt": [5 + i % 200 for i in range(tokens)],
            "max_tokens": 1, "ignore_eos": True,
        }  # fmt: skip
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/v1/completions",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        return urllib.request.urlopen(request, timeout=600)

    def cores(self) -> list[int]:
        """The engine's own processes behind its HTTP server."""
        mine = processes.below({self.processes[0].pid})
        return [pid for pid in mine if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def one(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[One]:
    made = One(tmp_path / "one", *getattr(request, "param", ()))
    yield made
    made.close()


def test_long_prefills_live_and_stuck_engines_do_not(one: One) -> None:
    """A prefill beyond the stall limit moves the KV cache's use alone; then the idle engine is stopped."""
    before, took = one.metrics(), [0.0]

    def ask() -> None:
        begin = time.monotonic()
        with one.ask(PROMPT_TOKENS) as answer:
            assert json.load(answer)["usage"]["prompt_tokens"] == PROMPT_TOKENS
        took[0] = time.monotonic() - begin

    asking = threading.Thread(target=ask)
    asking.start()
    used, tokens = set(), set()
    while asking.is_alive():
        now = one.metrics()
        used.add(now["vllm:kv_cache_usage_perc"])
        tokens.add(now["vllm:generation_tokens_total"])
        assert one.probe(0, "live")[0]
        time.sleep(0.5)
    asking.join()
    print(
        f"a prefill of {took[0]:.0f} s, stall limit {STALL_SECONDS} s: {len(used)} values of the cache's use"
    )
    assert took[0] > 1.5 * STALL_SECONDS
    assert len(used) > 4
    assert before["vllm:generation_tokens_total"] in tokens
    assert not one.phases(0, "attempt")
    assert one.ready(0)

    cores = one.cores()
    assert cores
    begin = time.monotonic()
    for pid in cores:
        os.kill(pid, signal.SIGSTOP)
    one.seen(0, 'phase=attempt .*reason="the idle engine gave no token for [0-9]+ s" deaths=1 of=5', 90)
    print(f"an idle engine that was stopped: seen after {time.monotonic() - begin:.0f} s")
    assert not one.ready(0)
    until("another engine answers in the same pod", lambda: one.ready(0), START_SECONDS)
    assert one.processes[0].poll() is None
    with one.ask(10) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("one", [("--disable-log-stats",)], indirect=True)
def test_an_engine_without_series_is_neither_idle_nor_stuck(one: One) -> None:
    assert "vllm:num_requests_running" not in one.metrics()
    time.sleep(2 * STALL_SECONDS)
    assert one.ready(0)
    assert not one.phases(0, "attempt")
