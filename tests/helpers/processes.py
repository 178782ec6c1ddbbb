"""Processes that a test has started, found by their environment, and their end.

bats files run this file: `python3 processes.py FAKE=/tmp/...` ends all that has this in its environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path


def started_with(text: str) -> dict[int, str]:
    """Processes that were started with a text in their environment, but this one.

    One that has ended and was not waited for has no environment any more.

    Returns:
        By process id the command line, and what tells of the test: its name and what has the text.
    """
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ends meanwhile
            environment = (folder / "environ").read_bytes().decode(errors="replace")
            if text in environment and int(folder.name) != os.getpid():
                words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
                tells = [
                    setting
                    for setting in environment.split("\0")
                    if text in setting or setting.startswith("PYTEST_CURRENT_TEST=")
                ]
                found[int(folder.name)] = f"{' '.join(words)}({', '.join(tells)})"
    return found


def below(parents: set[int]) -> set[int]:
    """The children of processes, and all of theirs."""
    children: dict[int, set[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ends meanwhile
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, set()).add(int(stat.parent.name))
    found: set[int] = set()
    new = parents
    while new:
        new = {pid for one in new for pid in children.get(one, ())} - found
        found |= new
    return found


def end(text: str, seconds: float = 20) -> None:
    """End all processes that were started with a text in their environment, at once.

    All below them end too: a program that gives itself a title may write it over its environment.

    Raises:
        TimeoutError: One is still there after `seconds`.
    """
    limit = time.monotonic() + seconds
    while own := started_with(text):  # what one of them has started meanwhile is found the next time
        if time.monotonic() > limit:
            raise TimeoutError(f"not ended: {own}")
        for pid in (own.keys() | below(set(own))) - {os.getpid()}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    end(sys.argv[1])
