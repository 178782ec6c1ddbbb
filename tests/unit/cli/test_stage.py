"""The commands weights and stage, on a hub and an emulator."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import gcs, hub
from testbed.errors import MissingError
from tests.helpers.cli import manyhost
from tests.helpers.helm import helm_binaries
from tests.helpers.small_model import small_model


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with a small model that the catalog knows."""
    with small_model(tmp_path, monkeypatch) as (running, _):
        monkeypatch.setenv("HF_TOKEN", "hf_verysecret")
        yield running


def test_verify_says_what_it_found(server: hub.Hub) -> None:
    done = manyhost("weights", "verify", "small")
    assert (done.code, done.err) == (0, "")
    assert "ok   format     FP8 e4m3: 3 matrices" in done.out
    found = manyhost("weights", "verify", "small", "--output", "json").output.envelope
    assert found["command"] == "weights"
    assert {finding["status"] for finding in found["result"]["findings"]} == {"ok"}
    branch = manyhost("weights", "verify", "small", "--revision", "main")
    assert branch.code == 1
    assert "is not what the catalog says: revision" in branch.err
    assert f"--revision {server.repos['test/small'].commit}" in branch.out
    other = manyhost("weights", "verify", "smal")
    assert other.code == 3
    assert "did you mean small?" in other.err


def test_stage_to_a_folder(server: hub.Hub, tmp_path: Path) -> None:
    target = tmp_path / "staged"
    dry = manyhost("stage", "small", "--to", str(target), "--dry-run")
    assert dry.code == 0
    assert "about 1 min" in dry.out
    assert not target.exists()
    done = manyhost("stage", "small", "--to", str(target), "--output", "json")
    assert done.code == 0
    staged = done.output.envelope["result"]["staged"]
    assert (staged["complete"], staged["downloaded_files"]) == (True, 9)
    assert json.loads((target / "manyhost-weights.json").read_text())["model"] == "test/small"
    again = manyhost("stage", "small", "--to", str(target))
    assert "downloaded 0 (" in again.out
    for path in target.rglob("*"):
        assert b"verysecret" not in path.read_bytes()


def test_stage_to_a_bucket_says_what_it_costs(server: hub.Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        emulator = gcs.Gcs()
    except MissingError as error:
        pytest.skip(str(error))
    with emulator:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator.url)
        from manyhost.weights.store import open_store

        open_store("test").client.create_bucket("models", location="us-east4")
        done = manyhost("stage", "small", "--to", "gs://models/small")
        assert done.code == 0, done.err
        assert "USD a month (https://cloud.google.com/storage/pricing" in done.out
        names = {blob.name for blob in open_store("test").client.list_blobs("models")}
        assert "small/manyhost-weights.json" in names
        missing = manyhost("stage", "small", "--to", "gs://none-here/small")
        assert missing.code == 5
        assert "gcloud storage buckets create gs://none-here" in missing.err


def test_what_cannot_be_staged_is_refused_before_a_byte_is_moved(server: hub.Hub, tmp_path: Path) -> None:
    bad = manyhost("stage", "small", "--to", "gs:///folder")
    assert bad.code == 3
    assert "--to: gs:///folder is no gs://BUCKET/FOLDER" in bad.err
    server.fail("wrong", "model-00001*", times=-1, at=12)
    broken = manyhost("stage", "small", "--to", str(tmp_path / "x"))
    assert broken.code == 1
    assert "test/small: headers" in broken.err
    assert not (tmp_path / "x").exists()
    assert "verysecret" not in broken.err + broken.out
    assert os.environ["HF_TOKEN"] == "hf_verysecret"


def test_a_claim_is_filled_in_the_cluster_by_the_command_that_is_printed(server: hub.Hub) -> None:
    refused = manyhost("stage", "small", "--to", "pvc://weights/m", "--output", "json")
    assert refused.code == 3
    fix = refused.output.envelope["errors"][0]["fix"]
    assert fix.startswith("in the claim's own namespace: `")
    words = shlex.split(fix.split("`")[1])
    assert words[:3] == ["helm", "install", "stage"]
    binaries = helm_binaries()
    if not binaries:
        pytest.skip("needs make tools")
    command = [str(binaries["helm3"]), "template", *words[2:]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert server.repos["test/small"].commit in done.stdout
    assert 'claimName: "weights"' in done.stdout


@pytest.mark.parametrize("address", ["s3://bucket/folder", "gs://", "gs:///folder", "hf://a/b"])
def test_a_target_that_cannot_be_is_refused_before_the_hub_is_asked(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody answers there
    refused = manyhost("stage", "tiny-r1", "--to", address)
    assert (refused.code, "--to: " in refused.err) == (3, True), refused
