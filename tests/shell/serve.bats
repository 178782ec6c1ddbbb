#!/usr/bin/env bats
# What ends a group that has served, and how it drains.
load helper

@test "serving, the worker dies: the leader ends" {
  serving_group
  power_off 1
  ended "$pid_0" 1
  grep -qF 'phase=end member=leader' "$FAKE/log.0"
  grep -qF 'reason="rank 1 is gone" code=1' "$FAKE/log.0"
  run ! kill -0 "$(cat "$FAKE/pid.0")"
}

@test "serving, the worker's engine dies: both end" {
  serving_group
  kill -KILL "$(cat "$FAKE/pid.1")"
  ended "$pid_1" 1
  ended "$pid_0" 1
  grep -qE 'reason="engine ended: .*\(signal 9\)"' "$FAKE/log.1"
}

@test "serving, the leader dies: the worker ends, with its engine" {
  serving_group
  power_off 0
  ended "$pid_1" 1
  grep -qF 'reason="leader is gone" code=1' "$FAKE/log.1"
  run ! kill -0 "$(cat "$FAKE/pid.1")"
}

@test "serving, the leader's engine dies: both end" {
  serving_group
  kill -KILL "$(cat "$FAKE/pid.0")"
  ended "$pid_0" 1
  ended "$pid_1" 1
}

@test "serving, a silent peer is lost after three and a half beats, both ways" {
  serving_group
  inner=$(pgrep -P "$pid_1")
  kill -STOP "$inner"
  ended "$pid_0" 1
  kill -CONT "$inner"
  ended "$pid_1" 1
}

@test "serving with Ray, the worker's Ray dies: both end" {
  MANYHOST_EXECUTOR=ray serving_group
  kill -KILL "$(cat "$FAKE/raypid.1")"
  ended "$pid_1" 1
  ended "$pid_0" 1
  run ! kill -0 "$(cat "$FAKE/raypid.0")"
}

@test "/health that fails while serving: unready, then the end" {
  serving_group
  echo 503 >"$FAKE/health"
  until_ok 20 eval '! probe 0 ready'
  ended "$pid_0" 1
  grep -qF "/health fails" "$FAKE/log.0"
}

@test "SIGTERM drains: unready, requests in flight end first, workers stay until then" {
  metrics 3 1 100
  serving_group
  kill -TERM "$pid_0" "$pid_1"
  seen 0 phase=draining
  seen 1 phase=draining
  until_ok 20 eval '! probe 0 ready'
  run ! probe 1 ready
  sleep 1.5
  kill -0 "$(cat "$FAKE/pid.0")" "$(cat "$FAKE/pid.1")"
  metrics 0 0 200
  ended "$pid_0" 0
  ended "$pid_1" 0
  grep -qF 'reason="drained" code=0' "$FAKE/log.0"
}

@test "a drain that takes too long is cut at its limit" {
  metrics 3 1 100
  MANYHOST_SIZE=1 MANYHOST_DRAIN_SECONDS=1 member 0
  seen 0 phase=serving
  kill "$pid_0"
  ended "$pid_0" 0
  grep -qF 'with requests in flight" code=0' "$FAKE/log.0"
}

@test "only the worker is asked to leave: the leader drains too" {
  metrics 0 0 5
  serving_group
  kill -TERM "$pid_1"
  ended "$pid_0" 0
  ended "$pid_1" 0
  grep -qF 'reason="rank 1 is leaving"' "$FAKE/log.0"
  # It answers for five beats more: until no probe and no proxy takes it for ready.
  local times
  mapfile -t times < <(grep -oP 'phase=(draining|end) .*seconds=\K[0-9.]+' "$FAKE/log.0")
  awk -v from="${times[0]}" -v to="${times[1]}" 'BEGIN { exit !(to - from >= 1.0) }'
}

@test "SIGTERM before serving, and while held, ends at once" {
  member 0
  seen 0 'phase=peers'
  kill "$pid_0"
  ended "$pid_0" 0
  MANYHOST_PROFILE=/nowhere member 1
  seen 1 phase=held
  kill "$pid_1"
  ended "$pid_1" 0
}

@test "a stranger on the beacon is dropped" {
  member 0
  seen 0 phase=peers
  exec 4<>"/dev/tcp/127.0.0.1/$beacon"
  printf 'GET / HTTP/1.1\r\n\r\n' >&4
  member 1
  seen 0 phase=serving
  exec 4>&-
}

@test "SIGTERM at any moment of a start ends the member, with nothing left" {
  for pause in 0 0.02 0.05 0.1 0.2; do
    member 0
    sleep "$pause"
    kill -TERM "$pid_0"
    until_ok 20 eval "! kill -0 $pid_0 2>/dev/null"
    run ! pgrep -P "$pid_0"
  done
}
