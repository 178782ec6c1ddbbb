"""Whether a step moves: its log, the bytes that its processes read and write, their memory, the GPUs'.

A step that computes without a word cannot be told from one that spins for ever, so processor time counts
for nothing; and a line that comes again and again counts once.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import re
import threading
import time

MOVED_BYTES = 1 << 20  # within WINDOW_SECONDS; the polls of /health make some hundred a second
WINDOW_SECONDS = 30.0
MOST_LINES = 5000  # different ones that are remembered
LONGEST = 200  # characters of a line that count
PERCENT = re.compile(r"([A-Za-z][^|%\r\n]{0,99}?)[:\s]\s*(\d{1,3})%")
VARYING = re.compile(r"[\d.]+|0x[0-9a-f]+")
SPLIT = re.compile(r"[\r\n]+")


class LogProgress:
    """What a log says of progress: lines that are new, and percentages that grow."""

    def __init__(self) -> None:
        self.percent = -1
        self._seen: set[int] = set()
        self._percents: dict[str, int] = {}
        self._rest = ""

    def take(self, text: str) -> bool:
        """Take in some output; return whether it is progress."""
        *lines, self._rest = SPLIT.split(self._rest + text)
        self._rest = self._rest[-4096:]
        moved = [self._line(line) for line in lines]  # each of them is remembered
        return any(moved)

    def _line(self, line: str) -> bool:
        moved = False
        line = line[:LONGEST]
        match = PERCENT.search(line) if "%" in line else None
        if match:
            label, percent = match[1].strip()[-60:], int(match[2])
            if percent <= 100 and percent > self._percents.get(label, -1) and len(self._percents) < 1000:
                self._percents[label] = self.percent = percent
                moved = True
        kind = hash(VARYING.sub("#", line))
        if line.strip() and kind not in self._seen and len(self._seen) < MOST_LINES:
            self._seen.add(kind)
            moved = True
        return moved


class Meter(threading.Thread):
    """Looks at the processes below this one until stopped; `moved` is when they last moved."""

    def __init__(self, every: float) -> None:
        super().__init__(daemon=True)
        self.moved = time.monotonic()
        self.stopped = threading.Event()
        self._every = every
        self._gpus = Gpus()

    def run(self) -> None:
        """Look until stopped."""
        before = self.measure()
        since = time.monotonic()
        while not self.stopped.wait(self._every):
            now = time.monotonic()
            after = self.measure()
            if growth(before, after) >= MOVED_BYTES:
                self.moved, before, since = now, after, now
            elif now - since > WINDOW_SECONDS:
                before, since = after, now

    def measure(self) -> dict[str, int]:
        """Bytes by process and kind."""
        found = self._gpus.used()
        for pid in descendants():
            found |= process_bytes(pid)
        return found


def descendants() -> list[int]:
    """Process ids of everything below this process, orphans that it adopted included."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):  # noqa: PTH208  many, and often
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", errors="replace") as stat:  # noqa: PTH123
                after_name = stat.read().rpartition(")")[2].split()
                children.setdefault(int(after_name[1]), []).append(int(name))
    found: list[int] = []
    todo = [os.getpid()]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += below
    return found


def growth(before: dict[str, int], after: dict[str, int]) -> int:
    """Bytes that were added, those of new processes included; what shrinks is not counted."""
    return sum(max(0, value - before.get(key, 0)) for key, value in after.items())


def process_bytes(pid: int) -> dict[str, int]:
    """What a process has read, written and holds in memory."""
    found: dict[str, int] = {}
    folder = pathlib.Path("/proc") / str(pid)
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in (folder / "io").read_text().splitlines():
            name, _, value = line.partition(": ")
            if name in {"rchar", "wchar", "read_bytes", "write_bytes"}:
                found[f"{pid} {name}"] = int(value)
    with contextlib.suppress(OSError, ValueError, IndexError):
        found[f"{pid} resident"] = int((folder / "statm").read_text().split()[1]) * 4096
    return found


class Gpus:
    """Memory in use on the GPUs of this container, when NVML can be had."""

    def __init__(self) -> None:
        self._nvml: ctypes.CDLL | None = None
        self._devices: list[ctypes.c_void_p] = []
        self._tried = False

    def used(self) -> dict[str, int]:
        """Bytes by GPU."""
        if not self._tried:
            self._tried = True
            with contextlib.suppress(OSError, AttributeError):
                self._open()
        found = {}
        for i, device in enumerate(self._devices):
            info = (ctypes.c_ulonglong * 3)()  # nvmlMemory_t: total, free, used
            if self._nvml and self._nvml.nvmlDeviceGetMemoryInfo(device, ctypes.byref(info)) == 0:
                found[f"gpu {i}"] = int(info[2])
        return found

    def _open(self) -> None:
        self._nvml = ctypes.CDLL("libnvidia-ml.so.1")
        if self._nvml.nvmlInit_v2() != 0:
            return
        count = ctypes.c_uint()
        self._nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
        for i in range(count.value):
            device = ctypes.c_void_p()
            if self._nvml.nvmlDeviceGetHandleByIndex_v2(i, ctypes.byref(device)) == 0:
                self._devices.append(device)
