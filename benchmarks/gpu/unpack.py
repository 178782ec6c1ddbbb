"""Unpacks slices made by build_site.py: python unpack.py TARGET SLICE.tar.zst..."""

from __future__ import annotations

import sys
import tarfile

import pyarrow


def main() -> None:
    """Extracts every archive named on the command line into the target folder."""
    target, *slices = sys.argv[1:]
    for name in slices:
        stream = pyarrow.CompressedInputStream(pyarrow.OSFile(name), "zstd")
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            tar.extractall(target, filter="fully_trusted")


if __name__ == "__main__":
    main()
