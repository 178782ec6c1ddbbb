#!/usr/bin/env bash
# Writes the queue of a round: bash benchmarks/gpu/disaggregated/round.sh FOLDER
#
#   apart.jsonl  prefill and decode apart, over host memory and TCP as the chart has it, then over NVLink; then one
#                engine on both GPUs: tensor parallel over NVLink, and two stages on two hosts over TCP
#
# The model is a rank of DeepSeek R1 at tensor 8, every sharded width divided by eight and the latent KV cache whole, as
# on each GPU of a real group; of its layers 20, to start sooner. KV bytes for each unit of computation are the real ones.
set -euo pipefail

out=${1:?usage: round.sh FOLDER}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"
line=$("${PYTHON:-python3}" "$here/../slice/derive.py" a3mega/deepseek-r1-671b --kv-tokens 640000)
"${PYTHON:-python3}" - "$line" >"$out/apart.jsonl" <<'PY'
import json
import sys

rank = json.loads(sys.argv[1])
rank["config"] |= {"num_hidden_layers": 20}
rank["plan"] |= {"layers": 20}
rank["serverArgs"] |= {"max-num-seqs": 128, "num-gpu-blocks-override": 20000}
# vLLM sets it for the workers of several GPUs only; without it the copies through host memory take 31 cores.
rank["env"] |= {"OMP_NUM_THREADS": "1"}
rank.pop("steps")


def load(prompts, given, output, limit, repetitions, **more):
    step = {"prompts": prompts, "input": given, "output": output, "limit": limit}
    return step | {"repetitions": repetitions} | more


loads = [load(128, 1000, 1000, 64, 2), load(256, 1000, 1000, 128, 1), load(128, 2000, 250, 64, 2)]
half = [load(64, 1000, 1000, 32, 1, port=8001), load(128, 1000, 1000, 64, 1, port=8001)]
half.append(load(64, 2000, 250, 32, 1, port=8001))
both = {"apart": {"buffer": "cpu", "env": {"UCX_TLS": "tcp,self"}}, "hosts": 2, "lose": "kill"}
nvlink = {"apart": {"buffer": "cuda", "env": {}}, "hosts": 1}
lines = [
    {"variant": "apart-tcp", **both, "steps": loads + half},
    {"variant": "apart-nvlink", **nvlink, "steps": loads},
    {"variant": "one-tensor-2", "hosts": 1, "parallel": {"tensor": 2, "data": 1}, "steps": loads},
    {"variant": "one-stages-2", "hosts": 2, "steps": loads},
    {"end": True},
]
for own in lines:
    print(json.dumps({**rank, **own} if "variant" in own else own))
PY
