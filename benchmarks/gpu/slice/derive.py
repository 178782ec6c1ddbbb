"""Prints a queue line for driver.py: one rank or more of a recipe's group, as a server on as many GPUs.

    python benchmarks/gpu/slice/derive.py a3mega/deepseek-r1-671b --loads 512x1000/1000@256 >> queue.jsonl

The ranks are those of the stage that limits the KV cache. Their model has the stage's layers, the whole
hidden width, and of every width that tensor parallelism cuts as many ranks' shares as there are GPUs, so
that a rank is the group's own and messages between ranks have their real size. With all GPUs of a stage
it is the stage itself, and where that is the whole group, the group. The server has the recipe's own
flags, with the seats and the KV tokens of the group divided by the pipeline's stages, since that many
are in one stage at a time. It needs manyhost and no GPU; the line needs no manyhost.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from manyhost.catalog import Catalog, resolve
from manyhost.catalog.model import GqaDense, GqaMoe, MlaMoe, Model
from manyhost.errors import ManyhostError
from manyhost.plan import Plan, Role, make_plan
from manyhost.plan.memory import GIB, stage_weights_bytes

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from model import CONFIG  # noqa: E402
from predict import predicted  # noqa: E402

LOAD = re.compile(r"(\d+)x(\d+)/(\d+)(?:@(\d+))?(?:\*(\d+))?")
# The forms of a request, not of a rank; the parser also looks for words that a cut vocabulary lacks.
NOT_A_RANKS = {"reasoning-parser": None}
# Tokens of a block of FLASH_ATTN and FLASH_ATTN_MLA, which vLLM 0.26 takes on an H100 (results/); the plan
# rounds to the largest that a backend has.
BLOCK_TOKENS = 16
# What a part of a group cannot stand for, and what needs all ranks of a stage.
NOT_CUT = ("speculative-config", "cpu-offload-gb", "kv-transfer-config")
WHOLE_STAGE = ("enable-expert-parallel", "decode-context-parallel-size")
QWEN = {
    # https://huggingface.co/Qwen/Qwen3-235B-A22B-Instruct-2507/blob/main/config.json
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "rms_norm_eps": 1e-06,
    "rope_theta": 5000000,
    "torch_dtype": "bfloat16",
    "use_cache": True,
}
QWEN_EXPERTS = {
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "norm_topk_prob": True,
    "num_experts_per_tok": 8,
}


class NoSlice(Exception):
    """The ranks on their own would not be what they are in the group."""


def limiting_stage(role: Role) -> int:
    """The pipeline stage whose GPUs hold the fewest KV tokens.

    Raises:
        NoSlice: its hosts have no GPUs, or its engine is not vLLM.
    """
    if role.weights:
        raise NoSlice("a slice runs vLLM, and the recipe is of another engine")
    if role.memory is None:
        raise NoSlice("its hosts have no GPUs")
    tokens = role.memory.kv_tokens_by_stage
    return tokens.index(min(tokens))


def ranks(role: Role, gpus: int) -> int:
    """The tensor parallel ranks that so many GPUs have of a stage; refuses what they cannot show.

    Raises:
        NoSlice: with the reason.
    """
    sizes = role.parallelism
    stage = sizes.tensor * sizes.data
    if not 0 < gpus <= stage or stage % gpus:
        raise NoSlice(f"{gpus} GPUs are no even part of a stage of {stage}")
    if gpus < stage:
        if sizes.data > 1:
            raise NoSlice(f"data parallel ranks share their experts: --gpus {stage}")
        for name in WHOLE_STAGE:
            if role.arguments.get(name):
                raise NoSlice(f"{name} needs all ranks of a stage: --gpus {stage}")
    for name in NOT_CUT:
        if role.arguments.get(name):
            raise NoSlice(f"{name} needs more than a stage's tensors")
    return gpus // sizes.data


def config(model: Model, share: Fraction, first: int, layers: int) -> dict[str, Any]:
    """The config.json of layers `first` to `first + layers`, with a share of every width that is cut."""
    a = model.architecture

    def cut(width: int) -> int:
        return math.ceil(width * share)

    common = {
        "hidden_size": a.hidden,
        "max_position_embeddings": model.max_context_tokens,
        "num_attention_heads": cut(a.heads),
        "num_hidden_layers": layers,
        "vocab_size": cut(a.vocabulary),
    }
    quantized = CONFIG["quantization_config"] if model.weight_format == "fp8-block" else None
    match a:
        case MlaMoe():
            own = CONFIG | {
                "first_k_dense_replace": max(0, min(a.dense_layers - first, layers)),
                "intermediate_size": cut(a.intermediate),
                "kv_lora_rank": a.kv_lora_rank,
                "moe_intermediate_size": cut(a.moe_intermediate),
                "n_routed_experts": a.routed_experts,
                "n_shared_experts": a.shared_experts,
                "num_key_value_heads": cut(a.heads),
                "q_lora_rank": a.q_lora_rank,
                "qk_nope_head_dim": a.qk_nope_head_dim,
                "qk_rope_head_dim": a.qk_rope_head_dim,
                "v_head_dim": a.v_head_dim,
            }
        case GqaMoe():
            own = QWEN | QWEN_EXPERTS
            own |= {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe"}
            own |= {"num_experts": a.routed_experts, "moe_intermediate_size": cut(a.moe_intermediate)}
            own |= {"intermediate_size": cut(a.moe_intermediate), "tie_word_embeddings": False}
        case GqaDense():
            own = QWEN | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"}
            own |= {"intermediate_size": cut(a.intermediate), "tie_word_embeddings": a.tied_embeddings}
    if isinstance(a, GqaMoe | GqaDense):
        own |= {"head_dim": a.head_dim, "num_key_value_heads": cut(a.kv_heads)}
    found = {name: value for name, value in own.items() if name != "quantization_config"} | common
    return found | ({"quantization_config": quantized} if quantized else {})


def weights(plan: Plan, role: Role, stage: int) -> tuple[int, int]:
    """The planned weight bytes of a rank of the stage, and what the slice holds beyond them.

    A server on its own has an embedding and an output head; a stage has the one, the other, or none.
    """
    first, count = sum(role.pipeline_layers[:stage]), role.pipeline_layers[stage]
    last = stage == len(role.pipeline_layers) - 1
    planned = stage_weights_bytes(
        plan.model, plan.engine, role.parallelism, first_layer=first, layers=count, is_last=last
    )
    a = plan.model.architecture
    table = 2 * a.vocabulary * a.hidden // role.parallelism.tensor
    tied = isinstance(a, GqaDense) and a.tied_embeddings
    missing = (stage > 0) + (not last and not tied)
    return planned, missing * table + (not last) * 2 * a.hidden


def steps(loads: str) -> list[dict[str, int]]:
    """Loads in words, PROMPTSxINPUT/OUTPUT[@IN_FLIGHT][*REPETITIONS],..., as the driver's steps.

    Raises:
        NoSlice: a load is not of that form.
    """
    found = []
    for words in filter(None, loads.split(",")):
        if not (match := LOAD.fullmatch(words)):
            raise NoSlice(f"{words}: a load is PROMPTSxINPUT/OUTPUT[@IN_FLIGHT][*REPETITIONS]")
        prompts, given, output, limit, repetitions = (int(part or 0) for part in match.groups())
        step = {"prompts": prompts, "input": given, "output": output, "limit": limit}
        found.append(step | {"repetitions": repetitions or 1})
    return found


def job(plan: Plan, role: Role, variant: str, kv_tokens: int, loads: str, gpus: int = 1) -> dict[str, Any]:
    """The queue line.

    Args:
        plan: The recipe's plan.
        role: The group whose ranks they are.
        variant: Its name in the results.
        kv_tokens: KV tokens of the group; 0 leaves the server what fits.
        loads: Loads in words.
        gpus: Ranks, one a GPU.

    Raises:
        NoSlice: the ranks on their own would not be what they are in the group.
    """
    tensor = ranks(role, gpus)
    stage, sizes = limiting_stage(role), role.parallelism
    first, count = sum(role.pipeline_layers[:stage]), role.pipeline_layers[stage]
    planned, beyond = weights(plan, role, stage)
    arguments = {"load-format": "dummy"} | role.arguments | NOT_A_RANKS
    if "max-num-seqs" in arguments:
        arguments["max-num-seqs"] = -(-arguments["max-num-seqs"] // sizes.pipeline)
    if kv_tokens:
        arguments["num-gpu-blocks-override"] = kv_tokens // sizes.pipeline // BLOCK_TOKENS
    assert role.memory
    made = {
        "variant": variant,
        "hosts": 1,
        "parallel": {"tensor": tensor, "data": sizes.data},
        "gpu_gib": plan.environment.host.gpu_memory_gib,
        "config": config(plan.model, Fraction(tensor, sizes.tensor), first, count),
        "serverArgs": arguments,
        "env": {"VLLM_WORKER_MULTIPROC_METHOD": "fork"} | plan.settings.variables,
        "plan": {
            "recipe": plan.recipe,
            "engine": plan.engine.version,
            "tensor": sizes.tensor,
            "pipeline": sizes.pipeline,
            "data": sizes.data,
            "stage": stage,
            "layers": count,
            "weights_gib": round(planned / GIB, 2),
            "beyond_gib": round(beyond / GIB, 2),
            "kv_tokens": role.memory.kv_tokens,
            "seats": role.arguments.get("max-num-seqs", 0),
        },
        "steps": steps(loads),
    }
    return made | ({"predicted": predicted(plan, role, made)} if gpus > 1 else {})


def main() -> None:
    """Reads the command line and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="as of `manyhost`")
    parser.add_argument("--variant", help="its name in the results; the recipe's otherwise")
    parser.add_argument("--gpus", type=int, default=1, help="ranks of the stage, one a GPU")
    parser.add_argument("--kv-tokens", help="of the group: a number, fit, or plan", default="plan")
    parser.add_argument("--loads", default="", help="PROMPTSxINPUT/OUTPUT[@IN_FLIGHT][*REPETITIONS],...")
    options = parser.parse_args()
    try:
        catalog = Catalog()
        plan = make_plan(resolve(catalog, options.recipe, assignments=options.set), catalog)
        role = plan.main
        told = {"fit": 0, "plan": role.memory.kv_tokens if role.memory else 0}
        tokens = told[options.kv_tokens] if options.kv_tokens in told else int(options.kv_tokens)
        name = options.variant or options.recipe
        print(json.dumps(job(plan, role, name, tokens, options.loads, options.gpus)))
    except (ManyhostError, NoSlice) as error:
        sys.exit(f"{options.recipe}: {error}")


if __name__ == "__main__":
    main()
