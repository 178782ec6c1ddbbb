#!/usr/bin/env bash
# stage.sh: puts engine and weights on the network volume, each once and proven, and says so.
set -eu
if [ ! -f "$MANYHOST_ENGINE_ARCHIVE" ]; then
  echo "manyhost: installing the engine"
  bash install.sh /opt/engine
  mkdir -p "$(dirname "$MANYHOST_ENGINE_ARCHIVE")"
  # Two stagers at once write two files; the last one to rename wins, and both are the same.
  tar -cf "$MANYHOST_ENGINE_ARCHIVE.$$" -C /opt/engine .
  sync
  mv "$MANYHOST_ENGINE_ARCHIVE.$$" "$MANYHOST_ENGINE_ARCHIVE"
fi
mkdir -p /opt/engine
[ -x /opt/engine/bin/python ] || tar -xf "$MANYHOST_ENGINE_ARCHIVE" -C /opt/engine
echo "manyhost: staging $MANYHOST_STAGED"
PYTHONPATH=$PWD HF_HUB_OFFLINE=0 /opt/engine/bin/python -B -m manyhost.weights.worker "$MANYHOST_HUB_ID" \
  "$MANYHOST_REVISION" "$MANYHOST_MODEL_PATH" --workers=1 --streams=4 --bytes="$MANYHOST_WEIGHTS_BYTES"
echo "manyhost: staged"
