#!/usr/bin/env bash
# Writes the queues that need several GPUs of one host: bash benchmarks/gpu/slice/stage.sh FOLDER
#
#   half-stage.jsonl  4 x H100: four of the eight ranks of the A3 Mega default's last stage, at their own widths
#   stage.jsonl       8 x H100: the whole stage
#   host.jsonl        8 x H200: all of DeepSeek R1 on one host, as runpod-h200/single-host (a3ultra has the same flags)
#
# Each queue has what matters most first, may be cut off anywhere, and goes on where it ended (driver.py --known).
# half-stage.jsonl is made for 7 to 8 minutes, stage.jsonl for 11, host.jsonl for 25. Seats n in flight on a stage are 2 n
# in the group of two. Each load is one wave.
#
# The recipe's --nnodes turns vLLM's own all-reduce off (vllm/config/parallel.py, _verify_args): "nccl" is the recipe as
# it runs, "custom" what it would be without that. Both have torch's symmetric memory off, which needs NVLink multicast
# (benchmarks/gpu/rig.py); it would come after the custom one, and before NCCL.
set -euo pipefail

out=${1:?usage: stage.sh FOLDER}
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$out"
end='{"end": true}'

derive() {
  "${PYTHON:-python3}" "$here/derive.py" "$@"
}

# Of TCPXO's profile what NCCL does inside a host (google/nccl-plugin-gpudirect-tcpxo, tcpxo_scripts/nccl-env-profile.sh).
profile=()
for pair in NCCL_PROTO=Simple,LL128 'NCCL_MIN_NCHANNELS="4"' 'NCCL_BUFFSIZE="8388608"' 'NCCL_P2P_NVL_CHUNKSIZE="1048576"'; do
  profile+=(--set "variables.$pair")
done
nccl=(--set arguments.disable-custom-all-reduce=true)
mega=a3mega/deepseek-r1-671b
steps=8x1000/128@1,16x1000/128@8,64x1000/128@64,128x1000/128@128
full=192x1000/1000@192
{
  derive $mega --gpus 4 "${profile[@]}" "${nccl[@]}" --variant half-stage-nccl --loads "$steps,$full,$steps,$full"
  derive $mega --gpus 4 "${profile[@]}" --variant half-stage-custom --loads "$steps,$full,$steps,$full"
  echo "$end"
} >"$out/half-stage.jsonl"

thrice=$steps,192x1000/128@192,$full
thrice=$thrice,$thrice,$thrice
{
  derive $mega --gpus 8 "${profile[@]}" "${nccl[@]}" --variant stage-nccl --loads "$thrice"
  derive $mega --gpus 8 "${profile[@]}" --variant stage-custom --loads "$thrice"
  echo "$end"
} >"$out/stage.jsonl"

host=runpod-h200/single-host
# Seats are 256: with 512 in flight as many wait.
loads=256x1000/1000@256,512x1000/1000@512,64x1000/1000@64
document=(--set context=8192 --set arguments.kv-cache-dtype=fp8)
# All 128 heads are on each rank: activations and graphs leave it fewer KV tokens than the recipe's context.
experts=(--set context=65536 --set parallelism.tensor=1 --set parallelism.data=8 --set arguments.enable-expert-parallel=true)
{
  derive $host --gpus 8 --kv-tokens fit --variant host-tp8-custom --loads $loads
  derive $host --gpus 8 --kv-tokens fit "${document[@]}" --variant host-tp8-8k-fp8-custom --loads $loads
  derive $host --gpus 8 --kv-tokens fit "${experts[@]}" --variant host-dp8-ep8 --loads $loads,1024x1000/1000@1024
  derive $host --gpus 8 --kv-tokens fit "${nccl[@]}" --variant host-tp8-nccl --loads $loads
  derive $host --gpus 8 --kv-tokens fit "${document[@]}" "${nccl[@]}" --variant host-tp8-8k-fp8-nccl --loads $loads
  echo "$end"
} >"$out/host.jsonl"
