"""The manifest's text and what of a file stands for all of it."""

from __future__ import annotations

import json

import pytest
from manyhost.weights import manifest

FILE = manifest.File("b.safetensors", 10, "0" * 64, "AAAAAA==", "1" * 64, 2, (0,), "2" * 64)
OTHER = manifest.File("a.json", 3, "3" * 64, "AAAAAA==")


def test_the_text_is_the_same_for_the_same_model_and_can_be_read() -> None:
    one = manifest.Manifest("a/b", "c" * 40, (FILE, OTHER))
    text = manifest.dumps(one)
    assert text == manifest.dumps(manifest.Manifest("a/b", "c" * 40, (OTHER, FILE)))
    read = manifest.loads(text)
    assert (read.model, read.revision, read.files, read.bytes) == ("a/b", "c" * 40, (OTHER, FILE), 13)
    with pytest.raises(manifest.Unreadable, match="of version 2"):
        manifest.loads(json.dumps({**json.loads(text), "version": 2}).encode())
    for bad in (b"", b"[]", b"{}", text[:-20], text.replace(b'"size"', b'"sise"')):
        with pytest.raises(manifest.Unreadable):
            manifest.loads(bad)


@pytest.mark.parametrize("size", [0, 1, 4096, 5000, 10**6, 4 * 10**9, 10**12])
def test_the_blocks_lie_within_the_file_and_reach_its_end(size: int) -> None:
    found = list(manifest.blocks(size))
    assert 1 <= len(found) <= 8
    assert all(0 <= offset <= max(0, size - 1) for offset in found)
    assert found == sorted(set(found))
    assert found[-1] + manifest.BLOCK >= size
