"""Writes a DeepSeek R1 of full width and few layers, without weights: python model.py FOLDER.

Widths, experts and quantization are those of deepseek-ai/DeepSeek-R1's public config.json. Of 61
layers 9 stay, 1 dense and 8 of experts: they fit two GPUs, and two pipeline stages split them into
4 expert layers each. The tokenizer knows one word a token id, so that N random tokens stay N
tokens on their way through the server's text interface.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VOCABULARY = 129280
# The ids that the real tokenizer gives them; the reasoning parser looks them up at start.
SPECIAL = {0: "<bos>", 1: "<eos>", 2: "<unk>", 128798: "<think>", 128799: "</think>"}
CONFIG: dict[str, Any] = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 7168,
    "initializer_range": 0.02,
    "intermediate_size": 18432,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 9,
    "num_key_value_heads": 128,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "quantization_config": {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [128, 128],
    },
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 4,
    "topk_method": "noaux_tc",
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": VOCABULARY,
}


def tokenizer(vocabulary: int) -> dict[str, object]:
    """The tokenizers library's own format: words separated by blanks, one a token id."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {SPECIAL.get(i, f"w{i}"): i for i in range(vocabulary)},
            "unk_token": SPECIAL[2],
        },
    }


def write(folder: Path, config: dict[str, Any]) -> None:
    """Writes a model folder for a config.json, with a tokenizer of its vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    length = config["max_position_embeddings"]
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": length}
    names |= {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    names |= {"chat_template": "{% for m in messages %}{{ m['content'] }} {% endfor %}"}
    files = {
        "config.json": config,
        "tokenizer.json": tokenizer(config["vocab_size"]),
        "tokenizer_config.json": names,
        "generation_config.json": {"bos_token_id": 0, "eos_token_id": 1},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    write(Path(sys.argv[1]), CONFIG)
