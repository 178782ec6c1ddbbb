#!/bin/sh
# Copies the NCCL plugin of GPUDirect-TCPXO and the NCCL it was qualified with from the plugin image
# to a volume that the engine mounts.
set -eu

entry=/scripts/container_entry.sh
target=/usr/local/nccl-plugin

if [ ! -f "$entry" ]; then
  echo "tcpxo-install: $entry is missing; is gpuPlatformSettings.ncclPluginImage a plugin image?" >&2
  exit 1
fi
chmod 755 "$entry"
"$entry" install --install-nccl
cp -R /var/lib/tcpxo/. "$target/"

if [ ! -r "$target/lib64/nccl-env-profile.sh" ]; then
  echo "tcpxo-install: this image brings no lib64/nccl-env-profile.sh; use a newer ncclPluginImage" >&2
  exit 1
fi
