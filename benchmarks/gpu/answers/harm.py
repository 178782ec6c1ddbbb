"""vLLM worker extension: two blocks of one layer's KV cache change places, as if one had been mixed up.

The control of a run without wrong answers: with this, there must be some. It is called through the
server's /collective_rpc (VLLM_SERVER_DEV_MODE=1), with --worker-extension-cls harm.Harm.
"""

from __future__ import annotations

import random
from typing import Any


class Harm:
    """Mixed into vLLM's worker."""

    model_runner: Any

    def swap_kv_blocks(self, seed: str) -> None:
        """Swaps two random blocks in a random layer of this worker's stage."""
        chooser = random.Random(seed)
        layer = chooser.choice(self.model_runner.kv_caches)
        one, other = chooser.sample(range(1, layer.shape[0]), 2)
        kept = layer[one].clone()
        layer[one] = layer[other]
        layer[other] = kept
