"""The one child process of a member: a step of launch.sh with everything below it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable

from manyhost_group import Child
from manyhost_progress import LogProgress, Meter, descendants

NO_RETRY = 78  # launch.sh's exit status for a failure that no further attempt cures
USAGE = 2  # argparse's exit status
KEPT_LINES = 200  # of the engine's output, to find its error in
LONGEST_LINE = 8192

GENERIC = re.compile(
    r"Engine core initialization failed|Failed core proc|See root cause|SystemExit|resource_tracker"
    r"|Initialization failed\. Please see|scheduler died during initialization"  # SGLang
)
NAMED = re.compile(r"(?:\berror: )?((?:\b\w*(?:Error|Exception)\b[(:]|(?<=\berror: )).*)")
OWN_POLLS = re.compile(rb'^.*127\.0\.0\.1:\d+ - "GET /(?:health|metrics) HTTP/1\.1" 200.*\n', re.M)
CALM = re.compile(
    r"\b(?:DEBUG|INFO|WARNING) \S+ \S+ \["
)  # the same, of what may name an error and ends nothing
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LOGGED = re.compile(r"\bERROR \S+ \S+ \[[^]]*\] (.*)")  # vLLM's log format


def error_line(lines: list[str]) -> str:
    """The line that says best why an engine ended: its last error that is not a mere echo."""
    lines = [COLOURS.sub("", line) for line in lines]
    for kind in (NAMED, LOGGED):
        for line in reversed(lines):
            match = kind.search(line)
            if match and not GENERIC.search(line) and not CALM.search(line):
                return match.group(1).strip()
    wordy = (line.strip() for line in reversed(lines) if re.search("[a-z]{3}", line))
    return next(wordy, "no output")


def signal_all(pids: list[int], *numbers: int) -> None:
    """Send signals to processes that may be gone."""
    for pid in pids:
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


class Step:
    """One step of launch.sh: its output is passed on and its last lines are kept.

    Args:
        step: Its name.
        argv: launch.sh and the engine's flags.
        extra: Variables for it.
        out: Takes its output.
        beat: Seconds between two looks at its progress.
    """

    def __init__(
        self, step: str, argv: list[str], extra: dict[str, str], out: Callable[[bytes], None], beat: float
    ) -> None:
        self.step = step
        self.process = subprocess.Popen(
            ["bash", *argv],
            env={**os.environ, "MANYHOST_STEP": step, **extra},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self.process.stdout is not None  # noqa: S101 for the type checker
        self.pipe = self.process.stdout
        os.set_blocking(self.pipe.fileno(), False)
        self.status: int | None = None
        self.lines: list[str] = []
        self._out = out
        self._rest = b""
        self._log = LogProgress()
        self._moved = time.monotonic()
        self._meter = Meter(max(1.0, beat / 2))
        self._meter.start()
        self._kill_at = float("inf")
        self._looked_at = 0.0

    def read(self) -> bool:
        """Pass what waits on, whole lines only, 1 MiB at most; False when the pipe has ended."""
        for _ in range(16):
            if self.pipe.closed:
                return False
            try:
                data = os.read(self.pipe.fileno(), 65536)
            except BlockingIOError:
                break
            self._take(data)
            if not data:
                return False
        return True

    def _take(self, data: bytes) -> None:
        if not self._meter.stopped.is_set() and self._log.take(data.decode(errors="replace")):
            self._moved = time.monotonic()
        whole, found, self._rest = (self._rest + data).rpartition(b"\n")
        if not data or len(self._rest) > LONGEST_LINE:
            whole, found, self._rest = whole + found + self._rest, b"\n" if self._rest else b"", b""
        if whole or found:
            self._out(OWN_POLLS.sub(b"", whole + found))
            self.lines += whole.decode(errors="replace").splitlines()
            del self.lines[:-KEPT_LINES]

    def stop(self, grace: float) -> None:
        """Ask it to end; after the grace (seconds) it is killed with everything below it."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace)
        if self.status is None:
            # A process that is stopped takes signals when it goes on.
            signal_all([self.process.pid], signal.SIGTERM, signal.SIGCONT)

    def settled(self) -> None:
        """Whether it moves is no question any more."""
        self._meter.stopped.set()

    def gone(self) -> bool:
        """Whether nothing of it is left; what has outlived its end or the grace is killed."""
        now = time.monotonic()
        stopping = self._kill_at < float("inf")
        if not stopping or (self.status is None and now < self._kill_at) or now - self._looked_at < 0.1:
            return False
        self._looked_at = now
        below = descendants()
        # Engine cores and Ray daemons, whatever they did to their sessions and parents.
        signal_all(below, signal.SIGKILL)
        return self.status is not None and not below

    def close(self) -> None:
        """Let go of its pipe."""
        self._meter.stopped.set()
        self.read()
        self.pipe.close()

    def seen(self) -> Child:
        """What the decisions see of it."""
        moved = max(self._moved, self._meter.moved)
        ended = self.status is not None
        why, hopeless = (self._why(), self._hopeless()) if ended else ("", False)
        return Child(self.step, moved, self.status, why, hopeless, self._log.percent)

    def _why(self) -> str:
        """Why it ended, in one line."""
        code = self.status or 0
        text = error_line(self.lines)
        if code == NO_RETRY:
            return text
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        return f"{text} ({how})"

    def _hopeless(self) -> bool:
        """Whether a further attempt would end the same way."""
        return self.status == NO_RETRY or (self.status == USAGE and "error: " in "\n".join(self.lines))
