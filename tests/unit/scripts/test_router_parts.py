"""What the router decides, apart from its connections: bodies, engines, how much at the same time."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.helm import CHART

sys.path.insert(0, str(CHART / "launcher/router"))
import router_admission
import router_backends
import router_requests
import router_watch
from router_backends import Backend, Pool

NAMES = st.sampled_from(["model", "prompt", "n", "kv_transfer_params", "ec_transfer_params", 'é"\\'])
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda below: st.lists(below, max_size=4) | st.dictionaries(NAMES | st.text(), below, max_size=4),
    max_leaves=12,
)


def without(fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if not key.endswith("_transfer_params")}


@given(st.dictionaries(NAMES | st.text(), VALUES), VALUES, st.booleans())
def test_a_body_arrives_without_what_only_the_router_says(
    body: dict[str, Any], extra: Any, escaped: bool
) -> None:
    body["vllm_xargs"] = extra
    data = json.dumps(body, ensure_ascii=escaped).encode(errors="replace")
    fields = router_requests.fields_of(data)
    sent = b"".join(router_requests.pieces(fields))
    assert len(sent) == router_requests.length_of(fields)
    wanted = without(json.loads(data))
    if isinstance(extra, dict):
        wanted["vllm_xargs"] = without(wanted["vllm_xargs"])
    # Endings that are no word are not vLLM's.
    assert {key: value for key, value in json.loads(sent).items() if key in wanted} == wanted
    assert not {"kv_transfer_params", "ec_transfer_params"} & set(json.loads(sent))


def backends(number: int) -> tuple[Pool, list[Backend]]:
    pool = Pool("decode")
    pool.update((f"10.0.0.{index}", 8000) for index in range(number))
    return pool, sorted(pool.known, key=lambda backend: backend.address)


def test_the_leader_with_the_fewest_requests_is_next_and_equals_take_turns() -> None:
    pool, (one, two, three) = backends(3)
    for backend, count in ((one, 2), (two, 0), (three, 1)):
        for _ in range(count):
            pool.begin(backend, 0.0)
    assert pool.choose() is two
    assert pool.choose(but=[two]) is three
    for _ in range(2):
        pool.begin(two, 0.0)
    pool.begin(three, 0.0)
    turns = [pool.choose() for _ in range(6)]
    assert all(turns.count(backend) == 2 for backend in (one, two, three))


def test_a_leader_that_has_gone_keeps_its_requests_and_gets_no_more() -> None:
    pool, (one, two) = backends(2)
    pool.begin(one, 0.0)
    pool.update([two.address])
    assert pool.choose() is two
    assert one in pool.backends.values()
    pool.end(one)
    assert list(pool.backends.values()) == [two]


@pytest.mark.parametrize(("lost", "needed"), [(True, 1), (False, router_backends.FAILURES)])
def test_the_breaker_opens_on_a_loss_or_some_errors_in_a_row(lost: bool, needed: int) -> None:
    pool, (one,) = backends(1)
    for _ in range(needed - 1):
        assert not pool.failed(one, 0.0, lost=lost)
        assert not pool.answered(one, 0.0)  # in a row: an answer between them counts
    for number in range(needed):
        assert pool.failed(one, 0.0, lost=lost) is (number == needed - 1)
    assert pool.choose() is None
    assert pool.choose(desperate=True) is one
    assert pool.answered(one, 1.0)
    assert pool.choose() is one


def test_probes_come_at_growing_intervals() -> None:
    pool, (one, _) = backends(2)
    pool.failed(one, 0.0, lost=True)
    now, waits = 0.0, []
    for _ in range(8):
        begin = now
        while not pool.due(now):
            now += 0.5
        assert pool.due(now) == [one]
        one.probing = True
        assert pool.due(now) == []
        pool.unanswered(one, now)
        one.probing = False
        waits.append(now - begin)
    assert waits[:4] == [1.0, 2.0, 4.0, 8.0]
    assert waits[-1] == router_backends.LAST_PROBE_SECONDS


def test_a_leader_stalls_when_it_answers_none_of_its_requests() -> None:
    pool, (one, two) = backends(2)
    pool.begin(one, 0.0)
    pool.begin(two, 0.0)
    pool.begin(one, 50.0)
    pool.answered(one, 55.0)
    assert pool.stalled(60.0, 60.0) == [two]
    pool.failed(two, 60.0, lost=True)
    assert pool.stalled(61.0, 60.0) == []  # said once
    pool.end(one)
    pool.end(one)
    assert pool.stalled(1000.0, 60.0) == [two]  # what waits for nothing does not stall
    pool.begin(one, 1000.0)
    assert one not in pool.stalled(1001.0, 60.0)


def test_discovery_believes_answers_and_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    pool = Pool("prefill")
    answers: list[Any] = [
        [("10.0.0.1", 8000), ("10.0.0.2", 8000)],
        OSError("no answer"),
        [("10.0.0.2", 8000)],
        [],
    ]
    known = []

    async def resolve(_: str) -> list[tuple[str, int]]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    while answers:
        asyncio.run(router_watch.discover(pool, ("leaders:8000",), resolve))
        known.append(sorted(backend.name for backend in pool.known))
    both = ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert known == [both, both, ["10.0.0.2:8000"], []]
    assert capsys.readouterr().out.splitlines() == [
        "manyhost router: prefill leaders: 10.0.0.1:8000, 10.0.0.2:8000",
        "manyhost router: prefill leaders: 10.0.0.2:8000",
        "manyhost router: prefill leaders: none",
    ]


def test_names_are_looked_up_and_a_name_server_that_knows_nobody_is_believed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert ("127.0.0.1", 80) in asyncio.run(router_watch.addresses("127.0.0.1:80"))
    assert asyncio.run(router_watch.addresses("[::1]:80")) == [("::1", 80)]
    assert Backend(("::1", 80)).name == "[::1]:80"

    def say(number: int) -> None:
        def look_up(*_: Any, **__: Any) -> None:
            raise socket.gaierror(number, "said")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    for number in (socket.EAI_NONAME, socket.EAI_NODATA):
        say(number)
        assert asyncio.run(router_watch.addresses("leaders:80")) == []
    say(socket.EAI_AGAIN)
    with pytest.raises(OSError, match="said"):
        asyncio.run(router_watch.addresses("leaders:80"))


@pytest.mark.parametrize(
    ("search", "host", "name"),
    [
        ("serving.svc.cluster.local svc.cluster.local cluster.local corp.example.com", "r1-decode-leaders",
         "r1-decode-leaders.serving.svc.cluster.local."),
        ("serving.svc.cluster.local", "10.0.0.1", "10.0.0.1"),
        ("serving.svc.cluster.local", "::1", "::1"),
        ("corp.example.com", "somewhere", "somewhere"),
    ],
)  # fmt: skip
def test_no_domain_but_the_clusters_is_asked_for_leaders(
    search: str, host: str, name: str, tmp_path: Path
) -> None:
    (tmp_path / "resolv.conf").write_text(f"nameserver 10.0.0.10\nsearch {search}\noptions ndots:5\n")
    assert router_watch.in_cluster(host, tmp_path / "resolv.conf") == name
    assert router_watch.in_cluster(host, tmp_path / "none") == host


def test_bodies_share_what_requests_leave_of_the_memory() -> None:
    room = router_admission.room_for_bodies
    assert 0 < room(1 << 30, 2000) < room(1 << 30, 100) < room(2 << 30, 100) < 2 << 30
    with pytest.raises(ValueError, match="a memory limit of 128 MiB has no room for 1024 requests"):
        room(128 << 20, 1024)
