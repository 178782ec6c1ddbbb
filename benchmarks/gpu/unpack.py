"""Unpacks what build_site.py made: cat 00/00.part 01/01.part ... | python unpack.py TARGET

With a PyTorch that travelled, the CUDA libraries which build_site.py left out are those of the PyTorch
of this machine: they are linked to where the new one looks for them.
"""

from __future__ import annotations

import importlib.util
import sys
import tarfile
from pathlib import Path

import pyarrow


def link_libraries(target: Path) -> None:
    """Links this machine's NVIDIA libraries beside those that travelled."""
    here = importlib.util.find_spec("nvidia")
    for folder in (here and here.submodule_search_locations) or []:
        for library in Path(folder).iterdir():
            linked = target / "nvidia" / library.name
            if library.is_dir() and not linked.exists():
                linked.symlink_to(library)


def main() -> None:
    """Extracts the archive on standard input into the target folder."""
    target = Path(sys.argv[1])
    stream = pyarrow.CompressedInputStream(pyarrow.PythonFile(sys.stdin.buffer, mode="r"), "zstd")
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(target, filter="fully_trusted")
    if (target / "torch").is_dir():
        link_libraries(target)


if __name__ == "__main__":
    main()
