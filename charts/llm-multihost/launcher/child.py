"""The one child process of a member: a step of launch.sh with everything below it."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

NO_RETRY = 78  # launch.sh's exit status for a failure that no further attempt cures
USAGE = 2  # argparse's exit status
KEPT_LINES = 200  # of the engine's output, to find its error in


def descendants() -> list[int]:
    """Process ids of everything below this process, orphans that it adopted included."""
    children: dict[int, list[int]] = {}
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            after_name = stat.read_text(errors="replace").rpartition(")")[2].split()
            children.setdefault(int(after_name[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def kill_descendants() -> None:
    """End engine cores and Ray daemons whatever they did to their sessions and parents."""
    for _ in range(3):  # a fork may slip through one listing
        for pid in descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


GENERIC = re.compile(
    r"Engine core initialization failed|Failed core proc|See root cause|SystemExit|resource_tracker"
)
NAMED = re.compile(r"(?:\berror: )?((?:\b\w*(?:Error|Exception)\b[(:]|(?<=\berror: )).*)")
OWN_POLLS = re.compile(rb'^.*127\.0\.0\.1:\d+ - "GET /(?:health|metrics) HTTP/1\.1" 200.*\n', re.M)
LOGGED = re.compile(r"\bERROR \S+ \S+ \[[^]]*\] (.*)")  # vLLM's log format


def error_line(lines: list[str]) -> str:
    """The line that says best why an engine ended: its last error that is not a mere echo."""
    for kind in (NAMED, LOGGED):
        for line in reversed(lines):
            match = kind.search(line)
            if match and not GENERIC.search(line):
                return match.group(1).strip()
    wordy = (line.strip() for line in reversed(lines) if re.search("[a-z]{3}", line))
    return next(wordy, "no output")


class Child:
    """One step of launch.sh, with its output passed on and its last lines kept."""

    def __init__(self, step: str, argv: list[str], extra: dict[str, str]) -> None:
        env = {**os.environ, "MANYHOST_STEP": step, **extra}
        self.process = subprocess.Popen(
            ["bash", *argv],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None  # noqa: S101 for the type checker
        self.out = self.process.stdout
        os.set_blocking(self.out.fileno(), False)
        self.started = time.monotonic()
        self.status: int | None = None
        self.lines: list[str] = []
        self.rest = b""

    def read(self) -> bool:
        """Pass waiting output on, whole lines only; False when the pipe has ended."""
        try:
            data = os.read(self.out.fileno(), 65536)
        except BlockingIOError:
            return True
        whole, found, self.rest = (self.rest + data).rpartition(b"\n")
        if not data or len(self.rest) > 8192:
            whole, found, self.rest = whole + found + self.rest, b"\n" if self.rest else b"", b""
        if whole or found:
            sys.stdout.buffer.write(OWN_POLLS.sub(b"", whole + found))
            sys.stdout.buffer.flush()
            self.lines += whole.decode(errors="replace").splitlines()
            del self.lines[:-KEPT_LINES]
        return bool(data)

    def why(self) -> str:
        """Why it ended, in one line."""
        code = self.status or 0
        text = error_line(self.lines)
        if code == NO_RETRY:
            return text
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        return f"{text} ({how})"

    def hopeless(self) -> bool:
        """Whether a further attempt would end the same way."""
        if self.status == NO_RETRY:
            return True
        text = "\n".join(self.lines)
        usage = self.status == USAGE and "error: " in text
        return usage or "Address already in use" in text
