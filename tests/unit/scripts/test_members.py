"""What must not end a group, and who may not: real processes, with harm done to what is around them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.scripts.members import BEAT, FAKES, LAUNCHER, Members, Wire, until

Make = Callable[..., Members]
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root")


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Make]:
    made: list[Members] = []

    def make(**env: str) -> Members:
        made.append(Members(tmp_path / f"group{len(made)}", **env))
        return made[-1]

    yield make
    for one in made:
        one.close()


def same_engines(members: Members) -> None:
    """Both members are ready, with the engines that they had."""
    for rank in (0, 1):
        until(f"rank {rank} ready", lambda rank=rank: members.ready(rank))
        assert members.starts(rank) == 1
        assert members.processes[rank].poll() is None
        assert not members.phases(rank, "attempt")


# ----------------------------------------------------------------------------- small faults around a group


def test_what_a_log_has_no_place_for_is_dropped_and_counted() -> None:
    out, into = os.pipe()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from manyhost_output import Log, MOST_BYTES\n"
        "import time; log = Log(); log.start(); begin = time.monotonic()\n"
        "for _ in range(2 * MOST_BYTES // 1000): log.put(b'x' * 999 + b'\\n')\n"
        "log.put(b'manyhost phase=end\\n', always=True)\n"
        "print(time.monotonic() - begin, file=sys.stderr, flush=True); sys.stdin.read()\n"
        "log.put(b'next\\n'); log.flush(20)"
    )
    words = ["python3", "-B", "-c", code, str(LAUNCHER)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=into, stderr=subprocess.PIPE) as process:
        os.close(into)
        assert process.stderr is not None
        assert process.stdin is not None
        took = float(process.stderr.readline())
        with os.fdopen(out, "rb") as log:
            data = log.read(3_000_000)
            process.stdin.close()
            data += log.read()
        assert process.wait(30) == 0
    assert took < 5
    assert len(data) < 5 << 20
    assert b"manyhost phase=end\n" in data
    assert re.search(rb"manyhost: [0-9]{7} bytes of log were dropped: nobody took them\n", data)
    assert data.endswith(b"next\n")


def test_a_connection_that_is_reset_is_made_again(group: Make) -> None:
    """While the engines load, and while they serve."""
    members = group(MANYHOST_LEADER="127.0.0.2")
    wire = Wire(members.beacon)
    try:
        members.set("slow", "3")
        members.start(0)
        members.start(1)
        for rank in (0, 1):
            members.seen(rank, "phase=engine")
        wire.reset()
        for rank in (0, 1):
            until("ready", lambda rank=rank: members.ready(rank))
        wire.reset()
        time.sleep(4 * BEAT)
        same_engines(members)
        # Silence makes it unready, and no more. Both say so, for where no kubelet asks.
        wire.silent.set()
        until("unready", lambda: not members.ready(0) and not members.ready(1), 10)
        members.seen(0, 'phase=unready .*reason="rank 1 is silent"')
        members.seen(1, 'phase=unready .*reason="the leader is silent"')
        wire.silent.clear()
        same_engines(members)
        for rank in (0, 1):
            members.seen(rank, "phase=ready ")
            assert len(members.phases(rank, "unready")) == len(members.phases(rank, "ready")) == 1
    finally:
        wire.close()


def test_a_log_that_nobody_takes_stops_no_heartbeat(group: Make, tmp_path: Path) -> None:
    members = group()
    chatty = tmp_path / "vllm"
    talk = "import time\nwhile True: print(('x' * 999 + chr(10)) * 400, flush=True); time.sleep(0.02)"
    chatty.write_text(f'#!/bin/bash\npython3 -c "{talk}" &\nexec {FAKES}/vllm "$@"\n')
    chatty.chmod(0o755)
    members.env["MANYHOST_ENGINE"] = str(chatty)
    out, into = os.pipe()
    stop, text = threading.Event(), bytearray()

    def read() -> None:
        while True:
            if stop.is_set():
                time.sleep(0.02)
                continue
            data = os.read(out, 65536)
            if not data:
                return
            text.extend(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    members.start(0, stdout=into)
    members.start(1)
    until("ready", lambda: members.ready(0) and members.ready(1))
    stop.set()
    time.sleep(22.5 * BEAT + 1.5)
    same_engines(members)
    stop.clear()
    before = len(text)
    until("the log goes on", lambda: len(text) > before + 1_000_000)
    assert members.starts(0) == 1
    members.close()
    os.close(into)
    reader.join(10)
    os.close(out)


@ROOT_ONLY
def test_a_full_state_folder_and_a_frozen_one_end_nothing(group: Make, tmp_path: Path) -> None:
    members = group()
    full, frozen = members.state(0), members.state(1)
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    for folder in (full, frozen):
        folder.mkdir(parents=True)
    if subprocess.call(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(full)]):
        pytest.skip("no mounts here")
    try:
        subprocess.check_call(["mkfs.ext4", "-q", "-F", str(image)])
        if subprocess.call(["mount", "-o", "loop", str(image), str(frozen)]):
            pytest.skip("no loop devices here")
        members.serve()
        with (full / "fill").open("wb", buffering=0) as fill, contextlib.suppress(OSError):
            while True:
                fill.write(b"x" * 4096)
        subprocess.check_call(["fsfreeze", "-f", str(frozen)])
        try:
            time.sleep(22.5 * BEAT + 1)
            assert members.ready(0)  # its status is still written, in place
            assert all(process.poll() is None for process in members.processes.values())
        finally:
            subprocess.check_call(["fsfreeze", "-u", str(frozen)])
        same_engines(members)
    finally:
        members.close()
        for folder in (full, frozen):
            subprocess.call(["umount", "-l", str(folder)], stderr=subprocess.DEVNULL)


def test_weights_that_do_not_move_are_seen(group: Make, tmp_path: Path) -> None:
    """One hangs, for both to say; a download that moves takes its time (start.bats)."""
    hub = tmp_path / "hub/huggingface_hub"
    hub.mkdir(parents=True)
    (hub / "__init__.py").write_text(
        "import time\nclass HfApi:\n    def list_repo_files(self, *a, **k): time.sleep(3600)\n"
        "def snapshot_download(*a, **k): ...\n"
    )
    errors = ("GatedRepoError", "RepositoryNotFoundError", "RevisionNotFoundError")
    (hub / "errors.py").write_text("".join(f"class {name}(Exception): ...\n" for name in errors))
    members = group(MANYHOST_PROGRESS_SECONDS="1", MANYHOST_STARTUP_SECONDS="2")
    members.start(0)
    members.start(1, PYTHONPATH=str(hub.parent), HF_HUB_OFFLINE="0")
    members.seen(1, 'phase=attempt .*reason="the weights made no progress for [12] s"')
    members.seen(
        0, 'phase=held .*reason="rank 1: [0-9]+ tries in [0-9]+ s failed: the weights made no progress'
    )


# --------------------------------------------------------------------------------- who belongs to the group


STRANGERS = (
    b'{"rank":1}\n',
    b'{"rank":Infinity}\n',
    b"[" * 100_000 + b"\n",
    b'{"rank":1,"state":"end","reason":"bye"}\n',
    b'{"rank":1,"state":"held","reason":"x"}\n',
    b'{"rank":1,"state":"draining"}\n',
    b'{"rank":1,"state":"armed","attempt":0}\n',
    b'{"manyhost":1,"rank":1,"nonce":"0000000000000000"}\n{"proof":"\\ud800"}\n',
    b"GET / HTTP/1.1\r\n\r\n",
    b"\xff" * 20_000,
    b"",
)


def test_a_stranger_has_no_effect_at_any_time(group: Make) -> None:
    members = group()

    def disturb() -> None:
        """All of them at once; each is dropped, those that say nothing too."""
        with contextlib.ExitStack() as all_of_them:
            ends = []
            for line in STRANGERS:
                end = all_of_them.enter_context(socket.create_connection(("127.0.0.1", members.beacon)))
                with contextlib.suppress(OSError):  # it may be dropped before all is said
                    end.sendall(line)
                ends.append(end)
            for end in ends:
                end.settimeout(20)
                with contextlib.suppress(ConnectionResetError):
                    while end.recv(65536):
                        pass

    members.start(0)
    members.seen(0, "phase=peers")
    disturb()
    assert not members.phases(0, "held")
    assert not members.phases(0, "engine")
    members.start(1)
    for rank in (0, 1):
        until("ready", lambda rank=rank: members.ready(rank))
    disturb()
    time.sleep(3 * BEAT)
    same_engines(members)
    members.seen(0, "manyhost: control: [0-9]+ connections refused, last: ")


def test_many_idle_strangers_keep_nobody_out(group: Make) -> None:
    members = group()
    members.start(0)
    members.seen(0, "phase=peers")
    ends = [socket.create_connection(("127.0.0.1", members.beacon), timeout=5) for _ in range(200)]
    members.start(1)
    for rank in (0, 1):
        until("ready", lambda rank=rank: members.ready(rank))
    for end in ends:
        end.close()


@pytest.mark.parametrize(
    ("variable", "other"),
    [
        ("MANYHOST_GROUP", "ns/other/0"),
        ("MANYHOST_GENERATION", "older"),
        ("MANYHOST_CONTROL_KEY_FILE", "other"),
    ],
)
def test_a_worker_of_something_else_is_refused(
    group: Make, tmp_path: Path, variable: str, other: str
) -> None:
    """Another release, an older generation of the same group, another key: a stale name leads there."""
    for name in ("key", "other"):
        (tmp_path / name).write_text(f"{name}-secret\n")
    if variable == "MANYHOST_CONTROL_KEY_FILE":
        other = str(tmp_path / other)
    members = group(
        MANYHOST_GROUP="ns/tiny/0",
        MANYHOST_GENERATION="rev1",
        MANYHOST_CONTROL_KEY_FILE=str(tmp_path / "key"),
        MANYHOST_PEER_WAIT_SECONDS="1",
    )
    members.start(0)
    stranger = members.start(1, **{variable: other})
    members.seen(0, 'phase=waiting .*reason="rank 1 not seen')
    members.seen(1, "phase=waiting")
    members.seen(0, "control: [0-9]+ connections refused, last: rank 1 has another key, release")
    assert members.starts(0) == members.starts(1) == 0
    stranger.terminate()
    stranger.wait(10)
    members.start(1)
    until("ready", lambda: members.ready(0) and members.ready(1))
    assert "control=key" in members.phases(0, "weights")[0]
    assert "key-secret" not in members.log(0) + members.log(1)


def test_without_a_key_file_members_start_and_say_so(group: Make, tmp_path: Path) -> None:
    members = group(MANYHOST_CONTROL_KEY_FILE=str(tmp_path / "absent"))
    members.serve()
    assert "control=open" in members.phases(0, "weights")[0]


def serve_with_ray(members: Members) -> None:
    for rank in (0, 1):
        members.start(rank)
    until("ready", lambda: members.ready(0) and members.ready(1))


@pytest.mark.parametrize(
    ("key", "own", "told"),
    [
        ("key-secret", {}, r"token [0-9a-f]{64}"),
        ("", {}, r"disabled "),  # Ray 2.61 would ask for a token that nobody has
        ("key-secret", {"RAY_AUTH_MODE": "k8s"}, r"k8s "),  # somebody's own way
    ],
)
def test_the_members_ray_takes_in_nobody_else(
    key: str, own: dict[str, str], told: str, group: Make, tmp_path: Path
) -> None:
    file = tmp_path / "key"
    if key:
        file.write_text(key)
    members = group(MANYHOST_EXECUTOR="ray", MANYHOST_GROUP="a", MANYHOST_CONTROL_KEY_FILE=str(file), **own)
    serve_with_ray(members)
    first, second = ((members.fake / f"rayauth.{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert re.fullmatch(told, first)
    token = first.partition(" ")[2] or "none"
    assert token not in members.log(0) + members.log(1)
    assert key not in first.split()

    other = group(MANYHOST_EXECUTOR="ray", MANYHOST_GROUP="b", MANYHOST_CONTROL_KEY_FILE=str(file), **own)
    serve_with_ray(other)
    assert ((other.fake / "rayauth.0").read_text() == first) is not told.startswith("token")


def test_what_a_worker_held_for_is_void_for_another_leader(group: Make, tmp_path: Path) -> None:
    """Its weights were missing; they are there when the leader starts anew: it looks again."""
    model = tmp_path / "model"
    model.mkdir()
    members = group(MANYHOST_MODEL_PATH=str(model))
    members.start(1)
    members.seen(1, "phase=held")
    members.start(0, MANYHOST_MODEL_PATH="")
    members.seen(0, 'phase=held .*reason="rank 1: weights missing')
    members.kill(0)
    (model / "config.json").write_text("{}")
    (model / "a.safetensors").write_text("")
    (members.folder / "log.0").unlink()
    members.start(0, MANYHOST_MODEL_PATH="")
    until("ready", lambda: members.ready(0) and members.ready(1))
    assert not members.phases(0, "held")


def test_a_second_process_of_a_rank_gets_no_seat(group: Make) -> None:
    """A pod is made anew while the old one, of the same revision, still ends."""
    members, other = group(), group()
    members.serve()
    other.env["MANYHOST_BEACON_PORT"] = str(members.beacon)
    other.start(1)
    other.seen(1, "phase=peers")
    time.sleep(10 * BEAT)
    same_engines(members)
    assert other.starts(1) == 0
    members.kill(1)
    until("the other takes the seat", lambda: other.ready(1) and members.ready(0))


def test_attempts_of_two_leaders_are_never_confused(group: Make) -> None:
    """A leader that starts anew after its first attempt names its own first attempt otherwise."""
    members = group(MANYHOST_BEAT_SECONDS="0.5")
    members.set("0.once", "1")
    members.start(0)
    members.start(1)
    members.seen(0, "phase=attempt")
    members.kill(0)
    (members.folder / "log.0").unlink()
    members.start(0)
    until("ready", lambda: members.ready(0) and members.ready(1), 30)
    assert len(members.phases(0, "attempt")) == 0


# ------------------------------------------------------------------------------------------------ secrets


def test_secrets_are_shown_nowhere(group: Make, tmp_path: Path) -> None:
    """Neither in reasons nor in what the engine prints of them."""
    members = group(MANYHOST_SIZE="1", MANYHOST_START_ATTEMPTS="1")
    members.env |= {"VLLM_API_KEY": "sk-secret-123", "HF_TOKEN": "hf_abcdef", "MY_DB_PASSWORD": "pa55word"}
    members.set("exit", "1")
    members.set("say", "ValueError: key sk-secret-123, token hf_abcdef, pa55word, flag fl4gkey")
    members.start(0, "--api-key", "fl4gkey")
    members.seen(0, "phase=held")
    until("the reason", lambda: "***" in members.probe(0, "ready")[1])
    text = members.log(0) + members.probe(0, "ready")[1]
    assert not any(secret in text for secret in ("sk-secret", "hf_abc", "pa55word", "fl4gkey"))
    assert "ValueError: key ***, token ***, ***, flag ***" in text


# ------------------------------------------------------------------------------------------------- the end


def test_a_member_that_hangs_ends_when_told_to(group: Make) -> None:
    """Its loop does not turn and takes no signal: its status gets old, and launch.sh ends it."""
    members = group(MANYHOST_SIZE="1", MANYHOST_STALE_SECONDS="2")
    members.serve()
    # A launcher that hangs in the kernel cannot be made; one that is stopped again and again is near it.
    inner, done = members.inner(0), threading.Event()

    def keep_stopped() -> None:
        while not done.is_set():
            try:
                os.kill(inner, signal.SIGSTOP)
            except ProcessLookupError:
                return
            time.sleep(0.001)

    threading.Thread(target=keep_stopped, daemon=True).start()
    begin = time.monotonic()
    members.processes[0].terminate()
    try:
        members.processes[0].wait(60)
    finally:
        done.set()
    assert time.monotonic() - begin < 20


def test_a_drain_goes_on_while_short_requests_still_come(group: Make) -> None:
    """Between two looks at its metrics the engine is idle each time, yet its counters have moved."""
    members = group(MANYHOST_SIZE="1")
    members.serve()
    members.processes[0].terminate()
    members.seen(0, "phase=draining")
    end, tokens = time.monotonic() + 15 * BEAT, 5
    while time.monotonic() < end:
        tokens += 1
        members.set(
            "metrics", f"vllm:num_requests_running{{}} 0\nvllm:generation_tokens_total{{}} {tokens}\n"
        )
        time.sleep(BEAT / 10)
        assert not members.phases(0, "end"), members.log(0)
    assert members.processes[0].wait(60) == 0
    assert 'reason="drained"' in members.phases(0, "end")[0]


def test_the_leaders_address_reaches_the_engines(group: Make) -> None:
    """Engines meet at an address: a name that cannot be resolved for a moment fails no start."""
    members = group(MANYHOST_LEADER="localhost")
    members.serve()
    for rank in (0, 1):
        words = json.loads((members.fake / f"argv.{rank}").read_text())
        assert words[words.index("--master-addr") + 1] == "127.0.0.1"
