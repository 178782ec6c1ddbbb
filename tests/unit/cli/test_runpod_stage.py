"""manyhost runpod stage: what is checked before anything is made or sent, and what `up` finds afterwards."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost.runpod import staging
from manyhost.runpod.api import Api
from manyhost.runpod.service import Service
from manyhost.weights import manifest
from manyhost.weights.folder import Folder
from manyhost.weights.hub import Hub
from manyhost.weights.stage import stage

from testbed import hub, s3
from testbed.errors import MissingError
from tests.helpers.cli import Ran, manyhost
from tests.helpers.runpod import Account, Clock
from tests.helpers.small_model import small_model
from tests.unit.cli.test_runpod import advised

RECIPE = "runpod-h200/small"
LAYOUT = """\
description: a small model
environment: runpod-h200
model: small
engine: {version: v0.26.0, executor: mp}
parallelism: {tensor: 1, pipeline: 1, data: 8}
context: 2048
traffic: {input_tokens: 100, output_tokens: 100}
objectives: {ttft_ms: 10000, tpot_ms: 60}
"""


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[hub.Hub]:
    """A hub with a small model that the catalog knows."""
    with small_model(tmp_path, monkeypatch) as (running, own):
        (own / "recipes" / RECIPE).mkdir()
        (own / "recipes" / RECIPE / "recipe.yaml").write_text(LAYOUT)
        yield running


@pytest.fixture
def cloud(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    with Account(clock) as made:
        for name, value in {
            "RUNPOD_API_KEY": made.key, "VLLM_API_KEY": "k", "MANYHOST_RUNPOD_URL": made.url,
            "XDG_STATE_HOME": str(tmp_path), "AWS_ACCESS_KEY_ID": s3.ACCESS,
            "AWS_SECRET_ACCESS_KEY": s3.SECRET,
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        times: dict[str, Callable[..., Any]] = {"sleep": clock.sleep, "clock": clock}
        monkeypatch.setattr(Api.__init__, "__kwdefaults__", times)
        monkeypatch.setattr(staging.folder, "__kwdefaults__", times)
        monkeypatch.setattr(Service.__init__, "__kwdefaults__", {**times, "now": clock})
        yield made


@pytest.fixture
def store(cloud: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Endpoint]:
    """The endpoint of one data center; it knows the volumes of the account."""
    (tmp_path / "volumes").mkdir()
    try:
        running = s3.Endpoint(tmp_path / "volumes", "EU-RO-1")
    except MissingError as error:
        pytest.skip(str(error))
    with running:
        running.volumes = lambda: list(cloud.things["network-volumes"])
        monkeypatch.setenv("MANYHOST_RUNPOD_S3_URL", running.url)
        yield running


def runpod(verb: str, *words: str) -> Ran:
    return manyhost("runpod", verb, RECIPE, "--owner", "ann", *words)


def nothing_made(cloud: Account, store: s3.Endpoint) -> bool:
    made = [call for call in cloud.calls if call.startswith("POST")]
    return not made and not store.asked("^(Put|Create|Upload)")


def test_from_nothing_to_a_volume_that_up_takes(models: hub.Hub, cloud: Account, store: s3.Endpoint) -> None:
    dry = runpod("stage", "--dry-run", "--data-center", "EU-RO-1")
    assert (dry.code, dry.err) == (0, ""), dry
    assert "to a new volume, 7.00 USD a month (100 GB in EU-RO-1)" in dry.out
    assert nothing_made(cloud, store)
    ran = runpod("stage", "--data-center", "EU-RO-1", "--output", "json")
    assert ran.code == 0, ran
    result = ran.output.result
    assert (result["staged"]["complete"], result["staged"]["downloaded_files"]) == (True, 9)
    assert [call for call in cloud.calls if call.startswith("POST")] == ["POST /v2/network-volumes"]
    mounted = store.folder / result["volume"]["id"] / "models/test/small"
    assert (mounted / manifest.NAME).exists()
    client = Hub()
    found = stage(client, client.snapshot("test/small", "main"), Folder(mounted))
    assert (found.complete, found.downloaded_files, found.adopted_files) == (True, 0, 0)
    sent = len(store.calls)
    again = runpod("stage")
    assert (again.code, "nothing to do: " in again.out) == (0, True), again
    assert not [call for call in store.calls[sent:] if call.startswith(("Put", "Upload", "Create"))]
    (command,) = advised(again.out)
    assert shlex.split(command)[:4] == ["manyhost", "runpod", "up", RECIPE]
    for said in (dry, ran, again):
        assert s3.SECRET not in said.out + said.err
    assert not [
        path for path in store.folder.rglob("*") if path.is_file() and s3.SECRET.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    ("variables", "words", "said"),
    [
        (
            {"AWS_ACCESS_KEY_ID": ""},
            (),
            "AWS_ACCESS_KEY_ID: is not set: the S3 endpoint wants a key of its own",
        ),
        ({"AWS_SECRET_ACCESS_KEY": ""}, (), "AWS_SECRET_ACCESS_KEY: is not set"),
        ({"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE"}, (), "is a key of Amazon's"),
        (
            {"AWS_ACCESS_KEY_ID": "user_other"},
            (),
            "AWS_ACCESS_KEY_ID: is not accepted by RunPod's S3 endpoint",
        ),
        (
            {},
            ("--data-center", "MOON-1"),
            "--data-center: MOON-1 has no S3 endpoint; these have one: EU-CZ-1,",
        ),
        ({"HF_ENDPOINT": "http://127.0.0.1:9"}, (), "the hub fails"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(
    models: hub.Hub,
    cloud: Account,
    store: s3.Endpoint,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    words: tuple[str, ...],
    said: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    ran = runpod("stage", *(words or ("--data-center", "EU-RO-1")))
    assert (ran.code in (4, 5), said in ran.err) == (True, True), ran
    assert len(ran.err.splitlines()) <= 2
    assert nothing_made(cloud, store)


def test_a_volume_that_cannot_take_it(models: hub.Hub, cloud: Account, store: s3.Endpoint) -> None:
    made = runpod("stage", "--data-center", "EU-RO-1", "--output", "json").output.result["volume"]["id"]
    thing = cloud.things["network-volumes"][made]
    store.calls.clear()
    thing["size"] = 20
    ran = runpod("stage")
    assert (ran.code, f"the volume {made}: has 20 GB, weights and engine need 40" in ran.err) == (4, True), (
        ran
    )
    thing |= {"size": 100, "dataCenter": "AP-JP-1"}
    ran = runpod("stage")
    assert (ran.code, f"the volume {made}: AP-JP-1 has no S3 endpoint" in ran.err) == (4, True), ran
    assert not store.calls


def test_a_volume_that_the_endpoint_gets_to_know_late(
    models: hub.Hub, cloud: Account, store: s3.Endpoint
) -> None:
    store.fail("^ListObjectsV2", "refused", 404, "NoSuchBucket", 3)
    ran = runpod("stage", "--data-center", "EU-RO-1")
    assert ran.code == 0, ran


def test_a_run_that_fails_says_what_the_volume_costs(
    models: hub.Hub, cloud: Account, store: s3.Endpoint
) -> None:
    store.fail("^PutObject .*safetensors", "refused", 400, "EntityTooLarge", -1)
    ran = runpod("stage", "--data-center", "EU-RO-1")
    assert ran.code == 5, ran
    assert "nothing is billed but the volume, 7.00 USD a month" in ran.err
    assert "HTTP 400 EntityTooLarge" in ran.err
    store.faults.clear()
    goes_on = next(one for one in advised(ran.err) if " stage " in one)
    assert manyhost(*shlex.split(goes_on)[1:]).code == 0
