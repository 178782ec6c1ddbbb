#!/usr/bin/env bash
# router.sh serve|drain: runs router.py with the engine's own Python, which has aiohttp.
set -euo pipefail

engine=${MANYHOST_ENGINE%%$'\n'*}
home=$(dirname -- "$(command -v -- "$engine" || printf '%s' "$engine")")
python=$home/python3
[[ -x $python ]] || python=python3
exec "$python" -B "$(dirname -- "${BASH_SOURCE[0]}")/router.py" "$@"
