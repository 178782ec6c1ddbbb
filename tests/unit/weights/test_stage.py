"""Staging with the real clients: whatever happens on the way, right files and a manifest, or an error."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from manyhost.errors import Failed, InvalidInput, NotReady, RemoteError
from manyhost.weights import manifest
from manyhost.weights.bucket import Bucket
from manyhost.weights.folder import Folder
from manyhost.weights.hub import Hub
from manyhost.weights.stage import Part, Staged, differences, stage
from manyhost.weights.store import Store, open_store
from manyhost.weights.target import Busy

from testbed import gcs, hub
from tests.unit.weights.conftest import MODEL, QUICK, contents, served

SHARD = "model-00002-of-00003.safetensors"


def run(client: Hub, target: Folder | Bucket, **how: object) -> tuple[Staged, list[str]]:
    said: list[str] = []
    done = stage(client, client.snapshot(MODEL, "main"), target, patience=QUICK, report=said.append, **how)  # type: ignore[arg-type]
    return done, said


def in_bucket(bucket: Bucket) -> dict[str, bytes]:
    name, _, prefix = bucket.where.removeprefix("gs://").partition("/")
    blobs = bucket._store.client.list_blobs(name, prefix=prefix + "/")
    return {blob.name.removeprefix(prefix + "/"): blob.download_as_bytes() for blob in blobs}


def test_a_folder_gets_the_files_and_the_manifest_and_nothing_else(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path
) -> None:
    done, said = run(client, Folder(tmp_path / "out"))
    assert done.complete
    assert said == []
    found = contents(tmp_path / "out")
    known = manifest.loads(found.pop(manifest.NAME))
    assert found == served(folder)
    assert (known.model, known.revision) == (MODEL, server.repos[MODEL].commit)
    assert {file.name: file.size for file in known.files} == {n: len(d) for n, d in found.items()}
    assert list(done.phases) == ["look", "transfer", "read back", "manifest"]
    before = len(server.downloads("*.safetensors"))
    again, _ = run(client, Folder(tmp_path / "out"))
    assert (again.complete, again.downloaded_files) == (True, 0)
    assert len(server.downloads("*.safetensors")) == before


def test_a_bucket_gets_the_same_manifest(client: Hub, folder: Path, bucket: Bucket, tmp_path: Path) -> None:
    assert run(client, bucket)[0].complete
    run(client, Folder(tmp_path / "out"))
    found = in_bucket(bucket)
    assert found[manifest.NAME] == (tmp_path / "out" / manifest.NAME).read_bytes()
    assert {name: data for name, data in found.items() if name != manifest.NAME} == served(folder)
    again, _ = run(client, bucket)
    assert (again.complete, again.downloaded_files) == (True, 0)


@pytest.mark.parametrize(
    ("kind", "how", "said"),
    [
        ("limit", {"seconds": 1}, "waiting 1 s as it asks"),
        ("retry", {"seconds": 1}, "waiting 1 s as it asks"),
        ("error", {"times": 3}, ""),
        ("cut", {"at": 1_500_000}, ""),
        ("short", {"at": 1_500_000}, ""),
        ("hang", {"at": 1_500_000}, ""),
        ("slow", {}, ""),
        ("wrong", {}, "once more"),
    ],
)
def test_what_goes_wrong_on_the_way_is_overcome(
    server: hub.Hub,
    client: Hub,
    folder: Path,
    tmp_path: Path,
    kind: str,
    how: dict[str, int],
    said: str,
) -> None:
    hub.write_model(folder, shard_bytes=3_000_000)
    server.add(MODEL, folder)
    server.fail(kind, SHARD, **how)
    done, lines = run(client, Folder(tmp_path / "out"))
    assert done.complete
    assert any(said in line for line in lines) or not said
    found = contents(tmp_path / "out")
    assert found.pop(manifest.NAME)
    assert found == served(folder)
    if kind in ("cut", "hang"):  # not from 0 again, but from the last whole piece
        starts = [one.range.partition("-")[0] for one in server.downloads(SHARD)]
        assert starts[:2] == ["bytes=0", "bytes=1048576"]


def test_a_hub_that_ignores_ranges_gives_the_right_bytes_too(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.write_model(folder, shard_bytes=3_000_000)
    server.add(MODEL, folder)
    server.fail("cut", SHARD, at=1_500_000)
    server.fail("whole", SHARD)
    assert run(client, Folder(tmp_path / "out"))[0].complete
    assert (tmp_path / "out" / SHARD).read_bytes() == (folder / SHARD).read_bytes()


def test_a_rate_limit_holds_back_every_worker(server: hub.Hub, client: Hub, tmp_path: Path) -> None:
    server.fail("limit", SHARD, seconds=1)
    _, said = run(client, Folder(tmp_path / "out"), workers=2)
    assert len(said) == 1
    first, second = server.downloads(SHARD)
    assert second.at - first.at >= 0.9


def test_xet_that_hangs_is_given_up_for_plain_http(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path
) -> None:
    """hf-xet's own client waits at a storage that accepts connections and never answers."""
    server.add(MODEL, folder, xet=True)
    done, said = run(client, Folder(tmp_path / "out"))
    assert done.complete
    assert len([line for line in said if "Xet storage failed" in line]) == 1
    assert any("xet-read-token" in one.path for one in server.seen)
    assert (tmp_path / "out" / SHARD).read_bytes() == (folder / SHARD).read_bytes()


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_shard_with_wrong_bytes_is_found_and_nothing_of_it_can_be_served(
    server: hub.Hub, client: Hub, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """vllm#53537: the right size, a right header, and other bytes."""
    server.fail("wrong", SHARD, times=-1, at=30_000)
    target = Folder(tmp_path / "out") if kind == "folder" else request.getfixturevalue("bucket")
    with pytest.raises(Failed, match=r"wrong bytes: sha256 .* tried 2 times") as error:
        run(client, target)
    assert error.value.where == SHARD
    found = contents(tmp_path / "out") if kind == "folder" else in_bucket(target)
    assert SHARD not in found
    assert manifest.NAME not in found
    server.faults.clear()
    assert run(client, target)[0].downloaded_files == 1


def test_small_files_are_compared_with_gits_own_hash(server: hub.Hub, client: Hub, tmp_path: Path) -> None:
    server.fail("wrong", "config.json", times=-1)
    with pytest.raises(Failed, match="git object"):
        run(client, Folder(tmp_path / "out"))


def test_a_hub_that_stays_away_ends_the_run(server: hub.Hub, client: Hub, tmp_path: Path) -> None:
    found = client.snapshot(MODEL, "main")
    server.fail("error", "*.safetensors", times=-1)
    with pytest.raises(RemoteError, match="after 4 failures in a row: HTTP 503") as error:
        stage(client, found, Folder(tmp_path / "out"), patience=QUICK)
    assert "safetensors" in error.value.where
    assert not (tmp_path / "out" / manifest.NAME).exists()


def test_what_is_there_already_is_proven_by_reading_it(
    server: hub.Hub, client: Hub, folder: Path, bucket: Bucket, store: Store, tmp_path: Path
) -> None:
    """After `hf download` or `gcloud storage cp`: right files stay, others are replaced."""
    own = tmp_path / "out"
    own.mkdir()
    name, _, prefix = bucket.where.removeprefix("gs://").partition("/")
    wrong = bytearray((folder / SHARD).read_bytes())
    wrong[30_000] ^= 1
    for file, data in (("config.json", (folder / "config.json").read_bytes()), (SHARD, bytes(wrong))):
        (own / file).write_bytes(data)
        store.client.bucket(name).blob(f"{prefix}/{file}").upload_from_string(data)
    for target in (Folder(own), bucket):
        done, _ = run(client, target)
        assert (done.complete, done.adopted_files, done.downloaded_files) == (True, 1, 8)
    assert (own / SHARD).read_bytes() == (folder / SHARD).read_bytes()
    assert in_bucket(bucket)[SHARD] == (folder / SHARD).read_bytes()


def test_a_staged_folder_that_has_changed_is_mended(client: Hub, folder: Path, tmp_path: Path) -> None:
    target = Folder(tmp_path / "out")
    run(client, target)
    (tmp_path / "out" / SHARD).write_bytes(b"short")
    known = manifest.loads((tmp_path / "out" / manifest.NAME).read_bytes())
    assert differences(known, target) == [
        f"{SHARD} has 5 bytes, its manifest says {len((folder / SHARD).read_bytes()):,}"
    ]
    done, said = run(client, target)
    assert (done.complete, done.downloaded_files, done.adopted_files) == (True, 1, 8)
    assert any(SHARD in line for line in said)


def test_any_other_byte_in_a_bucket_is_noticed(client: Hub, bucket: Bucket, folder: Path) -> None:
    run(client, bucket)
    data = bytearray((folder / SHARD).read_bytes())
    data[12_345] ^= 1
    name, _, prefix = bucket.where.removeprefix("gs://").partition("/")
    bucket._store.client.bucket(name).blob(f"{prefix}/{SHARD}").upload_from_string(bytes(data))
    known = manifest.loads(bucket.manifest() or b"")
    assert differences(known, bucket) == [f"{SHARD} has other bytes than its manifest says"]
    assert run(client, bucket)[0].downloaded_files == 1
    assert in_bucket(bucket)[SHARD] == (folder / SHARD).read_bytes()


def test_another_revision_is_refused(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path, bucket: Bucket
) -> None:
    for target in (Folder(tmp_path / "out"), bucket):
        run(client, target)
    hub.write_model(folder, seed="other")
    server.add(MODEL, folder)
    for target in (Folder(tmp_path / "out"), bucket):
        with pytest.raises(InvalidInput, match=r"holds test/m@.*, not test/m@") as error:
            run(client, target)
        assert "another folder" in error.value.fix


def test_a_half_staged_other_revision_is_refused_too(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path
) -> None:
    server.fail("wrong", SHARD, times=-1)
    with pytest.raises(Failed):
        run(client, Folder(tmp_path / "out"))
    hub.write_model(folder, seed="other")
    server.add(MODEL, folder)
    with pytest.raises(InvalidInput, match="holds test/m@"):
        run(client, Folder(tmp_path / "out"))


def test_a_model_that_contradicts_itself_or_the_planner_gets_no_manifest(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="the planner reckons with 5"):
        run(client, Folder(tmp_path / "a"), expected_bytes=5)
    shards = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    assert run(client, Folder(tmp_path / "a"), expected_bytes=shards)[0].complete
    first = "model-00001-of-00003.safetensors"
    (folder / SHARD).write_bytes((folder / first).read_bytes())
    server.add(MODEL, folder)
    with pytest.raises(InvalidInput, match=f"{SHARD} lacks 2 tensors"):
        run(client, Folder(tmp_path / "b"))
    (folder / SHARD).write_bytes((folder / first).read_bytes()[:-100])
    server.add(MODEL, folder)
    with pytest.raises(InvalidInput, match="its header says"):
        run(client, Folder(tmp_path / "c"))
    assert not any((tmp_path / name / manifest.NAME).exists() for name in "bc")


def test_workers_of_a_job_share_the_files_and_the_last_one_writes_the_manifest(
    server: hub.Hub, client: Hub, tmp_path: Path
) -> None:
    target = Folder(tmp_path / "out")
    results = [run(client, target, part=Part(index, 3))[0] for index in range(3)]
    assert [done.complete for done in results] == [False, False, True]
    assert sum(done.downloaded_files for done in results) == 9
    assert len(server.downloads("*.safetensors")) == 3
    # A pod that is started again after the others have finished
    assert run(client, target, part=Part(0, 3))[0].complete


def test_two_runs_at_once_bring_each_file_of_a_folder_once(
    server: hub.Hub, client: Hub, folder: Path, tmp_path: Path
) -> None:
    hub.write_model(folder, shards=8, shard_bytes=2_000_000)
    server.add(MODEL, folder)
    results: list[Staged] = []
    runs = [
        threading.Thread(target=lambda: results.append(run(client, Folder(tmp_path / "out"), workers=2)[0]))
        for _ in range(2)
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert [done.complete for done in results] == [True, True]
    found = contents(tmp_path / "out")
    assert found.pop(manifest.NAME)
    assert found.items() >= {n: d for n, d in served(folder).items() if "of-00008" in n}.items()
    assert len(server.downloads("*-of-00008.safetensors")) == 8


def test_a_run_that_is_overtaken_at_its_last_step_takes_the_other_ones_manifest(tmp_path: Path) -> None:
    """The other run has published and removed the folder of parts between two steps of this one."""
    late, early = Folder(tmp_path), Folder(tmp_path)
    for each in (late, early):
        each.begin(b"mark")
    published = early.publish(b"early")
    early.end()
    assert late.publish(b"late") == published == b"early"
    assert sorted(contents(tmp_path)) == [manifest.NAME]


def test_two_runs_at_once_in_a_bucket(
    server: hub.Hub, client: Hub, folder: Path, bucket: Bucket, emulator: gcs.Gcs
) -> None:
    hub.write_model(folder, shards=8, shard_bytes=10_000_000)
    server.add(MODEL, folder)
    results: list[Staged] = []
    runs = [
        threading.Thread(
            target=lambda: results.append(run(client, Bucket(open_store("test"), bucket.where), workers=2)[0])
        )
        for _ in range(2)
    ]
    for each in runs:
        each.start()
    for each in runs:
        each.join()
    assert [done.complete for done in results] == [True, True]
    found = in_bucket(bucket)
    assert found.pop(manifest.NAME)
    assert found.items() >= {n: d for n, d in served(folder).items() if "of-00008" in n}.items()


def test_a_full_disk_and_a_folder_that_cannot_be_written(
    client: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotReady, match="cannot be written"):
        run(client, Folder(tmp_path / "file" / "below"))
    monkeypatch.setattr(Folder, "free_bytes", lambda _: 1000)
    with pytest.raises(NotReady, match=r"has 0\.0 GB free"):
        run(client, Folder(tmp_path / "out"))


def test_the_engine_needs_no_package_of_ours_beside_the_clients(tmp_path: Path) -> None:
    """The Job mounts these modules next to an engine image: nothing else of manyhost may be imported."""
    code = (
        "import sys, manyhost.weights.worker\n"
        "own = {n for n in sys.modules if n.startswith('manyhost')}\n"
        "own -= {'manyhost', 'manyhost.commands', 'manyhost.errors', 'manyhost.secret'}\n"
        "print(*sorted(n for n in own if not n.startswith('manyhost.weights')))\n"
        "tops = {n.split('.')[0] for n in sys.modules}\n"
        "print(*sorted(tops & {'msgspec', 'click', 'yaml', 'kubernetes'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_a_file_that_another_run_is_at_is_not_adopted(client: Hub, folder: Path, tmp_path: Path) -> None:
    """Else two write its record at once, and one of them of a file that is not there any more."""
    target, other = begun(client, folder, tmp_path / "out")
    file = next(file for file in client.snapshot(MODEL, "main").files if file.name == SHARD)
    with other._locked(other._staging / "parts" / SHARD), pytest.raises(Busy):
        target.adopt(file)
    assert not target.inventory()[SHARD].proof
    assert target.adopt(file)
    assert target.inventory()[SHARD].is_file(file)
    assert not list((tmp_path / "out" / manifest.STAGING / "parts").iterdir())


def test_a_run_that_ends_while_another_one_adopts_a_file(client: Hub, folder: Path, tmp_path: Path) -> None:
    """It removes the folder of records, which is no failure of whoever has still to read."""
    target, other = begun(client, folder, tmp_path / "out")
    file = next(file for file in client.snapshot(MODEL, "main").files if file.name == SHARD)
    other.end()
    with pytest.raises(Busy):
        target.adopt(file)


def begun(client: Hub, folder: Path, out: Path) -> tuple[Folder, Folder]:
    """A folder where a run has begun, as two runs see it; somebody has copied a shard there."""
    target = Folder(out)
    out.mkdir()
    target.begin(b"{}")
    (out / SHARD).write_bytes((folder / SHARD).read_bytes())
    return target, Folder(out)
