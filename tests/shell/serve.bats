#!/usr/bin/env bats
# What ends a group that has served, and how it drains.
load helper

again() { # both serve a second time, in the same pods
  until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.0")" = 2 ]'
  until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.1")" = 2 ]'
  kill -0 "$pid_0" "$pid_1"
  until_ok 20 probe 0 ready
  until_ok 20 probe 1 ready
}

@test "serving, the worker's host is lost: unready after 3.5 beats, and the leader ends after 22.5" {
  serving_group
  touch "$FAKE/mute" # no engine answers without all of its hosts
  power_off 1
  until_ok 20 eval '! probe 0 ready'
  kill -0 "$pid_0"
  ended "$pid_0" 1
  grep -qF 'reason="rank 1 is gone" code=1' "$FAKE/log.0"
  run ! kill -0 "$(cat "$FAKE/pid.0")"
}

@test "serving, the worker's engine dies: started again in place" {
  serving_group
  kill -KILL "$(cat "$FAKE/pid.1")"
  again
  grep -qE 'phase=attempt .*reason="engine ended: rank 1: .*\(signal 9\)" deaths=1 of=5' "$FAKE/log.0"
}

@test "serving, the leader is started anew: its worker stays and follows it, with another engine" {
  serving_group
  power_off 0
  member 0
  until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.1")" = 2 ]'
  grep -qF 'reason="the leader has started anew"' "$FAKE/log.1"
  [ "$(wc -l <"$FAKE/argv.1")" = 2 ]
  kill -0 "$pid_1"
}

@test "serving, the leader's host is lost and the engine with it: the worker ends" {
  serving_group
  power_off 0
  kill -KILL "$(cat "$FAKE/pid.1")"
  ended "$pid_1" 1
  grep -qF 'reason="leader is gone" code=1' "$FAKE/log.1"
}

@test "serving, the leader's engine dies: started again in place" {
  serving_group
  kill -KILL "$(cat "$FAKE/pid.0")"
  again
}

@test "serving, a member that is silent for a while: unready, and ready again with the same engines" {
  serving_group
  inner=$(pgrep -P "$pid_1")
  kill -STOP "$inner"
  until_ok 20 eval '! probe 0 ready'
  sleep 1
  kill -CONT "$inner"
  until_ok 20 probe 0 ready
  until_ok 20 probe 1 ready
  [ "$(wc -l <"$FAKE/argv.0") $(wc -l <"$FAKE/argv.1")" = "1 1" ]
}

@test "serving with Ray, the worker's Ray dies: all of it starts again" {
  MANYHOST_EXECUTOR=ray serving_group
  old=$(cat "$FAKE/raypid.0")
  kill -KILL "$(cat "$FAKE/raypid.1")"
  again
  run ! kill -0 "$old"
}

@test "/health that fails while serving: unready, then another engine" {
  serving_group
  echo 503 >"$FAKE/health"
  until_ok 20 eval '! probe 0 ready'
  seen 0 'reason="the engine'"'"'s /health fails" deaths=1 of=5'
  rm "$FAKE/health"
  again
}

@test "two refusals of /health and then a busy server: the same engine" {
  MANYHOST_SIZE=1 member 0
  seen 0 phase=serving
  echo 2 >"$FAKE/refuse" # a third would mean a dead engine
  until_ok 20 eval '! probe 0 ready'
  sleep 2.5 # the limit for refusals is half a second
  rm "$FAKE/refuse"
  until_ok 20 probe 0 ready
  [ "$(wc -l <"$FAKE/argv.0")" = 1 ]
}

@test "an engine that dies after each answer: longer pauses, then held with the reason" {
  MANYHOST_SIZE=1 MANYHOST_BEAT_SECONDS=0.05 member 0
  for i in {1..5}; do
    until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.0")" = '"$i"' ]'
    kill -KILL "$(cat "$FAKE/pid.0")"
  done
  seen 0 phase=held
  grep -qE 'reason="the engine ended 5 times after it had answered, last: engine ended: .*signal 9' "$FAKE/log.0"
  kill -0 "$pid_0"
}

@test "a member that is stopped (SIGSTOP) ends when it is told to" {
  serving_group
  kill -STOP "$(pgrep -P "$pid_0")"
  sleep 0.3
  kill -TERM "$pid_0" "$pid_1"
  ended "$pid_0" 0
  ended "$pid_1" 0
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
  awk -v from="${times[0]}" -v to="${times[1]}" 'BEGIN { exit !(to - from >= 0.95) }'
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

@test "SIGTERM at any moment of a start ends the member, with nothing left" {
  for pause in 0 0.02 0.05 0.1 0.2; do
    member 0
    sleep "$pause"
    kill -TERM "$pid_0"
    until_ok 20 eval "! kill -0 $pid_0 2>/dev/null"
    run ! pgrep -P "$pid_0"
  done
}
