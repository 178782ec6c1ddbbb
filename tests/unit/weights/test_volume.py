"""Staging onto a network volume through an S3 endpoint: right files and the pod's manifest, or an error."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from manyhost.errors import Failed, InvalidInput, NotReady, RemoteError
from manyhost.runpod import volume_folder
from manyhost.runpod.s3 import S3, Denied, Keys, NoVolume
from manyhost.weights import manifest
from manyhost.weights.folder import Folder
from manyhost.weights.hub import Hub
from manyhost.weights.stage import Staged, stage

from testbed import hub, s3
from testbed.errors import MissingError
from tests.helpers.volume import CENTER, FOLDER, PART, VOLUME, open_volume
from tests.unit.weights.conftest import MODEL, QUICK, contents, served
from tests.unit.weights.test_pod_start import start

SHARD = "model-00002-of-00003.safetensors"


@contextlib.contextmanager
def endpoint(folder: Path, *options: str) -> Iterator[s3.Endpoint]:
    """An endpoint with one volume."""
    (folder / VOLUME).mkdir(parents=True)
    try:
        running = s3.Endpoint(folder, CENTER, *options)
    except MissingError as error:
        pytest.skip(str(error))
    with running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[s3.Endpoint]:
    with endpoint(tmp_path / "volumes") as running:
        yield running


@pytest.fixture
def big(server: hub.Hub, folder: Path) -> dict[str, bytes]:
    """A model of three shards of two parts that the hub has now; returns its files."""
    hub.write_model(folder, shards=3, shard_bytes=6_000_000)
    server.add(MODEL, folder)
    return served(folder)


def on_volume(store: s3.Endpoint) -> dict[str, bytes]:
    """The model's files, as a pod sees them that mounts the volume."""
    return contents(store.folder / VOLUME / FOLDER)


def run(client: Hub, store: s3.Endpoint, **how: object) -> tuple[Staged, list[str]]:
    said: list[str] = []
    there = open_volume(store.url, QUICK, **how)  # type: ignore[arg-type]
    done = stage(client, client.snapshot(MODEL, "main"), there, workers=3, patience=QUICK, report=said.append)
    return done, said


def whole(store: s3.Endpoint, right: dict[str, bytes]) -> bool:
    """Whether the volume has the model, its manifest, and nothing else, parts of uploads included."""
    found = on_volume(store)
    text = found.pop(manifest.NAME, None)
    left = [path for path in (store.folder / VOLUME).rglob("*") if path.is_file()]
    return bool(text) and found == right and len(left) == len(right) + 1


def test_a_volume_gets_what_a_pod_would_have_written(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes], tmp_path: Path
) -> None:
    done, said = run(client, store)
    assert (done.complete, done.downloaded_files, said) == (True, len(big), [])
    assert whole(store, big)
    assert store.asked("^UploadPart") == 6
    assert store.asked("^unknown") == 0
    stage(client, client.snapshot(MODEL, "main"), Folder(tmp_path / "pod"))
    assert on_volume(store) == contents(tmp_path / "pod")


def test_a_pod_takes_the_volume_as_it_is(
    client: Hub, server: hub.Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    run(client, store)
    before = len(server.downloads("*.safetensors"))
    assert start(store.folder / VOLUME / FOLDER, f"{MODEL}@{server.repos[MODEL].commit}")[0] == 0
    mounted = Folder(store.folder / VOLUME / FOLDER)
    done = stage(client, client.snapshot(MODEL, "main"), mounted)
    assert (done.complete, done.downloaded_files, done.adopted_files) == (True, 0, 0)
    assert len(server.downloads("*.safetensors")) == before


def test_a_second_run_sends_nothing(client: Hub, store: s3.Endpoint, big: dict[str, bytes]) -> None:
    run(client, store)
    store.calls.clear()
    done, _ = run(client, store)
    assert (done.complete, done.downloaded_files, done.adopted_files, done.downloaded_bytes) == (
        True,
        0,
        0,
        0,
    )
    assert not store.asked("^(Put|Upload|Create|Complete|Delete)")


def test_what_a_pod_has_begun_is_read_and_kept(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes], tmp_path: Path
) -> None:
    mounted = Folder(store.folder / VOLUME / FOLDER)
    snapshot = client.snapshot(MODEL, "main")
    (store.folder / VOLUME / FOLDER).mkdir(parents=True)
    mounted.begin(b'{"model": "%s", "revision": "%s"}' % (MODEL.encode(), snapshot.revision.encode()))
    (store.folder / VOLUME / FOLDER / SHARD).write_bytes(big[SHARD])
    done, _ = run(client, store)
    assert (done.adopted_files, done.downloaded_files) == (1, len(big) - 1)
    assert whole(store, big)


@pytest.mark.parametrize(
    ("match", "kind", "status", "code", "times"),
    [
        ("^UploadPart .* 2$", "refused", 502, "BadGateway", 3),
        ("^UploadPart .* 2$", "refused", 403, "AccessDenied", 2),
        ("^UploadPart", "reset", 0, "", 2),
        ("^UploadPart", "lost", 0, "", 2),
        ("^UploadPart .* 1$", "late", 524, "", 2),
        ("^PutObject", "lost", 0, "", 3),
        ("^CreateMultipartUpload", "lost", 0, "", 1),
        ("^CompleteMultipartUpload", "late", 524, "", 3),
        ("^CompleteMultipartUpload", "lost", 0, "", 3),
        ("^CompleteMultipartUpload", "reset", 0, "", 2),
        ("^CompleteMultipartUpload", "refused", 503, "", 2),
        ("^CompleteMultipartUpload", "refused", 403, "AccessDenied", 1),
        ("^ListObjectsV2", "circle", 0, "", 1),
        ("^ListParts|^ListMultipartUploads", "refused", 500, "", 2),
        ("^HeadObject", "refused", 524, "", 3),
        ("^GetObject", "reset", 0, "", 3),
        ("^CreateMultipartUpload", "late", 200, "", 2),
        ("^UploadPart .* 1$", "late", 200, "", 2),
        ("^PutObject", "late", 200, "", 2),
        ("^CompleteMultipartUpload", "late", 200, "", 2),
        ("^GetObject", "late", 200, "", 2),
        ("^HeadObject", "late", 200, "", 2),
        ("^ListParts|^ListMultipartUploads|^ListObjectsV2", "late", 200, "", 2),
    ],
)
def test_what_goes_wrong_on_the_way_is_overcome(
    client: Hub,
    store: s3.Endpoint,
    big: dict[str, bytes],
    match: str,
    kind: str,
    status: int,
    code: str,
    times: int,
) -> None:
    store.fail(match, kind, status, code, times)
    done, _ = run(client, store)
    assert done.complete
    assert whole(store, big)


def test_an_endpoint_whose_etags_are_no_md5_is_read_back(
    client: Hub, big: dict[str, bytes], tmp_path: Path
) -> None:
    with endpoint(tmp_path / "volumes", "--data-integrity-etag") as store:
        done, _ = run(client, store)
        assert done.complete
        assert whole(store, big)
        assert store.asked(f"^GetObject .*/{SHARD}") >= 3


def test_parts_of_more_than_the_endpoint_takes(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    store.most = PART - 1
    with pytest.raises(RemoteError, match="refuses it: HTTP 400 EntityTooLarge"):
        run(client, store)
    assert volume_folder.PART < 500_000_000


def test_a_volume_that_fills_up_says_what_the_endpoint_says(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    store.fail("^UploadPart", "refused", 507, "InsufficientStorage", -1)
    with pytest.raises(RemoteError, match=r"HTTP 507 InsufficientStorage .* 4 times in a row") as error:
        run(client, store)
    assert len(str(error.value).splitlines()) <= 2
    assert manifest.NAME not in on_volume(store)


def test_a_volume_that_is_too_small(client: Hub, store: s3.Endpoint, big: dict[str, bytes]) -> None:
    with pytest.raises(NotReady, match=r"has 0\.0 GB free, 0\.0 GB are needed"):
        run(client, store, capacity=10_000_000)
    assert not store.asked("^UploadPart")


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (Keys("user_other", s3.SECRET), "AWS_ACCESS_KEY_ID: is not accepted by .*: InvalidAccessKeyId"),
        (
            Keys(s3.ACCESS, "rps_other-secret"),
            "AWS_ACCESS_KEY_ID: is not accepted by .*: SignatureDoesNotMatch",
        ),
    ],
)
def test_a_key_that_is_not_accepted(client: Hub, store: s3.Endpoint, key: Keys, said: str) -> None:
    with pytest.raises(NotReady, match=said) as error:
        run(client, store, key=key)
    assert key.secret not in str(error.value) + repr(key)
    assert not on_volume(store)


def test_a_volume_that_the_endpoint_does_not_know(store: s3.Endpoint) -> None:
    with pytest.raises(NoVolume, match="does not know the volume"):
        open_volume(store.url, QUICK, volume="vol1").inventory()


def test_a_key_that_may_never_do_it(client: Hub, store: s3.Endpoint) -> None:
    store.fail("", "refused", 403, "AccessDenied", -1)
    with pytest.raises(Denied, match="may not do that"):
        run(client, store)
    assert len(store.calls) == 3


def test_settings_for_amazon_change_nothing(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("[profile x]\nregion = us-east-1\nendpoint_url = http://127.0.0.1:9\n")
    for name, value in {
        "AWS_PROFILE": "nobody", "AWS_CONFIG_FILE": str(tmp_path / "config"), "AWS_SESSION_TOKEN": "old",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert run(client, store)[0].complete


def test_wrong_bytes_of_the_hub_are_never_a_file(
    client: Hub, server: hub.Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    server.fail("wrong", SHARD, times=-1, at=5_500_000)
    with pytest.raises(Failed, match=r"wrong bytes: sha256 .* tried 2 times"):
        run(client, store)
    found = on_volume(store)
    assert SHARD not in found
    assert manifest.NAME not in found
    server.faults.clear()
    assert run(client, store)[0].complete
    assert whole(store, big)


def test_a_file_that_changes_on_the_volume_before_it_is_noted(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was joined is looked at: its size, and the blocks that the manifest will stand on."""
    path, spoiled = store.folder / VOLUME / FOLDER / SHARD, []
    join = S3.join

    def spoil(self: S3, volume: str, key: str, upload: str, etags: list[str]) -> None:
        join(self, volume, key, upload, etags)
        if key.endswith(SHARD) and not spoiled:
            spoiled.append(path.write_bytes(big[SHARD][:-1] + b"?"))

    monkeypatch.setattr(S3, "join", spoil)
    done, said = run(client, store)
    assert done.complete
    assert any("has other bytes than were sent on the volume: once more" in line for line in said)
    assert whole(store, big)


def test_a_part_that_another_run_sends_anew_with_wrong_bytes(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs share an upload: the bytes of one that the hub has cheated are in no file."""
    send, join, spoiled = S3.part, S3.join, []

    def part(self: S3, volume: str, key: str, upload: str, number: int, data: bytes, sleep: Any) -> str:
        etag = send(self, volume, key, upload, number, data, sleep)
        if key.endswith(SHARD) and number == 2 and not spoiled:
            spoiled.append(send(self, volume, key, upload, 1, bytes(PART), sleep))
        return etag

    def trusting(self: S3, volume: str, key: str, upload: str, etags: list[str]) -> None:
        """An endpoint that joins what it has."""
        there = self.parts(volume, key, upload)
        join(self, volume, key, upload, [there[number][1] for number in sorted(there)])

    monkeypatch.setattr(S3, "part", part)
    monkeypatch.setattr(S3, "join", trusting)
    done, said = run(client, store)
    assert spoiled
    assert any("has other bytes than were sent on the volume: once more" in line for line in said)
    assert done.complete
    assert whole(store, big)


def test_another_revision_is_refused(client: Hub, server: hub.Hub, store: s3.Endpoint, folder: Path) -> None:
    run(client, store)
    (folder / "config.json").write_text('{"other": 1}')
    server.add(MODEL, folder)
    before = on_volume(store)
    with pytest.raises(InvalidInput, match="holds test/m@"):
        run(client, store)
    assert on_volume(store) == before


def test_a_shard_that_somebody_spoils_is_staged_again(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    run(client, store)
    path = store.folder / VOLUME / FOLDER / SHARD
    path.write_bytes(big[SHARD][:-1] + b"?")
    done, said = run(client, store)
    assert any("other bytes than its manifest says: staging it again" in line for line in said)
    assert done.complete
    assert whole(store, big)


def test_two_runs_at_once_do_not_harm_each_other(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    for _ in range(2):
        with ThreadPoolExecutor(3) as pool:
            runs = [pool.submit(run, client, store) for _ in range(3)]
            assert all(one.result()[0].complete for one in runs)
        run(client, store)  # what the last one to end has left
        assert whole(store, big)
        shutil.rmtree(store.folder / VOLUME / "models")


def test_a_run_goes_on_with_the_parts_that_are_there(
    client: Hub, store: s3.Endpoint, big: dict[str, bytes]
) -> None:
    store.fail(f"^UploadPart .*{SHARD} 2", "refused", 500, times=-1)
    with pytest.raises(RemoteError):
        run(client, store)
    store.faults.clear()
    store.calls.clear()
    run(client, store)
    assert whole(store, big)
    assert [call.split()[-1] for call in store.calls if call.startswith("UploadPart") and SHARD in call] == [
        "2"
    ]


def test_progress_is_told(
    client: Hub, server: hub.Hub, store: s3.Endpoint, big: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manyhost.weights.stage._TELL_SECONDS", 0.05)
    _, said = run(client, store)
    assert any("of 0.0 GB, " in line and " min left" in line for line in said)
