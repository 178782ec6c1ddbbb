"""`manyhost check` and the engine in the image: its executor, its flags, and what nobody knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from manyhost.render import build

from tests.helpers.cli import RECIPE, Ran, manyhost

MANIFESTS = build(RECIPE).manifests_text
IMAGE = "vllm/vllm-openai:v0.33.0"


def check(folder: Path, image: str, *options: str) -> Ran:
    path = folder / "m.yaml"
    assert IMAGE in MANIFESTS
    path.write_text(MANIFESTS.replace(IMAGE, image))
    return manyhost("check", str(path), *options)


@pytest.mark.parametrize("image", ["vllm/vllm-openai:v0.7.3", "eu.pkg.dev/p/r/vllm-openai:v0.7.3-mine"])
def test_an_engine_without_the_executor_is_refused(image: str, tmp_path: Path) -> None:
    ran = check(tmp_path, image)
    assert ran.code == 3
    assert "vLLM v0.7.3 starts several hosts with ray, not with mp" in ran.out
    assert "[engine-executor]" in ran.out


def test_a_build_of_a_known_version_has_its_flags_checked(tmp_path: Path) -> None:
    assert check(tmp_path, f"{IMAGE}-mine").err == ""


def test_another_version_than_asked_for_is_refused(tmp_path: Path) -> None:
    ran = check(tmp_path, "vllm/vllm-openai:v0.26.0", "--engine", "v0.33.0")
    assert ran.code == 3
    assert "is vLLM v0.26.0, not v0.33.0" in ran.out
    assert check(tmp_path, "o/vllm:v0.26.0", "--engine", "v0.33.0").out.count("is vLLM") == 0


@pytest.mark.parametrize("tag", ["nightly", "v0.19.0", "mine"])
def test_what_is_not_checked_is_said(tag: str, tmp_path: Path) -> None:
    ran = check(tmp_path, f"o/vllm:{tag}")
    assert f"nobody here knows which vLLM '{tag}' is" in ran.err
    assert "--engine" in ran.err
