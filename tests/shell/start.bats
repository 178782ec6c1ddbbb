#!/usr/bin/env bats
# How a group starts: waiting, attempts, holding.
load helper

@test "a leader waits for a late worker, a worker for a late leader" {
  member 0
  seen 0 waiting_for=1:absent
  sleep 1
  [ ! -e "$FAKE/argv.0" ]
  member 1
  seen 1 phase=serving
  kill "$pid_0" "$pid_1"
  ended "$pid_0" 0
  : >"$FAKE/log.0" && : >"$FAKE/log.1"
  member 1
  seen 1 'phase=peers member=worker'
  sleep 0.5
  member 0
  seen 1 phase=serving
}

@test "a worker that does not come: the leader waits, and says for which rank" {
  MANYHOST_PEER_WAIT_SECONDS=1 member 0
  seen 0 'phase=waiting member=leader'
  grep -qF 'reason="rank 1 not seen for 1 s"' "$FAKE/log.0"
  run ! grep phase=held "$FAKE/log.0"
  until_ok 20 probe 0 live
  run ! probe 0 ready
  member 1
  seen 0 phase=serving
}

@test "a leader that does not come: the worker waits, and says so" {
  MANYHOST_PEER_WAIT_SECONDS=1 member 1
  seen 1 'reason="leader not reached for 1 s"'
  until_ok 20 probe 1 live
  member 0
  seen 1 phase=serving
}

@test "a member that is slow, for longer than every deadline between peers, fails nobody" {
  mkdir "$FAKE/hub"
  # The step 'weights' of the worker takes 4 s; heartbeats have a limit of 3 s before serving.
  cat >"$FAKE/hub/huggingface_hub.py" <<'P'
import os, time
class HfApi:
    def list_repo_files(self, model, revision):
        return ["a.safetensors", "a.bin"]
def snapshot_download(model, revision, cache_dir, ignore_patterns):
    assert "*.bin" in ignore_patterns and cache_dir is None and revision == "v1"
    time.sleep(4 if os.environ["MANYHOST_RANK"] == "1" else 0)
P
  mkdir "$FAKE/hub/pkg"
  mv "$FAKE/hub/huggingface_hub.py" "$FAKE/hub/pkg/__init__.py"
  mv "$FAKE/hub/pkg" "$FAKE/hub/huggingface_hub"
  echo 'class GatedRepoError(Exception): ...
class RepositoryNotFoundError(Exception): ...
class RevisionNotFoundError(Exception): ...' >"$FAKE/hub/huggingface_hub/errors.py"
  export PYTHONPATH=$FAKE/hub HF_HUB_OFFLINE=0
  member 0 --revision v1
  member 1 --revision v1
  seen 0 phase=serving
  seen 1 phase=serving
  [ "$(grep -c phase=attempt "$FAKE/log.0" "$FAKE/log.1" | paste -sd' ')" = "$FAKE/log.0:0 $FAKE/log.1:0" ]
  [ "$(wc -l <"$FAKE/argv.1")" = 1 ]
}

@test "a model that does not exist holds; a download that fails is tried again for its time, then holds" {
  mkdir -p "$FAKE/hub/huggingface_hub"
  cat >"$FAKE/hub/huggingface_hub/__init__.py" <<'P'
import os
from .errors import GatedRepoError
class HfApi:
    def list_repo_files(self, model, revision):
        raise GatedRepoError() if model == "gated/model" else OSError("hub unreachable with hf_secret")
def snapshot_download(*_, **__): ...
P
  echo 'class GatedRepoError(Exception): ...
class RepositoryNotFoundError(Exception): ...
class RevisionNotFoundError(Exception): ...' >"$FAKE/hub/huggingface_hub/errors.py"
  export PYTHONPATH=$FAKE/hub HF_HUB_OFFLINE=0 MANYHOST_SIZE=1 HF_TOKEN=hf_secret
  MANYHOST_MODEL=gated/model member 0
  seen 0 "phase=held member=leader"
  [ "$(grep -c phase=attempt "$FAKE/log.0")" = 1 ]
  grep -qF "GatedRepoError: check its name and the token's access" "$FAKE/log.0"
  kill "$pid_0"
  ended "$pid_0" 0
  : >"$FAKE/log.0"
  MANYHOST_STARTUP_SECONDS=3 member 0
  seen 0 'phase=held member=leader'
  grep -qE 'reason="[3-9] tries in [3-9] s failed: .*hub unreachable with \*\*\*' "$FAKE/log.0"
  run ! grep -q hf_secret "$FAKE/log.0"
}

@test "an engine that fails is started again in place, on all members, then the group holds" {
  echo 1 >"$FAKE/1.exit"
  echo 'ValueError: no such attention backend' >"$FAKE/1.say"
  echo 10 >"$FAKE/0.slow" # no leader answers without its worker
  member 0
  member 1
  seen 0 'phase=held member=leader'
  grep -qF 'reason="2 of 2 attempts failed: rank 1: ValueError: no such attention backend (exit 1)"' "$FAKE/log.0"
  seen 1 'phase=held member=worker'
  [ "$(grep -c phase=engine "$FAKE/log.0")" = 2 ] && [ "$(wc -l <"$FAKE/argv.1")" = 2 ]
  until_ok 20 probe 1 startup
  until_ok 20 probe 0 startup
  probe 0 live && probe 1 live
  says_why() {
    run ! probe 1 ready
    [[ $output == *"no such attention backend"* ]]
  }
  until_ok 20 says_why
  until_ok 20 eval "! kill -0 $(cat "$FAKE/pid.0" || echo 0x) 2>/dev/null"
  kill -0 "$pid_0" "$pid_1" # the pods stay
}

@test "a second attempt that works serves" {
  echo 1 >"$FAKE/0.once"
  member 0
  member 1
  seen 0 'phase=serving member=leader'
  seen 1 'phase=serving member=worker'
  grep -q 'phase=serving.*attempt=2$' "$FAKE/log.0"
  grep -q 'phase=serving.*attempt=2$' "$FAKE/log.1"
}

@test "a wrong flag holds at once, with argparse's sentence" {
  echo 2 >"$FAKE/exit"
  printf 'usage: vllm serve [options]\nvllm serve: error: unrecognized arguments: --nonsense\n' >"$FAKE/say"
  member 0 --nonsense
  member 1 --nonsense
  seen 0 'phase=held member=leader'
  grep -qE 'reason="(rank 1: )?unrecognized arguments: --nonsense \(exit 2\)"' "$FAKE/log.0"
  [ "$(grep -c phase=engine "$FAKE/log.0")" = 1 ]
  seen 1 'phase=held member=worker'
}

@test "the engine's own error is named, not the echo after it" {
  echo 1 >"$FAKE/exit"
  printf '%s\n' '(EngineCore pid=7) ERROR 11-22 10:00:00 [core.py:1] AssertionError: intermediate_tensors' \
    'RuntimeError: Engine core initialization failed. See root cause above.' >"$FAKE/say"
  MANYHOST_SIZE=1 MANYHOST_START_ATTEMPTS=1 member 0
  seen 0 'attempts failed: AssertionError: intermediate_tensors (exit 1)"'
}

@test "a port that stays taken holds and is named" {
  python3 -c "
import socket, time
s = socket.create_server(('127.0.0.1', $http))
open('$FAKE/taken', 'w').close(); time.sleep(60)" 3>&- &
  until_ok 20 test -e "$FAKE/taken"
  member 0
  member 1
  seen 0 "reason=\"port $http: Address already in use\""
  seen 1 'phase=held member=worker'
  [ ! -e "$FAKE/argv.0" ]
}

@test "the beacon's port taken holds the leader" {
  python3 -c "
import socket, time
s = socket.create_server(('127.0.0.1', $beacon))
open('$FAKE/taken', 'w').close(); time.sleep(60)" 3>&- &
  until_ok 20 test -e "$FAKE/taken"
  member 0
  seen 0 "reason=\"port $beacon of the group's beacon: Address already in use\""
}

@test "a port that is busy for a moment delays the start" {
  python3 -c "
import socket, time
s = socket.create_server(('127.0.0.1', $http))
open('$FAKE/taken', 'w').close(); time.sleep(3)" 3>&- &
  until_ok 20 test -e "$FAKE/taken"
  MANYHOST_SIZE=1 member 0
  seen 0 "reason=\"port $http: Address already in use\" waiting_for=port"
  seen 0 phase=serving
  grep -q 'attempt=1$' <(grep phase=serving "$FAKE/log.0")
}

@test "a port that an engine finds taken is another attempt's luck: engines choose some at random" {
  echo 1 >"$FAKE/0.once"
  echo 'RuntimeError: The server socket has failed to listen, errno: -98: Address already in use' >"$FAKE/0.say"
  MANYHOST_SIZE=1 member 0
  seen 0 phase=serving
  [ "$(grep -c phase=attempt "$FAKE/log.0")" = 1 ]
}

@test "a start that does not move fails its attempt" {
  touch "$FAKE/hang"
  MANYHOST_SIZE=1 MANYHOST_STARTUP_SECONDS=1 MANYHOST_START_ATTEMPTS=2 member 0
  seen 0 'reason="2 of 2 attempts failed: the start made no progress for 1 s"'
}

@test "a start that moves takes as long as it needs, and says how far it is" {
  mkdir "$FAKE/gradual"
  cat >"$FAKE/gradual/vllm" <<P
#!/bin/bash
for i in 10 20 30 40 50 60 70 80 90 95; do
  printf '\\rLoading safetensors checkpoint shards: %3d%% Completed' \$i
  sleep 0.5
done
echo
exec $BATS_TEST_DIRNAME/fakes/vllm "\$@"
P
  chmod +x "$FAKE/gradual/vllm"
  MANYHOST_ENGINE=$FAKE/gradual/vllm MANYHOST_SIZE=1 MANYHOST_STARTUP_SECONDS=2 member 0
  seen 0 phase=serving
  run ! grep phase=attempt "$FAKE/log.0"
  grep -qE 'phase=loading .* step=engine percent=[1-9][05] still=[01]s limit=2s$' "$FAKE/log.0"
}

@test "ready means answered: /health 200 alone is not enough" {
  echo 500 >"$FAKE/first"
  MANYHOST_SIZE=1 MANYHOST_START_ATTEMPTS=1 member 0
  seen 0 'first request answered 500'
  seen 0 phase=held
  run ! probe 0 ready
}

@test "the first request asks for one token, with the key; a refusal that cannot change holds" {
  echo 404 >"$FAKE/first"
  MANYHOST_SIZE=1 member 0 --api-key s3cret
  seen 0 phase=held
  [ "$(cat "$FAKE/asked")" = '[{"model": "fake", "prompt": "1", "max_tokens": 1, "temperature": 0}, "Bearer s3cret"]' ]
}

@test "a leader that restarts before serving finds its worker waiting" {
  echo 30 >"$FAKE/slow"
  member 0
  member 1
  until_ok 20 test -s "$FAKE/pid.0"
  power_off 0
  rm "$FAKE/slow"
  member 0
  seen 1 'reason="the leader has started anew"'
  until_ok 30 eval '[ "$(grep -c phase=serving "$FAKE/log.0")" = 1 ]'
  kill -0 "$pid_1"
}

@test "a worker lost before serving: a new one begins another attempt, and none is counted as failed" {
  echo 30 >"$FAKE/0.slow"
  member 0
  member 1
  until_ok 20 test -s "$FAKE/pid.0"
  until_ok 20 test -s "$FAKE/pid.1"
  power_off 1
  rm "$FAKE/0.slow"
  member 1
  seen 0 'reason="rank 1 has started anew" attempt=1 failed=0 of=2'
  seen 0 'phase=serving member=leader'
  grep -q 'attempt=2$' <(grep phase=serving "$FAKE/log.0")
}
