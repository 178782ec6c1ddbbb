#!/bin/sh
# Runs the receive-path daemon (RxDM) of GPUDirect-TCPXO in its own container, beside the engine.
# The arguments go to the daemon. It takes SIGTERM itself: exec makes it process 1.
set -eu

entrypoint=/fts/entrypoint_rxdm_container.sh

if [ ! -f "$entrypoint" ]; then
  echo "tcpxo-daemon: $entrypoint is missing; is gpuPlatformSettings.rxdmImage an RxDM image?" >&2
  exit 1
fi
chmod 755 "$entrypoint"
exec "$entrypoint" "$@"
