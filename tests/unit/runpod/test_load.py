"""A load from a CPU pod: what is rented for it, what comes back, and that nothing of it stays."""

from __future__ import annotations

import base64
import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from manyhost.benchmark.evidence import complete
from manyhost.benchmark.pod import Pod
from manyhost.errors import Failed, NotReady, RemoteError
from manyhost.runpod import names
from manyhost.runpod.api import Api
from manyhost.runpod.service import Service

from testbed.runpod import Fault
from tests.helpers.helm import ROOT
from tests.helpers.runpod import NOON, STEM, WANTED, Account, Clock, service

sys.path.insert(0, str(ROOT / "charts/llm-benchmark/client"))
from measure import pack

from tests.unit.benchmark import sample

SPEC = msgspec.json.encode({"key": "k"})


@pytest.fixture
def serves(api: Api, clock: Clock, tmp_path: Path) -> Service:
    made = service(api, clock, tmp_path / "journal")
    made.up(WANTED, lambda _: "")
    return made


def result() -> list[str]:
    """What the client prints of a measurement, in as many lines as a long one has."""
    document = sample.document(sample.point())
    document["errors"] = [f"{number:064x}" for number in range(2000)]
    return ["manyhost-bench: 13 questions asked", *pack(document)]


@pytest.mark.parametrize("tool", ["manyhost", "locust"])
def test_the_result_comes_back_in_the_log_and_the_pod_goes(
    tool: str, serves: Service, cloud: Account, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, bodies, told = cloud.rented(), [], []
    real = Api.make_pod
    monkeypatch.setattr(Api, "make_pod", lambda self, body: bodies.append(body) or real(self, body))
    cloud.staging = result()
    spec = {"key": "k", "tool": tool, "limit_seconds": 600}
    found = Pod(serves, api, "http://203.0.113.7:40000", "").measure(spec, told.append)
    assert found.evidence.key == sample.point().key
    assert told == ["13 questions asked"]
    assert [each.differences for each in found.deployed] == [(), ()], "both hosts are there"
    assert cloud.rented() == before
    (body,) = bodies
    stem, until = names.parts(body.name)
    assert stem == f"{STEM}-load"
    assert until
    assert NOON + 600 < until < NOON + 2 * 3600, "the lease of the load, not that of the service"
    assert body.data_center_ids == [serves.state().volume.data_center]  # type: ignore[union-attr]
    assert body.env["VLLM_API_KEY"] == "{{ RUNPOD_SECRET_manyhost_api }}"
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(body.env["MANYHOST_BOOT"]))) as tar:
        files = {member.name: member for member in tar.getmembers()}
        spec_file = tar.extractfile("spec.json")
        assert spec_file
        assert msgspec.json.decode(spec_file.read()) == spec
        installs = tar.extractfile("requirements.txt").read() if "requirements.txt" in files else b""  # type: ignore[union-attr]
    assert {"boot.sh", "lease.py", "settings.env", "client/measure.py", "client/load.py"} <= files.keys()
    assert (b"\nlocust==" in installs, b"--hash=sha256:" in installs) == (tool == "locust",) * 2


@pytest.mark.parametrize(
    ("lines", "kind", "words"),
    [
        (["manyhost: failed: the load ended with exit 1"], Failed, "the load ended with exit 1"),
        (["manyhost-bench: 13 questions asked"], RemoteError, "no result after"),
    ],
)
def test_a_pod_that_brings_nothing_goes_too(
    lines: list[str], kind: Any, words: str, serves: Service, cloud: Account
) -> None:
    before = cloud.rented()
    cloud.staging = lines
    with pytest.raises(kind, match=words):
        serves.load(SPEC, b"", 900, "", complete)
    assert cloud.rented() == before


def test_a_result_with_a_line_missing_is_none(serves: Service, cloud: Account, api: Api) -> None:
    lines = result()
    cloud.staging = [line for line in lines if not line.startswith("manyhost-evidence 1 ")]
    assert len(cloud.staging) == len(lines) - 1
    with pytest.raises(Failed, match="lines of its log are missing"):
        Pod(serves, api, "http://203.0.113.7:40000", "").measure(
            {"tool": "manyhost", "limit_seconds": 60}, lambda _: None
        )


def test_nothing_serves(api: Api, clock: Clock, tmp_path: Path, cloud: Account) -> None:
    idle = service(api, clock, tmp_path / "journal")
    with pytest.raises(NotReady, match="nothing serves"):
        idle.load(SPEC, b"", 900, "", complete)
    assert not cloud.asked("POST /v2/pods")


def test_what_a_cut_off_call_left_is_seen_ended_by_the_next_and_by_down(
    serves: Service, cloud: Account, api: Api, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the machine was switched off: the pod is there, and nobody has removed it."""
    cloud.staging = result()
    with monkeypatch.context() as cut:
        cut.setattr(Service, "_away", lambda *_: None)
        serves.load(SPEC, b"", 900, "", complete)
    state = serves.state()
    (left,) = state.loading
    assert state.usd_per_hour == pytest.approx(64.0 + left.cost)
    serves.load(SPEC, b"", 900, "", complete)
    assert serves.state().loading == []
    with monkeypatch.context() as cut:
        cut.setattr(Service, "_away", lambda *_: None)
        serves.load(SPEC, b"", 900, "", complete)
    serves.down(with_volume=True)
    assert not cloud.alive()


def test_an_answer_that_is_lost_leaves_no_second_pod(serves: Service, cloud: Account) -> None:
    cloud.staging = result()
    before = cloud.rented()
    cloud.faults.append(Fault("POST /v2/pods", lost=True))  # made, and nobody hears of it
    serves.load(SPEC, b"", 900, "", complete)
    assert cloud.rented() == before
    assert cloud.asked("POST /v2/pods") == 2, "staging, and one load"


def test_without_a_lease_the_load_has_none_either(
    api: Api, clock: Clock, tmp_path: Path, cloud: Account
) -> None:
    made = service(api, clock, tmp_path / "journal")
    made.up(msgspec.structs.replace(WANTED, leased=False), lambda _: "")
    cloud.staging = result()
    seen: list[str] = []
    made.load(SPEC, b"", 900, "", lambda line: bool(seen.extend(cloud.rented())) or complete(line))
    assert f"{STEM}-load" in seen
