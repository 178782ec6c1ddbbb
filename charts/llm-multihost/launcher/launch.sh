#!/usr/bin/env bash
# Starts one member of a multi-host group of vLLM (executor mp or ray) or SGLang: leader or worker.
#
#   launch.sh [ENGINE FLAG]...    the container's command; the flags are the same on every member
#
# This file says what to run: environment, address, weights, engine command line. When to run it
# (peers, attempts, health, drain) is decided by manyhost_run.py, which calls this file back with
# MANYHOST_STEP=weights and MANYHOST_STEP=engine. With MANYHOST_STEP=nccl the bandwidth of the group
# is measured instead, in the same environment. It needs bash and python3 (3.10 or
# later), nothing else.
set -euo pipefail

# The kernel keeps signals without a handler from the first process of a container: a pod that is
# told to end while Python still starts would otherwise stay for its whole grace period.
member=""
stopped=""
stop() {
  stopped=1
  [[ -n $member ]] || exit 0
  # A process that is stopped takes no signal before it goes on.
  kill -TERM "$member" 2>/dev/null || :
  kill -CONT "$member" 2>/dev/null || :
}
trap stop TERM INT

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)

# The contract with whatever starts it is docs/reference/launcher.md.
export MANYHOST_RANK=${MANYHOST_RANK:-0} MANYHOST_SIZE=${MANYHOST_SIZE:-1}
export MANYHOST_LEADER=${MANYHOST_LEADER:-${MANYHOST_ADDRESS:-}}

# A failure that no further attempt cures; the member holds and shows the text.
readonly no_retry=78

die() {
  printf 'manyhost: error: %s\n' "$1" >&2
  exit "$no_retry"
}

now() { # hundredths of a second since boot
  local up
  read -r up _ </proc/uptime
  printf '%s' "${up/./}"
}

phase() {
  local who=worker passed
  ((MANYHOST_RANK == 0)) && who=leader
  passed=$(($(now) - MANYHOST_STARTED))
  printf 'manyhost phase=%s member=%s rank=%d seconds=%d.%02d%s\n' \
    "$1" "$who" "$MANYHOST_RANK" $((passed / 100)) $((passed % 100)) "${2:+ $2}"
}

# The program beside the engine's own (one virtual environment), else the one on PATH.
beside_engine() {
  local home
  home=$(dirname -- "$(command -v -- "${engine[0]}" || printf '%s' "${engine[0]}")")
  if [[ -x $home/$1 ]]; then
    printf '%s' "$home/$1"
  else
    command -v -- "$1"
  fi
}

# Reads the interconnect's profile in a shell of its own, so that its options, traps and exit
# cannot reach this one, and takes over what it exports.
read_profile() {
  local pair name seen=
  while IFS= read -r -d '' pair; do
    name=${pair%%=*}
    case $name in
      MANYHOST_PROFILE_SEEN) seen=1 ;;
      _ | PWD | OLDPWD | SHLVL) ;;
      *) [[ $name =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] && export "${pair?}" ;;
    esac
  done < <(
    set +euo pipefail
    # shellcheck disable=SC1090
    source "$MANYHOST_PROFILE" </dev/null >&2
    MANYHOST_PROFILE_SEEN=1 env -0
  )
  [[ -n $seen ]]
}

# Runs the one child of this process and passes signals on to it; returns its status.
run_child() {
  local status=0 hung=""
  "$@" &
  member=$!
  # A signal ends this wait early, and then the second one has the status.
  while kill -0 "$member" 2>/dev/null; do
    wait "$member" || :
    if [[ -n $stopped && -z $hung ]]; then
      end_a_hung_member &
      hung=$!
    fi
  done
  wait "$member" || status=$?
  if [[ -n $hung ]]; then # nothing of this start outlives it
    kill "$hung" 2>/dev/null || :
    wait "$hung" || :
  fi
  [[ -z $stopped || $status != 143 ]] || status=0 # ended before it had a handler
  return "$status"
}

# Told to end, but the member does not turn any more: its status is old, whatever the grace period is.
end_a_hung_member() {
  local nap=""
  trap 'kill "$nap" 2>/dev/null; exit' TERM
  trap - INT
  while
    sleep 5 &
    nap=$!
    wait "$nap"
  do
    kill -0 "$member" 2>/dev/null || return 0
    kill -CONT "$member" 2>/dev/null || :
    bash "$here/probe.sh" live >/dev/null 2>&1 || kill -KILL "$member" 2>/dev/null || :
  done
}

# A host that has just come may get its interconnect's profile a little later.
wait_for_profile() {
  local seconds=${MANYHOST_PROFILE_SECONDS:-300} told="" end
  ((seconds < MANYHOST_STARTUP_SECONDS)) || seconds=$MANYHOST_STARTUP_SECONDS
  end=$((SECONDS + seconds))
  while [[ ! -r $MANYHOST_PROFILE ]]; do
    ((SECONDS < end)) || return 1
    if [[ -z $told ]]; then
      told=1
      phase waiting "reason=\"profile not there yet: $MANYHOST_PROFILE, waits $seconds s\""
    fi
    sleep 1 &
    wait $! || :
  done
}

# The environment of the engine: profile, settings, address. `held` says what is wrong with it.
held=""
prepare() {
  local name
  if ! [[ $MANYHOST_RANK/$MANYHOST_SIZE =~ ^(0|[1-9][0-9]*)/[1-9][0-9]*$ ]] || ((MANYHOST_RANK >= MANYHOST_SIZE)); then
    die "MANYHOST_RANK is '$MANYHOST_RANK' and MANYHOST_SIZE '$MANYHOST_SIZE': no member of a group"
  fi
  MANYHOST_STARTED=$(now)
  export MANYHOST_STARTED
  phase start "size=$MANYHOST_SIZE executor=$MANYHOST_EXECUTOR"

  if [[ -n ${MANYHOST_PROFILE:-} ]]; then
    if ! wait_for_profile; then
      held="profile missing at $MANYHOST_PROFILE"
    elif ! read_profile; then
      held="profile $MANYHOST_PROFILE ended before its last line"
    fi
  fi
  for name in "${!MANYHOST_SET_@}"; do
    export "${name#MANYHOST_SET_}=${!name}"
  done

  # The interface decides on hosts with many; the address that the platform names is the fallback.
  if [[ -z ${VLLM_HOST_IP:-} ]]; then
    VLLM_HOST_IP=$(python3 -B "$here/manyhost_steps.py" address "${MANYHOST_INTERFACE:-}") ||
      VLLM_HOST_IP=${MANYHOST_ADDRESS:-}
    [[ -n $VLLM_HOST_IP ]] ||
      held=${held:-"no address: interface ${MANYHOST_INTERFACE:-(none)} has no IPv4 and MANYHOST_ADDRESS is empty"}
  fi
  export VLLM_HOST_IP
  # The engine's own limit on loading (600 s) ends starts that move; only the member judges them.
  export VLLM_ENGINE_READY_TIMEOUT_S=${VLLM_ENGINE_READY_TIMEOUT_S:-86400}
  phase profile "address=$VLLM_HOST_IP"
}

# Measures all-reduce between the members. The pod stays until it is removed, so that its log does.
measure() {
  local python
  [[ -z $held ]] || die "$held"
  python=$(beside_engine python3) || die "python3 is not in this image"
  until getent hosts "$MANYHOST_LEADER" >/dev/null; do sleep 1; done
  run_child "$python" -m torch.distributed.run --nnodes "$MANYHOST_SIZE" --node-rank "$MANYHOST_RANK" \
    --nproc-per-node "$MANYHOST_GPUS_PER_HOST" --master-addr "$MANYHOST_LEADER" \
    --master-port "$MANYHOST_MASTER_PORT" "$here/all_reduce.py" || exit
  [[ -n $stopped ]] || run_child sleep 3600
}

weights() {
  # A driver that cannot run the engine shows before half an hour of weights does.
  if ((MANYHOST_GPUS_PER_HOST > 0)); then
    "$(beside_engine python3)" -B "$here/manyhost_steps.py" cuda "$MANYHOST_GPUS_PER_HOST"
  fi
  if [[ -n ${MANYHOST_MODEL_PATH:-} ]]; then
    python3 -B "$here/manyhost_steps.py" weights "$MANYHOST_MODEL_PATH" "$@"
  elif [[ ${HF_HUB_OFFLINE:-0} != 1 && ! -d $MANYHOST_MODEL ]]; then
    "$(beside_engine python3)" -B "$here/manyhost_steps.py" download "$MANYHOST_MODEL" "$@"
  fi
}

# Ray believes what it is told, so GPUs are counted, not nodes: a host that registers with fewer
# GPUs than the plan's would otherwise leave the engine waiting for a placement for ever.
wait_for_ray_gpus() {
  local ray=$1 want=$2 wait=$3 have=0 end=$((SECONDS + $3)) text
  while ((SECONDS < end)); do
    text=$("$ray" status --address="$VLLM_HOST_IP:$MANYHOST_RAY_PORT" 2>/dev/null) || text=""
    if [[ $text =~ /([0-9]+)(\.[0-9]+)?\ GPU ]]; then
      have=${BASH_REMATCH[1]}
    fi
    ((have >= want)) && return
    sleep 1
  done
  printf 'manyhost: error: Ray has %d of %d GPUs after %d s\n' "$have" "$want" "$wait" >&2
  return 1
}

wait_for_port() {
  local end=$((SECONDS + $3))
  until (exec 3<>"/dev/tcp/$1/$2") 2>/dev/null; do
    if ((SECONDS >= end)); then
      printf 'manyhost: error: no connection to %s:%s in %d s\n' "$1" "$2" "$3" >&2
      return 1
    fi
    sleep 1
  done
}

# SGLang's ranks meet by themselves. All but the first serve nothing but a /health of their own, which says nothing of
# the group and is kept to loopback.
run_sglang() {
  local -a serve=("${engine[@]}" serve "$MANYHOST_MODEL" "$@" --port "$MANYHOST_PORT")
  # Who has set a key believes that it is asked for.
  [[ -z ${VLLM_API_KEY:-} ]] || die "VLLM_API_KEY is set, which SGLang does not read: it would answer everybody"
  export SGLANG_HOST_IP=$VLLM_HOST_IP
  ((MANYHOST_SIZE == 1)) || serve+=(--nnodes "$MANYHOST_SIZE" --node-rank "$MANYHOST_RANK"
    --dist-init-addr "$MANYHOST_LEADER_IP:$MANYHOST_MASTER_PORT")
  ((MANYHOST_RANK == 0)) || exec "${serve[@]}" --host 127.0.0.1
  exec "${serve[@]}" --host 0.0.0.0
}

# A Secret that was made from a file ends with its line break, which no client can send; Python would show all of it.
sendable() {
  local LC_ALL=C
  [[ ${VLLM_API_KEY:-} != *[!\ -~]* ]] || die "VLLM_API_KEY has a line break or another character that no client can send"
}

run_engine() {
  local -a serve=("${engine[@]}" serve "$MANYHOST_MODEL" "$@")
  local -a listen=(--host 0.0.0.0 --port "$MANYHOST_PORT")
  local ray gpus=$((MANYHOST_GPUS_PER_HOST > 0 ? MANYHOST_GPUS_PER_HOST : 1))
  local join_seconds=$((MANYHOST_PEER_WAIT_SECONDS < 300 ? MANYHOST_PEER_WAIT_SECONDS : 300))

  command -v -- "${engine[0]}" >/dev/null || die "engine ${engine[0]} is not in this image"
  case ${MANYHOST_ENGINE_NAME:-vllm} in
    vllm) ;;
    sglang) run_sglang "$@" ;;
    *) die "MANYHOST_ENGINE_NAME is '$MANYHOST_ENGINE_NAME', not vllm or sglang" ;;
  esac
  ((MANYHOST_SIZE > 1)) || exec "${serve[@]}" "${listen[@]}"

  case $MANYHOST_EXECUTOR in
    mp)
      serve+=(--nnodes "$MANYHOST_SIZE" --node-rank "$MANYHOST_RANK"
        --master-addr "$MANYHOST_LEADER_IP" --master-port "$MANYHOST_MASTER_PORT"
        --distributed-executor-backend mp)
      ((MANYHOST_RANK == 0)) || exec "${serve[@]}" --headless
      exec "${serve[@]}" "${listen[@]}"
      ;;
    ray)
      ray=$(beside_engine ray) || die "executor ray, but ray is not in this image"
      if ((MANYHOST_RANK > 0)); then
        wait_for_port "$MANYHOST_LEADER_IP" "$MANYHOST_RAY_PORT" "$join_seconds"
        exec "$ray" start --address="$MANYHOST_LEADER_IP:$MANYHOST_RAY_PORT" \
          --node-ip-address="$VLLM_HOST_IP" --num-gpus="$gpus" --disable-usage-stats --block
      fi
      "$ray" start --head --node-ip-address="$VLLM_HOST_IP" --port="$MANYHOST_RAY_PORT" \
        --num-gpus="$gpus" --include-dashboard=false --disable-usage-stats
      wait_for_ray_gpus "$ray" $((gpus * MANYHOST_SIZE)) "$join_seconds"
      exec "${serve[@]}" --distributed-executor-backend ray "${listen[@]}"
      ;;
    *) die "MANYHOST_EXECUTOR is '$MANYHOST_EXECUTOR', not mp or ray" ;;
  esac
}

mapfile -t engine <<<"${MANYHOST_ENGINE%$'\n'}"
step=${MANYHOST_STEP:-}
unset MANYHOST_STEP
case $step in
  "")
    prepare
    run_child python3 -B "$here/manyhost_run.py" "$held" "$here/launch.sh" "$@"
    ;;
  weights)
    sendable
    weights "$@"
    ;;
  engine)
    sendable
    run_engine "$@"
    ;;
  nccl)
    prepare
    measure
    ;;
  *) die "unknown step '$step'" ;;
esac
