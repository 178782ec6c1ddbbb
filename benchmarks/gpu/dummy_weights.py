"""vLLM plugin: dummy weights that keep routing, numbers and memory traffic realistic.

vLLM's own `--load-format dummy` draws all weights from +-1e-3. In FP8 nearly all of them round to
zero, and random expert biases send every token to the same experts. Here: random FP8 bytes, block
scales 1e-4, norms 1, expert biases 0, gates and embeddings N(0, 0.02). Each tensor's seed is its
name, and the rank where it is one rank's part of a tensor: every start has the same weights, ranks have
the same of what each of them holds whole, and no two parts of a tensor are alike.

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

    # A module may be held under several names; the last of them fills its tensors.
    modules = dict(model.named_modules(remove_duplicate=False))
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.device.type != "meta":
                fill(name, tensor, part(modules.get(name.rpartition(".")[0])))


def part(module: Any) -> int:
    """Which part of its tensors a module has on this rank; 0 where it has them whole."""
    from vllm.distributed import get_tensor_model_parallel_rank
    from vllm.model_executor.layers.linear import ReplicatedLinear

    if hasattr(module, "moe_config"):  # one of the two is 0
        return int(module.moe_config.tp_rank + module.moe_config.ep_rank)
    # A replicated layer knows the size of its group, too.
    whole = isinstance(module, ReplicatedLinear) or getattr(module, "tp_size", 1) == 1
    return 0 if whole else int(get_tensor_model_parallel_rank())


def fill(name: str, tensor: Any, which: int = 0) -> None:
    """Fills one tensor in place, by its name, the rank's part of it, and its type."""
    import torch

    generator = torch.Generator(device=tensor.device)
    generator.manual_seed(zlib.crc32(name.encode()) + which)
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
