"""What our loads are told, also those for Locust and AIPerf: what they send, and how they write it down."""

from __future__ import annotations

import json
import random
from argparse import ArgumentParser, Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_COLUMNS = ("start_times", "ttfts", "itls", "input_lens", "output_lens", "errors", "generated_texts")


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


def tokens(chance: random.Random, vocabulary: int, count: int) -> list[int]:
    """Return random token ids; the lowest, where special tokens are, stay out."""
    return chance.choices(range(vocabulary // 8, vocabulary), k=count)


def body(load: Namespace, chance: random.Random, prefix: Sequence[int] = ()) -> dict[str, Any]:
    """Return one request: random token ids of the exact length, so that no tokenizer is needed.

    Args:
        load: The options.
        chance: Where the rest of the prompt and the lengths come from.
        prefix: What the prompt begins with, a part of its length.
    """

    def length(mean: int) -> int:
        spread: float = load.spread
        return max(1, round(mean * (1 + spread * chance.uniform(-1, 1))))

    rest = max(1, length(load.input_tokens) - len(prefix))
    return {
        "model": load.model,
        "prompt": [*prefix, *tokens(chance, load.vocabulary, rest)],
        "max_tokens": length(load.output_tokens),
        "ignore_eos": not load.stop_at_eos,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def write(path: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Write what happened to each request as `vllm bench serve --save-detailed` does."""
    columns = list(zip(*rows, strict=True)) or [()] * len(_COLUMNS)
    Path(path).write_text(json.dumps(dict(zip(_COLUMNS, columns, strict=True))))
