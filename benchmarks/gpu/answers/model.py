"""Writes a DeepSeek-V3 type checkpoint that answers from its KV cache: python model.py FOLDER.

Nothing is trained: every weight is set so that the model looks links up in its own context (see
prompts.py for what it is asked), with wide margins between the right token and the next one.

- Every symbol has a code of +-1. Embeddings hold codes in fields of the residual stream; a weight
  matrix moves a field to another, and is 0 elsewhere.
- Layer 0 looks at the token before (rotary part of MLA) and writes down which it was; its dense
  feed-forward moves that to where the next layers read it.
- Symbols are split into classes, one for each other layer. That layer's attention finds, for a
  token of its class, the position whose token before has the same symbol, and brings that
  position's symbol. All other tokens look at <bos>, which brings nothing.
- Its routed experts are chosen by the symbol brought; each shuffles the symbol's code in its own
  way, and the output layer knows the sum that the right eight make. The shared expert brings
  whether a T or a U is to be said.

So every layer's KV cache, every expert and both pipeline stages are in the way of an answer.
Shape `rank` has the tensors of one of eight tensor parallel ranks of DeepSeek R1 (hidden 7168, 16
heads, 256 experts of width 256, FP8 in blocks of 128 x 128), 6 layers; `small` is for CPUs, bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from prompts import BOS, EOS, QUESTION, UNKNOWN, Vocabulary
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]

NOPE, ROPE, VALUE, LATENT = 128, 64, 128, 512
ROUTED_SCALE = 2.5
FP8_MOST, BLOCK = 448.0, 128  # largest e4m3 number; https://arxiv.org/abs/2412.19437, 3.3
YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "original_max_position_embeddings": 4096,
    "rope_type": "yarn",
    "type": "yarn",
}
# MLA's softmax scale with YaRN: (nope + rope)^-1/2 x mscale^2.
SOFTMAX = (NOPE + ROPE) ** -0.5 * (0.1 * math.log(YARN["factor"]) + 1) ** 2

# What attention scores are made of, in nats: the right position gets CODE + KIND + OWN, another
# symbol's 0.6 x CODE + KIND + OWN at most, the wrong kind of link CODE + OWN, and <bos> SINK.
CODE, KIND, OWN, SINK = 60.0, 30.0, 40.0, 85.0
PAIRS, PAIR = 8, 23.0  # rotary pairs that find the token before, and what each adds
GATE = 8.0  # input of an open gate; a closed one gets as much less than 0
LOGIT, KIND_LOGIT = 60.0, 20.0  # what the right symbol gets, and the right one of T and U


@dataclass(frozen=True)
class Shape:
    """Sizes of a model; see `SHAPES`."""

    hidden: int
    layers: int
    heads: int
    q_rank: int
    vocabulary: Vocabulary
    code: int  # +-1 that tell the symbols of a class apart
    name: int  # +-1 that tell all symbols apart
    experts: int
    expert_groups: int
    groups_used: int
    expert_width: int
    dense_width: int
    embedded: int  # entries of an embedding that are not 0
    fp8: bool

    @property
    def classes(self) -> int:
        """One for each layer that looks up."""
        return self.layers - 1

    @property
    def per_token(self) -> int:
        """Experts a token goes to: two of each group used."""
        return 2 * self.groups_used

    @property
    def patterns(self) -> int:
        """Disjoint sets of experts that tokens go to."""
        return self.experts // self.per_token


SHAPES = {
    "rank": Shape(
        hidden=7168,
        layers=6,
        heads=16,
        q_rank=1536,
        vocabulary=Vocabulary(5000, 16160),
        code=80,
        name=240,
        experts=256,
        expert_groups=8,
        groups_used=4,
        expert_width=256,
        dense_width=2304,
        embedded=1280,
        fp8=True,
    ),
    "small": Shape(
        hidden=1280,
        layers=4,
        heads=4,
        q_rank=256,
        vocabulary=Vocabulary(300, 1024),
        code=48,
        name=96,
        experts=16,
        expert_groups=4,
        groups_used=2,
        expert_width=128,
        dense_width=256,
        embedded=320,
        fp8=False,
    ),
}


def config(shape: Shape) -> dict[str, object]:
    """The checkpoint's config.json: DeepSeek R1's, with this shape's sizes."""
    quantization = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    }
    return {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "torch_dtype": "bfloat16",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "ep_size": 1,
        "first_k_dense_replace": 1,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initializer_range": 0.02,
        "intermediate_size": shape.dense_width,
        "kv_lora_rank": LATENT,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": shape.expert_width,
        "moe_layer_freq": 1,
        "n_group": shape.expert_groups,
        "n_routed_experts": shape.experts,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": shape.per_token,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.heads,
        "num_nextn_predict_layers": 0,
        "q_lora_rank": shape.q_rank,
        "qk_nope_head_dim": NOPE,
        "qk_rope_head_dim": ROPE,
        "rms_norm_eps": 1e-6,
        "rope_scaling": YARN,
        "rope_theta": 10000,
        "routed_scaling_factor": ROUTED_SCALE,
        "scoring_func": "sigmoid",
        "tie_word_embeddings": False,
        "topk_group": shape.groups_used,
        "topk_method": "noaux_tc",
        "use_cache": True,
        "v_head_dim": VALUE,
        "vocab_size": shape.vocabulary.size,
        **({"quantization_config": quantization} if shape.fp8 else {}),
    }


class Model:
    """The weights, made layer by layer; seeded, so that every machine gets the same."""

    def __init__(self, shape: Shape, device: str) -> None:
        self.shape = shape
        self.device = device
        self.random = torch.Generator().manual_seed(20261126)
        linked, named = shape.code + 2, shape.name + shape.patterns
        # Fields of the residual stream, one after the other; the rest of it is filled with noise.
        widths = {
            "one": 1,  # 1 in every embedding
            "bos": 1,  # 1 in that of <bos>
            "own": 1,  # 1 in those of T and Q
            "say": 1,  # what comes next: 1 a T, -1 a U
            "class": shape.classes,  # one-hot, of T, U and Q
            "as": shape.classes * linked,  # what the next token keeps of this one, F, T and Q
            "seek": shape.classes * linked,  # what this one looks for, T, U and Q
            "name": named,  # code and pattern of the symbol, of T and Q
            "before_raw": shape.classes * linked,  # written by layer 0's attention
            "before": shape.classes * linked,  # and by its feed-forward
            "found": named,  # written by the attention that looked up
            "out": shape.name,  # by its routed experts
            "out_say": 1,  # by its shared expert
        }
        self.at: dict[str, int] = {}
        end = 0
        for name, width in widths.items():
            self.at[name] = end
            end += width
        self.free = end
        self.linked, self.named = linked, named
        symbols = shape.vocabulary.symbols + 1  # the last is Q's
        self.pattern = torch.randint(shape.patterns, (symbols,), generator=self.random)
        self.names = self.signs(symbols, shape.name)
        self.codes = self.apart(symbols, shape.code)
        # Each expert's own way to shuffle a name.
        order = [torch.randperm(shape.name, generator=self.random) for _ in range(shape.experts)]
        self.order = torch.stack(order)
        self.sign = self.signs(shape.experts, shape.name)

    def signs(self, rows: int, columns: int) -> torch.Tensor:
        """Random +-1."""
        return torch.randint(2, (rows, columns), generator=self.random).float() * 2 - 1

    def apart(self, rows: int, columns: int) -> torch.Tensor:
        """Codes of +-1, of which no two of a class (number modulo classes) agree by more than 0.6."""
        made = self.signs(rows, columns)
        while True:
            again: set[int] = set()
            for group in range(self.shape.classes):
                mine = made[group :: self.shape.classes]
                close = (mine @ mine.T / columns).tril(-1) > 0.6
                again |= {group + i * self.shape.classes for i in close.any(1).nonzero()[:, 0].tolist()}
            if not again:
                return made
            made[sorted(again)] = self.signs(len(again), columns)

    def zeros(self, rows: int, columns: int) -> torch.Tensor:
        """An empty matrix."""
        return torch.zeros(rows, columns, device=self.device)

    def moved(self, rows: int, columns: int, *moves: tuple[int, int, int, float]) -> torch.Tensor:
        """A matrix that moves `count` entries from column `there` on to row `here` on, times a factor."""
        made = self.zeros(rows, columns)
        for here, there, count, factor in moves:
            index = torch.arange(count, device=self.device)
            made[here + index, there + index] += factor
        return made

    def experts_of(self, pattern: int) -> list[int]:
        """Which experts a pattern goes to: two of each of `groups_used` groups."""
        shape = self.shape
        sets = shape.expert_groups // shape.groups_used
        size = shape.experts // shape.expert_groups
        first, within = (pattern % sets) * shape.groups_used, 2 * (pattern // sets)
        groups = range(first, first + shape.groups_used)
        return [group * size + within + i for group in groups for i in range(2)]

    def embeddings(self) -> torch.Tensor:
        """One row a token."""
        shape, words, at = self.shape, self.shape.vocabulary, self.at
        made = torch.zeros(words.size, shape.hidden)
        made[:, at["one"]] = 1
        made[BOS, at["bos"]] = 1
        question = words.symbols
        for symbol in range(words.symbols + 1):
            group = symbol % shape.classes
            code = self.codes[symbol]
            kinds = {"F": words.start(symbol), "T": words.to(symbol), "U": words.again(symbol)}
            if symbol == question:
                kinds = {"Q": QUESTION}
            for kind, token in kinds.items():
                row = made[token]
                if kind != "U":
                    here = at["as"] + group * self.linked
                    row[here : here + shape.code] = code
                    row[here + shape.code + (kind != "F")] = 1
                if kind != "F":
                    here = at["seek"] + group * self.linked
                    row[here : here + shape.code] = code
                    row[here + shape.code + (kind != "T")] = 1
                    row[at["class"] + group] = 1
                    row[at["say"]] = 1 if kind == "T" else -1
                if kind in "TQ":
                    row[at["own"]] = 1
                    row[at["name"] : at["name"] + shape.name] = self.names[symbol]
                    row[at["name"] + shape.name + int(self.pattern[symbol])] = 1
        # Noise up to the same number of entries: every token has the same norm.
        noise = self.signs(words.size, shape.hidden - self.free)
        missing = shape.embedded - made.count_nonzero(1)
        if int(missing.min()) < 0 or int(missing.max()) > noise.shape[1]:
            raise SystemExit(f"embedded must be {shape.embedded - int(missing.min())} or more")
        rank = torch.rand(noise.shape, generator=self.random).argsort(1).argsort(1)
        made[:, self.free :] = noise * (rank < missing[:, None])
        return made

    def output(self) -> torch.Tensor:
        """The output layer: what the right experts make of each symbol's name, and T or U."""
        shape, words, at = self.shape, self.shape.vocabulary, self.at
        made = torch.zeros(words.size, shape.hidden)
        unit = (shape.hidden / shape.embedded) ** 0.5  # about what 1 is after the norm
        for symbol in range(words.symbols + 1):
            total = torch.zeros(shape.name)
            for expert in self.experts_of(int(self.pattern[symbol])):
                total += self.sign[expert] * self.names[symbol][self.order[expert]]
            row = total * (LOGIT / unit / (total.norm() ** 2 * self.out_gain))
            says = {words.to(symbol): 1, words.again(symbol): -1}
            if symbol == words.symbols:
                says = {QUESTION: 1, EOS: -1}
            for token, sign in says.items():
                made[token, at["out"] : at["out"] + shape.name] = row
                made[token, at["out_say"]] = sign * KIND_LOGIT / unit
        return made

    @property
    def out_gain(self) -> float:
        """What one expert adds to an entry of `out`, so that their sum is about 1."""
        return self.shape.per_token**-0.5

    def previous(self, name: str) -> Tensors:
        """Layer 0's attention: keep of the token before what it is known `as`."""
        shape, at = self.shape, self.at
        unit = (shape.hidden / shape.embedded) ** 0.5
        count = shape.classes * self.linked
        q_b = self.zeros(shape.heads * (NOPE + ROPE), shape.q_rank)
        kv_a = self.moved(LATENT + ROPE, shape.hidden, (0, at["as"], count, 1.0))
        latent = shape.q_rank**0.5  # the only entry of the query's latent, normed
        each = (PAIR / SOFTMAX) ** 0.5
        for pair in range(PAIRS):
            angle = 10000 ** (-2 * pair / ROPE)
            for head in range(shape.heads):
                row = head * (NOPE + ROPE) + NOPE + 2 * pair
                q_b[row, 0] = each / latent * math.cos(angle)
                q_b[row + 1, 0] = -each / latent * math.sin(angle)
            kv_a[LATENT + 2 * pair, at["one"]] = each / unit
        gain = ((shape.code + 1) / LATENT) ** 0.5  # 1 in the latent after its norm, inverted
        q_a = self.moved(shape.q_rank, shape.hidden, (0, at["one"], 1, 1.0))
        return {
            f"{name}.q_a_proj": q_a,
            f"{name}.q_b_proj": q_b,
            f"{name}.kv_a_proj_with_mqa": kv_a,
            **self.brought(name, 0, count, at["before_raw"], gain, self.zeros(NOPE, LATENT)),
        }

    def brought(
        self, name: str, first: int, count: int, target: int, gain: float, keys: torch.Tensor
    ) -> Tensors:
        """kv_b_proj and o_proj: latents from `first` on, shared out over the heads, go to `target`."""
        shape = self.shape
        share = -(-count // shape.heads)
        kv_b = self.zeros(shape.heads * (NOPE + VALUE), LATENT)
        o = self.zeros(shape.hidden, shape.heads * VALUE)
        for head in range(shape.heads):
            row, done = head * (NOPE + VALUE), head * share
            kv_b[row : row + NOPE] = keys
            index = torch.arange(max(0, min(share, count - done)), device=self.device)
            kv_b[row + NOPE + index, first + done + index] = 1.0
            o[target + done + index, head * VALUE + index] = gain
        return {f"{name}.kv_b_proj": kv_b, f"{name}.o_proj": o}

    def lookup(self, name: str, group: int) -> Tensors:
        """The attention of the layer that looks up the symbols of one class."""
        shape, at = self.shape, self.at
        code, linked = shape.code, self.linked
        # Latent of a key: what was before (code and kind), name and pattern, own, <bos>, and the same
        # for all tokens, three times the rest: the norm must not lift those that have less.
        own, bos = linked + self.named, linked + self.named + 1
        entries = code + 1 + shape.name + 1 + 1
        steady_key = (3 * entries) ** 0.5
        kv_a = self.moved(
            LATENT + ROPE,
            shape.hidden,
            (0, at["before"] + group * linked, linked, 1.0),
            (linked, at["name"], self.named, 1.0),
            (own, at["own"], 1, 1.0),
            (bos, at["bos"], 1, steady_key),
            (bos + 1, at["one"], 1, steady_key),
        )
        key = (LATENT / (4 * entries)) ** 0.5  # what 1 is in that latent, normed
        key_bos = (LATENT / 2) ** 0.5
        # Latent of a query: the same for all tokens, as much as the rest, then what is sought.
        steady = (code + 1) ** 0.5
        q_a = self.moved(
            shape.q_rank,
            shape.hidden,
            (0, at["one"], 1, steady),
            (1, at["seek"] + group * linked, linked, 1.0),
        )
        query = (shape.q_rank / (2 * (code + 1))) ** 0.5
        q_b = self.zeros(shape.heads * (NOPE + ROPE), shape.q_rank)
        keys = self.moved(NOPE, LATENT, (0, 0, linked, 1.0), (linked, own, 2, 1.0))
        nats = query * key * SOFTMAX
        for head in range(shape.heads):
            row = head * (NOPE + ROPE)
            index = torch.arange(code, device=self.device)
            q_b[row + index, 1 + index] = CODE / code / nats
            for kind in range(2):
                q_b[row + code + kind, 1 + code + kind] = KIND / nats
                q_b[row + linked, 1 + code + kind] = OWN / nats
            q_b[row + linked + 1, 0] = SINK / (query * steady * key_bos * SOFTMAX)
        return {
            f"{name}.q_a_proj": q_a,
            f"{name}.q_b_proj": q_b,
            f"{name}.kv_a_proj_with_mqa": kv_a,
            **self.brought(name, linked, self.named, at["found"], 1 / key, keys),
        }

    def gated(
        self, name: str, width: int, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor
    ) -> Tensors:
        """A feed-forward: the same gate for all its rows."""
        rows = self.zeros(width, self.shape.hidden)
        rows[: up.shape[0]] = gate
        filled_up, filled_down = self.zeros(width, self.shape.hidden), self.zeros(self.shape.hidden, width)
        filled_up[: up.shape[0]] = up
        filled_down[:, : up.shape[0]] = down
        return {f"{name}.gate_proj": rows, f"{name}.up_proj": filled_up, f"{name}.down_proj": filled_down}

    def dense(self, name: str) -> Tensors:
        """Layer 0's feed-forward: before_raw goes to before."""
        shape, at = self.shape, self.at
        unit = (shape.hidden / shape.embedded) ** 0.5
        count = shape.classes * self.linked
        gate = self.moved(1, shape.hidden, (0, at["one"], 1, GATE / unit))
        up = self.moved(count, shape.hidden, (0, at["before_raw"], count, 1.0))
        down = self.moved(shape.hidden, count, (at["before"], 0, count, 1 / GATE / unit))
        return self.gated(name, shape.dense_width, gate, up, down)

    def mixture(self, name: str, group: int) -> Tensors:
        """Router, experts and shared expert of the layer that looks up one class."""
        shape, at = self.shape, self.at
        unit = (shape.hidden / shape.embedded) ** 0.5
        router = self.zeros(shape.experts, shape.hidden)
        router[:, at["one"]] = -GATE / unit
        for pattern in range(shape.patterns):
            router[self.experts_of(pattern), at["found"] + shape.name + pattern] = 2 * GATE / unit
        gate = self.moved(
            1, shape.hidden, (0, at["class"] + group, 1, 2 * GATE / unit), (0, at["one"], 1, -GATE / unit)
        )
        up = self.moved(1, shape.hidden, (0, at["say"], 1, 1.0))
        down = self.moved(shape.hidden, 1, (at["out_say"], 0, 1, 1 / GATE / unit))
        made = {f"{name}.gate": router}
        made |= self.gated(f"{name}.shared_experts", shape.expert_width, gate, up, down)
        up = self.moved(shape.name, shape.hidden, (0, at["found"], shape.name, 1.0))
        # A token's weights are equal and add up to the routed scale.
        gain = self.out_gain * shape.per_token / ROUTED_SCALE / GATE / unit
        index = torch.arange(shape.name)
        for expert in range(shape.experts):
            down = self.zeros(shape.hidden, shape.name)
            down[at["out"] + index, self.order[expert]] = (self.sign[expert] * gain).to(self.device)
            made |= self.gated(f"{name}.experts.{expert}", shape.expert_width, gate, up, down)
        return made

    def stored(self, matrices: Tensors) -> Tensors:
        """Matrices under their names in a checkpoint: FP8 with block scales, or bfloat16."""
        made: Tensors = {}
        for name, matrix in matrices.items():
            if not self.shape.fp8 or name.endswith(".gate"):
                made[f"{name}.weight"] = matrix.to(torch.bfloat16).cpu()
                continue
            rows, columns = matrix.shape
            high, wide = -(-rows // BLOCK), -(-columns // BLOCK)
            padded = self.zeros(high * BLOCK, wide * BLOCK)
            padded[:rows, :columns] = matrix
            blocks = padded.view(high, BLOCK, wide, BLOCK)
            scale = blocks.abs().amax((1, 3)) / FP8_MOST
            scale[scale == 0] = 1.0
            small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            made[f"{name}.weight"] = (
                small.view(high * BLOCK, wide * BLOCK)[:rows, :columns].contiguous().cpu()
            )
            made[f"{name}.weight_scale_inv"] = scale.cpu()
        return made

    def layer(self, number: int) -> Tensors:
        """All tensors of one layer."""
        shape, name = self.shape, f"model.layers.{number}"
        norms = {"input_layernorm": shape.hidden, "post_attention_layernorm": shape.hidden}
        norms |= {"self_attn.q_a_layernorm": shape.q_rank, "self_attn.kv_a_layernorm": LATENT}
        made = {f"{name}.{key}.weight": torch.ones(size, dtype=torch.bfloat16) for key, size in norms.items()}
        if number == 0:
            made |= self.stored(self.previous(f"{name}.self_attn") | self.dense(f"{name}.mlp"))
        else:
            made |= self.stored(self.lookup(f"{name}.self_attn", number - 1))
            made |= self.stored(self.mixture(f"{name}.mlp", number - 1))
            made[f"{name}.mlp.gate.e_score_correction_bias"] = torch.zeros(shape.experts)
        return made


def tokenizer(size: int) -> dict[str, object]:
    """The tokenizers library's own format: words separated by blanks, one a token id."""
    special = {BOS: "<bos>", EOS: "<eos>", UNKNOWN: "<unk>", QUESTION: "<question>"}
    special |= {4: "<think>", 5: "</think>"}  # the reasoning parser looks them up at start
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
            "vocab": {special.get(i, f"w{i}"): i for i in range(size)},
            "unk_token": special[UNKNOWN],
        },
    }


def main() -> None:
    """Writes the folder named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="rank")
    options = parser.parse_args()
    shape: Shape = SHAPES[options.shape]
    options.folder.mkdir(parents=True, exist_ok=True)
    model = Model(shape, "cuda" if torch.cuda.is_available() else "cpu")
    parts = {"ends": {
        "model.embed_tokens.weight": model.embeddings().to(torch.bfloat16),
        "lm_head.weight": model.output().to(torch.bfloat16),
        "model.norm.weight": torch.ones(shape.hidden, dtype=torch.bfloat16),
    }}  # fmt: skip
    index: dict[str, str] = {}
    for number in range(-1, shape.layers):
        tensors = parts["ends"] if number < 0 else model.layer(number)
        file = f"model-{number + 2:05d}-of-{shape.layers + 1:05d}.safetensors"
        save_file(tensors, options.folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, file)
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 163840}
    names |= {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    files = {
        "model.safetensors.index.json": {"metadata": {}, "weight_map": index},
        "config.json": config(shape),
        "tokenizer.json": tokenizer(shape.vocabulary.size),
        "tokenizer_config.json": names,
        "generation_config.json": {"bos_token_id": BOS, "eos_token_id": EOS},
    }
    for name, content in files.items():
        (options.folder / name).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
