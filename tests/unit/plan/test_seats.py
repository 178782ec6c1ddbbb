"""Seats that a KV cache serves."""

from __future__ import annotations

import pytest
from manyhost.catalog.recipe import Traffic
from manyhost.plan.seats import seats


def test_the_measured_best_of_a_measured_cache() -> None:
    """729,600 tokens at 1000 + 1000: 384 gave 14 % more tokens than 512, and 256 fewer still."""
    assert seats(729_600, Traffic(input_tokens=1000, output_tokens=1000)) == 384


@pytest.mark.parametrize(
    ("kv_tokens", "prompt", "answer", "expected"),
    [
        (729_600, 1000, 256, 608),  # all at their end: 768,000 of 729,600
        (729_600, 8000, 200, 80),  # the mean length counts: 90 x 8,100
        (30_000, 1000, 1000, 15),  # few are not rounded
        (33_000, 1000, 1000, 16),  # 17
        (100, 1000, 1000, 1),
    ],
)
def test_they_follow_from_the_traffic(kv_tokens: int, prompt: int, answer: int, expected: int) -> None:
    assert seats(kv_tokens, Traffic(input_tokens=prompt, output_tokens=answer)) == expected


@pytest.mark.parametrize("kv_tokens", range(10_000, 3_000_000, 170_001))
@pytest.mark.parametrize(("prompt", "answer"), [(1, 1), (1000, 1000), (8000, 200), (100, 4000)])
def test_they_fit_on_the_mean_and_nearly_at_their_longest(kv_tokens: int, prompt: int, answer: int) -> None:
    found = seats(kv_tokens, Traffic(input_tokens=prompt, output_tokens=answer))
    assert found == 1 or found * (prompt + answer / 2) <= kv_tokens
    assert found == 1 or found * (prompt + answer) <= kv_tokens * 20 / 19
    more = seats(2 * kv_tokens, Traffic(input_tokens=prompt, output_tokens=answer))
    assert more >= found
