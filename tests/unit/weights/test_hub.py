"""What a commit is, and what a refusal of the hub means to its user."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhost.errors import InvalidInput, NotReady, RemoteError
from manyhost.weights.hub import Hub

from testbed import hub
from tests.helpers.cli import manyhost
from tests.unit.weights.conftest import MODEL


def test_a_branch_becomes_the_commit_it_is_now_with_what_serving_needs(
    server: hub.Hub, client: Hub, folder: Path
) -> None:
    for name in ("pytorch_model.bin", "figures/a.json", "consolidated.safetensors", "chat_template.jinja"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("x")
    commit = server.add(MODEL, folder).commit
    server.page = 3
    found = client.snapshot(MODEL, "main")
    assert found.revision == commit
    assert {file.name for file in found.files} == {
        "LICENSE", "chat_template.jinja", "config.json", "generation_config.json",
        "model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors", "model.safetensors.index.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert len(found.shards) == 3
    assert client.snapshot(MODEL, commit) == found
    shard = found.shards[0]
    assert client.read(found, shard, 5, 7) == (folder / shard.name).read_bytes()[5:12]
    assert client.read(found, shard, shard.size - 2, 99) == (folder / shard.name).read_bytes()[-2:]


def test_refusals_say_what_to_do(server: hub.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.add("test/private", folder, token="hf_right")
    server.add("test/gated", folder, token="hf_right", gated=True)
    with pytest.raises(InvalidInput, match="no model test/none") as unknown:
        Hub(server.url).snapshot("test/none", "main")
    assert "HF_TOKEN" in unknown.value.fix
    with pytest.raises(InvalidInput, match="no revision v9"):
        Hub(server.url).snapshot(MODEL, "v9")
    with pytest.raises(InvalidInput, match="test/private, or not for this token"):
        Hub(server.url).snapshot("test/private", "main")
    with pytest.raises(NotReady, match="accepted its terms") as gated:
        Hub(server.url).snapshot("test/gated", "main")
    assert "https://huggingface.co/test/gated" in gated.value.fix
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert Hub(server.url).snapshot("test/gated", "main").files
    with pytest.raises(RemoteError, match=r"^http://127\.0\.0\.1:9: the hub fails for test/m"):
        Hub("http://127.0.0.1:9").snapshot(MODEL, "main")


@pytest.mark.parametrize(
    "address", ["hub.example", "http://", "http://[::1", "http://127.0.0.1:99999", "ftp://x", "\n"]
)
def test_an_address_that_is_none(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", address)
    ran = manyhost("weights", "verify", "qwen3-8b")
    assert ran.code == 3
    assert ran.err.startswith("manyhost: HF_ENDPOINT: ")
    assert "is no address of a hub" in ran.err


def test_the_token_goes_to_the_hub_and_nowhere_else(
    server: hub.Hub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.add("test/private", folder, token="hf_secret")
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    client = Hub(server.url)
    found = client.snapshot("test/private", "main")
    assert b"".join(client.stream(found, found.shards[0], 0, xet=False))
    asked = [one for one in server.seen if not one.path.startswith("/cdn")]
    stored = [one for one in server.seen if one.path.startswith("/cdn")]
    assert stored
    assert {one.authorization for one in asked} == {"Bearer hf_secret"}
    assert {one.authorization for one in stored} == {""}


@pytest.mark.parametrize(
    "name", ["../outside.json", "a//b.json", "manyhost-weights.json", ".manyhost-staging/x.json"]
)
def test_a_name_that_would_lie_elsewhere_is_refused(server: hub.Hub, client: Hub, name: str) -> None:
    files = server.repos[MODEL].files
    files[name] = files["config.json"]
    with pytest.raises(InvalidInput, match="cannot be staged"):
        client.snapshot(MODEL, "main")
