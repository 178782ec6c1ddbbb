#!/usr/bin/env bats
# What launch.sh runs: environment, address, weights, engine command line.
load helper

@test "the phases of a start, on both members, in order" {
  serving_group
  grep -o 'phase=[a-z]*' "$FAKE/log.0" | paste -sd' ' >"$FAKE/order"
  [ "$(cat "$FAKE/order")" = "phase=start phase=profile phase=weights phase=peers phase=engine phase=serving" ]
  grep -qE '^manyhost phase=engine member=leader rank=0 seconds=[0-9.]+ attempt=1 failed=0 of=2$' "$FAKE/log.0"
  grep -qE '^manyhost phase=serving member=worker rank=1 seconds=[0-9.]+ attempt=1$' "$FAKE/log.1"
}

@test "flags reach the engine as they are: spaces, quotes, JSON, newline, glob, empty" {
  words=(--a 'two words' --json '{"a": ["x y", "$(id)"]}' --quote "it's \"so\"" --glob '*' --empty '' $'two\nlines')
  serving_group "${words[@]}"
  python3 - "${words[@]}" <<'P'
import json, os, sys
own = {
    0: ["--host", "0.0.0.0", "--port", os.environ["MANYHOST_PORT"]],
    1: ["--headless"],
}
for rank, end in own.items():
    got = json.loads(open(f"{os.environ['FAKE']}/argv.{rank}").read())
    want = ["serve", "some/model", *sys.argv[1:], "--nnodes", "2", "--node-rank", str(rank)]
    want += ["--master-addr", "127.0.0.1", "--master-port", os.environ["MANYHOST_MASTER_PORT"]]
    want += ["--distributed-executor-backend", "mp", *end]
    assert got == want, (got, want)
P
}

@test "one host alone gets no multi-node flags" {
  MANYHOST_SIZE=1 member 0 --x 1
  seen 0 phase=serving
  [ "$(cat "$FAKE/argv.0")" = "[\"serve\", \"some/model\", \"--x\", \"1\", \"--host\", \"0.0.0.0\", \"--port\", \"$http\"]" ]
}

@test "an engine command of several words, one with a space" {
  mkdir "$FAKE/my env"
  cp "$BATS_TEST_DIRNAME/fakes/vllm" "$FAKE/my env/vllm"
  MANYHOST_SIZE=1 MANYHOST_ENGINE="$FAKE/my env/vllm"$'\n'"--first word"$'\n' member 0
  seen 0 phase=serving
  grep -qF '["--first word", "serve"' "$FAKE/argv.0"
}

@test "the profile is sourced, then the settings win; its options do not leak" {
  cat >"$FAKE/profile.sh" <<'P'
echo "this is a foreign script: $NOT_SET_ANYWHERE"
export NCCL_A=profile NCCL_B="two words" NCCL_C='x
y'
trap 'echo leaked' EXIT
set -f
false
P
  MANYHOST_PROFILE=$FAKE/profile.sh MANYHOST_SET_NCCL_A="set later" MANYHOST_SIZE=1 member 0
  seen 0 phase=serving
  python3 - <<'P'
import json, os
env = json.load(open(os.environ["FAKE"] + "/env.0"))
assert (env["NCCL_A"], env["NCCL_B"], env["NCCL_C"]) == ("set later", "two words", "x\ny")
assert env["VLLM_HOST_IP"] == "127.0.0.1"
assert env["VLLM_ENGINE_READY_TIMEOUT_S"] == "86400"
assert "MANYHOST_STEP" not in env
P
  run ! grep -q leaked "$FAKE/log.0"
}

@test "a missing profile holds both members and says why" {
  MANYHOST_PROFILE=$FAKE/none.sh member 1
  member 0
  seen 0 'phase=held member=leader'
  grep -qF "reason=\"rank 1: profile missing at $FAKE/none.sh\"" "$FAKE/log.0"
  until_ok 20 probe 0 startup
  until_ok 20 probe 1 startup
  probe 1 live
  run ! probe 0 ready
  [[ $output == *"profile missing"* ]]
  [ ! -e "$FAKE/argv.0" ]
}

@test "a profile that comes a moment later is waited for, and says so" {
  MANYHOST_PROFILE=$FAKE/late.sh MANYHOST_PROFILE_SECONDS=20 MANYHOST_SIZE=1 member 0
  seen 0 'phase=waiting member=leader'
  grep -qF "reason=\"profile not there yet: $FAKE/late.sh, waits 20 s\"" "$FAKE/log.0"
  echo 'export NCCL_A=late' >"$FAKE/late.sh"
  seen 0 phase=serving
  grep -qF '"NCCL_A": "late"' "$FAKE/env.0"
}

@test "a profile that exits early holds" {
  echo 'exit 0' >"$FAKE/profile.sh"
  MANYHOST_PROFILE=$FAKE/profile.sh MANYHOST_SIZE=1 member 0
  seen 0 "reason=\"profile $FAKE/profile.sh ended before its last line\""
}

@test "the address comes from the interface, else from the pod" {
  MANYHOST_INTERFACE=nosuch MANYHOST_ADDRESS=127.0.0.5 MANYHOST_SIZE=1 member 0
  seen 0 "address=127.0.0.5"
}

@test "no address at all holds" {
  MANYHOST_INTERFACE=nosuch MANYHOST_ADDRESS='' MANYHOST_SIZE=1 member 0
  seen 0 'reason="no address: interface nosuch has no IPv4 and MANYHOST_ADDRESS is empty"'
}

@test "staged weights: missing folder, missing shard, no weights, then complete" {
  model=$FAKE/model
  check() { python3 "$scripts/manyhost_steps.py" weights "$model" "$@"; }
  run -78 check
  [[ $output == *"weights missing at $model: no config.json" ]]
  mkdir "$model"
  echo '{}' >"$model/config.json"
  run -78 check
  [[ $output == *"no *.safetensors"* ]]
  run -0 check --load-format dummy
  echo '{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}' >"$model/model.safetensors.index.json"
  touch "$model/1.safetensors"
  run -78 check
  [[ $output == *"1 of 2 files, 2.safetensors"* ]]
  touch "$model/2.safetensors"
  run -0 check
}

@test "a key with the line break of its file holds at once and is not shown" {
  VLLM_API_KEY=$'s3cret-key\n' MANYHOST_SIZE=1 member 0
  seen 0 phase=held
  grep -qF 'VLLM_API_KEY has a line break' "$FAKE/log.0"
  [ "$(grep -cF s3cret-key "$FAKE/log.0")" -eq 0 ]
  [ ! -e "$FAKE/argv.0" ]
}

@test "missing weights hold at once, before any engine starts" {
  MANYHOST_MODEL_PATH=$FAKE/nowhere member 0
  seen 0 "reason=\"weights missing at $FAKE/nowhere: no config.json\""
  [ ! -e "$FAKE/argv.0" ]
  [ "$(grep -c phase=attempt "$FAKE/log.0")" = 1 ]
}

@test "ray: head, a barrier that counts GPUs, then the engine" {
  export MANYHOST_EXECUTOR=ray
  echo 4 >"$FAKE/1.gpus"
  member 0 --x 1
  member 1 --x 1
  until_ok 20 grep -q -- "--block" "$FAKE/ray.1"
  grep -qx -- "start --head --node-ip-address=127.0.0.1 --port=$master --num-gpus=8 --include-dashboard=false --disable-usage-stats" "$FAKE/ray.0"
  grep -qx -- "start --address=127.0.0.1:$master --node-ip-address=127.0.0.1 --num-gpus=8 --disable-usage-stats --block" "$FAKE/ray.1"
  until_ok 20 eval '[ "$(grep -c status "$FAKE/ray.0")" -ge 2 ]'
  [ ! -e "$FAKE/argv.0" ] # both nodes are there, 12 of 16 GPUs
  echo 8 >"$FAKE/gpus/1"
  seen 0 phase=serving
  [ "$(cat "$FAKE/argv.0")" = "[\"serve\", \"some/model\", \"--x\", \"1\", \"--distributed-executor-backend\", \"ray\", \"--host\", \"0.0.0.0\", \"--port\", \"$http\"]" ]
  seen 1 phase=serving
}

@test "ray: too few GPUs is a failed attempt that names the count" {
  echo 4 >"$FAKE/1.gpus"
  # Long enough for both to register on a busy machine: the count must be of both.
  export MANYHOST_EXECUTOR=ray MANYHOST_PEER_WAIT_SECONDS=8 MANYHOST_START_ATTEMPTS=1
  member 0
  member 1
  seen 0 'Ray has 12 of 16 GPUs after 8 s'
  seen 0 'phase=held member=leader'
  until_ok 20 eval "! kill -0 $(cat "$FAKE/raypid.0") 2>/dev/null" # daemons end with the attempt
}

@test "ray: a CPU host counts as one GPU" {
  MANYHOST_EXECUTOR=ray MANYHOST_GPUS_PER_HOST=0 serving_group
  grep -q -- --num-gpus=1 "$FAKE/ray.0"
}

@test "an image without the engine, or without Ray, holds and says so" {
  MANYHOST_ENGINE=/nowhere/vllm MANYHOST_SIZE=1 member 0
  seen 0 'reason="engine /nowhere/vllm is not in this image"'
  mkdir "$FAKE/bin"
  cp "$BATS_TEST_DIRNAME/fakes/vllm" "$FAKE/bin/"
  export PATH=$FAKE/bin:/usr/bin:/bin MANYHOST_EXECUTOR=ray
  : >"$FAKE/log.0"
  kill "$pid_0"
  member 0
  member 1
  seen 0 'reason="executor ray, but ray is not in this image"'
}

@test "a model download that is not needed is skipped, one that cannot work is left to the engine" {
  python3 "$scripts/manyhost_steps.py" download gs://bucket/model
  python3 "$scripts/manyhost_steps.py" download some/model --load-format dummy
}

@test "a measurement that is removed ends at once, with its program" {
  mkdir "$FAKE/engine"
  printf '#!/bin/bash\necho $$ >"$FAKE/torch"\nexec sleep 60\n' >"$FAKE/engine/python3"
  cp "$FAKE/engine/python3" "$FAKE/engine/vllm"
  chmod +x "$FAKE/engine/"*
  MANYHOST_STEP=nccl MANYHOST_ENGINE=$FAKE/engine/vllm member 0
  until_ok 20 test -s "$FAKE/torch"
  kill -TERM "$pid_0"
  ended "$pid_0" 0
  run ! kill -0 "$(cat "$FAKE/torch")"
}
