"""A docker for docker/vllm/build.sh with buildah behind it: real builds, pulls and pushes, no daemon.

Steps run in a chroot, since a container within a container is not to be had everywhere. Docker Hub is a
registry on loopback. What nobody asks here is refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from testbed.errors import MissingError

# `imagetools inspect` looks at what is pulled: its names of digest and labels become buildah's. `save` is for
# test clusters.
_PROGRAM = r"""#!/bin/sh
set -eu
buildah() {{
  command buildah --root "{folder}/storage" --runroot "{folder}/run" --storage-driver vfs \
    --registries-conf "{folder}/registries.conf" "$@"
}}
case "$1 ${{2-}} ${{3-}}" in
  "buildx imagetools inspect")
    if ! said=$(buildah pull --quiet --policy always "$4" 2>&1); then
      case "$said" in *"manifest unknown"*) said="ERROR: $4: not found" ;; esac
      printf '%s\n' "$said" >&2
      exit 1
    fi
    view=$(printf '%s' "$6" | sed 's/json \.Manifest\.Digest/.FromImageDigest/; s/\.Image\./.OCIv1./')
    buildah inspect --type image --format "$view" "$4"
    ;;
  build\ *) shift; buildah build --isolation chroot "$@" ;;
  pull\ *) buildah pull "$2" ;;
  push\ *) buildah push --disable-compression "$2" ;;
  save\ *) buildah push --quiet "$2" "docker-archive:$3:$2" ;;
  *) echo "docker: the stand-in has no answer to: $*" >&2; exit 1 ;;
esac
"""
_REGISTRIES = """\
[[registry]]
location = "{host}"
insecure = true
[[registry]]
prefix = "docker.io"
location = "{host}"
insecure = true
"""


def install(program: Path, folder: Path, registry: str) -> None:
    """Writes the program.

    Args:
        program: its path.
        folder: where its images are kept; below the one that goes with them.
        registry: host and port of the registry that answers as Docker Hub; it takes pushes too.

    Raises:
        MissingError: buildah or root is missing.
    """
    if os.geteuid() != 0:
        raise MissingError("building an image needs root")
    if not shutil.which("buildah"):
        raise MissingError("buildah is missing: apt-get install buildah")
    for each in (folder, program.parent):
        each.mkdir(parents=True, exist_ok=True)
    (folder / "registries.conf").write_text(_REGISTRIES.format(host=registry))
    program.write_text(_PROGRAM.format(folder=folder))
    program.chmod(0o755)
