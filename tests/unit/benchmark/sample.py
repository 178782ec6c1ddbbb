"""Evidence of a measurement in which everything is right, for tests to break."""

from __future__ import annotations

from typing import Any

import msgspec
from manyhost.benchmark.evidence import Evidence
from manyhost.benchmark.gate import Expected
from manyhost.benchmark.points import Point, points
from manyhost.benchmark.spec import expected
from manyhost.catalog import Catalog, resolve
from manyhost.plan import Plan, make_plan
from summary import statistics

CATALOG = Catalog()
RECIPE = "local/tiny-r1"
ANSWER = {"reasoning": 20, "finish_reason": "stop", "tokens": 28, "error": ""}


def plan(recipe: str = RECIPE, *settings: str) -> Plan:
    return make_plan(resolve(CATALOG, recipe, assignments=settings), CATALOG)


def point(scenario: str = "published", recipe: str = RECIPE, number: int = 0) -> Point:
    return points(plan(recipe), CATALOG.scenario(scenario, recipe))[number]


def times(values: list[float]) -> dict[str, float]:
    found = statistics(values)
    assert found
    return found


def document(of: Point, *, trained: bool = False) -> dict[str, Any]:
    """Return the client's JSON of a point: 200 ms to each first token, 20 ms between tokens."""
    load = of.load
    count, tokens = load.requests, load.output_tokens
    questions = CATALOG.questions()
    answers = [{**ANSWER, "prompt": q.prompt, "answer": "the same"} for q in questions.facts] * 2
    if trained:
        answers = [
            {**ANSWER, "prompt": q.prompt, "answer": f"I think it is {q.answer}."}
            for q in (*questions.facts, *questions.graded)
        ]
    ttft, tpot = 200_000, 20_000
    ends = ttft + tpot * (tokens - 1)
    latencies = {
        "ttft_ms": times([200.0] * count),
        "tpot_ms": times([20.0] * count),
        "itl_ms": times([20.0] * count * (tokens - 1)),
        "e2e_ms": times([ends / 1000] * count),
    }
    truth = {
        name: times([200.0 if name == "ttft_ms" else 20.0] * 64) for name in ("ttft_ms", "tpot_ms", "itl_ms")
    }
    counters = {
        "prompt_tokens": 5000.0,
        "generation_tokens": 900.0,
        "preemptions": 0.0,
        "prefix_cache_queries": 0.0,
        "prefix_cache_hits": 0.0,
        "running": 0.0,
        "waiting": 0.0,
        "kv_usage": 0.0,
        "resident_bytes": 1e9,
        "finished": {"length": 10.0, "stop": 10.0, "abort": 0.0},
    }
    after = counters | {
        "prompt_tokens": 5000.0 + count * load.input_tokens,
        "generation_tokens": 900.0 + count * tokens,
        "prefix_cache_queries": float(count * load.input_tokens),
        "finished": {"length": 10.0 + count, "stop": 10.0, "abort": 0.0},
    }
    return {
        "version": 1,
        "key": of.key,
        "started": 1.8e9,
        "finished": 1.8e9 + 60,
        "error": "",
        "runner_version": "0.32.0",
        "processors": 8,
        "server": {
            "version": "0.32.0+cpu",
            "model": "tiny-r1",
            "context": 2048,
            "cache_config": {"enable_prefix_caching": "True", "gpu_memory_utilization": "0.92"},
        },
        "answers": answers,
        "warm_up": {"requests": 4, "failed": 0, "ttft_ms": 200.0, "tpot_ms": 20.0},
        "calibration": {
            "streams": load.concurrency or count,
            "ttft_ms": 200.0,
            "tpot_ms": 20.0,
            "attempts": [
                {
                    "processes": 1,
                    "requests": 64,
                    "failed": 0,
                    "truth": truth,
                    "measured": truth,
                    "cpu": 0.1,
                    "error": "",
                }
            ],
            "chosen": 0,
        },
        "before": counters,
        "after": after,
        "commands": [["vllm", "bench", "serve"]],
        "seconds": ((count - 1) * 1000 + ends) / 1e6,
        "skew": 0.0,
        "cpu": 0.2,
        "latencies": latencies,
        "peak_tokens": 200.0,
        "peak_requests": 4.0,
        "errors": [],
        "series": {},
        "requests": {
            "start_us": [number * 1000 for number in range(count)],
            "ttft_us": [ttft] * count,
            "e2e_us": [ends] * count,
            "input": [load.input_tokens] * count,
            "output": [tokens] * count,
            "chunks": [tokens] * count,
            "ok": [1] * count,
            "empty": [0] * count,
        },
    }


def evidence(found: dict[str, Any]) -> Evidence:
    return msgspec.convert(found, Evidence)


def wanted(of: Point, recipe: str = RECIPE) -> Expected:
    return expected(of, plan(recipe), CATALOG.questions(), ())
