"""The dummy weights of benchmarks/gpu over two tensor parallel ranks of the CPU engine."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from testbed import engine as local_engine
from tests.e2e.place import ROOT

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
# The widths of DeepSeek V3, made small; vLLM's MLA takes a latent vector of 512 + 64 only.
SMALL = {
    "hidden_size": 256, "intermediate_size": 256, "moe_intermediate_size": 128, "n_routed_experts": 16,
    "n_group": 4, "topk_group": 2, "num_experts_per_tok": 4, "num_attention_heads": 8,
    "num_key_value_heads": 8, "num_hidden_layers": 2, "q_lora_rank": 64, "qk_nope_head_dim": 32,
    "v_head_dim": 32, "vocab_size": 512, "max_position_embeddings": 512, "rope_scaling": None,
}  # fmt: skip
# A plugin of vLLM in each of its processes. The CPU engine packs weights after loading: they are read before.
PLUGIN = """
import hashlib, json, os
from pathlib import Path
import dummy_weights

def register():
    dummy_weights.register()
    from vllm.model_executor.model_loader.dummy_loader import DummyModelLoader
    DummyModelLoader.load_weights = load_weights

def load_weights(loader, model, config):
    import torch
    from vllm.distributed import get_tensor_model_parallel_rank
    dummy_weights.load_weights(loader, model, config)
    raw = {name: one.contiguous().reshape(-1).view(torch.uint8) for name, one in model.state_dict().items()}
    found = {name: hashlib.sha1(one.numpy().tobytes()).hexdigest() for name, one in raw.items()}
    path = Path(os.environ["DIGESTS"]) / f"{get_tensor_model_parallel_rank()}.json"
    path.write_text(json.dumps(found))
"""
SCRIPT = """
import json, sys
from pathlib import Path
work, small = Path(sys.argv[1]), json.loads(sys.argv[2])

if __name__ == "__main__":
    import model
    config = {name: value for name, value in model.CONFIG.items() if name != "quantization_config"}
    model.SPECIAL = {number: word for number, word in model.SPECIAL.items() if number < 3}
    model.write(work / "model", config | small)
    from vllm import LLM
    sizes = dict(tensor_parallel_size=2, max_model_len=256, max_num_seqs=4)
    LLM(str(work / "model"), load_format="dummy", enforce_eager=True, dtype="bfloat16", **sizes)
"""


def test_ranks_have_parts_of_their_own_and_the_same_of_what_each_has_whole(tmp_path: Path) -> None:
    python = local_engine.build() / "vllm" / "bin" / "python"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    entry = tmp_path / "digests-1.dist-info"
    entry.mkdir()
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: digests\nVersion: 1\n")
    (entry / "entry_points.txt").write_text("[vllm.general_plugins]\ndigests = digests:register\n")
    (tmp_path / "digests.py").write_text(PLUGIN)
    path = os.pathsep.join(map(str, (ROOT / "benchmarks" / "gpu", tmp_path)))
    own = {"PYTHONPATH": path, "DIGESTS": str(tmp_path), "VLLM_CPU_KVCACHE_SPACE": "1"}
    own |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [python, script, tmp_path, json.dumps(SMALL)], env={**os.environ, **own}, check=True, timeout=800
    )
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first.keys() == second.keys()
    cut = ("q_b_proj", "kv_b_proj", "o_proj", "gate_up_proj", "down_proj", "w13_weight", "w2_weight")
    cut += ("embed_tokens", "lm_head")
    for name, digest in first.items():
        assert (digest != second[name]) == any(word in name for word in cut), name
