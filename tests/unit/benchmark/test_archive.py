"""Runs in a bucket, through the real client: nothing lost, nothing written over, the index always whole."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from manyhost.benchmark import store as results
from manyhost.benchmark.archive import Archive
from manyhost.benchmark.bench import cost_inputs, describe
from manyhost.benchmark.result import Run
from manyhost.errors import Failed
from manyhost.weights.store import Store, open_store

from tests.helpers.cli import Ran, manyhost
from tests.unit.benchmark import sample
from tests.unit.benchmark.service import Service
from tests.unit.benchmark.test_bench import ONE, small

JSON = ("--output", "json")
pytestmark = pytest.mark.usefixtures("fake_tool")


@pytest.fixture
def address(store: Store, tmp_path: Path) -> str:
    name = "r-" + hashlib.sha256(str((os.getpid(), tmp_path)).encode()).hexdigest()[:16]
    store.client.create_bucket(name)
    return f"gs://{name}/runs"


def measure(service: Service, address: str) -> Ran:
    return manyhost("bench", "local", "--url", service.url, "--to", address, *JSON)


def objects(store: Store, address: str) -> dict[str, int]:
    name = address.removeprefix("gs://").partition("/")[0]
    return {blob.name.removeprefix("runs/"): blob.generation for blob in store.client.list_blobs(name)}


@pytest.mark.usefixtures("patient")
def test_one_machine_measures_and_another_goes_on(
    address: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured twice; whoever may read the bucket lists, reports and compares."""
    small(tmp_path / "first", monkeypatch, ONE)
    with Service() as service:
        ran = measure(service, address)
        assert ran.code == 0, ran.out + ran.err
        asked = service.counts["asked"]
        folder = ran.output.envelope["result"]["runs"][0]["folder"]
        run = folder.removeprefix(f"{address}/")
        kept = objects(store, address)
        assert set(kept) == {
            "index.html", "index.json", *(f"{run}/{n}.json" for n in ("0-0", "0-0.report", "run")),
        }  # fmt: skip
        small(tmp_path / "second", monkeypatch, ONE)
        assert measure(service, address).code == 0
        assert service.counts["asked"] == asked
    now = objects(store, address)
    assert {name for name in kept if now[name] != kept[name]} <= {
        f"{run}/run.json",
        "index.json",
        "index.html",
    }
    (one,) = manyhost("runs", address, *JSON).output.envelope["result"]["runs"]
    assert (one["id"], one["complete"], one["points"]) == (run, True, 1)
    assert one["output_tokens_per_second"] > 0
    assert manyhost("runs").out == manyhost("runs", "build/runs").out, "the same in a folder"
    assert run in manyhost("runs").out

    monkeypatch.chdir(tmp_path)
    told = manyhost("report", folder, "--to", str(tmp_path / "report"), *JSON)
    assert told.code == 0, told.out + told.err
    assert told.output.envelope["result"]["runs"][0]["folder"] == folder
    assert manyhost("compare", folder, str(tmp_path / "first/build/runs" / run)).code == 0
    absent = manyhost("report", f"{address}/absent")
    assert (absent.code, absent.err) == (3, f"manyhost: {address}/absent: there is no result\n")


def a_run(folder: Path, name: str, data: str = "{}") -> Run:
    """A run with one measurement, as far as a bucket looks at it."""
    run = Run(
        id=name,
        scenario="published",
        program="0",
        started="2026-11-26T00:00:00Z",
        updated="2026-11-26T00:00:00Z",
        complete=False,
        deployment=describe(sample.plan(), {}),
        cost=cost_inputs(sample.plan()),
        points=[],
    )
    (folder / name).mkdir(parents=True)
    (folder / name / "0-0.json").write_text(data)
    results.save_run(folder / name, run)
    return run


def test_what_another_machine_has_measured_is_not_written_over(
    address: str, store: Store, tmp_path: Path
) -> None:
    run = a_run(tmp_path / "a", "r", '{"who": "a"}')
    Archive(store, address).keep(tmp_path / "a/r", run)
    a_run(tmp_path / "b", "r", '{"who": "b"}')
    with pytest.raises(Failed, match="somebody else has measured it in the meantime") as refused:
        Archive(store, address).keep(tmp_path / "b/r", run)
    assert str(tmp_path / "b/r/0-0.json") in refused.value.fix
    (tmp_path / "b/r/0-0.json").unlink()
    Archive(store, address).fetch("r", tmp_path / "b/r")
    assert json.loads((tmp_path / "b/r/0-0.json").read_text()) == {"who": "a"}


def test_what_was_not_sent_is_sent_by_the_next(address: str, store: Store, tmp_path: Path) -> None:
    """A machine is cut off between its measurement and the bucket."""
    run = a_run(tmp_path, "r")
    archive = Archive(store, address)
    archive.fetch("r", tmp_path / "r")
    (tmp_path / "r/0-1.json").write_text("{}")
    archive.keep(tmp_path / "r", run)
    assert {"r/0-0.json", "r/0-1.json"} < set(objects(store, address))


def test_many_who_write_the_index_at_once(address: str, store: Store, tmp_path: Path) -> None:
    names = [f"run-{number}" for number in range(12)]

    def send(name: str) -> None:
        run = a_run(tmp_path, name)
        Archive(open_store("test"), address).keep(tmp_path / name, run)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(send, names))
    assert {one.id for one in Archive(store, address).runs()} == set(names)
    page: Any = store.client.bucket(address.split("/")[2]).blob("runs/index.html").download_as_text()
    assert all(name in page for name in names)


def test_a_bucket_that_is_not_there(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows before anything is measured."""
    small(tmp_path, monkeypatch, ONE)
    with Service() as service:
        ran = manyhost("bench", "local", "--url", service.url, "--to", "gs://nobody-has-it/runs")
        assert ran.code == 5
        assert "gs://nobody-has-it does not exist" in ran.err
        assert service.counts["asked"] == 0
    assert manyhost("runs", "gs://").code == 3
