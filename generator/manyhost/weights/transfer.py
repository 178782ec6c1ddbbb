"""A file of the hub as a stream that survives what happens on the way, and ends only if its bytes are right.

Long downloads hang without an error (huggingface_hub#4508) and begin again at 0 (#3648): here a thread
fetches, and the reader watches the bytes that arrive. One that brings too few is left behind, and the next
begins where it ended, without Xet when Xet was used.
"""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from manyhost.errors import RemoteError
from manyhost.weights.digest import Digest, RemoteFile
from manyhost.weights.hub import Hub, NoXet, Snapshot, status_of, wait_of

_QUEUED = 4  # chunks between the thread and the reader
_LONGEST_WAIT = 3600.0


class Stopped(Exception):
    """The run is being ended."""


class WrongBytes(RemoteError):
    """The file came whole, and its bytes are not those that the hub names."""


@dataclass(frozen=True)
class Patience:
    """When a download is given up or begun anew.

    Attributes:
        window_seconds: Time of waiting for bytes over which they are counted.
        bytes_per_second: Fewer than these are a hang.
        attempts: Failures in a row, without progress between them.
        first_wait_seconds: Wait after the first failure; it doubles up to 60 times as much.
        limits: How often in a row the hub may answer 429.
    """

    window_seconds: float = 60
    bytes_per_second: float = 32 * 1024
    attempts: int = 8
    first_wait_seconds: float = 1
    limits: int = 20

    def pause(self, failures: int) -> float:
        """Return the wait after so many failures in a row, seconds; workers do not come back together."""
        return self.first_wait_seconds * min(60.0, 2.0 ** (failures - 1)) * random.uniform(0.5, 1)  # noqa: S311


class Traffic:
    """What all downloads of a run share.

    Args:
        report: Told what users should know: waits, and what is given up.
        patience: When to give up.
        xet: Whether to try Xet storage first.

    Attributes:
        received: Bytes that have arrived.
        xet: Whether Xet storage still works.
        stopped: Set when every download shall end.
    """

    def __init__(self, report: Callable[[str], None], patience: Patience, *, xet: bool) -> None:
        self.report = report
        self.patience = patience
        self.xet = xet
        self.received = 0
        self.stopped = threading.Event()
        self._until = 0.0
        self._lock = threading.Lock()

    def count(self, size: int) -> None:
        """Note bytes that have arrived."""
        with self._lock:
            self.received += size

    def limited(self, seconds: float) -> None:
        """Let nobody ask again before the hub's rate limit is over."""
        with self._lock:
            until = time.monotonic() + min(seconds, _LONGEST_WAIT)
            first = until > self._until + 1
            self._until = max(self._until, until)
        if first:
            self.report(f"the hub's rate limit is reached: waiting {seconds:.0f} s as it asks")

    def wait(self) -> None:
        """Wait until the hub may be asked."""
        while (left := self._until - time.monotonic()) > 0:
            self.sleep(left)

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while.

        Raises:
            Stopped: The run is being ended.
        """
        if self.stopped.wait(seconds):
            raise Stopped

    def without_xet(self, reason: str) -> None:
        """Give up Xet for the rest of the run."""
        with self._lock:
            first, self.xet = self.xet, False
        if first:
            self.report(f"Xet storage {reason}: going on over plain HTTP")


class _Feed:
    """A thread that fetches; what it brings, its error or its end are items of a queue."""

    def __init__(self, source: Iterator[bytes], *, xet: bool) -> None:
        self.xet = xet
        self.items: queue.Queue[bytes | Exception | None] = queue.Queue(_QUEUED)
        self._source = source
        self._left = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def leave(self) -> None:
        """Care no more for it; a thread that hangs in foreign code cannot be ended."""
        self._left.set()

    def _run(self) -> None:
        end: Exception | None = None
        try:
            for chunk in self._source:
                if not self._put(chunk):
                    return
        except Exception as error:  # whatever a client raises is the reader's to judge
            end = error
        self._put(end)

    def _put(self, item: bytes | Exception | None) -> bool:
        while not self._left.is_set():
            try:
                self.items.put(item, timeout=0.5)
            except queue.Full:
                continue
            return True
        return False


class Reader:
    """A file of the hub, from the first byte to the last.

    `read` gives the last bytes only when all of them are proven: whoever writes them has a whole, right file
    or an error.

    Args:
        hub: Where it comes from.
        snapshot: The commit.
        file: One of its files.
        traffic: Shared with the other downloads.
        have: Bytes that an earlier run has fetched: they are hashed and not given out again.
    """

    def __init__(
        self, hub: Hub, snapshot: Snapshot, file: RemoteFile, traffic: Traffic, have: Iterable[bytes] = ()
    ) -> None:
        self._hub, self._snapshot, self._file, self._traffic = hub, snapshot, file, traffic
        self.digest = Digest(file)
        for data in have:
            self.digest.update(data)
        self._feed: _Feed | None = None
        self._rest = b""
        self._given = 0
        self._failures = self._limits = 0
        self._since_failure = 0
        self._waited, self._arrived = 0.0, 0

    def tell(self) -> int:
        """Return how many bytes `read` has given (Cloud Storage's client asks)."""
        return self._given

    def read(self, size: int) -> bytes:
        """Return the next bytes: as many as asked for, less only at the end, none after it.

        Raises:
            WrongBytes: The file is not what the hub says it is.
            RemoteError: The hub fails for good.
        """
        parts, need = [self._rest[:size]], size - len(self._rest)
        self._rest = self._rest[size:]
        while need > 0 and self.digest.bytes < self._file.size:
            chunk = self._next()
            self.digest.update(chunk)
            self._traffic.count(len(chunk))
            parts.append(chunk[:need])
            self._rest = chunk[need:]
            need -= len(parts[-1])
        if self.digest.bytes >= self._file.size and (problem := self.digest.problem()):
            self.close()
            raise WrongBytes(f"has wrong bytes: {problem}", where=self._file.name)
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._given += len(data)
        return data

    def sleep(self, seconds: float) -> None:
        """Do nothing for a while, as whoever writes the bytes may have to.

        Raises:
            Stopped: The run is being ended.
        """
        self._traffic.sleep(seconds)

    def close(self) -> None:
        """End the download."""
        if self._feed:
            self._feed.leave()
            self._feed = None

    def _next(self) -> bytes:
        """Return the next chunk, whatever it takes."""
        while True:
            if self._feed is None:
                self._traffic.wait()
                xet = bool(self._file.xet_hash) and self._traffic.xet
                source = self._hub.stream(self._snapshot, self._file, self.digest.bytes, xet=xet)
                self._feed = _Feed(source, xet=xet)
            item = self._take(self._feed)
            if isinstance(item, bytes):
                if not item:
                    continue
                if self.digest.bytes + len(item) > self._file.size:
                    raise WrongBytes(
                        f"is longer than the {self._file.size:,} bytes that the hub says",
                        where=self._file.name,
                    )
                return item
            was_xet = self._feed.xet
            self.close()
            self._failed(item or EOFError("the connection ended early"), was_xet=was_xet)

    def _take(self, feed: _Feed) -> bytes | Exception | None:
        """Return what the thread brings, or that it brings too little."""
        patience = self._traffic.patience
        start = time.monotonic()
        try:
            item = feed.items.get(timeout=min(0.5, max(0.01, patience.window_seconds - self._waited)))
        except queue.Empty:
            item = b""
        self._waited += time.monotonic() - start
        self._traffic.sleep(0)
        if isinstance(item, bytes):
            self._arrived += len(item)
            self._since_failure += len(item)
        enough = patience.bytes_per_second * patience.window_seconds
        if self._since_failure >= enough:
            self._failures = self._limits = 0
        if self._waited >= patience.window_seconds:
            slow = self._arrived < enough
            text = f"brought {self._arrived:,} bytes in {self._waited:.0f} s"
            self._waited, self._arrived = 0.0, 0
            if slow and not item:
                return TimeoutError(text)
            if slow:
                self.close()  # what came is taken, the rest comes from another request
                self._failed(TimeoutError(text), was_xet=feed.xet)
        return item

    def _failed(self, error: Exception, *, was_xet: bool) -> None:
        """Wait, or change the way, before the next try.

        Raises:
            RemoteError: No further try would help.
        """
        patience, status = self._traffic.patience, status_of(error)
        self._waited, self._arrived, self._since_failure = 0.0, 0, 0
        if status == 429:
            self._limits += 1
            if self._limits > patience.limits:
                raise RemoteError("the hub's rate limit does not end", where=self._file.name)
            self._traffic.limited(wait_of(error) or min(300.0, patience.first_wait_seconds * 2**self._limits))
            return
        own = isinstance(error, (TimeoutError, EOFError)) and not status
        reason = str(error) if own else f"HTTP {status}" if status else type(error).__name__
        if was_xet:
            is_old = isinstance(error, NoXet)
            self._traffic.without_xet("cannot stream here" if is_old else f"failed ({reason})")
            return
        self._failures += 1
        if self._failures >= patience.attempts or status in (401, 403, 404):
            raise RemoteError(
                f"could not be downloaded, after {self._failures} failures in a row: {reason}",
                where=self._file.name,
            )
        self._traffic.sleep(patience.pause(self._failures))
