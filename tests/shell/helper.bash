# Shared by the bats files: members of a group as processes on loopback, with fake engines.
bats_require_minimum_version 1.5.0
scripts=$BATS_TEST_DIRNAME/../../charts/llm-multihost/launcher

setup() {
  export FAKE=$BATS_TEST_TMPDIR/fake
  mkdir -p "$FAKE"
  # Three free ports below those that the kernel gives to outgoing connections.
  read -r http master beacon < <(python3 -c '
import random, socket
held = []
while len(held) < 3:
    try:
        held.append(socket.create_server(("127.0.0.1", random.randrange(10000, 32000))))
    except OSError:
        continue
print(*(s.getsockname()[1] for s in held))')
  export PATH=$BATS_TEST_DIRNAME/fakes:/usr/bin:$PATH # no slow shims of a version manager
  export MANYHOST_ENGINE=vllm MANYHOST_EXECUTOR=mp MANYHOST_MODEL=some/model MANYHOST_MODEL_PATH=
  export MANYHOST_GPUS_PER_HOST=8 MANYHOST_PORT=$http MANYHOST_MASTER_PORT=$master
  export MANYHOST_RAY_PORT=$master MANYHOST_BEACON_PORT=$beacon MANYHOST_INTERFACE=lo
  export MANYHOST_PROFILE= MANYHOST_PEER_WAIT_SECONDS=30 MANYHOST_STARTUP_SECONDS=30
  export MANYHOST_STALL_SECONDS=30 MANYHOST_DRAIN_SECONDS=20 MANYHOST_START_ATTEMPTS=2
  export MANYHOST_PROFILE_SECONDS=1 MANYHOST_BEAT_SECONDS=0.2 HF_HUB_OFFLINE=1 MANYHOST_ADDRESS=127.0.0.1
  export MANYHOST_LEADER=127.0.0.1 MANYHOST_SIZE=2
  unset VLLM_HOST_IP VLLM_API_KEY HF_TOKEN
}

# At once: how a member ends in peace is a test's subject, and no test waits for it here.
teardown() { python3 "$BATS_TEST_DIRNAME/../helpers/processes.py" "FAKE=$FAKE"; }

# member RANK [FLAG]...: start one member in the background; its output goes to log.RANK.
member() {
  local rank=$1
  shift
  MANYHOST_RANK=$rank MANYHOST_STATE_DIR=$FAKE/state.$rank \
    bash "$scripts/launch.sh" "$@" >>"$FAKE/log.$rank" 2>&1 3>&- &
  eval "pid_$rank=$!"
}

# power_off RANK: end a member with all its processes, without a word.
power_off() {
  local pid=pid_$1
  kill -KILL "${!pid}" $(pgrep -P "${!pid}") "$(cat "$FAKE/pid.$1")"
}

probe() { MANYHOST_STATE_DIR=$FAKE/state.$1 bash "$scripts/probe.sh" "$2"; }

# seen RANK TEXT [SECONDS]: wait until the member's log has the text.
seen() {
  local end=$((SECONDS + ${3:-60}))
  until grep -qF -- "$2" "$FAKE/log.$1" 2>/dev/null; do
    if ((SECONDS > end)); then
      echo "not seen in log.$1: $2"
      cat "$FAKE"/log.*
      return 1
    fi
    sleep 0.1
  done
}

# until_ok SECONDS COMMAND...: wait until the command succeeds.
until_ok() {
  local end=$((SECONDS + $1))
  shift
  until "$@"; do
    if ((SECONDS > end)); then
      echo "never: $*"
      cat "$FAKE"/log.*
      return 1
    fi
    sleep 0.1
  done
}

# ended PID STATUS: wait for a member's end and compare its exit status.
ended() {
  local status=0
  until_ok 60 eval "! kill -0 $1 2>/dev/null"
  wait "$1" || status=$?
  [ "$status" -eq "$2" ] || {
    echo "exit $status, not $2"
    cat "$FAKE"/log.*
    return 1
  }
}

metrics() { # RUNNING WAITING TOKENS
  cat >"$FAKE/metrics.new" <<EOF
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} $1
vllm:num_requests_waiting{engine="0"} $2
vllm:iteration_tokens_total_count{engine="0"} $3
vllm:generation_tokens_total{engine="0"} $3
EOF
  mv "$FAKE/metrics.new" "$FAKE/metrics"
}

serving_group() {
  member 0 "$@"
  member 1 "$@"
  seen 0 phase=serving
  seen 1 phase=serving
  until_ok 20 probe 0 ready
  until_ok 20 probe 1 ready
  # Engines here need each other for nothing: the leader's answers before the worker's has begun.
  [[ ${MANYHOST_EXECUTOR:-mp} == ray ]] || until_ok 20 test -s "$FAKE/pid.1"
}
