#!/usr/bin/env bats
# A group of SGLang: the same life as vLLM's. Its stand-in takes the flags of the real one and no others.
load helper

# As the chart renders them for two hosts.
rendered=(--tensor-parallel-size 16 --pipeline-parallel-size 1 --served-model-name deepseek-ai/DeepSeek-R1
  --enable-metrics --context-length 131072 --reasoning-parser deepseek-r1)

sglang() {
  export MANYHOST_ENGINE=sglang MANYHOST_ENGINE_NAME=sglang
}

counters() { # RUNNING WAITING TOKENS
  cat >"$FAKE/metrics.new" <<EOF
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{engine_type="unified",pp_rank="0",tp_rank="0"} $1
sglang:num_queue_reqs{engine_type="unified",pp_rank="0",tp_rank="0"} $2
sglang:realtime_tokens_total{engine_type="unified",mode="decode"} $3
sglang:token_usage{engine_type="unified",pp_rank="0",tp_rank="0"} 0.1
EOF
  mv "$FAKE/metrics.new" "$FAKE/metrics"
}

@test "sglang: two hosts start, meet at the leader's address, and the first one serves" {
  sglang
  serving_group "${rendered[@]}"
  python3 - "${rendered[@]}" <<'P'
import json, os, sys
port, master = os.environ["MANYHOST_PORT"], os.environ["MANYHOST_MASTER_PORT"]
for rank, host in ((0, "0.0.0.0"), (1, "127.0.0.1")):
    got = json.loads(open(f"{os.environ['FAKE']}/argv.{rank}").read())
    want = ["serve", "some/model", *sys.argv[1:], "--port", port, "--nnodes", "2", "--node-rank", str(rank)]
    want += ["--dist-init-addr", f"127.0.0.1:{master}", "--host", host]
    assert got == want, (got, want)
    env = json.load(open(f"{os.environ['FAKE']}/env.{rank}"))
    assert env["SGLANG_HOST_IP"] == "127.0.0.1"
P
}

@test "sglang: one host alone gets no multi-node flags" {
  sglang
  MANYHOST_SIZE=1 member 0 --enable-metrics
  seen 0 phase=serving
  grep -qF "\"--enable-metrics\", \"--port\", \"$http\", \"--host\", \"0.0.0.0\"]" "$FAKE/argv.0"
}

@test "sglang: the worker's host is lost: unready, and the leader ends" {
  sglang
  serving_group "${rendered[@]}"
  touch "$FAKE/mute"
  power_off 1
  until_ok 20 eval '! probe 0 ready'
  ended "$pid_0" 1
  grep -qF 'reason="rank 1 is gone" code=1' "$FAKE/log.0"
}

@test "sglang: the worker's engine dies: started again in place" {
  sglang
  serving_group "${rendered[@]}"
  kill -KILL "$(cat "$FAKE/pid.1")"
  until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.0")" = 2 ]'
  until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.1")" = 2 ]'
  kill -0 "$pid_0" "$pid_1"
}

@test "sglang: a drain waits for requests in flight, by SGLang's counters" {
  sglang
  counters 1 0 10
  serving_group "${rendered[@]}"
  kill -TERM "$pid_0" "$pid_1"
  seen 0 phase=draining
  seen 1 phase=draining
  until_ok 20 eval '! probe 0 ready'
  sleep 1.5
  kill -0 "$(cat "$FAKE/pid.0")" "$(cat "$FAKE/pid.1")"
  counters 0 0 20
  ended "$pid_0" 0
  ended "$pid_1" 0
  grep -qF 'reason="drained" code=0' "$FAKE/log.0"
}

@test "sglang: requests wait and nothing moves: another engine" {
  sglang
  counters 1 2 10
  MANYHOST_STALL_SECONDS=2 serving_group "${rendered[@]}"
  seen 0 'deaths=1 of=5'
}

@test "sglang: a flag that it does not have holds at once, with its sentence" {
  sglang
  member 0 --max-num-seqs 8
  member 1 --max-num-seqs 8
  seen 0 'phase=held member=leader'
  grep -qE 'reason="(rank 1: )?unrecognized arguments: --max-num-seqs \(exit 2\)"' "$FAKE/log.0"
}

@test "sglang: a key of vLLM, which it would not ask for, holds" {
  sglang
  VLLM_API_KEY=s3cret-key MANYHOST_SIZE=1 member 0
  seen 0 phase=held
  grep -qF 'VLLM_API_KEY is set, which SGLang does not read' "$FAKE/log.0"
  [ ! -e "$FAKE/argv.0" ]
}

@test "an engine of another name holds" {
  MANYHOST_ENGINE_NAME=trtllm MANYHOST_SIZE=1 member 0
  seen 0 phase=held
  grep -qF "MANYHOST_ENGINE_NAME is 'trtllm', not vllm or sglang" "$FAKE/log.0"
}
