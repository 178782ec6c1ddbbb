"""The headers of safetensors files: what a shard holds, known from its first bytes.

A file is 8 bytes (length of the header, little endian), the header (JSON: each tensor with dtype, shape and
offsets) and the tensors without gaps (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

PREFIX = 8
# The format's own limit (safetensors, src/tensor.rs, MAX_HEADER_SIZE).
MAX_HEADER = 100_000_000
SUFFIX = ".safetensors"
INDEX = "model.safetensors.index.json"
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class Broken(ValueError):
    """The bytes are no safetensors file, or not a whole one."""


@dataclass(frozen=True)
class Tensor:
    """One tensor: its type, as the format calls it, its shape, and where its bytes end."""

    dtype: str
    shape: tuple[int, ...]
    end: int


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        length: Bytes before the first tensor's, the prefix included.
        sha256: Of these bytes.
        tensors: By name.
        tensor_bytes: Bytes of all tensors.
    """

    length: int
    sha256: str
    tensors: dict[str, Tensor]
    tensor_bytes: int

    @property
    def file_bytes(self) -> int:
        """The size that the file must have."""
        return self.length + self.tensor_bytes


def length(prefix: bytes) -> int:
    """Return how many bytes prefix and header have together.

    Raises:
        Broken: It cannot be the start of a safetensors file.
    """
    if len(prefix) < PREFIX:
        raise Broken("ends before its header")
    size = int.from_bytes(prefix[:PREFIX], "little")
    if not 2 <= size <= MAX_HEADER:
        raise Broken(f"has no safetensors header: it would be {size} bytes long")
    return PREFIX + size


def parse(data: bytes) -> Header:
    """Read the prefix and the header of a file; what follows them is ignored.

    Raises:
        Broken: They are not whole, or contradict themselves.
    """
    end = length(data)
    if len(data) < end:
        raise Broken("ends before its header does")
    try:
        document = json.loads(data[PREFIX:end])
        items = [(name, item) for name, item in document.items() if name != "__metadata__"]
        found = [(name, item["dtype"], tuple(item["shape"]), *item["data_offsets"]) for name, item in items]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise Broken("has a header that is no list of tensors") from None
    tensors: dict[str, Tensor] = {}
    place = 0
    for name, dtype, shape, start, stop in sorted(found, key=lambda item: (item[3], item[4])):
        if dtype not in _BITS:
            raise Broken(f"has a tensor of the unknown type {str(dtype)[:20]}: {name[:100]}")
        if start != place or (stop - start) * 8 != prod(shape) * _BITS[dtype]:
            raise Broken(
                f"has a tensor whose bytes are not where and as many as they should be: {name[:100]}"
            )
        tensors[name] = Tensor(dtype, shape, stop)
        place = stop
    return Header(end, hashlib.sha256(data[:end]).hexdigest(), tensors, place)


def weight_map(index: bytes) -> dict[str, str]:
    """Return which file holds each tensor, from model.safetensors.index.json.

    Raises:
        Broken: It is no such index.
    """
    try:
        found = json.loads(index)["weight_map"]
        if found and all(isinstance(each, str) for pair in found.items() for each in pair):
            return dict(found)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise Broken("is no index of tensors")


def contradictions(index: Mapping[str, str] | None, headers: Mapping[str, Header]) -> list[str]:
    """Return what files and index say differently; without an index there must be one file.

    Args:
        index: Which file holds each tensor; None for a model of one file.
        headers: By file name.
    """
    if not headers:
        return ["there are no safetensors files"]
    if index is None:
        return [] if len(headers) == 1 else [f"{len(headers)} safetensors files, but no {INDEX}"]
    problems = []
    for name in sorted(set(index.values()) - set(headers)):
        problems.append(f"{name} is in the index, but there is no such file")
    wanted: dict[str, set[str]] = {}
    for tensor, name in index.items():
        wanted.setdefault(name, set()).add(tensor)
    for name, header in sorted(headers.items()):
        have = set(header.tensors)
        problems += _differ(name, wanted.get(name, set()) - have, have - wanted.get(name, set()))
    return problems


def _differ(name: str, missing: Iterable[str], more: Iterable[str]) -> list[str]:
    texts = []
    for what, tensors in (("lacks", sorted(missing)), ("has, against the index,", sorted(more))):
        if tensors:
            texts.append(f"{name} {what} {len(tensors)} tensors, the first is {tensors[0][:100]}")
    return texts
