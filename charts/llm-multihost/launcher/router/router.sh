#!/usr/bin/env bash
# router.sh: runs router.py with the engine's own Python, which has aiohttp; with python3 in an image of its own.
set -euo pipefail

# Bodies are large and short-lived: what glibc keeps of them for later is lost to the memory limit.
export MALLOC_ARENA_MAX=1 MALLOC_MMAP_THRESHOLD_=131072 MALLOC_TRIM_THRESHOLD_=131072

engine=${MANYHOST_ENGINE%%$'\n'*}
home=$(dirname -- "$(command -v -- "$engine" || printf '%s' "$engine")")
python=$home/python3
[[ -x $python ]] || python=python3
exec "$python" -B "$(dirname -- "${BASH_SOURCE[0]}")/router.py"
