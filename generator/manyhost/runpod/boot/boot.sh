#!/usr/bin/env bash
# boot.sh serve|stage|load: what runs in a pod of RunPod, beside the files that came with it.
# It starts the lease first: whatever fails after it, the pod ends itself.
set -eu
cd "$(dirname "$0")"
say() { echo "manyhost: $*"; }
refuse() {
  say "failed: $*"
  sleep infinity # RunPod would start a pod that ends again and again; the lease or `down` ends it
}

if [ -n "${MANYHOST_UNTIL-}" ]; then
  python3 lease.py &
fi

# RunPod leaves a reference as it is when there is no such secret.
for name in MANYHOST_LEASE_KEY VLLM_API_KEY HF_TOKEN; do
  case "${!name-}" in
  *RUNPOD_SECRET_*)
    secret=${!name#*RUNPOD_SECRET_}
    if [ "$name" != HF_TOKEN ]; then
      refuse "RunPod has no secret ${secret%% *}"
    fi
    unset HF_TOKEN # the model may be open
    ;;
  esac
done
dynamo() { # primary|announce: kept up beside the launcher
  while :; do
    code=0
    python3 -B -m manyhost.runpod.boot.dynamo_hosts "$1" || code=$?
    say "dynamo_hosts $1 ended with exit $code and is started again"
    sleep 2
  done
}
unset MANYHOST_BOOT
if [ -n "${PUBLIC_KEY-}" ] && command -v sshd >/dev/null; then
  mkdir -p ~/.ssh /run/sshd
  chmod 700 ~/.ssh
  printf '%s\n' "$PUBLIC_KEY" >~/.ssh/authorized_keys
  chmod 600 ~/.ssh/authorized_keys
  ssh-keygen -A >/dev/null
  "$(command -v sshd)"
fi
set -a
# shellcheck source=/dev/null
. ./settings.env
set +a
case "$1" in
stage) bash stage.sh || refuse "staging ended with exit $?" ;;
load)
  if [ -f requirements.txt ]; then # of a load generator that is not ours
    say "installing the load generator"
    bash install.sh /opt/load || refuse "the load generator cannot be installed: exit $?"
  fi
  python3 -B client/measure.py spec.json || refuse "the load ended with exit $?"
  ;;
serve)
  say "unpacking the engine"
  mkdir -p /opt/engine
  tar -xf "$MANYHOST_ENGINE_ARCHIVE" -C /opt/engine || refuse "$MANYHOST_ENGINE_ARCHIVE cannot be unpacked"
  unset MANYHOST_LEASE_KEY
  export PATH=/opt/engine/bin:$PATH
  export MANYHOST_RANK="${NODE_RANK-0}" MANYHOST_SIZE="${NUM_NODES-1}" MANYHOST_LEADER="${PRIMARY_ADDR-}"
  export MANYHOST_ADDRESS="${NODE_ADDR-127.0.0.1}" # a pod alone talks to itself only
  # All members have the API's key, and nobody else: what they tell each other is signed with what comes of it.
  (umask 077 && python3 -c 'import hashlib, os
print(hashlib.sha256(("manyhost control key " + os.environ["VLLM_API_KEY"]).encode()).hexdigest())' \
    >"$MANYHOST_CONTROL_KEY_FILE")
  role=""
  if [ -n "${MANYHOST_ENGINES-}" ]; then # NVIDIA Dynamo is before them
    read -ra engines <<<"$MANYHOST_ENGINES"
    if ((${#engines[@]} > 1)); then # one on each host
      role=${engines[MANYHOST_RANK]}
      export VLLM_NIXL_SIDE_CHANNEL_HOST=$NODE_ADDR
    fi
    if ((MANYHOST_RANK == 0)); then
      dynamo primary &
    elif [ -n "$role" ]; then
      dynamo announce &
    fi
    if [ -n "$role" ]; then
      MANYHOST_RANK=0 MANYHOST_SIZE=1 MANYHOST_LEADER=
    fi
  fi
  mapfile -d '' arguments <"arguments${role:+.$role}"
  if [ -n "${MANYHOST_ENGINES-}" ] && ((MANYHOST_RANK == 0)); then # no other rank has a frontend
    arguments+=(--grpc-port "$MANYHOST_GRPC_PORT")
  fi
  trap 'kill -TERM "$launcher" 2>/dev/null || true' TERM
  while :; do
    bash launcher/launch.sh "${arguments[@]}" &
    launcher=$! code=0
    wait "$launcher" || code=$?
    while kill -0 "$launcher" 2>/dev/null; do # told to end, it drains
      code=0
      wait "$launcher" || code=$?
    done
    case $code in
    0 | 143) exit 0 ;;
    1) say "the group is made anew" ;; # what Kubernetes would do (docs/reference/launcher.md)
    *) refuse "the launcher ended with exit $code" ;;
    esac
    sleep 2
  done
  ;;
esac
sleep infinity
