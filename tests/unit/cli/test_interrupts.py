"""Signals, full disks and readers that go away, in real processes: one plain line, and nothing by halves."""

from __future__ import annotations

import errno
import http.server
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from manyhost import interrupts

from tests.helpers.cli import manyhost, tree
from tests.helpers.output import read

PROGRAM = [sys.executable, "-m", "manyhost"]
RENDERED = {"values.yaml", "manifests.yaml", "plan.json", "topology.svg"}
# Sends the signal when the program imports for the Nth time, from its first own import on.
AT_IMPORT = """
import builtins, os, runpy, sys
real, left = builtins.__import__, int(sys.argv.pop(1))
number, begun = int(sys.argv.pop(1)), False
def count(name, *args, **given):
    global begun, left
    begun = begun or name == "manyhost" and ("interrupts",) in args
    left -= begun
    if left == 0 and begun:
        os.kill(os.getpid(), number)
    return real(name, *args, **given)
builtins.__import__ = count
runpy.run_module("manyhost", run_name="__main__", alter_sys=True)
"""


def as_from_a_terminal() -> None:
    """A shell's background ignores Ctrl-C, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def at_a_terminal() -> Iterator[None]:
    """This process takes Ctrl-C, also when the suite runs in a shell's background."""
    before = signal.getsignal(signal.SIGINT)
    as_from_a_terminal()
    yield
    signal.signal(signal.SIGINT, before)


def run(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60,
        **({"preexec_fn": as_from_a_terminal} | options),
    )  # fmt: skip


# ------------------------------------------------------------------------------- signals
@pytest.mark.parametrize(
    ("imports", "number", "more"),
    [
        (1, signal.SIGINT, ()),
        (30, signal.SIGTERM, ("--output", "json")),
        (100, signal.SIGHUP, ()),
        (200, signal.SIGINT, ()),
        (300, signal.SIGINT, ("--output", "json")),
        (400, signal.SIGTERM, ()),
        (600, signal.SIGINT, ()),
        (800, signal.SIGHUP, ("--output", "json")),
    ],
)
def test_in_the_middle_of_the_imports(
    imports: int, number: signal.Signals, more: tuple[str, ...], tmp_path: Path
) -> None:
    done = run(
        sys.executable, "-c", AT_IMPORT, str(imports), str(int(number)),
        "render", "local", "--out", str(tmp_path / "out"), *more,
    )  # fmt: skip
    assert done.returncode == 130, done
    if more:
        assert read(done.stdout).envelope["errors"][0]["message"] == "interrupted"
        assert done.stderr.strip() == ""
    else:
        assert (done.stdout, done.stderr.strip()) == ("", "manyhost: interrupted")
    assert tree(tmp_path) == {}


def test_a_second_one_ends_it_at_once(tmp_path: Path) -> None:
    twice = AT_IMPORT.replace("left == 0", "left in (0, -1)")
    done = run(sys.executable, "-c", twice, "1", str(int(signal.SIGINT)), "list")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "manyhost: interrupted\n")


def test_what_ignores_hangups_goes_on() -> None:
    """As nohup has it."""
    begun = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731
    done = run(
        sys.executable, "-c", AT_IMPORT, "50", str(int(signal.SIGHUP)), "list", preexec_fn=begun
    )  # fmt: skip
    assert done.returncode == 0
    assert done.stdout.startswith("environments:")


@pytest.mark.usefixtures("at_a_terminal")
def test_files_are_all_written_before_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the first file that is replaced and the second."""
    real = Path.replace
    out = tmp_path / "out"
    manyhost("render", "local", "--out", str(out))
    before = tree(out)

    def replace(path: Path, target: Path) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        ran = manyhost("render", "local", "--set", "context=2048", "--out", str(out))
    assert (ran.code, ran.err.strip()) == (130, "manyhost: interrupted")
    after = tree(out)
    assert set(after) == RENDERED
    assert before["values.yaml"] != after["values.yaml"]
    assert manyhost("render", "local", "--set", "context=2048", "--out", str(out)).code == 0
    assert tree(out) == after


@pytest.mark.usefixtures("at_a_terminal")
def test_an_interrupt_that_python_loses_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    """What a destructor raises goes nowhere but to stderr."""

    class Last:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)

    def lose() -> None:
        with interrupts.allowed():
            last = Last()
            del last
            threading.Event().wait(30)

    with pytest.raises(KeyboardInterrupt):
        lose()
    assert capfd.readouterr().err == ""
    interrupts.forget()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[tuple[Path, list[str], threading.Event]]:
    """A cluster that says its version and nothing else: kubeconfig, what it was asked, whether it was."""
    asked: list[str] = []
    begun, over = threading.Event(), threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path != "/version" and self.command == "GET":
                asked.append(self.path)
                begun.set()
                over.wait(60)
                return
            answer = json.dumps({"gitVersion": "v1.35.0", "status": {"allowed": True}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET

        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "here",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "here", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config))
    yield path, asked, begun
    over.set()
    server.shutdown()
    server.server_close()


def test_nobody_waits_for_a_cluster_that_does_not_answer(silent: Any) -> None:
    """doctor asks with several threads: neither their answers nor their other questions are waited for."""
    kubeconfig, asked, begun = silent
    process = subprocess.Popen(
        [*PROGRAM, "doctor", "a3mega", "--skip", "image"],
        env={**os.environ, "KUBECONFIG": str(kubeconfig)},
        preexec_fn=as_from_a_terminal,  # noqa: PLW1509
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert begun.wait(60)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "manyhost: interrupted")
    assert len(asked) <= 6, asked  # as many as there are threads; each would go on to the next check


# --------------------------------------------------------------------- full disks and readers
FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [("list",), ("list", "--output", "json"), ("render", "--help")])
def test_an_output_that_is_full(arguments: tuple[str, ...]) -> None:
    with FULL.open("w") as full:
        done = subprocess.run(
            [*PROGRAM, *arguments], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.splitlines()[0].endswith("cannot be written: No space left on device")
        assert "output" in done.stderr
        assert "Traceback" not in done.stderr
        # Nor can this be said: the exit code is all there is.
        dumb = subprocess.run([*PROGRAM, *arguments], stdout=full, stderr=full, check=False, timeout=60)
        assert dumb.returncode == 1


@pytest.mark.parametrize("more", ["", "--output json"])
def test_an_output_that_is_closed(more: str) -> None:
    done = run("bash", "-c", f"'{sys.executable}' -m manyhost list {more} >&-")
    assert (done.returncode, done.stderr) == (1, "manyhost: standard output: is closed\n")
    assert run("bash", "-c", f"'{sys.executable}' -m manyhost render nope {more} >&- 2>&-").returncode == 3


def test_a_disk_without_room_for_the_files(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert manyhost("render", "local", "--out", str(out)).code == 0
    before = tree(tmp_path)
    for folder in (out, tmp_path / "new"):
        done = run(
            *PROGRAM, "render", "a3mega", "--out", str(folder),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        assert done.returncode == 1, done
        assert done.stderr.splitlines()[-1] == f"manyhost: {folder}: cannot be written: File too large"
        assert tree(tmp_path) == before


@pytest.mark.parametrize(("room", "why"), [(4, "File too large"), (0, "No usable temporary directory")])
def test_a_disk_without_room_for_temporary_files(room: int, why: str, silent: Any, tmp_path: Path) -> None:
    """The certificates of a kubeconfig become such files."""
    path = silent[0]
    config = json.loads(path.read_text())
    config["users"][0]["user"]["client-certificate-data"] = "Y2VydGlmaWNhdGU="
    config["users"][0]["user"]["client-key-data"] = "Y2VydGlmaWNhdGU="
    config["clusters"][0]["cluster"]["certificate-authority-data"] = "Y2VydGlmaWNhdGU="
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:9"
    path.write_text(json.dumps(config))
    done = run(
        *PROGRAM, "status", "local",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
        env={**os.environ, "KUBECONFIG": str(path), "TMPDIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert done.returncode == 1, done
    assert f"cannot be written: {why}" in done.stderr
    assert done.stderr.splitlines()[1:] == ["  fix: free some space"]


def test_a_connection_that_breaks_is_no_reader_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("manyhost.cli.list_.resolve", broken)
    stdout, stderr = sys.stdout, sys.stderr
    ran = manyhost("list")
    assert (sys.stdout, sys.stderr) == (stdout, stderr)
    assert (ran.code, ran.err) == (5, "manyhost: a connection broke off\n")


@pytest.mark.parametrize("arguments", ["list", "list --output json", "render --help"])
def test_a_reader_that_goes_away(arguments: str) -> None:
    line = f"'{sys.executable}' -m manyhost {arguments} | true; exit ${{PIPESTATUS[0]}}"
    done = run("bash", "-c", line)
    assert (done.returncode, done.stderr) == (0, "")
