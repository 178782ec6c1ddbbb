"""Builds a vLLM folder that travels in small slices to a GPU machine without a package registry.

    python build_site.py --vllm 0.26.0 --out /var/tmp/site-slices

Everything comes from PyPI through `uv`. The other machine needs Linux on x86-64, the Python named
by --python, a driver for CUDA 13, a PyTorch for CUDA 13 with its libraries, and transformers, which
are left out here. That PyTorch is the one which this vLLM pins; with --torch the pinned one travels
too, with its Triton and NCCL, and takes the other CUDA libraries of the one there (unpack.py links
them). Each slice is a folder with one part of an archive, which unpack.py puts together. With a
registry at hand none of this is needed: `pip install vllm` does the same.
"""

from __future__ import annotations

import argparse
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import IO

# Present on the other machine, or never imported by a text-only server on one CUDA architecture.
LEFT_OUT = (
    r"torch|torchaudio|torchvision|torchcodec|triton|nvidia-.*|cuda-.*|transformers|tokenizers|"
    r"huggingface-hub|hf-xet|safetensors|sympy|networkx|mpmath|flashinfer-.*|tokenspeed-.*|"
    r"pynvvideocodec|opencv-python-headless|fastsafetensors|tilelang|z3-solver|numba|llvmlite|"
    r"quack-kernels|fastapi-cloud-cli|sentry-sdk|supervisor|anthropic|grpcio"
)
# What has to be of the pinned release; PyTorch's other CUDA libraries may be older ones of the same major.
WITH_TORCH = r"torch|torchvision|triton|nvidia-nccl-cu13"
# pyroute2 makes the network of the second host (hosts.py).
ADDED = ("nvidia-ml-py", "pyroute2", "psutil")
# The A100 attention library, kernels of later GPUs, sources and data of other models.
TRIMMED = (
    "vllm/vllm_flash_attn/_vllm_fa2_C.abi3.so",
    "vllm/third_party/fmha_sm100",
    "vllm/third_party/deep_gemm/_C.cpython-31[!{digit}]*",
    "vllm/third_party/deep_gemm/include",
    "mistral_common/data/tekken_24*.json",
    "pycountry/locales",
    "*/**/tests",
    "setuptools",
    "bin",
    "torch/bin/protoc*",
    "torch/test",
    "triton/FileCheck",
    "triton/_C/libproton.so",
    "triton/backends/nvidia/bin/*-blackwell",
    "triton/backends/nvidia/bin/nvdisasm",
    "triton/backends/nvidia/bin/cuobjdump",
    "triton/backends/nvidia/lib/cupti*",
    "triton/instrumentation",
    "triton/plugins",
    "nvidia/nccl/lib/libnccl_device.bc",
)
# Large files that have symbols which nothing looks up; the others of that size have none.
STRIPPED = ("torch/lib/*.so", "triton/_C/*.so")
# Only the n-gram proposer of vLLM imports numba at start, and nothing here runs it.
NUMBA_STUB = '''"""Stands in for numba, which nothing in this folder calls."""


def _unchanged(*args, **_):
    return args[0] if args and callable(args[0]) else _unchanged


jit = njit = _unchanged
prange = range


def get_num_threads():
    return 1


def set_num_threads(_):
    pass
'''
LARGE = 20_000_000  # bytes
FATBIN_MAGIC = 0xBA55ED50
CUBIN = 2  # the entry kind of machine code


def install(version: str, python: str, site: Path, with_torch: bool) -> None:
    """Resolves vLLM for `python` (such as "3.12") and installs what has to travel."""
    where = ["--python-version", python, "--python-platform", "x86_64-manylinux_2_35"]
    resolved = subprocess.run(
        ["uv", "pip", "compile", "-q", "--no-header", "--no-annotate", *where, "-"],
        input=f"vllm=={version}\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    wanted = [line for line in resolved if not re.match(rf"(?:{LEFT_OUT})==", line)]
    if with_torch:
        wanted += [line for line in resolved if re.match(rf"(?:{WITH_TORCH})==", line)]
    where += ["--only-binary", ":all:", "--target", str(site), "--no-deps", "--link-mode", "copy"]
    subprocess.run(["uv", "pip", "install", "-q", *where, *wanted, *ADDED], check=True)


def trim(site: Path, python: str) -> None:
    """Removes what this measurement cannot reach: other Pythons' modules, tests, symbols."""
    digit = python.rpartition(".")[2][-1]
    for pattern in TRIMMED:
        for path in site.glob(pattern.format(digit=digit)):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    libraries = {path for path in site.rglob("*.so") if path.stat().st_size < LARGE}
    libraries |= {path for pattern in STRIPPED for path in site.glob(pattern)}
    subprocess.run(["strip", "--strip-unneeded", *map(str, libraries)], check=False)
    stub = site / "numba" / "__init__.py"
    stub.parent.mkdir()
    stub.write_text(NUMBA_STUB)


def blank_other_architectures(library: Path, arch: int) -> int:
    """Zeroes the GPU code in `library` that a GPU of compute capability arch/10 never loads.

    Sizes and offsets stay, so the file remains valid and the zeros vanish in compression. Only
    machine code for `arch` is kept; the driver loads a program when it is first called, so one
    without such code is never read. Layout: container = magic, version, header size (u16), size
    (u64); entry = kind (u16), header size (u32 at 4), payload size (u64 at 8), architecture (u32
    at 28).

    Returns:
        Bytes zeroed.
    """
    data = bytearray(library.read_bytes())
    blanked, at = 0, data.find(struct.pack("<I", FATBIN_MAGIC))
    while at >= 0:
        _, header, size = struct.unpack_from("<HHQ", data, at + 4)
        entries, entry, end = [], at + header, at + header + size
        while header == 16 and entry + 32 <= end <= len(data):
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", data, entry)
            (built_for,) = struct.unpack_from("<I", data, entry + 28)
            entries.append((kind, built_for, entry + entry_header, payload))
            entry += entry_header + payload
        if entries and entry == end:
            for kind, built_for, start, length in entries:
                if (kind, built_for) != (CUBIN, arch):
                    data[start : start + length] = bytes(length)
                    blanked += length
        at = data.find(struct.pack("<I", FATBIN_MAGIC), end if entries else at + 4)
    if blanked:
        library.write_bytes(data)
    return blanked


def pack(site: Path, out: Path, slice_bytes: int, level: int) -> list[Path]:
    """Packs the tree into one archive, cut into files of at most `slice_bytes`, each in a folder of its own.

    Args:
        site: The tree.
        out: Where the folders 00, 01, ... go.
        slice_bytes: What one transfer may take.
        level: Of zstd; 19 takes some minutes a gigabyte, 12 one.
    """
    zstd = subprocess.Popen(
        ["nice", "-n", "10", "zstd", "-q", f"-{level}", "-T2", "-c"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert zstd.stdin
    assert zstd.stdout

    def feed(pipe: IO[bytes]) -> None:
        with pipe, tarfile.open(fileobj=pipe, mode="w|") as tar:
            tar.add(site, arcname=".")

    feeding = threading.Thread(target=feed, args=(zstd.stdin,))
    feeding.start()
    written: list[Path] = []
    while part := zstd.stdout.read(slice_bytes):
        folder = out / f"{len(written):02d}"
        folder.mkdir(parents=True)
        written.append(folder / f"{folder.name}.part")
        written[-1].write_bytes(part)
    feeding.join()
    if zstd.wait():
        sys.exit("zstd failed")
    return written


def main() -> None:
    """Reads the command line and builds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", default="0.26.0")
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--arch", type=int, default=90, help="compute capability times ten")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--slice-mb", type=int, default=60)
    parser.add_argument("--level", type=int, default=19, help="of compression, 1 to 19")
    parser.add_argument("--torch", action="store_true", help="the PyTorch that this vLLM pins travels too")
    options = parser.parse_args()
    if options.python != f"{sys.version_info.major}.{sys.version_info.minor}":
        parser.error(f"run it with Python {options.python}, whose byte code travels along")
    site = options.out / "site"
    shutil.rmtree(options.out, ignore_errors=True)
    install(options.vllm, options.python, site, options.torch)
    trim(site, options.python)
    for library in sorted([*site.rglob("*.so"), *site.rglob("libnccl.so.2")]):
        if blanked := blank_other_architectures(library, options.arch):
            print(f"{library.relative_to(site)}: {blanked / 1e6:.1f} MB of other GPUs' code")
    # Byte code travels along: the other machine would spend its first start compiling it.
    modules = ["-m", "compileall", "-q", "-j", "2", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([sys.executable, *modules, str(site)], check=False)
    for part in pack(site, options.out, options.slice_mb * 1_000_000, options.level):
        print(f"{part}: {part.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
