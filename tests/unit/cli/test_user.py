"""What a user's environment lacks, or has and cannot be sent: told before anything is asked, not shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cli import manyhost
from tests.helpers.runpod import RECIPE, Account, Clock

PART = "s3cret"
KEYS = {"line": f"{PART}-key\n", "windows": f"{PART}-key\r", "inside": f"{PART}\nkey", "blank": f" {PART}",
        "letters": f"ключ{PART}"}  # fmt: skip
UPLOAD = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Account]:
    with Account(Clock()) as made:
        for name, value in {
            "RUNPOD_API_KEY": made.key, "VLLM_API_KEY": "key", "MANYHOST_RUNPOD_URL": made.url,
            "XDG_STATE_HOME": str(tmp_path / "state"), **dict.fromkeys(UPLOAD, "key"),
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield made


@pytest.mark.parametrize(
    "arguments", [("runpod", "status", RECIPE), ("doctor", "a3mega")], ids=lambda words: words[0]
)
def test_a_user_without_a_home(
    arguments: tuple[str, ...], cloud: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs as any user."""

    def nobody(user: object) -> object:
        raise KeyError(user)

    for name in ("HOME", "XDG_STATE_HOME", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    ran = manyhost(*arguments, *(("--owner", "ann") if arguments[0] == "runpod" else ()))
    assert ran.code == 4, ran
    assert ran.err.startswith("manyhost: HOME: is not set")


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("RUNPOD_API_KEY", ("runpod", "plan", RECIPE)),
        ("RUNPOD_API_KEY", ("runpod", "sweep")),
        ("VLLM_API_KEY", ("runpod", "up", RECIPE)),
        ("VLLM_API_KEY", ("bench", "local/tiny-r1", "--url", "http://127.0.0.1:9")),
        ("VLLM_API_KEY", ("chat", "local/tiny-r1")),
        ("HF_TOKEN", ("weights", "verify", "qwen3-8b")),
        ("HF_TOKEN", ("stage", "qwen3-8b", "--to", "weights")),
        *((name, ("runpod", "stage", RECIPE)) for name in UPLOAD),
    ],
)
def test_a_secret_that_no_header_takes(
    name: str,
    arguments: tuple[str, ...],
    kind: str,
    cloud: Account,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(name, KEYS[kind])
    ran = manyhost(*arguments)
    assert ran.code == 3, ran
    assert ran.err.startswith(f"manyhost: {name}: has a blank or a line break at an end of it")
    assert f"export {name}=..." in ran.err
    assert PART not in ran.out + ran.err
    assert [call for call in cloud.calls if not call.startswith("GET")] == [], "nothing was asked for"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
