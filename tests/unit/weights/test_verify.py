"""What is said of a model on the hub before anything is paid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from manyhost.catalog import Model
from manyhost.weights.hub import Hub
from manyhost.weights.verify import verify

from testbed import hub
from tests.unit.weights.conftest import MODEL

SHARD = "model-00001-of-00003.safetensors"


def model(folder: Path, revision: str, **other: Any) -> Model:
    """What the catalog would say of the model in a folder."""
    shards = list(folder.glob("*.safetensors"))
    document = {
        "name": "m",
        "hub_id": MODEL,
        "revision": revision,
        "served_name": MODEL,
        "weights_bytes": sum(path.stat().st_size for path in shards),
        "weights_files": len(shards),
        "gated": False,
        "reasoning_parser": "",
        "weight_format": "fp8-block",
        "max_context_tokens": 4096,
        "architecture": {
            "kind": "gqa-dense", "layers": 3, "hidden": 128, "heads": 4, "vocabulary": 4096,
            "kv_heads": 1, "head_dim": 1, "intermediate": 1,
        },
        **other,
    }  # fmt: skip
    return msgspec.convert(document, Model)


def looked(server: hub.Hub, folder: Path, **other: Any) -> dict[str, tuple[str, str]]:
    commit = server.add(MODEL, folder).commit
    found, _ = verify(Hub(server.url), model(folder, **{"revision": commit, **other}))
    return {finding.check: (finding.status, finding.text) for finding in found.findings}


def test_a_right_model_is_right_and_its_weights_are_not_read(server: hub.Hub, folder: Path) -> None:
    hub.write_model(folder, shard_bytes=8_000_000)
    found = looked(server, folder)
    assert {status for status, _ in found.values()} == {"ok"}
    assert list(found) == ["revision", "headers", "shards", "index", "size", "format", "config", "tokenizer"]
    assert "3 matrices" in found["format"][1]
    assert server.sent < 2_000_000
    tensors = 3 * (8_000_000 // 128 // 128 * 128 * 128 + 8_000_000 // 128 // 128 * 4)
    assert looked(server, folder, weights_bytes=tensors)["size"][0] == "ok"


def test_a_branch_is_not_pinned_and_the_fix_names_the_commit(server: hub.Hub, folder: Path) -> None:
    commit = server.repos[MODEL].commit
    found, _ = verify(Hub(server.url), model(folder, ""))
    (finding,) = found.failed
    assert finding.check == "revision"
    assert f"--revision {commit}" in finding.fix
    assert f"revision: {commit}" in finding.fix
    assert verify(Hub(server.url), model(folder, ""), commit)[0].failed == []


def change(name: str, edit: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        document = json.loads((folder / name).read_text())
        edit(document)
        (folder / name).write_text(json.dumps(document))

    return apply


def cut(folder: Path) -> None:
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:-1])


def page(folder: Path) -> None:
    (folder / SHARD).write_text("<html>Too many requests, try again later</html>")


def without_scales(folder: Path) -> None:
    """A converter that forgot them: the index agrees."""
    name = "model.layers.0.mlp.down_proj.weight"
    hub.write_safetensors(folder / SHARD, {name: ("F8_E4M3", [256, 128], 32768)})
    change("model.safetensors.index.json", lambda d: d["weight_map"].pop(f"{name}_scale_inv"))(folder)


@pytest.mark.parametrize(
    ("edit", "check", "text"),
    [
        (cut, "headers", "its header says"),
        (page, "headers", "no safetensors header"),
        (lambda folder: (folder / SHARD).unlink(), "index", "no such file"),
        (without_scales, "format", "no FP8 scales"),
        (change("config.json", lambda d: d.pop("quantization_config")), "format", "quant_method is None"),
        (change("config.json", lambda d: d["quantization_config"].update(fmt="e5")), "format", "fmt is e5"),
        (change("config.json", lambda d: d.update(hidden_size=64)), "config", "hidden_size is 64"),
        (lambda folder: (folder / "config.json").unlink(), "config", "no config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer", "no tokenizer.json"),
        (change("model.safetensors.index.json", lambda d: d["weight_map"].pop(next(iter(d["weight_map"])))),
         "index", "against the index"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(
    server: hub.Hub, folder: Path, edit: Callable[[Path], None], check: str, text: str
) -> None:
    edit(folder)
    status, said = looked(server, folder)[check]
    assert status == "failed"
    assert text in said


def test_what_the_catalog_says_otherwise_is_named(server: hub.Hub, folder: Path) -> None:
    found = looked(server, folder, weights_bytes=7, weights_files=4, weight_format="bf16")
    assert found["size"] == ("failed", found["size"][1])
    assert "the planner reckons with 7" in found["size"][1]
    assert "3 weight files, the catalog says 4" in found["shards"][1]
    assert found["format"][0] == "failed"
    hub.write_model(folder, fp8=False)
    assert looked(server, folder, weight_format="bf16")["format"] == ("ok", "BF16")
