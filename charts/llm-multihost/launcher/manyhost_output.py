"""What leaves a member: its log and the file that probe.sh reads, both written on threads of their own.

A log that nobody takes, a disk that is full or stands still: neither may stop the heartbeat.
"""

from __future__ import annotations

import collections
import contextlib
import os
import pathlib
import threading
import time

MOST_BYTES = 4 << 20  # of log that wait; what comes beyond is dropped and counted
PAGE = 4096  # one page: once it is there, writing it anew needs no more space


class Log(threading.Thread):
    """Writes to a file descriptor what it is given, in order; `put` never waits."""

    def __init__(self, descriptor: int = 1) -> None:
        super().__init__(daemon=True)
        self._descriptor = descriptor
        self._waiting: collections.deque[bytes] = collections.deque()
        self._bytes = self._dropped = 0
        self._more = threading.Condition()
        self._idle = threading.Event()

    def put(self, data: bytes, always: bool = False) -> None:
        """Take some lines; drop them when too much waits, unless they must be kept (few, short ones)."""
        if not data:
            return
        with self._more:
            if self._bytes + len(data) > MOST_BYTES and not always:
                self._dropped += len(data)
                return
            if self._dropped:
                text = f"manyhost: {self._dropped} bytes of log were dropped: nobody took them\n".encode()
                self._waiting.append(text)
                self._bytes += len(text)
                self._dropped = 0
            self._waiting.append(data)
            self._bytes += len(data)
            self._idle.clear()
            self._more.notify()

    def run(self) -> None:
        """Write for ever."""
        while True:
            with self._more:
                while not self._waiting:
                    self._idle.set()
                    self._more.wait()
                data = self._waiting.popleft()
            view = memoryview(data)
            with contextlib.suppress(OSError):  # nobody reads any more
                while view:
                    view = view[os.write(self._descriptor, view) :]
            with self._more:
                self._bytes -= len(data)

    def flush(self, seconds: float) -> None:
        """Wait for a while until everything is written."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self._more:
                if not self._bytes:
                    return
            self._idle.wait(0.01)


class StatusFile(threading.Thread):
    """Keeps a file at the last text that it was given."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._text = ""
        self._new = threading.Event()
        self._file = -1

    def set(self, text: str) -> None:
        """The text from now on."""
        self._text = text
        self._new.set()

    def run(self) -> None:
        """Write for ever; what fails is tried again with the next text."""
        while True:
            self._new.wait()
            self._new.clear()
            with contextlib.suppress(OSError):
                self._write(self._text)

    def _write(self, text: str) -> None:
        data = text.encode()[: PAGE - 1]
        page = data + b" " * (PAGE - 1 - len(data)) + b"\n"
        if self._file < 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            new = self._folder / "status.new"
            file = os.open(new, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
            try:
                os.write(file, page)
                new.rename(self._folder / "status")
            except OSError:
                os.close(file)
                raise
            self._file = file
        else:
            os.pwrite(self._file, page, 0)


def last_words(text: str) -> None:
    """Leave a text where a kubelet looks for it, if it can be done within a second."""

    def write() -> None:
        file = pathlib.Path("/dev/termination-log")  # made by a kubelet that shows what it says
        with contextlib.suppress(OSError):
            if file.exists():
                file.write_text(text + "\n")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    writer.join(1)
