#!/usr/bin/env bash
# Writes the queues of one round of measurements: bash benchmarks/gpu/slice/round.sh FOLDER
#
#   v1.jsonl, v2.jsonl  a rank of the A3 Mega default on an H100 with either model runner: memory, seats, step times
#   h200.jsonl          a rank of one host of eight H200 (A3 Ultra's default has the same rank and flags)
#   two-hosts.jsonl     the A3 Mega default against the published flags with the real machine's KV tokens
#   ray.jsonl           the same default over Ray
#
# Each queue has what matters most first and may be cut off anywhere. Seats n in flight on a rank are 2 n
# in the group of two stages. Every load is whole waves of its seats.
set -euo pipefail

out=${1:?usage: round.sh FOLDER}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"
end='{"end": true}'

derive() {
  "${PYTHON:-python3}" "$here/derive.py" "$@"
}

# Two stages' worth of 364,800 tokens: what a rank of this group was seen to have room for.
measured=729600
mega=a3mega/deepseek-r1-671b
steps=8x1000/128@1,16x1000/128@8,64x1000/128@32,256x1000/128@128
burst=512x1000/256@256
{
  derive $mega --variant a3mega-v1 --kv-tokens $measured \
    --loads "384x1000/1000@192,512x1000/1000@256,$steps,320x1000/1000@160,448x1000/1000@224"
  derive $mega --variant a3mega-v1-0.88 --kv-tokens fit --set utilization=0.88 --loads $burst
  derive $mega --variant a3mega-v1-fit --kv-tokens fit --loads $burst
  for tokens in 8192 2048; do
    derive $mega --variant "a3mega-v1-mbt-$tokens" --kv-tokens fit \
      --set "arguments.max-num-batched-tokens=$tokens" --loads $burst
  done
  echo "$end"
} >"$out/v1.jsonl"

v2=(--set 'variables.VLLM_USE_V2_MODEL_RUNNER="1"')
{
  derive $mega "${v2[@]}" --variant a3mega-v2 --kv-tokens $measured \
    --loads "384x1000/1000@192,512x1000/1000@256,$steps,320x1000/1000@160,448x1000/1000@224"
  derive $mega "${v2[@]}" --variant a3mega-v2-0.88 --kv-tokens fit --set utilization=0.88 --loads $burst
  derive $mega "${v2[@]}" --variant a3mega-v2-fit --kv-tokens fit --loads $burst
  echo "$end"
} >"$out/v2.jsonl"

host=runpod-h200/single-host
{
  derive $host --variant h200-single-host --kv-tokens fit --loads "256x1000/1000@256,$steps"
  derive $host "${v2[@]}" --variant h200-single-host-v2 --kv-tokens fit --loads 256x1000/1000@256
  echo "$end"
} >"$out/h200.jsonl"

load() { # PROMPTS IN_FLIGHT REPETITIONS
  printf '{"prompts": %d, "input": 1000, "output": 1000, "limit": %d, "repetitions": %d}' "$@"
}
server() { # VARIANT VALUES BLOCKS STEPS [MORE VARIABLES [MORE FLAGS [MORE KEYS]]]
  printf '{"variant": "%s", "values": "%s", "serverArgs": {"num-gpu-blocks-override": %d%s}, ' "$1" "$2" "$3" "${6-}"
  printf '"env": {"VLLM_WORKER_MULTIPROC_METHOD": "fork"%s}, "steps": [%s]%s}\n' "${5-}" "$4" "${7-}"
}
ours=../../recipes/a3mega/deepseek-r1-671b/values.yaml
{
  # Blocks of 16 tokens: 45,000 are 720,000 tokens, 33,468 are 535,488. The published flags' 128 seats of at
  # most 2000 tokens fit into either, so one of them is enough.
  server recipe-720k $ours 45000 "$(load 512 512 2), $(load 384 384 1)"
  server published published.yaml 45000 "$(load 256 128 2)"
  server recipe-535k $ours 33468 "$(load 512 512 1), $(load 384 384 1)"
  server v2-sync-720k $ours 45000 "$(load 384 384 2)" \
    ', "VLLM_USE_V2_MODEL_RUNNER": "1"' ', "async-scheduling": false'
  echo "$end"
} >"$out/two-hosts.jsonl"
{
  server recipe-720k-ray $ours 45000 "$(load 512 512 1), $(load 384 384 1)" "" "" ', "executor": "ray"'
  echo "$end"
} >"$out/ray.jsonl"
