#!/usr/bin/env bash
# probe.sh startup|ready|live: answers from the status file that the member rewrites every second.
# Line 1: <seconds since boot> <state> <startup> <ready> <live>; line 2: the reason.
set -euo pipefail

# A busy host may delay the writer; this long without a word means that it hangs.
readonly stale_seconds=${MANYHOST_STALE_SECONDS:-30}

file=${MANYHOST_STATE_DIR:-/dev/shm/manyhost}/status
if ! [[ -r $file ]] || ! { read -r written state startup ready live && read -r reason; } <"$file"; then
  echo "manyhost: not started: no status in $file"
  exit 1
fi

read -r now _ </proc/uptime
age=$((${now%%.*} - ${written%%.*}))
if ((age > stale_seconds)); then
  echo "manyhost: the launcher has not written its status for $age s (last: $state)"
  exit 1
fi

case ${1:-} in
  startup) answer=$startup ;;
  ready) answer=$ready ;;
  live) answer=$live ;;
  *)
    echo "usage: probe.sh startup|ready|live" >&2
    exit 2
    ;;
esac
[[ $answer == 1 ]] && exit 0
echo "manyhost: not $1: state=$state${reason:+: $reason}"
exit 1
