"""vLLM plugin: dummy weights that keep routing, numbers and memory traffic realistic.

vLLM's own `--load-format dummy` draws all weights from +-1e-3. In FP8 nearly all of them round to
zero, and random expert biases send every token to the same experts. Here: random FP8 bytes, block
scales 1e-4, norms 1, expert biases 0, gates and embeddings N(0, 0.02). Each tensor's seed is its
name, so that every start has the same weights.

It is loaded as a `vllm.general_plugins` entry point; driver.py writes the entry and removes nothing
from vLLM.
"""

from __future__ import annotations

import zlib
from typing import Any

FP8_NAN = 127  # 0x7f; 0xff is the other one and is outside the range drawn


def register() -> None:
    """Replaces the dummy loader's filling step; called by vLLM in each of its processes."""
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader

    DummyModelLoader.load_weights = load_weights


def load_weights(_loader: Any, model: Any, _config: Any) -> None:
    """Fills every tensor of the model once."""
    import torch

    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.device.type != "meta":
                fill(name, tensor)


def fill(name: str, tensor: Any) -> None:
    """Fills one tensor in place, by its name and type."""
    import torch

    generator = torch.Generator(device=tensor.device)
    generator.manual_seed(zlib.crc32(name.encode()))
    if tensor.dtype == torch.float8_e4m3fn:
        raw = tensor.view(torch.uint8)
        # One expert at a time: index arithmetic of the whole tensor would exceed 32 bits.
        for part in raw if raw.dim() == 3 else [raw]:
            part.random_(0, 254, generator=generator)
            part.add_((part >= FP8_NAN).to(torch.uint8))
    elif not torch.is_floating_point(tensor):
        return
    elif "scale" in name:
        if tensor.numel() > 1:
            tensor.fill_(1e-4)
    elif "e_score_correction_bias" in name:
        tensor.zero_()
    elif tensor.dim() == 1:
        tensor.fill_(1.0 if "norm" in name else 0.0)
    else:
        tensor.normal_(0, 0.02, generator=generator)
