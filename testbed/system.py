"""Small wrappers around commands, `/proc` and waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from testbed.errors import ClusterError


def run(*args: str | Path, stdin: str | None = None) -> str:
    """Runs a command and returns its output.

    Raises:
        ClusterError: it ended with an error; the message has its last line.
    """
    done = subprocess.run([str(a) for a in args], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        words = " ".join(str(a) for a in args[:6])
        raise ClusterError(f"{words}: exit {done.returncode}: {said[-1]}")
    return done.stdout


def succeeds(*args: str | Path) -> bool:
    """Runs a command for its effect alone; says whether it worked."""
    done = subprocess.run([str(a) for a in args], capture_output=True, check=False)
    return done.returncode == 0


def wait_for(what: str, probe: Callable[[], object], *, seconds: float = 60, pause: float = 0.1) -> None:
    """Asks `probe` until it answers something other than False or None.

    Raises:
        ClusterError: it never did within `seconds`; the message has the last error.
    """
    end, last = time.monotonic() + seconds, "no answer"
    while True:
        try:
            if probe() not in (False, None):
                return
        except (OSError, ClusterError) as error:
            last = str(error)
        if time.monotonic() > end:
            raise ClusterError(f"{what}: not ready after {seconds:.0f} s ({last})")
        time.sleep(pause)


def processes() -> Iterator[tuple[int, list[str]]]:
    """Every process that has a command line, with its words."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue  # it ended meanwhile
        if words[0]:
            yield int(path.parent.name), words


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in ("Z", "X")


def kill(pids: list[int], *, how: signal.Signals = signal.SIGKILL, seconds: float = 20) -> None:
    """Signals processes and waits until they are gone.

    Raises:
        ClusterError: one is still there after `seconds`.
    """
    for pid in pids:
        try:
            os.kill(pid, how)
        except ProcessLookupError:
            continue
    wait_for(f"end of processes {pids}", lambda: not any(map(alive, pids)), seconds=seconds, pause=0.02)
