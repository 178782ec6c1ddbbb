"""Headers of safetensors files, and what index and files say of each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from manyhost.weights import safetensors

from testbed.hub import write_model, write_safetensors


def header(document: object) -> bytes:
    text = json.dumps(document).encode()
    return len(text).to_bytes(8, "little") + text


TENSOR = {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]}


def test_a_header_names_its_tensors_and_the_size_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_safetensors(
        path, {"a": ("F8_E4M3", [128, 128], 16384), "b": ("F32", [1, 1], 4), "c": ("I8", [0], 0)}
    )
    found = safetensors.parse(path.read_bytes())
    assert {name: (t.dtype, t.shape) for name, t in found.tensors.items()} == {
        "a": ("F8_E4M3", (128, 128)),
        "b": ("F32", (1, 1)),
        "c": ("I8", (0,)),
    }
    assert found.tensor_bytes == 16388
    assert found.file_bytes == path.stat().st_size


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"1234", "ends before its header"),
        (b"<!doctype html><html>", "no safetensors header"),
        (header({"a": TENSOR})[:20], "ends before its header does"),
        ((5).to_bytes(8, "little") + b"[1,2]", "no list of tensors"),
        (header({"a": {"dtype": "BF16"}}), "no list of tensors"),
        (header({"a": {**TENSOR, "dtype": "F7"}}), "unknown type F7"),
        (header({"a": {**TENSOR, "data_offsets": [0, 13]}}), "bytes are not where"),
        (header({"a": {**TENSOR, "data_offsets": [4, 16]}}), "bytes are not where"),
        (header({"a": TENSOR, "b": {**TENSOR, "data_offsets": [11, 23]}}), "bytes are not where"),
    ],
)
def test_what_is_no_whole_file_is_said(data: bytes, text: str) -> None:
    with pytest.raises(safetensors.Broken, match=text):
        safetensors.parse(data)


def test_index_and_files_that_differ(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    index = safetensors.weight_map((folder / safetensors.INDEX).read_bytes())
    headers = {p.name: safetensors.parse(p.read_bytes()) for p in folder.glob("*.safetensors")}
    assert safetensors.contradictions(index, headers) == []
    first, second = sorted(headers)
    assert "no such file" in safetensors.contradictions(index, {first: headers[first]})[0]
    swapped = {first: headers[second], second: headers[first]}
    assert "lacks 2 tensors" in safetensors.contradictions(index, swapped)[0]
    assert "against the index" in safetensors.contradictions({"x": first}, headers)[1]
    assert "no model.safetensors.index.json" in safetensors.contradictions(None, headers)[0]
    assert safetensors.contradictions(None, {first: headers[first]}) == []
    assert safetensors.contradictions(None, {}) == ["there are no safetensors files"]
    for text in (b"{}", b"[", b'{"weight_map": {}}', b'{"weight_map": {"a": 1}}'):
        with pytest.raises(safetensors.Broken, match="no index"):
            safetensors.weight_map(text)
