"""What a pod says of a staged folder before it serves, with the standard library alone and in no time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from manyhost.errors import Failed
from manyhost.weights import manifest
from manyhost.weights.folder import Folder
from manyhost.weights.hub import Hub
from manyhost.weights.stage import stage

from testbed import hub
from tests.helpers.helm import CHART
from tests.unit.weights.conftest import MODEL, QUICK

SHARD = "model-00002-of-00003.safetensors"
STEPS = CHART / "launcher/manyhost_steps.py"
HOLD = 78  # no further attempt cures it


@pytest.fixture
def staged(server: hub.Hub, client: Hub, tmp_path: Path) -> Path:
    hub.write_model(tmp_path / "model", shard_bytes=200_000)
    server.add(MODEL, tmp_path / "model")
    stage(client, client.snapshot(MODEL, "main"), Folder(tmp_path / "staged"))
    return tmp_path / "staged"


def start(folder: Path, wanted: str = "", *flags: str) -> tuple[int, str]:
    """Ask the launcher; -I: nothing but the standard library is there."""
    done = subprocess.run(
        [sys.executable, "-B", "-S", str(STEPS), "weights", str(folder), *flags],
        env={**os.environ, "MANYHOST_STAGED": wanted, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


def test_a_staged_folder_is_served(server: hub.Hub, staged: Path) -> None:
    commit = server.repos[MODEL].commit
    for wanted in ("", MODEL, f"{MODEL}@{commit}"):
        assert start(staged, wanted) == (0, "")


def other_shard(folder: Path) -> None:
    """vllm#53537: the right size and header, other bytes; as a shard of another training run."""
    hub.write_safetensors(
        folder / SHARD,
        {
            "model.layers.1.mlp.down_proj.weight": ("F8_E4M3", [1536, 128], 1536 * 128),
            "model.layers.1.mlp.down_proj.weight_scale_inv": ("F32", [12, 1], 48),
        },
        "other",
    )


def zero_end(folder: Path) -> None:
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[:-9000] + bytes(9000))


def edit(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (other_shard, f"{SHARD} has other bytes"),
        (zero_end, f"{SHARD} has other bytes"),
        (edit(SHARD, lambda data: data[:-1]), f"{SHARD} has 196,"),
        (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing"),
        (edit("config.json", lambda data: data.replace(b"128", b"256")), "config.json has other bytes"),
        (edit("tokenizer.json", lambda data: data + b" "), "tokenizer.json has "),
        (edit(manifest.NAME, lambda data: data[:-9]), "manyhost-weights.json cannot be read"),
        (edit(manifest.NAME, lambda data: data.replace(b'"version": 1', b'"version": 9')), "of version 9"),
    ],
)
def test_a_folder_that_is_not_what_was_staged_is_refused(
    staged: Path, damage: Callable[[Path], None], text: str
) -> None:
    before = {path.name: path.stat().st_size for path in staged.iterdir()}
    damage(staged)
    if damage is other_shard:
        assert (staged / SHARD).stat().st_size == before[SHARD]
    code, said = start(staged)
    assert code == HOLD
    assert text in said
    assert said.startswith("manyhost: error: weights at")
    assert said.count("\n") == 1


def test_a_half_staged_folder_is_refused(server: hub.Hub, client: Hub, folder: Path, tmp_path: Path) -> None:
    """All but one file are there; the old check found config.json and some shards, and served."""
    server.fail("wrong", "tokenizer.json", times=-1)
    with pytest.raises(Failed):
        stage(client, client.snapshot(MODEL, "main"), Folder(tmp_path / "out"), patience=QUICK)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 3
    code, said = start(tmp_path / "out")
    assert code == HOLD
    assert "half-staged" in said


def test_a_folder_that_must_be_proven_needs_the_right_manifest(staged: Path, folder: Path) -> None:
    shutil.copytree(folder, staged.parent / "copied")
    assert start(staged.parent / "copied") == (0, "")  # somebody's own folder: as before
    code, said = start(staged.parent / "copied", MODEL)
    assert code == HOLD
    assert "nobody has proven them" in said
    code, said = start(staged, "other/model")
    assert code == HOLD
    assert "wanted is other/model" in said
    code, said = start(staged, f"{MODEL}@{'0' * 40}")
    assert code == HOLD
    assert f"wanted is {MODEL}@000000000000" in said


def test_weights_that_are_not_read_are_not_looked_at(staged: Path) -> None:
    other_shard(staged)
    assert start(staged, "", "--load-format", "dummy") == (0, "")


def test_a_manifest_names_the_blocks_that_stand_for_a_file(staged: Path) -> None:
    document = json.loads((staged / manifest.NAME).read_text())
    shard = next(file for file in document["files"] if file["name"] == SHARD)
    assert shard["blocks"] == [shard["size"] - document["block_bytes"]]
    assert shard["size"] - shard["tensor_bytes"] > 8
