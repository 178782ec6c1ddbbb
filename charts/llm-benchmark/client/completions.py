"""What our load for Locust and for AIPerf is told, and the requests that it sends."""

from __future__ import annotations

import random
from argparse import ArgumentParser, Namespace
from typing import Any


def options(parser: ArgumentParser) -> None:
    """Add the options of a load."""
    parser.add_argument("--model", default="", help="the served model")
    parser.add_argument("--input-tokens", type=int, default=1000, help="tokens of a prompt")
    parser.add_argument("--output-tokens", type=int, default=1000, help="tokens of an answer")
    parser.add_argument("--spread", type=float, default=0.0, help="both vary evenly by this share")
    parser.add_argument("--vocabulary", type=int, default=32000, help="token ids are below it")
    parser.add_argument("--stop-at-eos", action="store_true", help="an answer may end before its length")
    parser.add_argument("--requests", type=int, default=0, help="requests to send; 0 goes on")
    parser.add_argument("--seed", type=int, default=0, help="another one makes other prompts")
    parser.add_argument("--result", default="", help="file for what happened to each request")


def body(load: Namespace, chance: random.Random) -> dict[str, Any]:
    """Return one request: random token ids of the exact length, so that no tokenizer is needed."""

    def length(tokens: int) -> int:
        spread: float = load.spread
        return max(1, round(tokens * (1 + spread * chance.uniform(-1, 1))))

    low = load.vocabulary // 8
    return {
        "model": load.model,
        "prompt": [chance.randrange(low, load.vocabulary) for _ in range(length(load.input_tokens))],
        "max_tokens": length(load.output_tokens),
        "ignore_eos": not load.stop_at_eos,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
