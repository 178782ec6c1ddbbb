"""How many requests at once the KV cache of a group serves."""

from __future__ import annotations

from manyhost.catalog.recipe import Traffic

# Requests that begin together end together: for a while each has its whole length in the cache. 384 requests
# of 2,000 tokens in a cache of 729,600 preempted 19 of 550 and gave the most tokens; 512 preempted 168 and
# gave 12 % less; 256 preempted none and gave 29 % less (docs/reference/memory.md). So the cache may
# be short by a nineteenth.
_SHORT = (20, 19)
_STEP = 16  # sizes for which CUDA graphs are captured, vllm/config/vllm.py


def seats(kv_tokens: int, traffic: Traffic) -> int:
    """Return the most requests at once that few preemptions follow from; at least 1.

    Args:
        kv_tokens: Tokens that fit into the KV cache.
        traffic: A request stays with its prompt and, on average, half of its answer.
    """
    mean = traffic.input_tokens + traffic.output_tokens / 2
    whole = traffic.input_tokens + traffic.output_tokens
    most = min(int(kv_tokens / mean), kv_tokens * _SHORT[0] // (whole * _SHORT[1]))
    return max(1, most // _STEP * _STEP if most > _STEP else most)
