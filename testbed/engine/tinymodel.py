"""tinymodel.py FOLDER: a small DeepSeek-V3 (MLA, mixture of experts) with saved weights.

Runs in the engine's environment. The weights come from a fixed seed, so every layout and machine
gets the same. Embedding and output layer are built so that each token has one likely successor:
the model thinks and answers in fixed sentences and then ends, which makes a streamed chat with its
reasoning split readable. The layers between are random and change the probabilities, so that
comparing log-probabilities between layouts compares all of them.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tinymodel_text import ANSWER, THOUGHT
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCABULARY = 4096
SPECIALS = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜▁pad▁｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
]
# Not special, as in DeepSeek R1's own tokenizer: vLLM's streaming parser looks for them in the text, and
# takes the text apart in the wrong place when a chunk has the token and they are not shown.
THINK = ["<think>", "</think>"]
# Every token has one successor, so no token may occur twice in what the model says.
TEXT = "<think>\n" + THOUGHT + "</think>" + ANSWER + SPECIALS[1]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ m['content'] }}"
    "{% elif m['role'] == 'user' %}{{ '<｜User｜>' + m['content'] }}"
    "{% elif m['role'] == 'assistant' %}{{ '<｜Assistant｜>' + m['content'] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}"
)
CONFIG = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3",
    "torch_dtype": "bfloat16",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 128,
    "initializer_range": 0.02,
    "intermediate_size": 256,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 64,
    "moe_layer_freq": 1,
    "n_group": 2,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
    "num_attention_heads": 4,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 4,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 0,
    "q_lora_rank": 64,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid",
    "tie_word_embeddings": False,
    "topk_group": 1,
    "topk_method": "noaux_tc",
    "use_cache": True,
    "v_head_dim": 128,
    "vocab_size": VOCABULARY,
}


def tokenizer() -> Tokenizer:
    """Train a small byte-level tokenizer on the Python standard library, sorted by name."""
    made = Tokenizer(models.BPE(unk_token=None))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    files = sorted(str(path) for path in Path(json.__file__).parent.parent.glob("*.py"))[:60]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(THINK),
        special_tokens=SPECIALS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    spoken = (THOUGHT + " " + ANSWER).replace(",", "").replace(".", "").replace("!", "").split()
    words = [*(f" {word}" for word in spoken), "Half", "Hello"]
    text = [Path(file).read_text(encoding="utf-8", errors="replace") for file in files]
    # The sentences' own words often enough that each is one token.
    made.train_from_iterator([*text, *(["".join(words)] * 2000)], trainer)
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in THINK])
    return made


def successors(ids: list[int], random: torch.Generator) -> torch.Tensor:
    """A permutation of the vocabulary that leads along `ids`."""
    if len(set(ids)) != len(ids):
        raise SystemExit(f"a token occurs twice in {ids}")
    after = dict(itertools.pairwise(ids))
    rest = [i for i in range(VOCABULARY) if i not in set(ids[1:])]
    order = torch.randperm(len(rest), generator=random).tolist()
    free = iter(rest[i] for i in order)
    return torch.tensor([after[i] if i in after else next(free) for i in range(VOCABULARY)])


def weights(follow: torch.Tensor, random: torch.Generator) -> dict[str, torch.Tensor]:
    """All tensors under the names of a DeepSeek-V3 checkpoint."""
    hidden, heads = CONFIG["hidden_size"], CONFIG["num_attention_heads"]
    nope, rope, value = 128, CONFIG["qk_rope_head_dim"], CONFIG["v_head_dim"]
    made: dict[str, torch.Tensor] = {}

    def linear(name: str, rows: int, columns: int) -> None:
        scale = 0.7 / columns**0.5
        made[name + ".weight"] = torch.randn(rows, columns, generator=random) * scale

    def norm(name: str, size: int) -> None:
        made[name + ".weight"] = torch.ones(size)

    def mlp(name: str, size: int) -> None:
        linear(name + ".gate_proj", size, hidden)
        linear(name + ".up_proj", size, hidden)
        linear(name + ".down_proj", hidden, size)

    embedding = torch.randn(VOCABULARY, hidden, generator=random)
    output = torch.empty_like(embedding)
    output[follow] = embedding * 0.15  # logit of the successor about 19, of any other 0 +- 1.7
    made["model.embed_tokens.weight"], made["lm_head.weight"] = embedding, output
    for layer in range(CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        norm(f"{at}.input_layernorm", hidden)
        norm(f"{at}.post_attention_layernorm", hidden)
        linear(f"{at}.self_attn.q_a_proj", CONFIG["q_lora_rank"], hidden)
        norm(f"{at}.self_attn.q_a_layernorm", CONFIG["q_lora_rank"])
        linear(f"{at}.self_attn.q_b_proj", heads * (nope + rope), CONFIG["q_lora_rank"])
        linear(f"{at}.self_attn.kv_a_proj_with_mqa", CONFIG["kv_lora_rank"] + rope, hidden)
        norm(f"{at}.self_attn.kv_a_layernorm", CONFIG["kv_lora_rank"])
        linear(f"{at}.self_attn.kv_b_proj", heads * (nope + value), CONFIG["kv_lora_rank"])
        linear(f"{at}.self_attn.o_proj", hidden, heads * value)
        if layer < CONFIG["first_k_dense_replace"]:
            mlp(f"{at}.mlp", CONFIG["intermediate_size"])
            continue
        linear(f"{at}.mlp.gate", CONFIG["n_routed_experts"], hidden)
        made[f"{at}.mlp.gate.e_score_correction_bias"] = torch.zeros(CONFIG["n_routed_experts"])
        mlp(f"{at}.mlp.shared_experts", CONFIG["moe_intermediate_size"])
        for expert in range(CONFIG["n_routed_experts"]):
            mlp(f"{at}.mlp.experts.{expert}", CONFIG["moe_intermediate_size"])
    norm("model.norm", hidden)
    keep = "e_score_correction_bias"  # float32 in DeepSeek's own checkpoint
    return {k: t if k.endswith(keep) else t.to(torch.bfloat16) for k, t in made.items()}


def main() -> None:
    """Write the folder."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    made = tokenizer()
    made.save(str(out / "tokenizer.json"))
    random = torch.Generator().manual_seed(20261122)
    follow = successors(made.encode(TEXT, add_special_tokens=False).ids, random)
    save_file(weights(follow, random), out / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "bos_token": SPECIALS[0],
        "eos_token": SPECIALS[1],
        "pad_token": SPECIALS[2],
        "add_bos_token": False,
        "model_max_length": CONFIG["max_position_embeddings"],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": TEMPLATE,
    }
    generation = {"bos_token_id": 0, "eos_token_id": 1, "do_sample": True, "temperature": 0.6}
    for name, data in (
        ("tokenizer_config.json", settings),
        ("config.json", CONFIG),
        ("generation_config.json", generation),
    ):
        text = json.dumps(data, ensure_ascii=False, indent=1)
        (out / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
