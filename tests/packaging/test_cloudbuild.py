"""docker/vllm/cloudbuild.yml: what Cloud Build would refuse or overlook, found here."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from tests.helpers.cli import ROOT

FOLDER = ROOT / "docker/vllm"
BUILD: dict[str, Any] = yaml.safe_load((FOLDER / "cloudbuild.yml").read_text())
# The line of the published recipe (AI-Hypercomputer/gpu-recipes@2e1fd5e,
# inference/a3mega/deepseek-r1-671b/vllm-serving-gke/README.md).
PUBLISHED = """gcloud builds submit --region=${REGION} --config cloudbuild.yml
 --substitutions _ARTIFACT_REGISTRY=$ARTIFACT_REGISTRY,_VLLM_IMAGE=$VLLM_IMAGE,_VLLM_VERSION=$VLLM_VERSION
 --timeout "2h" --machine-type=e2-highcpu-32 --disk-size=1000 --quiet --async"""
# Cloud Build's own (docs.cloud.google.com/build/docs/configuring-builds/substitute-variable-values)
BUILT_IN = {"PROJECT_ID", "BUILD_ID", "PROJECT_NUMBER", "LOCATION"}


def substituted(value: Any) -> set[str]:
    """The substitutions that a document uses."""
    if isinstance(value, dict):
        return set().union(*map(substituted, value.values()), *map(substituted, value))
    if isinstance(value, list):
        return set().union(*map(substituted, value))
    text = str(value).replace("$$", "")
    return set(re.findall(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)", text))


def given() -> set[str]:
    words = shlex.split(PUBLISHED)
    pairs = words[words.index("--substitutions") + 1].split(",")
    return {pair.partition("=")[0] for pair in pairs}


def problems(build: dict[str, Any]) -> list[str]:
    """What is wrong with a build, in the words of whoever has to mend it."""
    from google.cloud.devtools import cloudbuild_v1
    from google.protobuf import json_format

    try:
        json_format.ParseDict(build, cloudbuild_v1.Build.pb(cloudbuild_v1.Build()))
    except json_format.ParseError as error:
        return [f"not a Build: {error}"]
    steps, options = build.get("steps") or [], build.get("options") or {}
    defined = set(build.get("substitutions") or {}) | given()
    used = substituted({key: value for key, value in build.items() if key != "substitutions"})
    found = [] if steps else ["no steps"]
    found += [f"{name} is not defined" for name in sorted(used - defined - BUILT_IN)]
    found += [f"{name} is not used: MUST_MATCH refuses it" for name in sorted(defined - used)]
    found += [f"{name} does not begin with _" for name in sorted(defined) if not name.startswith("_")]
    for step in steps:
        if not re.fullmatch(r"[^@]+:[^@:]+@sha256:[0-9a-f]{64}", step.get("name", "")):
            found.append(f"{step.get('name')}: no tag and digest")
        if step.get("allowFailure") or step.get("allowExitCodes"):
            found.append(f"{step.get('id')} may fail")
    found += [f"{key} is missing" for key in ("timeout", "images") if not build.get(key)]
    for key in ("machineType", "diskSizeGb", "logging", "requestedVerifyOption"):
        found += [] if key in options else [f"options.{key} is missing"]
    found += [] if options.get("substitutionOption") == "MUST_MATCH" else ["a misspelt substitution passes"]
    return found


def test_nothing_is_wrong_with_it() -> None:
    assert problems(BUILD) == []


def test_it_makes_the_image_that_the_published_line_names() -> None:
    assert given() == {"_ARTIFACT_REGISTRY", "_VLLM_IMAGE", "_VLLM_VERSION"}
    (step,) = BUILD["steps"]
    script, repository, version = step["args"]
    assert step["entrypoint"] == "sh"
    assert (FOLDER / script).is_file()
    assert BUILD["images"] == [f"{repository}:{version}"]
    assert shlex.split(PUBLISHED)[shlex.split(PUBLISHED).index("--config") + 1] == "cloudbuild.yml"


def put(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change: the last word becomes the value at the others."""

    def change(build: dict[str, Any]) -> None:
        *steps, key, value = path
        at: Any = build
        for step in steps:
            at = at[step]
        if value is None:
            del at[key]
        else:
            at[key] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (put("steps", []), "no steps"),
        (put("step", []), "not a Build"),
        (put("timeout", "two hours"), "not a Build"),
        (put("options", "machineType", "E2_HUGE"), "not a Build"),
        (put("options", "diskSizeGb", "much"), "not a Build"),
        (put("images", "one"), "not a Build"),
        (put("images", ["${_REGISTRY}/vllm"]), "_REGISTRY is not defined"),
        (put("images", ["${ARTIFACT_REGISTRY}/vllm"]), "ARTIFACT_REGISTRY is not defined"),
        (put("substitutions", {"_UNUSED": "1"}), "_UNUSED is not used"),
        (put("substitutions", {"TAG": "1"}), "TAG does not begin with _"),
        (put("steps", 0, "name", "gcr.io/cloud-builders/docker"), "no tag and digest"),
        (put("steps", 0, "name", "docker:latest"), "no tag and digest"),
        (put("steps", 0, "allowFailure", True), "build may fail"),
        (put("options", "requestedVerifyOption", None), "options.requestedVerifyOption is missing"),
        (put("options", "substitutionOption", "ALLOW_LOOSE"), "a misspelt substitution passes"),
        (put("timeout", None), "timeout is missing"),
        (put("images", None), "images is missing"),
    ],
)
def test_what_goes_wrong_with_build_files_is_found(
    change: Callable[[dict[str, Any]], None], said: str
) -> None:
    build = copy.deepcopy(BUILD)
    change(build)
    assert any(said in problem for problem in problems(build)), problems(build)
