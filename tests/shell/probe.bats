#!/usr/bin/env bats
# probe.sh, and what a member tells it.
load helper

status() { # AGE STATE STARTUP READY LIVE [REASON]
  local up
  read -r up _ </proc/uptime
  mkdir -p "$FAKE/state.0"
  printf '%d.50 %s %s %s %s\n%s\n' $((${up%%.*} - $1)) "$2" "$3" "$4" "$5" "${6:-}" >"$FAKE/state.0/status"
}

@test "no status file yet: nothing passes" {
  for kind in startup ready live; do
    run -1 probe 0 "$kind"
    [[ $output == "manyhost: not started"* ]]
  done
}

@test "each kind reads its own flag and gives the reason" {
  status 0 engine 0 0 1
  run -1 probe 0 startup
  [ "$output" = "manyhost: not startup: state=engine" ]
  run -1 probe 0 ready
  run -0 probe 0 live
  status 0 held 1 0 1 "wrong flag"
  run -0 probe 0 startup
  run -1 probe 0 ready
  [ "$output" = "manyhost: not ready: state=held: wrong flag" ]
}

@test "a status that is not rewritten fails everything" {
  status 25 serving 1 1 1
  run -0 probe 0 live
  status 32 serving 1 1 1
  run -1 probe 0 live
  [[ $output == *"has not written its status for"* ]]
  run -1 probe 0 ready
}

@test "an unknown kind is wrong usage" {
  status 0 serving 1 1 1
  run -2 probe 0 nonsense
}

@test "a probe takes a few milliseconds" {
  status 0 serving 1 1 1
  least=1000
  for _ in {1..20}; do # the least of many: the machine may be busy
    start=$(date +%s%N)
    probe 0 live
    took=$((($(date +%s%N) - start) / 1000000))
    least=$((took < least ? took : least))
  done
  echo "# $least ms a probe" >&3
  [ "$least" -lt 50 ]
}

@test "idle for longer than the stall limit: live and ready" {
  metrics 0 0 100
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=1 member 0
  seen 0 phase=serving
  sleep 2.5
  probe 0 live
  probe 0 ready
}

@test "a long prefill that moves the step counter: live" {
  metrics 1 20 100
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=2 member 0
  seen 0 phase=serving
  for i in {1..8}; do
    sleep 0.5
    metrics 1 20 $((100 + i))
    probe 0 live
  done
}

@test "requests run and nothing moves: the engine is started again in place, and the pod stays" {
  metrics 1 0 100
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=1 member 0
  seen 0 phase=serving
  seen 0 'reason="requests wait and nothing moved for 1 s" deaths=1 of=5'
  probe 0 live
  run ! probe 0 ready
  metrics 0 0 100
  until_ok 20 probe 0 ready
}

@test "requests wait, none runs, and nothing moves: that is a stall too" {
  metrics 0 5 100
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=1 member 0
  seen 0 'reason="requests wait and nothing moved for 1 s" deaths=1 of=5'
}

@test "a long prefill of which only the KV cache's use tells: live and ready" {
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=2 member 0
  seen 0 phase=serving
  for i in {1..10}; do
    printf 'vllm:num_requests_running{} 1\nvllm:generation_tokens_total{} 5\nvllm:kv_cache_usage_perc{} 0.0%d\n' "$i" >"$FAKE/metrics.new"
    mv "$FAKE/metrics.new" "$FAKE/metrics"
    sleep 0.5
  done
  probe 0 ready
  run ! grep phase=attempt "$FAKE/log.0"
}

@test "an idle engine that is stuck: one token is asked for after a quiet while, and it is started again" {
  metrics 0 0 100
  MANYHOST_SIZE=1 member 0
  seen 0 phase=serving
  [ "$(wc -l <"$FAKE/asked")" = 1 ]
  touch "$FAKE/stuck"
  seen 0 'reason="the idle engine gave no token for 3 s" deaths=1 of=5'
  [ "$(wc -l <"$FAKE/asked")" = 2 ]
  rm "$FAKE/stuck"
  until_ok 20 probe 0 ready
}

@test "without series nothing is known of requests: no stall, no token asked for, no quick end of a drain" {
  echo '# nothing' >"$FAKE/metrics"
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=1 MANYHOST_DRAIN_SECONDS=3 member 0
  seen 0 phase=serving
  sleep 2.5
  probe 0 ready
  [ "$(wc -l <"$FAKE/asked")" = 1 ]
  kill "$pid_0"
  ended "$pid_0" 0
  grep -qE 'reason="drain ended after [0-9]+ s with requests in flight" code=0' "$FAKE/log.0"
}

@test "a server too busy to answer: live, and ready until the stall limit" {
  metrics 1 0 100
  MANYHOST_SIZE=1 MANYHOST_STALL_SECONDS=8 member 0
  seen 0 phase=serving
  until_ok 20 probe 0 ready
  touch "$FAKE/mute"
  sleep 2
  probe 0 live
  probe 0 ready
  until_ok 30 eval '! probe 0 ready'
  probe 0 live
}

@test "a member that waits is started and live for the kubelet, and not ready" {
  MANYHOST_STARTUP_SECONDS=1 MANYHOST_START_ATTEMPTS=2 member 0 # waits for rank 1
  seen 0 phase=peers
  until_ok 20 probe 0 startup
  probe 0 live
  run ! probe 0 ready
}
